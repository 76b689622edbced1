"""Softmax without division: the definition, its tables, training's arithmetic, and the files that have it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from archnet.backends.litert import LiteRtBackend
from archnet.calibration.affine import accumulator_factor, matching_weight_scale
from archnet.calibration.log_sum import (
    LEAST_STEP,
    LOG_UNIT,
    MOST_SHIFT,
    NUMERATOR,
    NUMERATOR_SHIFT,
    OCTAVES,
    log_sum_shares,
    log_sum_tables,
)
from archnet.errors import ArchNetError
from archnet.export.tflite import build_tflite
from archnet.graph import GraphOutput, Node, QuantizedGraph, TensorSpec
from archnet.graph_check import validate_graph
from archnet.operators import Op
from archnet.reference import execute

SCALES = st.floats(float(LEAST_STEP), 40.0).map(lambda scale: float(np.float32(scale)))


def softmax_graph(keys: int, scale: float = 0.08, *, bits: int = 8, levels: int = 256) -> QuantizedGraph:
    """One softmax over so many keys, of 2 heads and 3 queries."""
    shape = ("batch", 2, 3, keys)
    tables = log_sum_tables(scale, levels, 2**bits - 1)
    constants = dict(tables.constants)
    node = Node(Op.LOG_SUM_SOFTMAX, "softmax", ("x", *constants), "y", tables.attributes)
    x = TensorSpec("x", shape, "int8", 8, scale)
    y = TensorSpec("y", shape, "uint8", bits, float(np.float32(1 / levels)))
    graph = QuantizedGraph(
        name="softmax", inputs=(x,), nodes=(node,), tensors={"x": x, "y": y}, constants=constants,
        outputs=(GraphOutput("y", "y", np.ones(1, np.float32), integers=True),), max_sequence=16,
    )  # fmt: skip
    validate_graph(graph)
    return graph


def scores(keys: int, seed: int = 0, rows: int = 40) -> NDArray[np.int8]:
    """Rows of random scores, from narrow to far beyond the range, with ties and extremes."""
    rng = np.random.default_rng(seed)
    spread = np.geomspace(0.5, 200.0, rows)[:, None, None, None]
    x = np.clip(np.rint(rng.normal(0.0, 1.0, (rows, 2, 3, keys)) * spread), -128, 127).astype(np.int8)
    x[0], x[1], x[2, ..., 0] = 0, -128, 127
    return x


def by_loops(x: list[int], graph: QuantizedGraph) -> list[int]:
    """The formula, number by number, with Python's integers."""
    (node,) = graph.nodes
    exponentials, logs, shares = ([int(v) for v in graph.constants[name]] for name in node.inputs[1:])
    multiplier, shift = (int(str(node.attributes[name])) for name in ("multiplier", "shift"))
    greatest = max(x)
    total = sum(exponentials[greatest - value] for value in x)
    log = sum(logs[min((511 * total + 2 ** (9 + k)) // 2 ** (10 + k), 255)] for k in range(10))
    log = (log * multiplier + 2**15) // 2**16
    return [shares[min((greatest - value) * 2**shift + log, 255)] for value in x]


@given(
    x=st.lists(st.integers(-128, 127), min_size=1, max_size=40),
    scale=SCALES,
    levels=st.sampled_from([(8, 255), (8, 256), (4, 15)]),
)
def test_the_reference_is_the_formula(x: list[int], scale: float, levels: tuple[int, int]) -> None:
    graph = softmax_graph(len(x), scale, bits=levels[0], levels=levels[1])
    feed = np.broadcast_to(np.array(x, np.int8), (1, 2, 3, len(x)))
    (got,) = execute(graph, {"x": feed}).values()
    assert got[0, 1, 2].tolist() == by_loops(x, graph)


@example(scale=25.4697265625, levels=(255, 255))  # no scale of the weight next to the wished one is exact
@given(scale=SCALES, levels=st.sampled_from([(255, 255), (256, 255), (15, 15)]))
def test_tables_are_rounded_functions(scale: float, levels: tuple[int, int]) -> None:
    tables = log_sum_tables(scale, *levels)
    step = scale / 2**tables.shift
    assert step >= LEAST_STEP
    assert tables.shift in (0, MOST_SHIFT) or step < 2 * LEAST_STEP
    for i in range(0, 256, 5):
        assert tables.exponentials[i] == min(round(256 * math.exp(-i * scale)), 255)
        assert tables.shares[i] == min(round(levels[0] * math.exp(-i * step)), levels[1])
        assert tables.logs[i] == max(round(math.log(max(i, 1) / 128) / LOG_UNIT), 0)
    assert tables.logs[-1] == 255
    weight = float(matching_weight_scale(tables.multiplier, LOG_UNIT, step))
    assert float(accumulator_factor(LOG_UNIT, weight, step)) == tables.multiplier / 2**16


def test_no_sum_gives_a_half_and_float32_rounds_all_but_two() -> None:
    """So runtimes that round halves otherwise, or multiply in float32, have the same octaves."""
    total = np.arange(1024 * 256 + 1, dtype=np.int64)
    for octave in range(OCTAVES):
        shift = NUMERATOR_SHIFT + octave
        exact = np.minimum((NUMERATOR * total + 2 ** (shift - 1)) >> shift, 255)
        rest = (NUMERATOR * total) % 2**shift
        assert not ((rest == 2 ** (shift - 1)) & (exact < 255)).any()
        single = np.rint(total.astype(np.float32) * np.float32(NUMERATOR / 2**shift)).clip(max=255)
        assert np.count_nonzero(single != exact) == (octave >= 8)


@pytest.mark.parametrize("keys", [1, 2, 16, 128, 1024])
def test_shares_are_nearly_those_of_softmax(keys: int) -> None:
    graph, x = softmax_graph(keys), scores(keys)
    (got,) = execute(graph, {"x": x}).values()
    wanted = torch.softmax(torch.from_numpy(x).double() * 0.08, -1).numpy()
    # The logarithm is a multiple of the step, and of the exponentials each may be half a unit off.
    step = 0.08 / 2 ** log_sum_tables(0.08, 256, 255).shift
    lost = 0.5 * step + 0.01 + 0.5 * keys / 256 / total_of(x)
    assert (np.abs(got / 256 - wanted) <= 1.0 / 256 + np.expm1(lost) * wanted).all()


def total_of(x: NDArray[np.int8]) -> NDArray[np.float64]:
    """The sum of each row's exponentials, its greatest 1, with scores of scale 0.08."""
    below = x.max(-1, keepdims=True).astype(np.float64) - x
    total: NDArray[np.float64] = np.exp(-0.08 * below).sum(-1, keepdims=True)
    return total


@pytest.mark.parametrize("levels", [(8, 256), (8, 255), (4, 15)])
@pytest.mark.parametrize("scale", [0.08, 0.31, 1.7])
def test_training_has_the_integers_of_the_reference(scale: float, levels: tuple[int, int]) -> None:
    bits, units = levels
    graph, x = softmax_graph(57, scale, bits=bits, levels=units), scores(57)
    (wanted,) = execute(graph, {"x": x}).values()
    single = float(np.float32(scale))
    real = torch.from_numpy(x).float() * single
    got = log_sum_shares(real, single, units, 2**bits - 1) * units
    difference = np.abs(got.numpy() - wanted).max(-1)
    # Where the logarithm is next to a half, the multiplier's last digits decide on the whole row.
    assert np.count_nonzero(difference) <= 0.02 * difference.size
    assert difference.max() <= max(1.0, 0.04 * units)


@pytest.mark.parametrize("keys", [1, 2, 3, 20, 64, 197, 1000])
@pytest.mark.parametrize("scale", [0.08, 0.2, 1.7, 25.0])
def test_litert_has_the_reference_integers(keys: int, scale: float) -> None:
    graph, x = softmax_graph(keys, scale), scores(keys, seed=keys)
    backend = LiteRtBackend(graph, build_tflite(graph), kernels="xnnpack")
    np.testing.assert_array_equal(backend.tensors({"x": x})["y"], execute(graph, {"x": x})["y"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"exponentials": np.arange(256, dtype=np.int32)}, "its table exponentials rises"),
        ({"logs": np.arange(255, -1, -1, dtype=np.int32)}, "its table logs falls"),
        ({"shares": np.zeros(255, np.uint8)}, r"shares has shape \(255,\)"),
        ({"multiplier": 0}, "multiplier"),
        ({"shift": 8}, "shift"),
    ],
    ids=["exponentials", "logs", "shares", "multiplier", "shift"],
)
def test_what_is_no_softmax_is_refused(change: dict[str, Any], message: str) -> None:
    graph = softmax_graph(5)
    (node,) = graph.nodes
    constants = {**graph.constants, **{k: v for k, v in change.items() if k in graph.constants}}
    attributes = {k: change.get(k, v) for k, v in node.attributes.items()}
    changed = replace(graph, nodes=(replace(node, attributes=attributes),), constants=constants)
    with pytest.raises(ArchNetError, match=message):
        validate_graph(changed)
