"""The real QNN, where `archnet targets install qualcomm --accept-licence` was run: placement and integers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from archnet.agreement import IntegerComparison
from archnet.backends import open_backend
from archnet.backends.static_qdq import restored, row_inputs
from archnet.compiling import compile_for
from archnet.config import Bits
from archnet.errors import ArchNetError
from archnet.export.qdq import QdqModel, build_qdq
from archnet.graph import QuantizedGraph
from archnet.operators import Op
from archnet.reference import execute
from archnet.routes.qualcomm import FORM
from archnet.storage import save_graph
from archnet.targets.qualcomm import PROCESSORS, Emulator, compile_qnn
from archnet.targets.toolchain import find_toolchain
from tests.attention_graphs import with_padding
from tests.builds import finished
from tests.graphs import random_inputs, tiny_encoder
from tests.image_graphs import image_graph, images
from tests.integration.test_target_operators import SEQUENCE, alone, name_of, probed, random_feeds

pytestmark = [
    pytest.mark.vendor,
    pytest.mark.skipif(
        find_toolchain("qualcomm").installed() is None,
        reason="needs archnet targets install qualcomm --accept-licence",
    ),
]

HOSTED = {Op.SLICE, Op.WIDEN, Op.RESHAPE}
"""A constant, what the host does, a view: no operator of the file."""


def network(name: str) -> tuple[QuantizedGraph, dict[str, NDArray[Any]]]:
    if name.startswith("text"):
        rng, bits = np.random.default_rng(0), 4 if name == "text_w4a8" else 8
        graph = tiny_encoder(rng, embedding="host", concat=True, weight_bits=bits)
        graph = with_padding(graph)
        return graph, dict(random_inputs(rng, graph, batch=1, sequence=16))
    return image_graph("vit" if name == "vit" else "cnn", Bits(8, 8)), {
        "pixel_values": images(1, 3)["pixel_values"].numpy()
    }


@pytest.mark.parametrize("name", ["text", "text_w4a8", "cnn", "vit"])
def test_whole_networks_run_on_htp_within_one_of_the_reference(tmp_path: Path, name: str) -> None:
    graph, inputs = network(name)
    build = finished(tmp_path / "build", graph)
    (summary,) = compile_for(build, "qualcomm-htp-v73", seconds=600)
    assert (summary.fallback_operators, summary.fallbacks) == (0, ())
    assert summary.native_operators > 5
    assert summary.binary_bytes > 10_000
    backend = open_backend("qualcomm-htp", build)
    for value in backend.run(inputs).values():
        assert np.isfinite(value).all()
    comparison = IntegerComparison(graph, backend)
    comparison.add(inputs)
    layers = [tensor for tensor in comparison.agreement() if tensor.scope == "layer"]
    assert {"FullyConnected", "Add"} <= {tensor.op for tensor in layers}
    for tensor in layers:
        spec = graph.tensors[tensor.tensor]
        if spec.dtype == "int32":
            continue  # uint16 logits in one scale, and sums of what is compared anyway
        assert tensor.max_lsb <= 1, tensor
        assert tensor.differing <= max(2, 0.2 * tensor.elements), tensor


@pytest.mark.parametrize("chip", list(PROCESSORS)[1:])
def test_the_other_processors_take_it_whole(tmp_path: Path, chip: str) -> None:
    graph, _ = network("text")
    (summary,) = compile_for(finished(tmp_path / "build", graph), chip, seconds=600)
    assert (summary.fallback_operators, summary.binary) == (0, "context_qnn.bin")


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    folder = tmp_path_factory.mktemp("emulator")
    with Emulator("qualcomm-htp-v73", folder, folder / "log") as started:
        yield started


def one_row(
    emulator: Emulator, graph: QuantizedGraph, model: QdqModel, path: Path, feeds: dict[str, Any]
) -> NDArray[Any]:
    path.write_bytes(model.content)
    emulator.load(path)  # refuses what HTP does not take whole
    name = graph.outputs[0].tensor
    found = emulator.run(path, row_inputs(graph, model, feeds, 0))
    return restored(graph, model, name, found[model.stored[name].value])


@pytest.mark.parametrize(
    ("op", "bits"), [(op, bits) for op, bits in probed("qualcomm-htp") if op not in HOSTED], ids=name_of
)
def test_every_operator_of_the_profile_runs_on_htp(
    emulator: Emulator, tmp_path: Path, op: Op, bits: Bits
) -> None:
    """The probe "placed" of the profile."""
    graph = alone(op, bits)
    feeds = random_feeds(graph)
    model = build_qdq(graph, SEQUENCE, form=FORM)
    assert any(node.op_type not in ("QuantizeLinear", "DequantizeLinear") for node in model.model.graph.node)
    found = one_row(emulator, graph, model, tmp_path / "model.onnx", feeds)
    expected = execute(graph, feeds)[graph.outputs[0].tensor][:1]
    assert found.shape == expected.shape
    difference = np.abs(found.astype(np.int64) - expected)
    assert difference.max() <= (1 if op in (Op.LINEAR, Op.CONV, Op.MATMUL, Op.ADD, Op.SOFTMAX) else 0)


def test_what_htp_does_not_take_is_named(tmp_path: Path) -> None:
    """A network whose logits are float32 behind integers: QNN refuses its last layer."""
    model, folder = tmp_path / "model.onnx", tmp_path / "out"
    folder.mkdir()
    model.write_bytes(build_qdq(image_graph("cnn", Bits(8, 8))).content)
    summary = compile_qnn(model, folder, "qualcomm-htp-v73", log=tmp_path / "log", seconds=600)
    assert summary.fallbacks == ("Gemm (head/Gemm)",)
    assert not (folder / "context_qnn.bin").exists()


def test_activations_below_8_bits_are_refused(tmp_path: Path) -> None:
    graph = tiny_encoder(np.random.default_rng(0), weight_bits=4, activation_bits=4)
    with pytest.raises(ArchNetError, match=r"Requantize\) is not exact on HTP") as caught:
        compile_for(finished(tmp_path / "build", graph), "qualcomm-htp-v73")
    assert "--target qualcomm-htp" in caught.value.fix


def test_a_build_of_another_network_is_refused(tmp_path: Path) -> None:
    build = finished(tmp_path / "build", network("text")[0])
    with pytest.raises(ArchNetError, match="is not compiled for an HTP") as caught:
        open_backend("qualcomm-htp", build)
    assert caught.value.fix == f"archnet compile {build} --target qualcomm-htp-v73"
    compile_for(build, "qualcomm-htp-v73", seconds=600)
    other = tiny_encoder(np.random.default_rng(5), embedding="host")
    save_graph(other, build / "graph")
    with pytest.raises(ArchNetError, match="is damaged, or compiled from another network"):
        open_backend("qualcomm-htp", build)
