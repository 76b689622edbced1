"""The real RKNN-Toolkit2, after `archnet targets install rockchip`: networks on the NPU, and integers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from archnet.backends import open_backend
from archnet.backends.rockchip import Rk3588Backend
from archnet.compiling import compile_for
from archnet.config import Bits
from archnet.errors import ArchNetError
from archnet.export.qdq import build_qdq, export_qdq
from archnet.graph import QuantizedGraph
from archnet.metrics import cosine
from archnet.operators import Op
from archnet.reference import execute
from archnet.routes.rockchip import FORM
from archnet.targets.rockchip import read_log
from archnet.targets.toolchain import find_toolchain
from archnet.targets.worker import Worker
from tests.builds import finished
from tests.graphs import random_inputs, tiny_encoder
from tests.image_graphs import image_graph, images
from tests.integration.test_target_operators import (
    SEQUENCE,
    alone,
    name_of,
    probed,
    random_feeds,
)

pytestmark = [
    pytest.mark.vendor,
    pytest.mark.skipif(
        find_toolchain("rockchip").installed() is None, reason="needs archnet targets install rockchip"
    ),
]

CHIPS = ("rk3588", "rk3576")
HOSTED = {Op.SLICE, Op.WIDEN}
"""A constant, and what the host does: no operator of the file."""


LSB = {Op.LINEAR: 1, Op.CONV: 1, Op.ADD: 1, Op.MATMUL: 1, Op.SOFTMAX: 1}
"""What is computed in float between roundings may differ by so much; weights of 127 arrive as 126."""


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
    finished(folder, graph)
    (summary,) = compile_for(folder, chip, seconds=1200)
    assert summary.fallback_operators == 0
    assert summary.native_operators > 5
    assert summary.binary_bytes > 1000
    assert summary.cycles is not None
    assert summary.cycles > 100
    backend, reference = open_backend(chip, folder), open_backend("reference", folder)
    found, expected = backend.run(inputs), reference.run(inputs)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert cosine(value, found[name]).min() >= 0.999
    with pytest.raises(ArchNetError, match="does not show"):
        backend.tensors(inputs, [graph.nodes[-3].output])


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


@pytest.mark.parametrize("op", sorted({op for op, _ in probed("rockchip")} - HOSTED), ids=name_of)
def test_the_simulator_gives_the_reference_integers(tmp_path: Path, op: Op) -> None:
    graph = alone(op, next(bits for other, bits in probed("rockchip") if other is op))
    feeds = random_feeds(graph)
    model = build_qdq(graph, SEQUENCE, form=FORM)
    backend = Rk3588Backend(graph, model, log=tmp_path / "log")
    found = backend.tensors(feeds)[graph.outputs[0].tensor]
    expected = execute(graph, feeds)[graph.outputs[0].tensor]
    assert found.shape == expected.shape
    assert np.abs(found.astype(np.int64) - expected).max() <= LSB.get(op, 0)
