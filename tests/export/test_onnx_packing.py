"""INT4 and INT2 initializers: the same integers and the same kernels in ONNX Runtime, in fewer bytes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto

from archnet.backends.onnxruntime import OnnxRuntimeBackend
from archnet.backends.reference import ReferenceBackend
from archnet.export.onnx import build_onnx
from archnet.export.onnx_state import ActivationType, LinearForm
from archnet.graph import GraphOutput, Node, QuantizedGraph, TensorSpec
from archnet.graph_check import validate_graph
from archnet.operators import Op
from tests.export.test_onnx import differences, optimized_census
from tests.graphs import random_inputs, tiny_encoder

TYPES = {4: TensorProto.INT4, 3: TensorProto.INT4, 2: TensorProto.INT2}


def network(bits: int, **options: Any) -> QuantizedGraph:
    rng = np.random.default_rng(bits)
    return tiny_encoder(rng, layers=2, hidden=48, weight_bits=bits, embedding="one_hot", **options)


@pytest.mark.parametrize("level", ["ORT_DISABLE_ALL", "ORT_ENABLE_ALL"])
@pytest.mark.parametrize(
    ("linear", "activations"), [("convolution", "mixed"), ("gemm", "mixed"), ("gemm", "int8")]
)
@pytest.mark.parametrize(("bits", "activation_bits"), [(4, 8), (3, 6), (2, 4)])
def test_packed_weights_give_the_reference_integers(
    bits: int, activation_bits: int, linear: LinearForm, activations: ActivationType, level: str
) -> None:
    graph = network(bits, activation_bits=activation_bits)
    model = build_onnx(graph, linear=linear, activations=activations)
    backend = OnnxRuntimeBackend(graph, model, level=level, threads=1)
    found = differences(graph, backend, random_inputs(np.random.default_rng(1), graph, batch=4, sequence=11))
    fast = level == "ORT_ENABLE_ALL" and activations == "mixed"
    for op, (worst, count, size) in found.items():
        assert worst <= (0 if fast and op is not Op.SOFTMAX else 1), found
        assert count <= max(2, size // 1000), found


@pytest.mark.parametrize("bits", [4, 3, 2])
def test_every_weight_is_packed_and_listed(bits: int, tmp_path: Path) -> None:
    graph = network(bits)
    model = build_onnx(graph)
    onnx.checker.check_model(model, full_check=True)
    packed = {t.name: t for t in model.graph.initializer if t.data_type == TYPES[bits]}
    layers = [node for node in graph.nodes if node.op is Op.LINEAR]
    assert set(packed) == {f"{node.name}/weight/int{4 if bits > 2 else 2}" for node in layers}
    elements = sum(graph.constants[node.inputs[1]].size for node in layers)
    assert sum(len(t.raw_data) for t in packed.values()) == elements * (4 if bits > 2 else 2) // 8
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    listed = json.loads(metadata["archnet.packed"])
    assert listed == {f"{node.name}/weight": f"INT{4 if bits > 2 else 2}" for node in layers}
    assert model.opset_import[0].version == (21 if bits > 2 else 25)
    whole = build_onnx(graph, activations="int8")
    assert whole.opset_import[0].version == 20
    assert not any(t.data_type == TYPES[bits] for t in whole.graph.initializer)
    assert model.ByteSize() < whole.ByteSize() - elements // 3
    # The runtime's kernels are those of a file with int8 weights.
    assert optimized_census(model, tmp_path)["Cast"] == optimized_census(whole, tmp_path)["Cast"]
    assert optimized_census(model, tmp_path)["QLinearConv"] == len(layers)


def test_two_bits_as_odd_numbers_are_packed(tmp_path: Path) -> None:
    """-3, -1, 1, 3: four values around 0, which INT2 holds as 2 * code + 1."""
    graph = network(2)
    layers = [node for node in graph.nodes if node.op is Op.LINEAR]
    odd = {node.inputs[1]: graph.constants[node.inputs[1]] * np.int8(2) + np.int8(1) for node in layers}
    graph = replace(graph, constants={**graph.constants, **odd})
    model = build_onnx(graph)
    assert sum(t.data_type == TensorProto.INT2 for t in model.graph.initializer) == len(layers)
    backend = OnnxRuntimeBackend(graph, model, threads=1)
    found = differences(graph, backend, random_inputs(np.random.default_rng(1), graph))
    assert found[Op.LINEAR][:2] == (0, 0)
    assert optimized_census(model, tmp_path)["QLinearConv"] == len(layers)


@pytest.mark.parametrize("step", [1, 16])
@pytest.mark.parametrize("bits", [4, 2])
def test_tables_of_few_bits_are_packed_too(bits: int, step: int) -> None:
    """Rows of narrow integers, or multiples of a step in rows of 8 bits."""
    rng = np.random.default_rng(bits)
    row_bits = bits if step == 1 else 8
    widths = {} if step == 1 else {"weight_bits": bits, "step": step}
    shape = ("batch", "sequence", 6)
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    specs = [
        TensorSpec("ids", ("batch", "sequence"), "int64", 64),
        TensorSpec("rows", shape, "int8", row_bits, 0.5),
        TensorSpec("places", ("sequence", 6), "int8", bits, 0.5),
        TensorSpec("sum", shape, "int8", 8, 0.5),
    ]
    nodes = (
        Node(Op.EMBEDDING, "rows", ("ids", "table"), "rows", widths),
        Node(Op.SLICE, "places", ("positions",), "places"),
        Node(Op.ADD, "sum", ("rows", "places"), "sum", {"multiplier_a": 65535, "multiplier_b": 65535}),
    )
    constants: dict[str, NDArray[Any]] = {
        "table": rng.integers(low, high + 1, (20, 6), dtype=np.int8) * np.int8(step),
        "positions": rng.integers(low, high + 1, (8, 6), dtype=np.int8),
    }
    graph = QuantizedGraph(
        "tables",
        (specs[0],),
        (GraphOutput("y", "sum", np.ones(1, np.float32)),),
        nodes,
        {spec.name: spec for spec in specs},
        constants,
        8,
    )
    validate_graph(graph)
    model = build_onnx(graph)
    assert sum(t.data_type == TYPES[bits] for t in model.graph.initializer) == 2
    feeds = {"ids": rng.integers(0, 20, (3, 5))}
    found = OnnxRuntimeBackend(graph, model, threads=1).run(feeds)["y"]
    np.testing.assert_array_equal(found, ReferenceBackend(graph).run(feeds)["y"])
