"""The real RKNN-Toolkit2, after `archnet targets install rockchip`: networks on the NPU, and integers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from archnet.agreement import IntegerComparison
from archnet.backends import open_backend
from archnet.build import BuildDir
from archnet.compiling import compile_for
from archnet.config import Bits, ConvertSettings
from archnet.export.qdq import export_qdq
from archnet.graph import QuantizedGraph
from archnet.operators import Op
from archnet.routes.rockchip import FORM
from archnet.storage import save_graph
from archnet.targets.rockchip import read_log
from archnet.targets.toolchain import find_toolchain
from archnet.targets.worker import Worker
from tests.graphs import random_inputs, tiny_encoder
from tests.image_graphs import image_graph, images
from tests.integration.test_target_operators import SEQUENCE, alone, name_of, probed

pytestmark = pytest.mark.skipif(
    find_toolchain("rockchip").installed() is None, reason="needs archnet targets install rockchip"
)

CHIPS = ("rk3588", "rk3576")
HOSTED = {Op.SLICE, Op.WIDEN}
"""A constant, and what the host does: no operator of the file."""


def network(kind: str) -> tuple[QuantizedGraph, dict[str, NDArray[np.generic]]]:
    """A network and a batch of two for it; sentences of unequal lengths."""
    if kind == "text":
        graph = tiny_encoder(np.random.default_rng(0), layers=2, embedding="host", concat=True)
        return graph, dict(random_inputs(np.random.default_rng(5), graph, batch=2, sequence=16))
    return image_graph("cnn", Bits(8, 8)), {"pixel_values": images(2, 3)["pixel_values"].numpy()}


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("kind", ["text", "cnn"])
def test_a_network_is_on_the_npu_and_its_integers_are_ours(tmp_path: Path, kind: str, chip: str) -> None:
    graph, inputs = network(kind)
    folder = tmp_path / "build"
    with BuildDir.open_for_convert(folder, ConvertSettings("archnet", Bits(8, 8)), "abc") as made:
        save_graph(graph, folder / "graph")
        made.finish({})
    summary = compile_for(folder, chip, seconds=1200)
    assert summary.fallback_operators == 0
    assert summary.native_operators > 5
    assert summary.binary_bytes > 1000
    assert summary.cycles is not None
    assert summary.cycles > 100
    comparison = IntegerComparison(graph, open_backend(chip, folder))
    comparison.add(inputs)
    layers = [tensor for tensor in comparison.agreement() if tensor.scope == "layer"]
    assert {tensor.op for tensor in layers} >= {"FullyConnected", "Add"}
    for tensor in layers:
        if tensor.op != "FullyConnected" or not tensor.tensor.startswith("classifier"):
            assert tensor.max_lsb <= 1, tensor


@pytest.fixture(scope="module")
def compiler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """One process for all operators: it takes longer to start than to compile one."""
    log = tmp_path_factory.mktemp("rknn") / "log"
    worker = Worker(find_toolchain("rockchip"), "rockchip", log=log, fix="")
    yield worker
    worker.close()


@pytest.mark.parametrize("op", sorted({op for op, _ in probed("rockchip")} - HOSTED), ids=name_of)
@pytest.mark.parametrize("chip", CHIPS)
def test_every_operator_of_the_profile_is_placed_on_the_npu(
    tmp_path: Path, compiler: Worker, chip: str, op: Op
) -> None:
    """The probe "placed" of the profile."""
    for other, bits in probed("rockchip"):
        if other is op:
            model = tmp_path / f"{bits}.onnx"
            export_qdq(alone(op, bits), model, SEQUENCE, form=FORM)
            begin = compiler.log.stat().st_size
            request = {"model": str(model), "binary": str(tmp_path / "model.rknn"), "platform": chip}
            compiler.call("compile", request, seconds=600)
            said = compiler.log.read_bytes()[begin:].decode(errors="replace")
            assert read_log(said).elsewhere == ()
