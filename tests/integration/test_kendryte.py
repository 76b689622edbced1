"""The real nncase, where `archnet targets install kendryte` was run: what is on the KPU; the simulator."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from archnet.backends import open_backend
from archnet.backends.twin import numbered, twin_inputs
from archnet.build import BuildDir
from archnet.config import Bits, ConvertSettings
from archnet.export.float_twin import export_float_twin
from archnet.graph import QuantizedGraph
from archnet.integer_decoder import open_reference, step_samples
from archnet.metrics import cosine
from archnet.operators import Op
from archnet.storage import load_graph, save_graph
from archnet.targets import load_profile
from archnet.targets.nncase import Placement, read_placement
from archnet.targets.toolchain import find_toolchain
from archnet.targets.worker import Worker
from archnet.validate import agreement_inputs
from tests.graphs import random_inputs, tiny_encoder
from tests.hf_writers import make_language_folder
from tests.integration.conftest import Archnet
from tests.integration.test_target_operators import SEQUENCE, alone, name_of, probed, random_feeds
from tests.integration.tiny import short_presets, write_text

pytestmark = [
    pytest.mark.vendor,
    pytest.mark.skipif(
        find_toolchain("kendryte").installed() is None, reason="needs archnet targets install kendryte"
    ),
]

HOSTED = {Op.SLICE, Op.WIDEN, Op.CROP}
"""A constant, what the host does, and nothing at all behind a ZeroPad: no operator of the file."""

SECONDS = 600.0


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """One for all operators, because .NET takes longer to start than nncase to compile one of them."""
    log = tmp_path_factory.mktemp("nncase") / "log"
    with Worker(find_toolchain("kendryte"), "kendryte", log=log, fix="look into the log") as made:
        yield made


def placed(worker: Worker, model: Path, calibration: Path) -> Placement:
    """Where nncase puts a model's operators."""
    folder = model.parent
    request = {"model": model, "calibration": calibration, "kmodel": folder / "k", "dump": folder / "dump"}
    worker.call("compile", {k: str(v.resolve()) for k, v in request.items()}, seconds=SECONDS)
    return read_placement(folder / "dump")


@pytest.mark.parametrize("op", sorted({op for op, _ in probed("k230")} - HOSTED), ids=name_of)
def test_every_operator_of_the_profile_is_placed_on_the_kpu(worker: Worker, tmp_path: Path, op: Op) -> None:
    """The probe "placed" of the profile."""
    graph = alone(op, Bits(8, 8))
    twin = export_float_twin(graph, tmp_path / "model.onnx", SEQUENCE)
    np.savez(tmp_path / "c.npz", **numbered(twin_inputs(graph, twin, random_feeds(graph))))
    found = placed(worker, tmp_path / "model.onnx", tmp_path / "c.npz")
    assert found.cpu == ()
    assert found.pieces > 0 or op is Op.RESHAPE


@pytest.mark.parametrize("kind", ["Softmax", "Min"])
def test_softmax_and_minimum_stay_on_the_cpu(worker: Worker, tmp_path: Path, kind: str) -> None:
    """The same for what the profile calls absent."""
    assert {Op.SOFTMAX, Op.MASK} <= load_profile("k230").absent.keys()
    shape = [1, 2, 12, 12]
    inputs = ["x"] if kind == "Softmax" else ["x", "limit"]
    limit = numpy_helper.from_array(np.linspace(-1, 1, 12, dtype=np.float32), "limit")
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
    nodes = [helper.make_node(kind, inputs, ["y"])]
    graph = helper.make_graph(nodes, "probe", ends[:1], ends[1:], [limit] if kind == "Min" else [])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 16)], ir_version=8)
    onnx.save(model, tmp_path / "model.onnx")
    samples = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    np.savez(tmp_path / "c.npz", **numbered([samples]))
    assert placed(worker, tmp_path / "model.onnx", tmp_path / "c.npz") == Placement(0, 0, (kind,), 0)


def test_a_conversion_runs_on_the_kpu_from_end_to_end(
    archnet: Archnet, model: Path, sentences: Path, tmp_path: Path
) -> None:
    out = tmp_path / "build"
    with short_presets(12, 4):
        done = archnet(
            *("convert", model, "--data", sentences, "--target", "k230", "--out", out, "--seq-len", 24)
        )
    assert done.exit_code == 0, done.output
    build = BuildDir.open_finished(out)
    assert build.settings.attention == "relu"
    compiled = archnet("compile", out, "--target", "k230", "--seq-len", 16)
    assert compiled.exit_code == 0, compiled.output
    assert "on the chip, 0 elsewhere" in compiled.output
    graph = load_graph(build.graph_dir)
    rng = np.random.default_rng(0)
    inputs = random_inputs(rng, graph, batch=2, sequence=9)
    exact, chip = (open_backend(name, out).run(inputs) for name in ("reference", "k230"))
    for name, expected in exact.items():
        assert chip[name].shape == expected.shape
        assert cosine(chip[name], expected).mean() > 0.99


def finished(folder: Path, graph: QuantizedGraph, sequence: int) -> Path:
    """A build folder of a network."""
    with BuildDir.open_for_convert(folder, ConvertSettings("archnet", Bits(8, 8)), "abc") as made:
        save_graph(graph, folder / "graph")
        inputs = random_inputs(np.random.default_rng(1), graph, batch=4, sequence=sequence)
        np.savez(folder / "calibration.npz", **inputs)
        made.finish({})
    return folder


def test_a_language_model_runs_on_the_kpu_step_by_step(archnet: Archnet, tmp_path: Path) -> None:
    """nncase takes its ranges from the steps along the build's texts, each at another token."""
    model, out = make_language_folder(tmp_path / "model", layers=1), tmp_path / "build"
    with short_presets(12, 4):
        done = archnet(
            *("convert", model, "--data", write_text(tmp_path), "--target", "k230"),
            *("--out", out, "--seq-len", 24),
        )
    assert done.exit_code == 0, done.output
    compiled = archnet("compile", out, "--target", "k230")
    assert compiled.exit_code == 0, compiled.output
    assert "on the chip, 0 elsewhere" in compiled.output
    stepper = open_reference(out)
    samples = step_samples(stepper, texts_of(out))
    few = {name: value[:2] for name, value in samples.items()}
    exact, chip = (open_backend(name, out / "decoder").run(few) for name in ("reference", "k230"))
    for name, expected in exact.items():
        flat = (a.reshape(2, -1).astype(np.float64) for a in (chip[name], expected))
        assert cosine(*flat).mean() > 0.99, name


def texts_of(build: Path) -> dict[str, torch.Tensor]:
    """The texts that a conversion leaves in its build."""
    saved = agreement_inputs(BuildDir.open_finished(build))
    return {name: torch.from_numpy(value) for name, value in saved.items()}


def test_softmax_on_the_cpu_is_refused_by_name(archnet: Archnet, tmp_path: Path) -> None:
    """At a length that is the width of a head, where nncase takes no batch axis."""
    graph = tiny_encoder(np.random.default_rng(0), embedding="host", hidden=32)
    refused = archnet("compile", finished(tmp_path / "build", graph, 16), "--target", "k230")
    assert refused.exit_code == 2
    words = " ".join(refused.stderr.split())
    assert "nncase 2.11.0 leaves 1 Softmax on the CPU of k230" in words
    assert "convert for the chip's own profile: --target k230" in words
