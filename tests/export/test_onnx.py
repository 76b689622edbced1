"""The QDQ writer: the same integers as the reference executor, and the form that runtimes want."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from archnet.backends.base import feed
from archnet.backends.onnxruntime import OnnxRuntimeBackend, exposing
from archnet.backends.reference import ReferenceBackend
from archnet.calibration.affine import fit_linear_scales, fit_output_scale
from archnet.errors import ArchNetError
from archnet.export.onnx import build_onnx, emulated_places, export_onnx, stored_tensors
from archnet.export.onnx_state import ActivationType, LinearForm
from archnet.graph import Dim, GraphOutput, Node, QuantizedGraph, TensorSpec
from archnet.graph_check import validate_graph
from archnet.onnx_session import session_options
from archnet.operators import Op
from archnet.reference import bind_dims, run_node
from tests.graphs import random_inputs, tiny_encoder

NETWORKS: dict[str, dict[str, Any]] = {
    "pooled": {"layers": 2},
    "tokens": {"pooled": False},
    "one_hot": {"embedding": "one_hot"},
    "code": {"embedding": "code"},
    "host": {"embedding": "host"},
    "gelu_concat": {"activation": "gelu", "concat": True, "pooled": False},
    "wide": {"hidden": 192, "heads": 3},
    "w4a4": {"weight_bits": 4, "activation_bits": 4, "layers": 2},
    "w2a6": {"weight_bits": 2, "activation_bits": 6, "pooled": False, "activation": "gelu", "concat": True},
    "w3a4_host": {"weight_bits": 3, "activation_bits": 4, "embedding": "host"},
}
FORMS: list[tuple[LinearForm, ActivationType]] = [
    ("convolution", "mixed"),
    ("gemm", "mixed"),
    ("convolution", "uint8"),
    ("gemm", "int8"),
]
FAST_FORMS = FORMS[:3]
"""On x86 ONNX Runtime keeps some operators with int8 activations in float."""


def network(name: str, seed: int = 0) -> QuantizedGraph:
    return tiny_encoder(np.random.default_rng(seed), **NETWORKS[name])


def differences(
    graph: QuantizedGraph, backend: OnnxRuntimeBackend, inputs: Mapping[str, NDArray[Any]]
) -> dict[Op, tuple[int, int, int]]:
    """Operator -> (largest difference, how many differ, of how many), given the backend's own inputs."""
    fed = feed(graph, inputs)
    values = {**fed, **backend.tensors(inputs)}
    found: dict[Op, tuple[int, int, int]] = {}
    for node in graph.nodes:
        arrays = [values[n] if n in values else graph.constants[n] for n in node.inputs]
        wanted = run_node(node, arrays, graph.tensors[node.output], bind_dims(graph, fed))
        got = values[node.output]
        assert got.shape == wanted.shape
        assert got.dtype == wanted.dtype
        away = np.abs(got.astype(np.int64) - wanted.astype(np.int64))
        worst, count, size = found.get(node.op, (0, 0, 0))
        found[node.op] = (
            max(worst, int(away.max())),
            count + int(np.count_nonzero(away)),
            size + away.size,
        )
    return found


@pytest.mark.parametrize("level", ["ORT_ENABLE_BASIC", "ORT_ENABLE_ALL"])
@pytest.mark.parametrize(("linear", "activations"), FORMS)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_operator_gives_the_reference_integers(
    name: str, linear: LinearForm, activations: ActivationType, level: str
) -> None:
    graph = network(name)
    model = build_onnx(graph, linear=linear, activations=activations)
    backend = OnnxRuntimeBackend(graph, model, level=level, threads=1)
    inputs = random_inputs(np.random.default_rng(1), graph, batch=4, sequence=11)
    found = differences(graph, backend, inputs)
    assert set(found) == {node.op for node in graph.nodes}
    float_level = level if (linear, activations) in FAST_FORMS else "ORT_ENABLE_BASIC"
    emulated = {place.op for place in emulated_places(graph, float_level)} - {Op.MASK, Op.REQUANTIZE}
    for op, (worst, count, size) in found.items():
        if op in emulated:
            assert worst <= 1, found
            assert count <= max(2, size // 1000), found
        else:
            assert (worst, count) == (0, 0), found


@settings(max_examples=6, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    heads=st.integers(1, 3),
    width=st.integers(2, 9),
    batch=st.integers(1, 3),
    sequence=st.integers(1, 16),
    levels=st.sampled_from([255, 256]),
)
def test_any_size_gives_the_reference_integers(
    seed: int, heads: int, width: int, batch: int, sequence: int, levels: int
) -> None:
    rng = np.random.default_rng(seed)
    graph = tiny_encoder(rng, hidden=heads * width, heads=heads, share_levels=levels)
    backend = OnnxRuntimeBackend(graph, build_onnx(graph), threads=1)
    inputs = random_inputs(np.random.default_rng(seed), graph, batch=batch, sequence=sequence)
    found = differences(graph, backend, inputs)
    assert found.pop(Op.SOFTMAX)[0] <= 1
    assert all(result[:2] == (0, 0) for result in found.values()), found


@settings(max_examples=6, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    weight_bits=st.sampled_from([2, 3, 4, 8]),
    linear=st.sampled_from(["convolution", "gemm"]),
    activation=st.sampled_from(["relu", "gelu"]),
)
@example(seed=1212, weight_bits=2, linear="convolution", activation="relu")  # one scale had no match
@example(seed=503, weight_bits=4, linear="convolution", activation="relu")  # twenty had none
def test_any_mix_of_widths_gives_the_reference_integers(
    seed: int, weight_bits: int, linear: LinearForm, activation: Any
) -> None:
    """Every activation of 2 to 8 bits, drawn one by one: each saturates at its own width."""
    rng = np.random.default_rng(seed)
    widths = (2, 3, 4, 6, 8)
    graph = tiny_encoder(rng, weight_bits=weight_bits, activation_bits=widths, activation=activation)
    backend = OnnxRuntimeBackend(graph, build_onnx(graph, linear=linear), threads=1)
    inputs = random_inputs(rng, graph, batch=4, sequence=16)
    found = differences(graph, backend, inputs)
    assert found.pop(Op.SOFTMAX)[0] <= 1
    assert all(result[:2] == (0, 0) for result in found.values()), found


def chain(bits: int, rng: np.random.Generator) -> QuantizedGraph:
    """Two changes of scale, one after the other, and a fully connected layer."""
    shape: tuple[Dim, ...] = ("batch", "sequence", 16)
    first, scale = fit_output_scale(0.06, 0.05)
    second, narrow = fit_output_scale(scale * 1.3 * 2 ** (8 - bits), scale)
    multiplier, weight_scale, result = fit_linear_scales(np.full(8, 0.02), narrow, 0.1)
    specs = [
        TensorSpec("x", shape, "int8", 8, 0.05),
        TensorSpec("a", shape, "int8", 8, scale),
        TensorSpec("b", shape, "int8", bits, narrow),
        TensorSpec("c", ("batch", "sequence", 8), "int8", 8, result),
    ]
    nodes = (
        Node(Op.REQUANTIZE, "first", ("x",), "a", {"multiplier": first}),
        Node(Op.REQUANTIZE, "second", ("a",), "b", {"multiplier": second}),
        Node(Op.LINEAR, "layer", ("b", "weight", "bias", "multiplier", "scale"), "c", {"weight_bits": 8}),
    )
    constants: dict[str, NDArray[Any]] = {
        "weight": rng.integers(-127, 128, (8, 16), dtype=np.int8),
        "bias": rng.integers(-500, 500, 8, dtype=np.int32),
        "multiplier": multiplier,
        "scale": weight_scale,
    }
    outputs = (GraphOutput("y", "c", np.ones(1, np.float32)),)
    return QuantizedGraph("chain", (specs[0],), outputs, nodes, {s.name: s for s in specs}, constants, 16)


@pytest.mark.parametrize("normalize", [False, True])
def test_bounded_outputs_are_those_of_the_reference(normalize: bool) -> None:
    rng = np.random.default_rng(0)
    graph = chain(8, rng)
    outputs = tuple(replace(output, cap=2.0, normalize=normalize) for output in graph.outputs)
    graph = replace(graph, outputs=outputs)
    feeds = {"x": rng.integers(-128, 128, (3, 16, 16), dtype=np.int8)}
    found = OnnxRuntimeBackend(graph, build_onnx(graph), threads=1).run(feeds)["y"]
    np.testing.assert_allclose(found, ReferenceBackend(graph).run(feeds)["y"], rtol=1e-5, atol=1e-6)
    assert np.abs(found).max() <= 2.0


@pytest.mark.parametrize(("linear", "activations"), FORMS)
@pytest.mark.parametrize("bits", [3, 4, 6, 8])
def test_one_change_of_scale_after_another_is_not_merged(
    bits: int, linear: LinearForm, activations: ActivationType
) -> None:
    """ONNX Runtime makes one Quantize/Dequantize pair of two in a row, with a scale of its own."""
    rng = np.random.default_rng(bits)
    graph = chain(bits, rng)
    validate_graph(graph)
    feeds = {"x": rng.integers(-128, 128, (3, 16, 16), dtype=np.int8)}
    model = build_onnx(graph, linear=linear, activations=activations)
    found = OnnxRuntimeBackend(graph, model, threads=1).run(feeds)["y"]
    np.testing.assert_array_equal(found, ReferenceBackend(graph).run(feeds)["y"])


@pytest.mark.parametrize("linear", ["convolution", "gemm"])
def test_on_a_million_elements_only_softmax_differs(linear: LinearForm) -> None:
    """Sums near a half, which float32 arithmetic rounds otherwise, occur about once in 100,000 elements."""
    graph = tiny_encoder(np.random.default_rng(3), layers=2, hidden=192, heads=6, max_sequence=64)
    backend = OnnxRuntimeBackend(graph, build_onnx(graph, linear=linear), threads=1)
    inputs = random_inputs(np.random.default_rng(4), graph, batch=12, sequence=64)
    found = differences(graph, backend, inputs)
    worst, count, size = found.pop(Op.SOFTMAX)
    assert size == 2 * 12 * 6 * 64 * 64
    assert worst <= 1
    assert count <= size // 1000
    assert sum(result[2] for result in found.values()) > 2 * 10**6
    assert all(result[:2] == (0, 0) for result in found.values()), found


@pytest.mark.parametrize("name", ["one_hot", "code"])
def test_outputs_are_those_of_the_reference(name: str) -> None:
    """These networks and inputs have no softmax element that differs, so that the outputs agree."""
    graph = network(name)
    inputs = random_inputs(np.random.default_rng(1), graph, batch=4, sequence=11)
    got = OnnxRuntimeBackend(graph, build_onnx(graph)).run(inputs)
    wanted = ReferenceBackend(graph).run(inputs)
    assert got.keys() == wanted.keys()
    for key in wanted:
        np.testing.assert_allclose(got[key], wanted[key], rtol=0, atol=1e-6)


def optimized_census(model: onnx.ModelProto, folder: Path) -> Counter[str]:
    """The operators after ONNX Runtime's optimisation at the deployed level."""
    options = session_options()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node)


@pytest.mark.parametrize("name", ["pooled", "w4a4"])
@pytest.mark.parametrize(("linear", "activations"), FAST_FORMS)
def test_at_the_deployed_level_only_softmax_and_requantize_are_float(
    linear: LinearForm, activations: ActivationType, name: str, tmp_path: Path
) -> None:
    """What ONNX Runtime makes of the file: no float product, sum or layout change is left."""
    graph = network(name)
    model = build_onnx(graph, linear=linear, activations=activations)
    census = optimized_census(model, tmp_path)
    shown = exposing(model, tuple(dict.fromkeys(t.value for t in stored_tensors(model).values())))
    # Showing the tensors changes nothing but the layout of what is shown.
    assert {**optimized_census(shown, tmp_path), "Transpose": 0} == {**census, "Transpose": 0}
    layers = sum(node.op is Op.LINEAR for node in graph.nodes)
    assert census["QLinearConv"] + census["QGemm"] == layers
    assert census["QLinearMatMul"] == sum(node.op is Op.MATMUL for node in graph.nodes)
    assert census["QLinearAdd"] == sum(node.op is Op.ADD for node in graph.nodes)
    softmaxes = sum(node.op is Op.SOFTMAX for node in graph.nodes)
    changes = sum(node.op is Op.REQUANTIZE for node in graph.nodes)
    assert census["Softmax"] == census["Min"] == softmaxes
    assert census["QuantizeLinear"] == census["DequantizeLinear"] == softmaxes + changes
    assert not census.keys() & {"Conv", "Gemm", "MatMul", "Relu", "QLinearSoftmax"}
    # Attention needs four: heads of query, key and value, and back.
    assert census["Transpose"] == 4 * softmaxes


def test_one_pair_per_tensor_and_nothing_around_gemm() -> None:
    graph = network("pooled")
    model = build_onnx(graph, linear="gemm")
    makers = {output: node for node in model.graph.node for output in node.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    quantized = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    computed = {Op.LINEAR, Op.MATMUL, Op.ADD, Op.SOFTMAX}
    assert len(quantized) == sum(node.op in computed for node in graph.nodes)
    for node in quantized:
        pairs = [reader for reader in readers[node.output[0]] if reader.op_type == "DequantizeLinear"]
        assert len(pairs) <= 1
    gemms = [node for node in model.graph.node if node.op_type == "Gemm"]
    assert len(gemms) == sum(node.op is Op.LINEAR for node in graph.nodes)
    reshaped = 0
    for gemm in gemms:
        source = makers[gemm.input[0]].op_type
        reshaped += source == "Reshape"
        assert source in {"DequantizeLinear", "Reshape"}
        after = [reader.op_type for reader in readers[gemm.output[0]]]
        assert after in (["QuantizeLinear"], ["Relu"])
    # The heads of each layer's attention are joined to (tokens, features).
    assert reshaped == 2


def test_file_is_checked_and_says_how_to_run_it(tmp_path: Path) -> None:
    graph = network("pooled")
    export_onnx(graph, tmp_path / "onnx" / "model.onnx")
    model = onnx.load(tmp_path / "onnx" / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert metadata["archnet.onnxruntime.graph_optimization_level"] == "ORT_ENABLE_ALL"
    places = json.loads(metadata["archnet.emulated"])
    assert [place["node"] for place in places] == [place.node for place in emulated_places(graph)]
    assert {place["op"] for place in places} == {"Softmax", "Minimum"}
    basic = {place.op for place in emulated_places(graph, "ORT_ENABLE_BASIC")}
    assert basic == {Op.SOFTMAX, Op.MASK, Op.LINEAR, Op.MATMUL, Op.ADD}
    assert all(place["reason"] for place in places)
    assert stored_tensors(model).keys() <= graph.tensors.keys()
    assert [i.name for i in model.graph.input] == ["input_ids", "attention_mask"]
    dims = [d.dim_param for d in model.graph.input[0].type.tensor_type.shape.dim]
    assert dims == ["batch", "sequence"]
    assert [path.name for path in (tmp_path / "onnx").iterdir()] == ["model.onnx"]


def test_fewer_bits_are_clamped() -> None:
    """Signed 6-bit outputs of a layer hold -32 .. 31 though they are stored in bytes."""
    graph = network("pooled")
    node = next(n for n in graph.nodes if n.op is Op.LINEAR and n.name.endswith("up"))
    spec = replace(graph.tensors[node.output], dtype="int8", bits=6)
    graph = replace(graph, tensors={**graph.tensors, node.output: spec})
    backend = OnnxRuntimeBackend(graph, build_onnx(graph), threads=1)
    inputs = random_inputs(np.random.default_rng(1), graph)
    values = backend.tensors(inputs, [node.output])[node.output]
    assert (values.min(), values.max()) == (-32, 31)
    found = differences(graph, backend, inputs)
    assert found[Op.LINEAR][0] == 0


def test_operator_without_onnx_form_is_named() -> None:
    graph = network("pooled")
    strange = Node(Op.GELU, "pooling.max", (graph.nodes[0].output,), "pooling.max:0")
    tensors = {**graph.tensors, "pooling.max:0": graph.tensors[graph.nodes[0].output]}
    with pytest.raises(ArchNetError, match=r"pooling\.max \(GELU\) has no ONNX form"):
        build_onnx(replace(graph, nodes=(*graph.nodes, strange), tensors=tensors))
