"""A conversion from the model to the finished build folder, stage by stage."""

from __future__ import annotations

import hashlib
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from archnet import atomic
from archnet.attention_statistics import attention_statistics
from archnet.bit_choice import BitChoice, choose_bits, load_choice, save_choice
from archnet.blocks import Block, find_blocks, with_blocks
from archnet.build import BuildDir, estimate_build_bytes
from archnet.calibration.equalization import EXPONENT, FEW_BITS_EXPONENT, equalize
from archnet.calibration.pair_batches import PairBatches
from archnet.calibration.token_batches import TokenBatches
from archnet.capture import INPUTS, TRANSLATION_INPUTS, capture, capture_image
from archnet.code_embedding import with_code_embedding
from archnet.config import Bits, ConvertSettings
from archnet.converters.base import Statistics
from archnet.converters.fold import Affine, Folded, fold
from archnet.converters.homotopy import set_progress
from archnet.converters.residual import adds_as_concats
from archnet.distill import Batches, Objective, objective_for, train
from archnet.engine import Engine, StageContext, memory_bytes
from archnet.events import EventSink, ignore
from archnet.executor import NetworkModule
from archnet.export.float_onnx import export_float_onnx
from archnet.export.onnx import export_onnx
from archnet.freeze import freeze
from archnet.freeze_translation import freeze_translation
from archnet.graph import QuantizedGraph
from archnet.image_job import check_kind, image_batches
from archnet.network import Network, census
from archnet.network_storage import load_folded, save_folded
from archnet.operators import Op
from archnet.parts import load_parts, part_names, save_parts
from archnet.plan import Plan, make_plan
from archnet.plan_strict import strict_refusals
from archnet.preparation import PREPARE
from archnet.presets import BUCKETS, CALIBRATION_BATCHES, PAIR_BUCKETS, PRESETS, Preset
from archnet.quantize import (
    Phase,
    Start,
    falling,
    falling_layers,
    first_start,
    load_start,
    next_start,
    save_start,
    train_phase,
)
from archnet.quantized_student import QuantizedStudent, channel_statistics
from archnet.records import block_agreement, training_points
from archnet.results import merge_metrics
from archnet.rewrite import materialize, rewrite, token_statistics
from archnet.sources.source import Source
from archnet.storage import save_graph
from archnet.strict_maps import as_strict_maps
from archnet.targets import Profile
from archnet.translations import load_translations, save_translations, translate_sources

QUANTIZED_STEP = 1.7
"""How long a step with quantizers takes against one without, about; for the time that is shown as left."""

TRANSLATE_STEPS = 150.0
"""How long the teacher's translation of the data takes in distillation steps, about."""

CHOICE_STEPS = 30.0
"""How long the choice of widths takes in distillation steps, about."""

CHOICE_BATCHES = 2

EXPORT_STEPS = 20.0
"""How long the export takes in distillation steps, about."""
SAVED_SENTENCES = 32

Parts = Mapping[str, QuantizedGraph]
"""Integer networks by part of the build: "" alone, or an encoder and a decoder."""

STAGES = ("distil", "bits", "quantize", "export")
"""The second only where widths are chosen."""


class TrainingBatches(Batches, Protocol):
    """Batches of known size."""

    def __len__(self) -> int:
        """The number of sentences."""

    def warning(self) -> str | None:
        """What to tell the user of the data, or None."""


@dataclass(frozen=True, slots=True)
class Job:
    """Everything that a conversion starts from; all of it is checked."""

    source: Source
    profile: Profile
    settings: ConvertSettings
    teacher: Network
    blocks: tuple[Block, ...]
    plan: Plan
    batches: TrainingBatches
    data_sha256: str

    @property
    def preset(self) -> Preset:
        """The schedules."""
        return PRESETS[self.settings.preset]

    def phases(self, layers: Mapping[str, Bits] | None = None) -> tuple[Phase, ...]:
        """The widths that quantization falls through; each sees other batches than those before it.

        Args:
            layers: with widths of their own.
        """
        first, phases = self.preset.distil.steps, []
        bits = self.settings.bits
        path: list[tuple[Bits, Mapping[str, Bits]]] = [(step, {}) for step in falling(bits)]
        if layers:
            path = [(bits, step) for step in falling_layers(layers)]
        for step, own in path:
            narrowest = min([step, *own.values()])
            schedule = self.preset.quantize_at(narrowest)
            phases.append(Phase(step, schedule, first, own))
            first += schedule.steps
        return tuple(phases)


def captured(source: Source, seq_len: int) -> tuple[Network, tuple[Block, ...]]:
    """The teacher as a network with blocks.

    Raises:
        ArchNetError: the model cannot be captured.
    """
    if source.kind == "image":
        network = capture_image(source.module, source.image_size).network
        blocks = find_blocks(network)
        return with_blocks(network, blocks), blocks
    padding = source.config.get("pad_token_id")
    found = capture(
        source.module,
        max_sequence=seq_len,
        pooling=source.pooling,
        normalize=source.normalize,
        padding_id=padding if isinstance(padding, int) else None,
        inputs=TRANSLATION_INPUTS if source.kind == "translation" else INPUTS,
    )
    blocks = find_blocks(found.network)
    return with_blocks(found.network, blocks), blocks


def planned(
    source: Source, teacher: Network, profile: Profile, *, embedding: str, attention: str, bits: Bits
) -> Plan:
    """What becomes of every site; for strict targets also which convolutions have no form in blocks."""
    plan = make_plan(teacher, profile, model=source.name, embedding=embedding, attention=attention, bits=bits)
    if source.kind != "image" or profile.convolution != "3x3" or plan.refusals:
        return plan
    return replace(plan, decisions=(*plan.decisions, *strict_refusals(teacher, source.image_size)))


def prepare(
    source: Source,
    data: Sequence[str] | Path,
    profile: Profile,
    settings: ConvertSettings,
    tell: Callable[[], None] = lambda: None,
) -> Job:
    """Capture and plan; every refusal comes before anything is written or trained.

    Args:
        data: sentences, or the place of pictures.
        tell: called when capturing, planning and tokenizing begin.
    """
    profile.choose_bits(settings.bits)
    check_kind(source, data)
    tell()
    teacher, blocks = captured(source, settings.seq_len)
    tell()
    plan = planned(
        source,
        teacher,
        profile,
        embedding=settings.embedding,
        attention=settings.attention,
        bits=settings.bits,
    )
    plan.require()
    tell()
    preset = PRESETS[settings.preset]
    if isinstance(data, Path):
        images, digest = image_batches(source, data, batch_size=preset.batch_size, seed=settings.seed)
        return Job(source, profile, settings, teacher, blocks, plan, images, digest)
    batches = TokenBatches(
        source.require_tokenizer(),
        data,
        max_length=settings.seq_len,
        batch_size=preset.batch_size,
        seed=settings.seed,
        buckets=BUCKETS,
        max_tokens=preset.max_tokens,
    )
    digest = hashlib.sha256("\n".join(data).encode()).hexdigest()
    return Job(source, profile, settings, teacher, blocks, plan, batches, digest)


def run(job: Job, out: Path, *, command: Sequence[str] = (), events: EventSink = ignore) -> Path:
    """Convert into a build folder; goes on where an earlier run of the same job was stopped.

    Raises:
        ArchNetError: the folder belongs to another job, is in use, or the disk is full.
    """
    parameters = sum(t.numel() for t in job.teacher.tensors.values())
    with BuildDir.open_for_convert(
        out,
        job.settings,
        job.source.sha256,
        data_sha256=job.data_sha256,
        needed_bytes=estimate_build_bytes(parameters),
    ) as build:
        if build.finished:
            return out
        *earlier, last = job.phases()
        expected = {
            "translate": TRANSLATE_STEPS,
            "distil": float(job.preset.distil.steps),
            "bits": CHOICE_STEPS,
            **{phase.stage: QUANTIZED_STEP * phase.schedule.steps for phase in earlier},
            "quantize": QUANTIZED_STEP * last.schedule.steps,
            "export": EXPORT_STEPS,
        }
        unused = {"translate"} if job.source.kind != "translation" else set()
        unused |= {"bits"} if job.settings.max_drop is None else set()
        stages = {name: steps for name, steps in expected.items() if name not in unused}
        with Engine(build, events, stages, earlier=(PREPARE,)) as engine:
            for note in (*job.source.notes, job.batches.warning(), _missing_tvm(job.profile)):
                if note:
                    engine.note(note)
            build.write_json(build.plan, job.plan.to_json())
            if job.source.kind == "translation":
                job = _with_translations(job, engine)
            folded = engine.stage("distil", lambda context: _distil(job, context), save_folded, load_folded)
            shaped = _shaped(job, folded, job.settings.seed)
            choice = _chosen(job, shaped, engine)
            if choice is not None:
                engine.note(choice.sentence())
                build.write_json(build.plan, {**job.plan.to_json(), "bits": choice.to_json()})
                *earlier, last = job.phases(choice.narrowed)
            start = first_start(shaped, _calibration(job))
            for phase in earlier:
                start = engine.stage(
                    phase.stage,
                    partial(_narrow, job, phase, start),
                    save_start,
                    load_start,
                )
            parts = engine.stage(
                "quantize", lambda context: _quantize(job, last, start, context), save_parts, load_parts
            )
            engine.stage(
                "export", lambda context: _export(job, build, parts, context), _write_done, _read_done
            )
        _record(job, build, folded, parts)
        build.finish(_manifest(job, parts, command, choice))
    from archnet.report import write_report

    write_report(out)
    return out


def _with_translations(job: Job, engine: Engine) -> Job:
    """The same job with sources and the teacher's translations of them as its batches."""
    sources, settings = job.batches, job.source.generation
    assert isinstance(sources, TokenBatches)
    assert settings is not None
    rows = engine.stage(
        "translate",
        lambda context: translate_sources(
            context, job.teacher, sources.rows(), settings,
            pad_id=sources.pad_id, max_length=job.settings.seq_len,
        ),
        save_translations,
        load_translations,
    )  # fmt: skip
    save_translations(rows, engine.build.path)
    pairs = PairBatches(
        sources.rows(),
        rows,
        pad_ids=(sources.pad_id, settings.pad),
        max_length=job.settings.seq_len,
        batch_size=job.preset.batch_size,
        seed=job.settings.seed,
        buckets=PAIR_BUCKETS,
        max_tokens=job.preset.max_tokens // 2,
    )
    return replace(job, batches=pairs)


def stages_of(settings: ConvertSettings) -> tuple[str, ...]:
    """The stages that these settings need, in order."""
    return tuple(name for name in STAGES if name != "bits" or settings.max_drop is not None)


def _chosen(job: Job, folded: Folded, engine: Engine) -> BitChoice | None:
    """The widths of the layers, where they are to be chosen."""
    max_drop = job.settings.max_drop
    if max_drop is None:
        return None

    def compute(context: StageContext) -> BitChoice:
        return choose_bits(
            folded.network,
            [folded.values[site] for site in job.teacher.outputs.values()],
            _calibration(job)[:CHOICE_BATCHES],
            job.profile,
            widest=job.settings.bits,
            embedding=job.settings.embedding,
            max_drop=max_drop,
            tell=lambda done, of: context.progress(done, of, unit="measurements"),
        )

    return engine.stage("bits", compute, save_choice, load_choice)


def _calibration(job: Job) -> list[dict[str, Tensor]]:
    return job.batches.calibration(CALIBRATION_BATCHES)


def _distil(job: Job, context: StageContext) -> Folded:
    """LayerNorm, GELU and the like go; the result has only what the target has."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    teacher = NetworkModule(job.teacher).eval().requires_grad_(False)
    statistics: dict[str, Statistics] = {**token_statistics(teacher, _calibration(job))}
    if job.settings.attention == "mixing":
        statistics |= attention_statistics(teacher, _calibration(job), job.settings.seq_len)
    rewritten = rewrite(job.teacher, statistics, attention=job.settings.attention)
    student = rewritten.module()
    for site in rewritten.network.sites:
        if site.op is Op.EMBEDDING:
            student.parameter(site, "table").requires_grad_(False)
    outputs = [block.output for block in job.blocks if not block.name.endswith("tail")]
    objective = objective_for(job.teacher, outputs, _itself(job.teacher))
    if rewritten.modules:  # a network of convolutions and ReLU has nothing to replace, hence to learn
        train(
            context,
            student.to(device),
            teacher.to(device),
            objective,
            job.batches,
            job.preset.distil,
            on_step=lambda progress: set_progress(student, progress),
        )
    folded = fold(materialize(rewritten.network, rewritten.modules, _on_cpu(student)))
    channels = channel_statistics(folded.network, _calibration(job))
    exponent = EXPONENT if job.settings.bits.weights == 8 else FEW_BITS_EXPONENT
    return equalize(folded, channels, outputs=job.teacher.outputs.values(), exponent=exponent)


def _itself(network: Network) -> Mapping[str, Affine]:
    """Before anything folds, every site stands for itself."""
    return {site.name: Affine(site.name) for site in network.sites}


def _on_cpu(student: NetworkModule) -> dict[str, Tensor]:
    student.to("cpu")
    return {key: value.clone() for key, value in student.tensors().items()}


def _objective(job: Job, folded: Folded) -> Objective:
    outputs = [block.output for block in job.blocks if not block.name.endswith("tail")]
    return objective_for(job.teacher, outputs, folded.values)


def _phase(job: Job, phase: Phase, start: Start, context: StageContext) -> QuantizedStudent:
    return train_phase(
        context,
        start,
        phase,
        teacher=job.teacher,
        objective=_objective(job, start.folded),
        batches=job.batches,
        calibration=_calibration(job),
    )


def _narrow(job: Job, phase: Phase, start: Start, context: StageContext) -> Start:
    """A phase on the way: what it trained, still in float."""
    return next_start(start, _phase(job, phase, start, context), _calibration(job))


def _shaped(job: Job, folded: Folded, seed: int) -> Folded:
    """The network with the embedding and the sums that were asked for."""
    network = folded.network
    if job.settings.embedding == "code":
        network = with_code_embedding(network, seed=seed)
    if not job.profile.supports(Op.ADD):
        network = adds_as_concats(network)
    return replace(folded, network=network)


def _quantize(job: Job, phase: Phase, start: Start, context: StageContext) -> Parts:
    """The last phase, then integers."""
    student = _phase(job, phase, start, context)
    outputs = {name: start.folded.values[site] for name, site in job.teacher.outputs.items()}
    name, longest, embedding = job.source.name, job.settings.seq_len, job.settings.embedding
    if job.source.kind == "translation":
        return freeze_translation(student, outputs, name=name, max_sequence=longest, embedding=embedding)
    graph = freeze(
        student,
        outputs,
        name=name,
        max_sequence=longest,
        embedding=embedding,
        pool_on_host=not job.profile.supports(Op.MEAN_POOL),
        size=job.source.image_size if job.source.kind == "image" else None,
    )
    return {"": as_strict_maps(graph) if job.profile.convolution == "3x3" else graph}


def _export(job: Job, build: BuildDir, parts: Parts, context: StageContext) -> list[str]:
    """Write the artifacts; each is whole or absent, so that this can be done again."""
    job.source.save_tokenizer(build.tokenizer_dir)
    if job.source.images is not None:
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
    if job.source.kind == "translation":
        build.float_dir.mkdir(exist_ok=True)
        save_folded(Folded(job.teacher, {}), build.float_dir)
    else:
        export_float_onnx(job.source, build.onnx_dir / "float.onnx")
    context.progress(2, 4, unit="artifacts", detail="TVM")
    if "tvm" in job.profile.exports and _installed("tvm"):
        from archnet.export.tvm import compile_tvm, folder_name

        for name, graph in parts.items():
            compile_tvm(graph, build.path / name / "tvm" / folder_name())
        done.append("tvm")
    _save_sentences(job, build)
    context.progress(4, 4, unit="artifacts")
    return done


def _missing_tvm(profile: Profile) -> str | None:
    if "tvm" not in profile.exports or _installed("tvm"):
        return None
    return "TVM is not installed, so no TVM library is written (pip install 'archnet[tvm]'; archnet export)"


def _installed(module: str) -> bool:
    from importlib.util import find_spec

    return find_spec(module) is not None


def _save_sentences(job: Job, build: BuildDir) -> None:
    """A few sentences as tokens, for comparisons that need no data."""
    batch = job.batches.calibration(1)[0]
    path = build.path / "calibration.npz"
    with atomic.replacing(path) as temporary, temporary.open("wb") as file:
        arrays: dict[str, Any] = {name: value[:SAVED_SENTENCES].numpy() for name, value in batch.items()}
        np.savez(file, **arrays)


def _write_done(done: list[str], folder: Path) -> None:
    atomic.write_json(folder / "done.json", {"artifacts": done})


def _read_done(folder: Path) -> list[str]:
    return list(map(str, _strings(atomic.read_json(folder / "done.json")["artifacts"])))


def _strings(value: object) -> Sequence[object]:
    return value if isinstance(value, list) else []


def _record(job: Job, build: BuildDir, folded: Folded, parts: Parts) -> None:
    """What the report needs that only the conversion knows."""
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
        training=points,
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


def _manifest(job: Job, parts: Parts, command: Sequence[str], choice: BitChoice | None) -> dict[str, object]:
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


def with_settings(settings: ConvertSettings, source: Source, profile: Profile) -> ConvertSettings:
    """Settings with what the model and the target bound: the longest sequence."""
    longest = min(settings.seq_len, source.max_length, profile.max_sequence)
    return replace(settings, seq_len=longest)
