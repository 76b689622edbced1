"""ONNX nodes of products with rows of distances: a product with every row, and a shift by views and slices.

Row i of the products has, of a sequence of S tokens, one column for each distance from -(S - 1) to S - 1, and
wants those of the distances -i to S - 1 - i. With one more column, and so 2 S in a row, column S - 1 - i + j
of row i is element i (2 S - 1) + S - 1 + j of all rows behind each other: without the first S - 1 elements
and the last one, the wanted columns are the first S of rows of 2 S - 1 (relative shift, arXiv 1809.04281,
section 3.4.1). No index is looked up, and sizes may be known at run time only.
"""

from __future__ import annotations

from typing import cast

import numpy as np
from onnx import TensorProto

from archnet.export.onnx_state import Lowering
from archnet.graph import MULTIPLIER_SHIFT, Node


def lower_relative_matmul(state: Lowering, node: Node) -> None:
    """MatMulInteger with the rows that a sequence reaches, a requantization, and the shift of integers."""
    x, table, _ = node.inputs
    make, key, spec = state.onnx, node.output, state.spec(node.output)
    zero = state.quantization(spec)[1]
    # The table is stored as the tokens are: of uint8 times int8, x86 without VNNI adds two in 16 bits.
    zero_x = state.quantization(state.spec(x))[1]
    operands = [state.integer(x, "logical"), _rows(state, node, table), zero_x, zero_x]
    sums = make.node("MatMulInteger", operands, f"{key}/sums")
    real = make.node("Cast", [sums], f"{key}/float", to=TensorProto.FLOAT)
    factor = np.float32(cast(int, node.attributes["multiplier"]) / 2**MULTIPLIER_SHIFT)
    scaled = make.node("Mul", [real, make.constant(f"{key}/factor", factor)], f"{key}/scaled")
    one = make.constant("scale:1", np.float32(1.0))
    whole = make.node("QuantizeLinear", [scaled, one, zero], f"{key}/whole")
    offset, dtype = state.zero_point(spec), state.stored_dtype(spec)
    ends = [
        make.constant(f"{key}/{end}", np.array(limit + offset, dtype=dtype))
        for end, limit in zip(("low", "high"), spec.range, strict=True)
    ]
    limited = make.node("Clip", [whole, *ends], f"{key}/limited")
    state.define(key, _shifted(state, node, limited), "logical")


def _rows(state: Lowering, node: Node, table: str) -> str:
    """The rows that the sequence reaches and one more, as columns: (heads, width, 2 * tokens)."""
    make, key = state.onnx, node.output
    spec = state.spec(node.inputs[0])
    rows = state.graph.constants[table].astype(np.int16) + state.zero_point(spec)
    positions = (rows.shape[1] + 1) // 2
    columns = np.pad(rows, ((0, 0), (0, 1), (0, 0))).transpose(0, 2, 1)
    columns = np.ascontiguousarray(columns, dtype=state.stored_dtype(spec))
    middle, size = make.integers(positions), _tokens(state, node)
    first = make.node("Sub", [middle, size], f"{key}/first")
    last = make.node("Add", [middle, size], f"{key}/last")
    inputs = [make.constant(f"{table}/columns", columns), first, last, make.integers(2)]
    return make.node("Slice", inputs, f"{key}/rows")


def _shifted(state: Lowering, node: Node, value: str) -> str:
    """(batch, heads, tokens, 2 * tokens) by distance -> (batch, heads, tokens, tokens) by token."""
    make, key, size = state.onnx, node.output, _tokens(state, node)
    flat = make.node("Reshape", [value, make.integers(0, 0, -1)], f"{key}/flat")
    begin = make.node("Sub", [size, make.integers(1)], f"{key}/begin")
    inner = make.node("Slice", [flat, begin, make.integers(-1), make.integers(2)], f"{key}/inner")
    sizes = make.node("Concat", [make.integers(0, 0), size, make.integers(-1)], f"{key}/sizes", axis=0)
    rows = make.node("Reshape", [inner, sizes], f"{key}/shifted")
    return make.node("Slice", [rows, make.integers(0), size, make.integers(3)], key)


def _tokens(state: Lowering, node: Node) -> str:
    """The number of tokens as a tensor of one number."""
    dim = state.spec(node.output).shape[-1]
    return state.onnx.integers(dim) if isinstance(dim, int) else state.onnx.size(dim, state.graph.inputs[0])
