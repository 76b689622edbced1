"""Tokens moved along the sequence and products moved by distances, in files of one length."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from archnet.backends.base import feed
from archnet.backends.reference import ReferenceBackend
from archnet.backends.twin import twin_inputs, twin_tensors
from archnet.config import Bits
from archnet.errors import ArchNetError
from archnet.export.float_twin import build_float_twin
from archnet.export.onnx import StaticForm, build_static_onnx
from archnet.export.qdq import build_qdq
from archnet.export.static_relative import distance_moves, distance_rows
from archnet.export.tpu_program import build_tpu_program
from archnet.graph import Node, QuantizedGraph
from archnet.onnx_session import session_options
from archnet.operators import Op
from archnet.reference import execute
from archnet.single_network import SEQUENCE
from archnet.single_operators import random_inputs, single_operator
from tests.archnet.test_freeze import quantized
from tests.attention_graphs import product_graph
from tests.export.test_tpu_program import NumpyBackend
from tests.small_encoder import padded_batch

pytest.importorskip("ai_edge_litert", reason="needs archnet[ethos]")

from archnet.backends.litert import Kernels, LiteRtBackend
from archnet.export.tflite import build_tflite, fixed_point_places
from tests.export.test_tflite import differences

CASES = [
    (Op.SHIFT, "the token before"),
    (Op.SHIFT, "the token behind"),
    (Op.RELATIVE_MATMUL, "rank 4"),
]
LENGTHS = (1, 2, 7, SEQUENCE)
W8A8 = Bits(8, 8)


def inputs_of(graph: QuantizedGraph, tokens: int) -> dict[str, NDArray[Any]]:
    return random_inputs(graph, 3, tokens)


@given(st.integers(1, 3), st.integers(1, 9), st.integers(0, 5), st.integers(0, 2**32 - 1))
def test_products_by_distance_become_products_by_token(heads: int, tokens: int, more: int, seed: int) -> None:
    """As the definition has them, one at a time; the table reaches further than the tokens."""
    positions, width = tokens + more, 3
    rng = np.random.default_rng(seed)
    x = rng.integers(-128, 128, (1, heads, tokens, width))
    table = rng.integers(-128, 128, (heads, 2 * positions - 1, width)).astype(np.int8)
    value = x @ np.swapaxes(distance_rows(table, tokens), -1, -2).astype(np.int64)
    for move in distance_moves(heads, tokens):
        starts = move.starts or (0,) * 4
        if move.starts is None:
            value = value.reshape(move.shape)
        else:
            value = value[tuple(slice(a, a + n) for a, n in zip(starts, move.shape, strict=True))]
        assert value.shape == move.shape
    for h, own, other in np.ndindex(heads, tokens, tokens):
        wanted = x[0, h, own] @ table[h, positions - 1 + other - own].astype(np.int64)
        assert value[0, h, own, other] == wanted


@pytest.mark.parametrize("tokens", LENGTHS)
@pytest.mark.parametrize(("op", "case"), CASES)
def test_litert_has_the_integers_of_the_reference(op: Op, case: str, tokens: int) -> None:
    graph = single_operator(op, case, W8A8)
    inputs = inputs_of(graph, tokens)
    backend = LiteRtBackend(graph, build_tflite(graph, tokens), threads=1)
    np.testing.assert_array_equal(backend.tensors(inputs)["y"], execute(graph, inputs)["y"])


@pytest.mark.parametrize("kernels", ["optimized", "reference"])
@pytest.mark.parametrize(("op", "case"), CASES)
def test_fixed_point_kernels_are_off_by_one_where_they_multiply(op: Op, case: str, kernels: Kernels) -> None:
    graph = single_operator(op, case, W8A8)
    inputs = inputs_of(graph, SEQUENCE)
    backend = LiteRtBackend(graph, build_tflite(graph, SEQUENCE), kernels=kernels, threads=1)
    away = np.abs(backend.tensors(inputs)["y"].astype(int) - execute(graph, inputs)["y"])
    named = [place.node for place in fixed_point_places(graph)]
    if op is Op.SHIFT:
        assert named == []
        assert away.max() == 0
    else:
        assert named == [graph.nodes[0].name]
        assert away.max() <= 1
        assert np.mean(away > 0) < 0.01


@pytest.mark.parametrize("bits", ["w8a8", "w8a6", "w8a4"])
@pytest.mark.parametrize("tokens", LENGTHS)
@pytest.mark.parametrize(("op", "case"), CASES)
def test_programs_of_integers_compute_those_of_the_reference(
    op: Op, case: str, tokens: int, bits: str
) -> None:
    graph = single_operator(op, case, Bits.parse(bits))
    inputs = inputs_of(graph, tokens)
    backend = NumpyBackend(graph, build_tpu_program(graph, tokens))
    np.testing.assert_array_equal(backend.tensors(inputs)["y"], execute(graph, inputs)["y"])


@pytest.mark.parametrize("form", ["units", "integer"])
@pytest.mark.parametrize("bits", ["w8a8", "w8a4"])
@pytest.mark.parametrize("tokens", LENGTHS)
@pytest.mark.parametrize(("op", "case"), CASES)
def test_onnx_of_one_size_computes_the_integers_of_the_reference(
    op: Op, case: str, tokens: int, bits: str, form: StaticForm
) -> None:
    graph = single_operator(op, case, Bits.parse(bits))
    inputs = {name: value[:1] for name, value in inputs_of(graph, tokens).items()}
    model = build_static_onnx(graph, form, tokens)
    (found,) = ort.InferenceSession(model.SerializeToString(), session_options()).run(None, inputs)
    np.testing.assert_array_equal(found, execute(graph, inputs)["y"])


@pytest.mark.parametrize("tokens", LENGTHS)
@pytest.mark.parametrize("case", ["the token before", "the token behind"])
def test_neighbours_are_exact_in_real_numbers(case: str, tokens: int) -> None:
    graph = single_operator(Op.SHIFT, case, W8A8)
    inputs = inputs_of(graph, tokens)
    twin = build_float_twin(graph, tokens)
    session = ort.InferenceSession(twin.model.SerializeToString(), providers=["CPUExecutionProvider"])
    rows = zip(*twin_inputs(graph, twin, inputs), strict=True)
    results = [session.run(None, dict(zip(twin.inputs, row, strict=True)))[0] for row in rows]
    found = twin_tensors(graph, twin, [np.stack(results)], inputs)["y"]
    np.testing.assert_array_equal(found, execute(graph, inputs)["y"])
    assert "Slice" not in {node.op_type for node in twin.model.graph.node}


@pytest.mark.parametrize("case", ["the token before", "the token behind"])
def test_behind_the_last_token_of_a_short_sentence_is_nothing(case: str) -> None:
    graph = single_operator(Op.SHIFT, case, W8A8)
    inputs = inputs_of(graph, 7)
    expected = ReferenceBackend(graph).run(inputs)["result"]
    for backend in (
        LiteRtBackend(graph, build_tflite(graph, SEQUENCE), threads=1),
        NumpyBackend(graph, build_tpu_program(graph, SEQUENCE)),
    ):
        np.testing.assert_array_equal(backend.run(inputs)["result"], expected)


@pytest.mark.parametrize("model", ["neighbours", "distances", "distances of queries", "distances of keys"])
def test_whole_networks_have_the_integers_of_the_reference(model: str) -> None:
    """MobileBERT and DeBERTa, sentences of unequal lengths; a share may be one off (see test_tflite)."""
    graph = quantized(model, "host")[1]
    inputs = {name: value.numpy() for name, value in padded_batch(7).items()}
    assert {Op.SHIFT, Op.RELATIVE_MATMUL} & {node.op for node in graph.nodes}
    tokens = inputs["input_ids"].shape[1]
    found = differences(graph, LiteRtBackend(graph, build_tflite(graph, tokens), threads=1), inputs)
    shares = {node.output for node in graph.nodes if node.op is Op.SOFTMAX}
    after = {node.output for node in graph.nodes if shares & set(node.inputs)}
    for name, (op, worst, _) in found.items():
        assert worst <= (1 if op is Op.ADD or name in shares | after else 0), name
    program = NumpyBackend(graph, build_tpu_program(graph, tokens)).tensors(inputs)
    expected = execute(graph, feed(graph, inputs), list(program))
    for name, value in program.items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


def computed_neighbours(by: int) -> QuantizedGraph:
    """The product of two tensors of tokens, moved."""
    graph = product_graph(W8A8)
    (output,) = graph.outputs
    spec = replace(graph.tensors["product"], name="moved")
    node = Node(Op.SHIFT, "moved", ("product",), "moved", {"by": by})
    return replace(
        graph,
        nodes=(*graph.nodes, node),
        tensors={**graph.tensors, "moved": spec},
        outputs=(replace(output, tensor="moved"),),
    )


@pytest.mark.parametrize("build", [build_tflite, build_tpu_program, build_float_twin])
def test_computed_features_are_not_moved_from_behind_the_end(build: Callable[..., object]) -> None:
    with pytest.raises(ArchNetError, match="moved: Shift moves features that are computed first") as caught:
        build(computed_neighbours(-1))
    assert caught.value.fix == "convert for onnxruntime or tvm"
    build(computed_neighbours(1))  # before the first token there is nothing in any file


@pytest.mark.parametrize(
    ("build", "message", "fix"),
    [
        (build_qdq, "was asked whether it moves products by the distances", "export it as onnx or tvm"),
        (
            build_float_twin,
            "nncase leaves the Slices that move its products on the CPU",
            "convert for another chip",
        ),
    ],
)
def test_files_without_distances_say_so(build: Callable[..., object], message: str, fix: str) -> None:
    with pytest.raises(ArchNetError, match=message) as caught:
        build(single_operator(Op.RELATIVE_MATMUL, "rank 4", W8A8))
    assert caught.value.fix.startswith(fix)
