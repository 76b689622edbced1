"""ONNX nodes of attention's integer forms: exact at every optimisation level, nothing computed in float.

The one float operation is a requantization: the product of an int32 accumulator and a multiplier / 2**16.
It is exact wherever the result does not saturate, because that product has then at most 24 bits.
"""

from __future__ import annotations

from typing import cast

import numpy as np
from onnx import TensorProto

from archnet.calibration.log_sum import NUMERATOR, NUMERATOR_SHIFT, OCTAVES
from archnet.export.onnx_model import ELEMENT_TYPES
from archnet.export.onnx_state import Lowering
from archnet.graph import MULTIPLIER_SHIFT, Node


def lower_table_softmax(state: Lowering, node: Node) -> None:
    """min((Q * e + sum // 2) // sum, greatest) with e = table[max(x) - x], in int32."""
    x, table = node.inputs
    make, key = state.onnx, node.output
    spec = state.spec(key)
    last = make.integers(-1)
    wide = make.node("Cast", [state.integer(x, "logical")], f"{key}/wide", to=ELEMENT_TYPES["int32"])
    top = make.node("ReduceMax", [wide, last], f"{key}/top", keepdims=1)
    below = make.node("Sub", [top, wide], f"{key}/below")
    values = make.constant(table, state.graph.constants[table])
    weights = make.node("Gather", [values, below], f"{key}/weights", axis=0)
    total = make.node("ReduceSum", [weights, last], f"{key}/total", keepdims=1)
    half = make.node("Div", [total, make.constant("i32:2", np.int32(2))], f"{key}/half")
    levels = make.constant(f"i32:levels:{spec.levels}", np.int32(spec.levels))
    scaled = make.node("Mul", [weights, levels], f"{key}/scaled")
    numerator = make.node("Add", [scaled, half], f"{key}/numerator")
    shares = make.node("Div", [numerator, total], f"{key}/int32")
    if spec.levels > spec.range[1]:
        greatest = make.constant(f"i32:greatest:{spec.range[1]}", np.int32(spec.range[1]))
        shares = make.node("Min", [shares, greatest], f"{key}/cut")
    state.define(key, make.node("Cast", [shares], key, to=ELEMENT_TYPES[spec.dtype]), "logical")


def lower_log_sum_softmax(state: Lowering, node: Node) -> None:
    """`archnet.reference.log_sum_softmax`, all of it in int32; divisions are of positive numbers."""
    x, exponentials, logs, shares = node.inputs
    make, key, constants = state.onnx, node.output, state.graph.constants
    last = make.integers(-1)

    def number(value: int) -> str:
        return make.constant(f"i32:{value}", np.int32(value))

    def looked_up(name: str, at: str, part: str) -> str:
        table = make.constant(name, constants[name])
        return make.node("Gather", [table, at], f"{key}/{part}", axis=0)

    wide = make.node("Cast", [state.integer(x, "logical")], f"{key}/wide", to=ELEMENT_TYPES["int32"])
    top = make.node("ReduceMax", [wide, last], f"{key}/top", keepdims=1)
    below = make.node("Sub", [top, wide], f"{key}/below")
    total = make.node("ReduceSum", [looked_up(exponentials, below, "weights"), last], f"{key}/total")
    whole = 2 ** (NUMERATOR_SHIFT + np.arange(OCTAVES, dtype=np.int32))
    numerator = make.node("Mul", [total, number(NUMERATOR)], f"{key}/numerator")
    rounded = make.node("Add", [numerator, make.constant("i32:half octaves", whole // 2)], f"{key}/rounded")
    octaves = make.node("Div", [rounded, make.constant("i32:octaves", whole)], f"{key}/octaves")
    octaves = make.node("Min", [octaves, number(255)], f"{key}/bytes")
    summed = make.node("ReduceSum", [looked_up(logs, octaves, "logs"), last], f"{key}/summed")
    scaled = make.node("Mul", [summed, number(cast(int, node.attributes["multiplier"]))], f"{key}/scaled")
    scaled = make.node("Add", [scaled, number(2 ** (MULTIPLIER_SHIFT - 1))], f"{key}/half")
    log = make.node("Div", [scaled, number(2**MULTIPLIER_SHIFT)], f"{key}/log")
    steps = make.node("Mul", [below, number(2 ** cast(int, node.attributes["shift"]))], f"{key}/steps")
    exponents = make.node("Add", [steps, log], f"{key}/sum")
    exponents = make.node("Min", [exponents, number(255)], f"{key}/exponents")
    state.define(key, looked_up(shares, exponents, "shares"), "logical")


def lower_mean_matmul(state: Lowering, node: Node) -> None:
    """MatMulInteger of weights and values, those of padded keys 0, times the multiplier of their number."""
    a, b, multipliers, *mask = node.inputs
    make, key = state.onnx, node.output
    spec = state.spec(key)
    zero_a, zero_b = state.quantization(state.spec(a))[1], state.quantization(state.spec(b))[1]
    values = state.integer(b, "logical")
    factors = state.graph.constants[multipliers].astype(np.float32) / 2**MULTIPLIER_SHIFT
    table = make.constant(f"{multipliers}/factors", factors.astype(np.float32))
    if mask:
        seen = make.node("Cast", [mask[0]], f"{key}/seen", to=TensorProto.BOOL)
        column = make.node("Unsqueeze", [seen, make.integers(1, 3)], f"{key}/column")
        values = make.node("Where", [column, values, zero_b], f"{key}/values")
        ones = make.node("Cast", [seen], f"{key}/ones", to=TensorProto.INT64)
        count = make.node("ReduceSum", [ones, make.integers(1)], f"{key}/count", keepdims=0)
        count = make.node("Max", [count, make.integers(1)], f"{key}/positive")
    else:
        count = make.node("Shape", [values], f"{key}/count", start=2, end=3)
    index = make.node("Sub", [count, make.integers(1)], f"{key}/index")
    factor = make.node("Gather", [table, index], f"{key}/factor", axis=0)
    factor = make.node("Unsqueeze", [factor, make.integers(1, 2, 3)], f"{key}/factor4")
    sums = make.node("MatMulInteger", [state.integer(a, "logical"), values, zero_a, zero_b], f"{key}/sums")
    real = make.node("Cast", [sums], f"{key}/float", to=TensorProto.FLOAT)
    scaled = make.node("Mul", [real, factor], f"{key}/scaled")
    _, zero = state.quantization(spec)
    one = make.constant("scale:1", np.float32(1.0))
    whole = make.node("QuantizeLinear", [scaled, one, zero], f"{key}/whole")
    offset, dtype = state.zero_point(spec), state.stored_dtype(spec)
    low, high = (
        make.constant(f"{key}/{end}", np.array(limit + offset, dtype=dtype))
        for end, limit in zip(("low", "high"), spec.range, strict=True)
    )
    state.define(key, make.node("Clip", [whole, low, high], key), "logical")


def lower_zero_pad(state: Lowering, node: Node) -> None:
    """Where and Pad on the stored integers, with the zero point for 0."""
    x, *mask = node.inputs
    make, key = state.onnx, node.output
    _, zero = state.quantization(state.spec(key))
    value = state.integer(x, "logical")
    if mask:
        seen = make.node("Cast", [mask[0]], f"{key}/seen", to=TensorProto.BOOL)
        column = make.node("Unsqueeze", [seen, make.integers(2)], f"{key}/column")
        value = make.node("Where", [column, value, zero], f"{key}/kept")
    positions = cast(int, state.spec(key).shape[1])
    length = make.node("Shape", [value], f"{key}/length", start=1, end=2)
    missing = make.node("Sub", [make.integers(positions), length], f"{key}/missing")
    pads = make.node("Concat", [make.integers(0, 0, 0, 0), missing, make.integers(0)], f"{key}/pads", axis=0)
    state.define(key, make.node("Pad", [value, pads, zero], key), "logical")


def lower_shift(state: Lowering, node: Node) -> None:
    """Pad at one end with the zero point, and a Slice of as many at the other."""
    make, key, by = state.onnx, node.output, cast(int, node.attributes["by"])
    _, zero = state.quantization(state.spec(key))
    pads = make.integers(0, max(by, 0), 0, 0, max(-by, 0), 0)
    longer = make.node("Pad", [state.integer(node.inputs[0], "logical"), pads, zero], f"{key}/longer")
    begin, end = (
        (make.integers(0), make.integers(-by)) if by > 0 else (make.integers(-by), make.integers(2**31))
    )
    state.define(key, make.node("Slice", [longer, begin, end, make.integers(1)], key), "logical")


def lower_crop(state: Lowering, node: Node) -> None:
    """Slice to the length of the sequence that the graph is given."""
    make, key = state.onnx, node.output
    source = next(spec for spec in state.graph.inputs if "sequence" in spec.shape)
    begin, end = make.integers(0), make.size("sequence", source)
    inputs = [state.integer(node.inputs[0], "logical"), begin, end, make.integers(1)]
    state.define(key, make.node("Slice", inputs, key), "logical")
