"""The real TOSA reference model, where `archnet targets install tosa` was run: a second oracle of TFLite."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from archnet.backends.base import feed
from archnet.backends.reference import ReferenceBackend
from archnet.config import Bits
from archnet.errors import ArchNetError
from archnet.graph import Node, QuantizedGraph
from archnet.operators import Op
from archnet.reference import bind_dims, execute, run_node
from archnet.single_operators import OPERATORS, single_operator
from archnet.single_operators import random_inputs as integers_for
from archnet.targets.toolchain import find_toolchain
from tests.archnet.test_relative import by_loops
from tests.graphs import random_inputs, tiny_encoder

pytest.importorskip("ai_edge_litert", reason="needs archnet[ethos]")

from archnet.backends.tosa import TosaBackend
from archnet.export.tflite import build_tflite

pytestmark = pytest.mark.skipif(
    find_toolchain("tosa").installed() is None, reason="needs archnet targets install tosa"
)


@pytest.fixture(scope="module")
def graph() -> QuantizedGraph:
    return tiny_encoder(np.random.default_rng(0), layers=2, hidden=48, heads=3, share_levels=256)


@pytest.fixture(scope="module")
def backend(graph: QuantizedGraph) -> TosaBackend:
    return TosaBackend(graph, build_tflite(graph, 9))


def twice_rounded(accumulator: NDArray[np.int64], multiplier: NDArray[np.int64]) -> NDArray[np.int64]:
    """apply_scale_32 of TOSA 1.0 with double rounding, for the factor multiplier / 2**16.

    The multiplier is brought to 31 bits, as TFLite does. Before the second rounding the value is known to
    so many bits only; a value just below a half may have become a half by the first.
    """
    bits = np.floor(np.log2(multiplier)).astype(np.int64) + 1
    shift = 47 - bits
    whole = np.left_shift(multiplier, 31 - bits)
    nudge = np.where(shift > 31, np.where(accumulator >= 0, 1 << 30, -(1 << 30)), 0)
    products = accumulator.astype(object) * whole.astype(object)
    rounded = products + np.left_shift(np.int64(1), shift - 1).astype(object) + nudge.astype(object)
    return np.asarray(rounded >> shift.astype(object)).astype(np.int64)


def accumulated(
    graph: QuantizedGraph, node: Node, arrays: list[NDArray[np.generic]]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The accumulators of a layer or a product, and their multipliers."""
    wide = [a.astype(np.int64) for a in arrays if a.dtype != np.float32]
    if node.op is Op.LINEAR:
        x, weight, bias, multiplier = wide
        return x @ weight.T + bias, multiplier
    a, b = wide
    product = a @ (np.swapaxes(b, -1, -2) if node.attributes["transpose_b"] else b)
    return product, np.asarray(node.attributes["multiplier"], np.int64)


def test_it_differs_only_where_fixed_point_rounds_twice(graph: QuantizedGraph, backend: TosaBackend) -> None:
    """Every integer of layers and products is TOSA's formula of ours; all the rest is ours."""
    inputs = random_inputs(np.random.default_rng(1), graph, batch=6, sequence=9)
    fed = feed(graph, inputs)
    values = {**fed, **backend.tensors(inputs)}
    differing, products = 0, 0
    for node in graph.nodes:
        arrays = [values[n] if n in values else graph.constants[n] for n in node.inputs]
        spec = graph.tensors[node.output]
        wanted = run_node(node, arrays, spec, bind_dims(graph, fed))
        if node.output not in values:  # a constant
            values[node.output] = wanted
            continue
        got = values[node.output]
        if node.op in (Op.LINEAR, Op.MATMUL):
            formula = np.clip(twice_rounded(*accumulated(graph, node, arrays)), *spec.range)
            np.testing.assert_array_equal(got, formula, err_msg=node.name)
            differing, products = differing + int((got != wanted).sum()), products + got.size
        away = np.abs(got.astype(np.int64) - wanted)
        assert away.max() <= (1 if node.op in (Op.LINEAR, Op.MATMUL, Op.ADD, Op.SOFTMAX) else 0), node.name
        if node.op in (Op.ADD, Op.SOFTMAX):
            assert np.mean(away > 0) < 1e-3, node.name
    assert 0 < differing < 0.01 * products


def test_products_with_distances_are_rounded_twice_and_moved_exactly() -> None:
    single = single_operator(Op.RELATIVE_MATMUL, "rank 4", Bits(8, 8))
    inputs = integers_for(single, 4, 9)
    sums = by_loops(inputs["x"].astype(np.float64), single.constants["table"].astype(np.float64))
    multiplier = np.asarray(single.nodes[0].attributes["multiplier"], np.int64)
    formula = np.clip(twice_rounded(sums.astype(np.int64), multiplier), *single.tensors["y"].range)
    found = TosaBackend(single, build_tflite(single, 9)).tensors(inputs)["y"]
    np.testing.assert_array_equal(found, formula)


def test_a_softmax_without_division_is_exact_but_for_sums_next_to_a_half() -> None:
    """Of its two layers only the second can lie next to a half, and then a row's exponents are one off."""
    single = single_operator(Op.LOG_SUM_SOFTMAX, "rank 4", Bits(8, 8), 256)
    inputs = integers_for(single, 4, 9)
    away = np.abs(
        TosaBackend(single, build_tflite(single, 9)).tensors(inputs)["y"].astype(np.int64)
        - execute(single, inputs)["y"]
    )
    assert np.mean(away.max(-1) > 0) < 0.02


@pytest.mark.parametrize("case", OPERATORS[Op.SHIFT])
def test_neighbours_are_exact(case: str) -> None:
    single = single_operator(Op.SHIFT, case, Bits(8, 8))
    inputs = integers_for(single, 2, 9)
    found = TosaBackend(single, build_tflite(single, 9)).tensors(inputs)["y"]
    np.testing.assert_array_equal(found, execute(single, inputs)["y"])


def test_outputs_are_the_references_nearly(graph: QuantizedGraph, backend: TosaBackend) -> None:
    inputs = random_inputs(np.random.default_rng(2), graph, batch=2, sequence=9)
    found, expected = backend.run(inputs), ReferenceBackend(graph).run(inputs)
    cosine = np.sum(found["sentence_embedding"] * expected["sentence_embedding"], -1)
    assert cosine.min() > 0.999


def test_longer_sentences_than_the_file_has_are_refused(graph: QuantizedGraph, backend: TosaBackend) -> None:
    with pytest.raises(ArchNetError, match="10 positions; the TFLite file takes 9"):
        backend.run(random_inputs(np.random.default_rng(1), graph, batch=1, sequence=10))
