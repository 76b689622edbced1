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
    x, make, key = node.inputs[0], state.onnx, node.output
    spec = state.spec(x)
    # The table is stored as the tokens are: of uint8 times int8, x86 without VNNI adds two in 16 bits.
    rows = _rows(state, node, state.stored_dtype(spec), state.zero_point(spec))
    zero_x = state.quantization(spec)[1]
    operands = [state.integer(x, "logical"), rows, zero_x, zero_x]
    sums = make.node("MatMulInteger", operands, f"{key}/sums")
    real = make.node("Cast", [sums], f"{key}/float", to=TensorProto.FLOAT)
    _finish(state, node, real)


def lower_relative_matmul_of_reals(state: Lowering, node: Node) -> None:
    """The same with a MatMul of dequantized tokens and rows, whose scales are 1."""
    make, key = state.onnx, node.output
    unit = [make.constant("scale:1", np.float32(1.0)), make.constant("zero_point:int8:0", np.int8(0))]
    rows = make.node("DequantizeLinear", [_rows(state, node, "int8", 0), *unit], f"{key}/rows/real")
    product = make.node("MatMul", [state.real(node.inputs[0], "logical"), rows], f"{key}/exact")
    _finish(state, node, product)


def _finish(state: Lowering, node: Node, products: str) -> None:
    """The requantization of reals that are whole numbers, and the shift of integers."""
    make, key, spec = state.onnx, node.output, state.spec(node.output)
    zero = state.quantization(spec)[1]
    factor = np.float32(cast(int, node.attributes["multiplier"]) / 2**MULTIPLIER_SHIFT)
    scaled = make.node("Mul", [products, make.constant(f"{key}/factor", factor)], f"{key}/scaled")
    one = make.constant("scale:1", np.float32(1.0))
    whole = make.node("QuantizeLinear", [scaled, one, zero], f"{key}/whole")
    offset, dtype = state.zero_point(spec), state.stored_dtype(spec)
    ends = [
        make.constant(f"{key}/{end}", np.array(limit + offset, dtype=dtype))
        for end, limit in zip(("low", "high"), spec.range, strict=True)
    ]
    limited = make.node("Clip", [whole, *ends], f"{key}/limited")
    state.define(key, _shifted(state, node, limited), "logical")


def _rows(state: Lowering, node: Node, dtype: str, zero_point: int) -> str:
    """The rows that the sequence reaches and one more, as columns: (heads, width, 2 * tokens)."""
    make, key, table = state.onnx, node.output, node.inputs[1]
    rows = state.graph.constants[table].astype(np.int16) + zero_point
    positions = (rows.shape[1] + 1) // 2
    columns = np.pad(rows, ((0, 0), (0, 1), (0, 0))).transpose(0, 2, 1)
    columns = np.ascontiguousarray(columns, dtype=dtype)
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
