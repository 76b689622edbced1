"""What a conversion leaves: the artifacts, the record for the report and the manifest."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from archnet import atomic
from archnet.bit_choice import BitChoice
from archnet.build import BuildDir
from archnet.calibration.image_settings import ImageSettings
from archnet.converters.fold import Folded
from archnet.engine import StageContext, memory_bytes
from archnet.export.float_onnx import export_float_onnx
from archnet.export.onnx import export_onnx
from archnet.graph import QuantizedGraph
from archnet.job import Job
from archnet.network import census
from archnet.network_storage import save_folded
from archnet.parts import part_names
from archnet.records import block_agreement, training_points
from archnet.results import TrainingPoint, merge_metrics
from archnet.storage import save_graph
from archnet.targets import Profile

SAVED_SENTENCES = 32


def export_artifacts(
    job: Job, build: BuildDir, parts: Mapping[str, QuantizedGraph], context: StageContext
) -> list[str]:
    """Write the artifacts; each is whole or absent, so that this can be done again."""
    job.source.save_tokenizer(build.tokenizer_dir)
    if isinstance(job.source.images, ImageSettings):
        build.write_json(build.image_settings, job.source.images.to_json())
    done = ["graph", "onnx", "float"]
    context.progress(0, 4, unit="artifacts", detail="ONNX")
    for name, graph in parts.items():
        place = build.path / name
        save_graph(graph, place / "graph")
        (place / "onnx").mkdir(exist_ok=True)
        if "onnx" in job.profile.exports:
            export_onnx(graph, place / "onnx" / "model.onnx")
    context.progress(1, 4, unit="artifacts", detail="the float original")
    if job.source.generation is not None:
        build.float_dir.mkdir(exist_ok=True)
        save_folded(Folded(job.teacher, {}), build.float_dir)
    else:
        export_float_onnx(job.source, build.onnx_dir / "float.onnx")
    if "tvm" in job.profile.exports and _installed("tvm"):
        context.progress(2, 4, unit="artifacts", detail="TVM")
        from archnet.export.tvm import compile_tvm, folder_name

        for name, graph in parts.items():
            compile_tvm(graph, build.path / name / "tvm" / folder_name())
        done.append("tvm")
    if "tflite" in job.profile.exports and _installed("ai_edge_litert"):
        from archnet.compiling import write_tflite

        for name in parts:
            place = build.path / name
            write_tflite(place, place / "tflite" / "model.tflite")
        done.append("tflite")
    _save_sentences(job, build)
    context.progress(4, 4, unit="artifacts")
    return done


def missing_tvm(profile: Profile) -> str | None:
    if "tvm" not in profile.exports or _installed("tvm"):
        return None
    return "TVM is not installed, so no TVM library is written (pip install 'archnet[tvm]'; archnet export)"


def missing_tflite(profile: Profile) -> str | None:
    if "tflite" not in profile.exports or _installed("ai_edge_litert"):
        return None
    return "no TFLite file is written: it needs ai-edge-litert (pip install 'archnet[ethos]'; archnet export)"


def _installed(module: str) -> bool:
    from importlib.util import find_spec

    return find_spec(module) is not None


def _save_sentences(job: Job, build: BuildDir) -> None:
    """A few sentences as tokens, for comparisons that need no data."""
    batch = job.batches.calibration(1)[0]
    path = build.path / "calibration.npz"
    with atomic.replacing(path) as temporary, temporary.open("wb") as file:
        arrays: dict[str, Any] = {name: batch[name][:SAVED_SENTENCES].numpy() for name in job.teacher.inputs}
        np.savez(file, **arrays)


def write_done(done: list[str], folder: Path) -> None:
    atomic.write_json(folder / "done.json", {"artifacts": done})


def read_done(folder: Path) -> list[str]:
    return list(map(str, _strings(atomic.read_json(folder / "done.json")["artifacts"])))


def _strings(value: object) -> Sequence[object]:
    return value if isinstance(value, list) else []


def record(
    job: Job,
    build: BuildDir,
    folded: Folded,
    parts: Mapping[str, QuantizedGraph],
    earlier: Sequence[TrainingPoint] = (),
) -> None:
    """What the report needs that only the conversion knows.

    Args:
        earlier: curves of stages that were taken from another build.
    """
    after: dict[str, int] = {}
    for node in (node for graph in parts.values() for node in graph.nodes):
        after[str(node.op)] = after.get(str(node.op), 0) + 1
    batch = job.batches.calibration(1)[0]
    points, seconds = training_points(build.log)
    merge_metrics(
        build.metrics,
        settings=job.settings.to_json(),
        census_before=census(job.teacher.sites),
        census_after=after,
        training=[*earlier, *points],
        seconds=seconds,
        blocks=block_agreement(
            job.teacher, job.blocks, folded, parts, {k: v[:SAVED_SENTENCES] for k, v in batch.items()}
        ),
        peak_memory_bytes=memory_bytes()[1],
        sizes=_sizes(build),
    )


def _sizes(build: BuildDir) -> dict[str, int]:
    """Bytes of what was made, by path."""
    files: list[Path] = []
    for name in part_names(build.path):
        place = build.path / name
        files += [*(place / "graph").iterdir(), *place.glob("onnx/*.onnx"), *place.glob("tvm/*/*.so")]
    return {file.relative_to(build.path).as_posix(): file.stat().st_size for file in sorted(files)}


def manifest_of(
    job: Job, parts: Mapping[str, QuantizedGraph], command: Sequence[str], choice: BitChoice | None
) -> dict[str, object]:
    packages = ("archnet", "torch", "transformers", "numpy", "onnx", "onnxruntime", "onnxsim", "apache-tvm")
    versions = {"python": platform.python_version()}
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    labels = job.source.config.get("id2label")
    graphs = parts.values()
    return {
        "source": {"name": job.source.name, "sha256": job.source.sha256},
        "data_sha256": job.data_sha256,
        "settings": job.settings.to_json(),
        "bits": choice.widths if choice else None,
        "command": list(command) or sys.argv,
        "versions": versions,
        "inputs": [
            {"name": s.name, "dtype": s.dtype, "shape": list(s.shape)} for g in graphs for s in g.inputs
        ],
        "outputs": [
            {
                "name": o.name,
                "dtype": g.tensors[o.tensor].dtype if o.integers else "float32",
                "shape": list(g.tensors[o.tensor].shape),
            }
            for g in graphs
            for o in g.outputs
        ],
        "kind": job.source.kind,
        "generation": job.source.generation.to_json() if job.source.generation is not None else None,
        "max_length": job.settings.seq_len,
        "id2label": labels if isinstance(labels, dict) else None,
    }
