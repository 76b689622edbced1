"""The reference executor against exact fractions, plain NumPy, and the real numbers that it stands for."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from archnet.config import Bits
from archnet.errors import ArchNetError
from archnet.graph import Dim, Node, QuantizedGraph, TensorSpec
from archnet.operators import Op
from archnet.reference import OPERATORS, execute, integer_matmul, run_node
from tests.attention_graphs import (
    distance_graph,
    neighbour_graph,
    product_graph,
    with_log_sum_softmax,
    with_padding,
    with_relu_attention,
    with_table_softmax,
)
from tests.graphs import Embedding, random_inputs, tiny_encoder
from tests.image_graphs import image_graph

DIMS = {"batch": 2, "sequence": 3}


def call(
    op: Op,
    *inputs: NDArray[Any],
    dtype: str = "int8",
    bits: int = 8,
    shape: tuple[Dim, ...] = (),
    scale: float = 1.0,
    **attributes: Any,
) -> NDArray[Any]:
    """Run one operator on arrays."""
    node = Node(op, "node", tuple(f"x{i}" for i in range(len(inputs))), "y", attributes)
    return run_node(node, inputs, TensorSpec("y", shape, dtype, bits, scale), DIMS)


def int8(rng: np.random.Generator, *shape: int) -> NDArray[np.int8]:
    return rng.integers(-128, 128, shape, dtype=np.int8)


@given(st.integers(0, 2**32 - 1), st.integers(1, 7), st.integers(1, 70), st.integers(1, 7))
def test_matmul_in_floats_is_the_matmul_of_integers(seed: int, rows: int, depth: int, columns: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = int8(rng, 2, rows, depth), int8(rng, 2, depth, columns)
    exact = np.einsum("bmk,bkn->bmn", a.astype(np.int64), b.astype(np.int64))
    np.testing.assert_array_equal(integer_matmul(a, b), exact)


@pytest.mark.parametrize("by", [1, 2, 3, 9, -1, -2, -3, -9])
def test_shift_gives_each_token_the_one_so_many_places_before_it(by: int) -> None:
    x = int8(np.random.default_rng(0), 2, 3, 4)
    wanted = np.zeros_like(x)
    for place in range(3):
        if 0 <= place - by < 3:
            wanted[:, place] = x[:, place - by]
    np.testing.assert_array_equal(call(Op.SHIFT, x, by=by), wanted)


@pytest.mark.parametrize(
    ("value", "depth"),
    [(-128, 1023), (-128, 1025), (-128, 5000), (2**20, 8191), (2**20, 8193), (2**30, 7)],
    ids=["float32", "above-float32", "float64", "near-float64", "above-float64", "int64"],
)
def test_matmul_is_exact_on_both_sides_of_each_float_limit(value: int, depth: int) -> None:
    a = np.full((2, depth), value, dtype=np.int64)
    # An odd last digit is what a float that is too short would lose.
    a[1, 0] += 1
    b = np.full((depth, 1), value, dtype=np.int64)
    b[0, 0] += 1
    expected = [sum(int(x) * int(y) for x, y in zip(row, b[:, 0], strict=True)) for row in a]
    assert integer_matmul(a, b)[:, 0].tolist() == expected


@pytest.mark.parametrize("density", [1.0, 0.01], ids=["dense", "sparse"])
def test_linear_is_product_bias_requantization_and_clamp(density: float) -> None:
    rng = np.random.default_rng(0)
    x = int8(rng, 2, 3, 200) * (rng.random((2, 3, 200)) < density).astype(np.int8)
    weight = int8(rng, 5, 200)
    bias = rng.integers(-5000, 5000, 5, dtype=np.int32)
    multiplier = np.array([1, 301, 65537, 131071, 77], dtype=np.int32)
    scale = np.ones(5, dtype=np.float32)
    y = call(Op.LINEAR, x, weight, bias, multiplier, scale)
    accumulator = np.einsum("bsk,nk->bsn", x.astype(np.int64), weight.astype(np.int64)) + bias
    for index, value in np.ndenumerate(accumulator):
        exact = round(Fraction(int(value) * int(multiplier[index[-1]]), 2**16))
        assert y[index] == min(max(exact, -128), 127)
    unsigned = call(Op.LINEAR, x, weight, bias, multiplier, scale, dtype="uint8")
    assert unsigned.dtype == np.uint8
    assert (unsigned[y < 0] == 0).all(), "an unsigned output is a fused ReLU"


def test_one_hot_then_linear_is_a_table_look_up() -> None:
    rng = np.random.default_rng(1)
    table = int8(rng, 40, 6)
    ids = rng.integers(0, 40, (2, 3))
    hot = call(Op.ONE_HOT, ids, dtype="uint8", bits=1, depth=40)
    assert hot.shape == (2, 3, 40)
    assert (hot.sum(axis=-1) == 1).all()
    ones, zeros = np.full(6, 2**16, dtype=np.int32), np.zeros(6, dtype=np.int32)
    rows = call(Op.LINEAR, hot, np.ascontiguousarray(table.T), zeros, ones, ones.astype(np.float32))
    np.testing.assert_array_equal(rows, call(Op.EMBEDDING, ids, table))


def test_one_hot_codes_stand_side_by_side() -> None:
    codes = np.array([[[1, 0, 2]]])
    hot = call(Op.ONE_HOT, codes, dtype="uint8", bits=1, depth=3)
    assert hot.tolist() == [[[0, 1, 0, 1, 0, 0, 0, 0, 1]]]


@pytest.mark.parametrize("ids", [[[0, 40]], [[-1, 3]]])
@pytest.mark.parametrize("op", [Op.EMBEDDING, Op.ONE_HOT])
def test_ids_outside_the_table_are_refused(op: Op, ids: list[list[int]]) -> None:
    inputs = (np.array(ids), np.zeros((40, 2), dtype=np.int8))[: 2 if op is Op.EMBEDDING else 1]
    with pytest.raises(ArchNetError, match=r"node: an id lies outside 0 \.\. 39"):
        call(op, *inputs, depth=40)


@pytest.mark.parametrize("transpose_b", [False, True])
def test_matmul_of_two_activations(transpose_b: bool) -> None:
    rng = np.random.default_rng(2)
    a, b = rng.integers(0, 256, (2, 2, 3, 4), dtype=np.uint8), int8(rng, 2, 2, 4, 5)
    given_b = np.swapaxes(b, -1, -2) if transpose_b else b
    y = call(Op.MATMUL, a, given_b, multiplier=201, transpose_b=transpose_b)
    exact = np.einsum("bhmk,bhkn->bhmn", a.astype(np.int64), b.astype(np.int64))
    expected = [min(max(round(Fraction(int(v) * 201, 2**16)), -128), 127) for v in exact.ravel()]
    assert y.ravel().tolist() == expected


@given(st.integers(-128, 127), st.integers(-128, 127), st.integers(1, 2**17), st.integers(1, 2**17))
@example(-128, -128, 2**17, 2**17)
@example(1, 2, 2**15, 2**15)
def test_add_rounds_the_exact_sum_once(a: int, b: int, multiplier_a: int, multiplier_b: int) -> None:
    y = call(
        Op.ADD,
        np.array([a], dtype=np.int8),
        np.array([b], dtype=np.int8),
        multiplier_a=multiplier_a,
        multiplier_b=multiplier_b,
    )
    exact = round(Fraction(a * multiplier_a + b * multiplier_b, 2**16))
    assert y.tolist() == [min(max(exact, -128), 127)]


@given(
    st.integers(-128, 127),
    st.integers(1, 2**17),
    st.sampled_from([("int8", 2), ("int8", 4), ("int8", 6), ("int8", 8), ("uint8", 4), ("uint8", 8)]),
)
@example(1, 2**15, ("int8", 4))
@example(3, 2**15, ("int8", 4))
def test_requantize_rounds_half_to_even_and_saturates_at_the_width(
    value: int, multiplier: int, form: tuple[str, int]
) -> None:
    dtype, bits = form
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if dtype == "int8" else (0, 2**bits - 1)
    y = call(Op.REQUANTIZE, np.array([value], np.int8), dtype=dtype, bits=bits, multiplier=multiplier)
    assert y.dtype == dtype
    assert y.tolist() == [min(max(round(Fraction(value * multiplier, 2**16)), low), high)]


def test_add_broadcasts() -> None:
    a, b = np.zeros((2, 3, 4), dtype=np.int8), np.arange(12, dtype=np.int8).reshape(3, 4)
    y = call(Op.ADD, a, b, multiplier_a=1, multiplier_b=2**16)
    np.testing.assert_array_equal(y, np.broadcast_to(b, (2, 3, 4)))


@pytest.mark.parametrize(("bits", "low", "high"), [(8, -128, 127), (4, -8, 7)])
def test_mask_puts_the_least_integer_where_the_mask_is_zero(bits: int, low: int, high: int) -> None:
    x = np.arange(low, high + 1, dtype=np.int8)[:8].reshape(2, 1, 2, 2)
    y = call(Op.MASK, x, np.array([[1, 0], [7, 1]]), bits=bits)
    np.testing.assert_array_equal(y[0, 0], [[x[0, 0, 0, 0], low], [x[0, 0, 1, 0], low]])
    np.testing.assert_array_equal(y[1], x[1])


SOFTMAX_ROWS = st.lists(st.integers(-128, 127), min_size=1, max_size=40)


@given(SOFTMAX_ROWS, st.floats(0.001, 1.0), st.sampled_from([8, 4]), st.booleans())
@example([5] * 40, 0.1, 8, False)
@example([5], 0.1, 8, True)
@example([127, -128], 1.0, 4, True)
def test_softmax_is_the_rounded_share_and_its_short_form_agrees(
    row: list[int], scale: float, bits: int, whole: bool
) -> None:
    """In units of 1 / (2**bits - 1), or of 1 / 2**bits, where 1 itself is cut off."""
    table = np.rint(2**20 * np.exp(-np.arange(256) * scale)).astype(np.int32)
    greatest = 2**bits - 1
    levels = 2**bits if whole else greatest
    share = float(np.float32(1 / levels))
    x = np.array([row], dtype=np.int8)
    y = call(Op.SOFTMAX, x, table, dtype="uint8", bits=bits, scale=share)[0].tolist()
    weights = [int(table[max(row) - v]) for v in row]
    total = sum(weights)
    rounded = [math.floor(Fraction(levels * w, total) + Fraction(1, 2)) for w in weights]
    assert y == [min(share, greatest) for share in rounded]
    assert rounded == [(levels * w + total // 2) // total for w in weights]
    exact = np.exp((np.array(row) - max(row)) * scale)
    wanted = np.minimum(levels * exact / exact.sum(), greatest)
    assert np.abs(np.array(y) - wanted).max() <= 0.5 + 1e-3 * len(row)


def test_softmax_of_the_longest_sequence_stays_in_31_bits_in_its_short_form() -> None:
    table = np.full(256, 2**20, dtype=np.int32)
    x = np.zeros((1, 1024), dtype=np.int8)
    assert call(Op.SOFTMAX, x, table, dtype="uint8", scale=1 / 255)[0].tolist() == [0] * 1024
    assert 256 * 2**20 + 1024 * 2**20 // 2 < 2**31


@given(st.integers(0, 2**32 - 1), st.integers(1, 12))
def test_mean_pool_is_the_mean_rounded_half_up(seed: int, length: int) -> None:
    rng = np.random.default_rng(seed)
    x, mask = int8(rng, 2, length, 3), rng.integers(0, 2, (2, length))
    offset = rng.integers(-(2**20), 2**20, 3, dtype=np.int32)
    y = call(Op.MEAN_POOL, x, mask, offset, dtype="int32", bits=32)
    assert y.dtype == np.int32
    for i, c in np.ndindex(2, 3):
        chosen = [int(v) for v, seen in zip(x[i, :, c], mask[i], strict=True) if seen]
        mean = Fraction(sum(chosen), max(len(chosen), 1))
        assert y[i, c] == math.floor(256 * mean + Fraction(1, 2)) + int(offset[c])


def test_widen_keeps_every_integer_apart() -> None:
    x = np.array([[-128, 127]], dtype=np.int8)
    y = call(Op.WIDEN, x, np.array([1, -1], dtype=np.int32), dtype="int32", bits=32)
    assert y.tolist() == [[-128 * 256 + 1, 127 * 256 - 1]]


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_lookup_counts_from_the_least_integer(dtype: str) -> None:
    info = np.iinfo(dtype)
    x = np.arange(info.min, info.max + 1, dtype=dtype)
    table = np.random.default_rng(3).permutation(256).astype(np.uint8)
    np.testing.assert_array_equal(call(Op.LOOKUP, x, table, dtype="uint8", function="any"), table)


def test_operators_that_only_move_numbers() -> None:
    x = np.arange(24, dtype=np.int8).reshape(2, 3, 4)
    split = run_node(
        Node(Op.RESHAPE, "r", ("x",), "y", {"shape": ("batch", "sequence", -1, 2)}),
        [x],
        TensorSpec("y", ("batch", "sequence", 2, 2), "int8", 8, 1.0),
        DIMS,
    )
    np.testing.assert_array_equal(split, x.reshape(2, 3, 2, 2))
    np.testing.assert_array_equal(call(Op.TRANSPOSE, split, perm=(0, 2, 1, 3)), split.transpose(0, 2, 1, 3))
    np.testing.assert_array_equal(call(Op.CONCAT, x, x, axis=-1)[..., 4:], x)
    np.testing.assert_array_equal(call(Op.SELECT, x, axis=1, index=-1), x[:, -1])
    table = np.arange(20, dtype=np.int8).reshape(5, 4)
    np.testing.assert_array_equal(call(Op.SLICE, table, shape=("sequence", 4)), table[:3])


def test_an_operator_that_is_not_defined_is_refused() -> None:
    with pytest.raises(ArchNetError, match="node: LayerNorm is no operator of the integer network"):
        call(Op.LAYER_NORM, np.zeros(3))


def everything(seed: int = 0, embedding: Embedding = "gather", **widths: int) -> QuantizedGraph:
    """A network with most operators in it."""
    rng = np.random.default_rng(seed)
    return tiny_encoder(
        rng, pooled=False, concat=True, activation="gelu", embedding=embedding, **cast(Any, widths)
    )


def test_the_test_networks_use_every_operator() -> None:
    rng = np.random.default_rng(0)
    graphs = (
        everything(),
        everything(0, "one_hot"),
        tiny_encoder(rng, activation_bits=4),
        with_table_softmax(tiny_encoder(rng)),
        with_log_sum_softmax(tiny_encoder(rng)),
        with_relu_attention(tiny_encoder(rng)),
        with_padding(tiny_encoder(rng)),
        image_graph("cnn", Bits(8, 8)),
        image_graph("vit", Bits(8, 8)),
        image_graph("dinov2", Bits(8, 8)),
        image_graph("beit", Bits(8, 8)),
        image_graph("swin", Bits(8, 8)),
        product_graph(Bits(8, 8)),
        distance_graph(Bits(8, 8)),
        neighbour_graph(Bits(8, 8)),
    )
    assert {node.op for graph in graphs for node in graph.nodes} == set(OPERATORS)


@pytest.mark.parametrize("bits", ["w8a8", "w8a4"])
def test_a_product_of_elements_is_that_of_the_reals_within_half_a_step(bits: str) -> None:
    graph = product_graph(Bits.parse(bits))
    low, high = graph.tensors["a"].range
    rng = np.random.default_rng(0)
    feeds = {name: rng.integers(low, high + 1, (3, 7, 32)).astype(np.int8) for name in "ab"}
    found = execute(graph, feeds)["product"]
    scale_a, scale_b, scale = (float(graph.tensors[n].scale or 0) for n in ("a", "b", "product"))
    wanted = scale_a * feeds["a"].astype(float) * scale_b * feeds["b"] / scale
    assert np.abs(found - wanted.clip(low, high)).max() <= 0.5 + 1e-4


@pytest.mark.parametrize("widths", [{}, {"weight_bits": 4, "activation_bits": 4}], ids=["w8a8", "w4a4"])
@pytest.mark.parametrize("seed", range(3))
def test_every_node_is_its_real_operator_within_half_a_step(seed: int, widths: dict[str, int]) -> None:
    """What the integers stand for: real = scale * integer, operator by operator."""
    graph = everything(seed, **widths)
    feeds = random_inputs(np.random.default_rng(seed), graph)
    values = execute(graph, feeds, list(graph.tensors))
    real = {name: values[name] * spec.scale for name, spec in graph.tensors.items() if spec.scale is not None}
    checked = set()
    for node in graph.nodes:
        expected = _real_operator(graph, node, real)
        if expected is None:
            continue
        spec, y = graph.tensors[node.output], values[node.output]
        assert spec.scale is not None
        low, high = spec.range
        free = (y > low) & (y < high)
        error = np.abs(expected - y * spec.scale)[free] / spec.scale
        # The softmax table holds 20 bits and a residual's second multiplier is rounded to 16.
        assert error.max(initial=0.0) < 0.51, node.name
        assert (expected[y == high] / spec.scale > high - 0.51).all(), node.name
        checked.add(node.op)
    narrow = {Op.REQUANTIZE} if widths else set()
    assert checked == {Op.LINEAR, Op.MATMUL, Op.ADD, Op.SOFTMAX, Op.LOOKUP} | narrow


def _real_operator(graph: QuantizedGraph, node: Node, real: dict[str, Any]) -> NDArray[np.float64] | None:
    a = real.get(node.inputs[0])
    if node.op is Op.LINEAR:
        weight, bias, _, weight_scale = (graph.constants[n].astype(np.float64) for n in node.inputs[1:])
        scale = graph.tensors[node.inputs[0]].scale
        assert scale is not None
        y = np.asarray(a) @ (weight * weight_scale[:, None]).T + bias * scale * weight_scale
        return np.maximum(y, 0) if graph.tensors[node.output].dtype == "uint8" else y
    if node.op is Op.MATMUL:
        b = real[node.inputs[1]]
        return np.asarray(a @ (np.swapaxes(b, -1, -2) if node.attributes["transpose_b"] else b))
    if node.op is Op.REQUANTIZE:
        return np.asarray(a)
    if node.op is Op.ADD:
        return np.asarray(a + real[node.inputs[1]])
    if node.op is Op.SOFTMAX:
        e = np.exp(a - a.max(axis=-1, keepdims=True))
        return np.asarray(e / e.sum(axis=-1, keepdims=True))
    if node.op is Op.LOOKUP:
        return np.asarray(
            np.tanh(a) if node.attributes["function"] == "tanh" else a / (1 + np.exp(-1.702 * a))
        )
    return None


@pytest.mark.parametrize("embedding", ["gather", "one_hot"])
def test_a_sentence_has_the_same_result_alone_and_in_a_batch(embedding: Embedding) -> None:
    graph = everything(4, embedding)
    feeds = random_inputs(np.random.default_rng(5), graph)
    together = execute(graph, feeds)
    for i in range(len(feeds["input_ids"])):
        alone = execute(graph, {name: value[i : i + 1] for name, value in feeds.items()})
        for name, value in together.items():
            np.testing.assert_array_equal(alone[name][0], value[i])


def test_masked_positions_do_not_reach_the_pooled_result() -> None:
    graph = tiny_encoder(np.random.default_rng(6))
    # A table that ends in zeros: masked positions get no share at all.
    table = graph.constants["layer0.softmax.table"].copy()
    table[100:] = 0
    graph = replace(graph, constants={**graph.constants, "layer0.softmax.table": table})
    feeds = random_inputs(np.random.default_rng(7), graph, batch=1, sequence=6)
    feeds["attention_mask"][:, 4:] = 0
    scores = execute(graph, feeds, ["layer0.scores:0"])["layer0.scores:0"]
    assert scores.max(axis=-1).min() > -28, "every row has a score more than 100 steps above the masked ones"
    other = {**feeds, "input_ids": feeds["input_ids"].copy()}
    other["input_ids"][:, 4:] = (other["input_ids"][:, 4:] + 1) % 50
    expected = execute(graph, feeds)
    for name, value in execute(graph, other).items():
        np.testing.assert_array_equal(value, expected[name])


def test_only_the_tensors_asked_for_are_kept() -> None:
    graph = everything()
    feeds = random_inputs(np.random.default_rng(0), graph)
    assert set(execute(graph, feeds)) == {output.tensor for output in graph.outputs}
    wanted = ["layer0.scores:0", "input_ids"]
    assert set(execute(graph, feeds, wanted)) == set(wanted)


def test_a_tensor_that_does_not_exist_is_refused() -> None:
    graph = everything()
    with pytest.raises(ArchNetError, match="the network tiny-gather has no tensor nowhere"):
        execute(graph, random_inputs(np.random.default_rng(0), graph), ["nowhere"])
