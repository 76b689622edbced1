"""The integer operators in TensorIR, one function each, in the order of archnet/reference.py.

Plain loops over symbolic sizes; the fully connected layer and attention have kernels of their own
(tvm_linear.py, tvm_attention.py). `OPERATORS` lists them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx

from archnet.calibration.log_sum import NUMERATOR, NUMERATOR_SHIFT, OCTAVES
from archnet.calibration.packing import Packing
from archnet.export.tvm_image import grouped_convolution, max_pool, prepend, shift, windows
from archnet.export.tvm_packing import packed_element
from archnet.export.tvm_relative import relative_matmul
from archnet.export.tvm_tir import (
    Buffer,
    Expr,
    KernelBuilder,
    clamp,
    convert,
    i32,
    i64,
    load,
    local,
    parallel,
    product,
    requantize,
    round_shift,
    saturation_limit,
    serial,
    store,
    unflatten,
    vector_width,
    vectorized,
)
from archnet.graph import WIDEN_SHIFT, Dim, Node, TensorSpec
from archnet.operators import Op

_LANES = 16


@dataclass(frozen=True, slots=True)
class Operand:
    """An input of a node as a kernel sees it."""

    shape: tuple[Dim, ...]
    dtype: str
    bits: int = 8


@dataclass(frozen=True, slots=True)
class TableRows:
    """The rows of a table as a kernel reads them: int8, or packed into uint8."""

    shape: tuple[int, ...]
    dtype: str
    packing: Packing | None


@dataclass(frozen=True, slots=True)
class OperatorCall:
    """What an operator's function gets: the kernel under construction, its buffers and attributes."""

    builder: KernelBuilder
    node: Node
    operands: Sequence[Operand]
    inputs: Sequence[Buffer]
    output: TensorSpec
    result: Buffer

    def integer(self, name: str) -> int:
        """The integer attribute of this name."""
        value = self.node.attributes[name]
        assert isinstance(value, int), f"{self.node.name}: {name} is {value!r}"
        return value

    @property
    def sizes(self) -> list[Expr]:
        """The sizes of the output."""
        return [self.builder.size(dim) for dim in self.output.shape]


def operator_kernel(node: Node, operands: Sequence[Operand], output: TensorSpec, name: str) -> Any:
    """PrimFunc (inputs in the node's order) -> output, for any operator but RESHAPE and LINEAR."""
    builder = KernelBuilder(name)
    parameters = [*((operand.shape, operand.dtype) for operand in operands), (output.shape, output.dtype)]
    with builder.body(parameters) as (*inputs, result):
        OPERATORS[node.op](OperatorCall(builder, node, operands, inputs, output, result))
    return builder.function


def _each(call: OperatorCall, element: Callable[[list[Expr]], Expr], *, vector: bool = True) -> None:
    """output[indices] = element(indices) as the output's dtype, rows divided among the threads."""
    *lead, last = call.sizes
    width = vector_width(call.output.shape[-1], _LANES) if vector else 1
    with parallel(product(lead)) as row:
        indices = unflatten(row, lead)
        with serial(last // width) as block, vectorized(width) if width > 1 else serial(1) as lane:
            at = [*indices, block * width + lane]
            store(call.result, convert(element(at), call.output.dtype), *at)


def _embedding(call: OperatorCall) -> None:
    ids, table = call.inputs
    _each(call, lambda at: load(table, load(ids, *at[:-1]), at[-1]))


def _one_hot(call: OperatorCall) -> None:
    ids, depth = call.inputs[0], call.integer("depth")
    codes = len(call.operands[0].shape) == 3

    def element(at: list[Expr]) -> Expr:
        code = load(ids, *at[:-1], at[-1] // depth) if codes else load(ids, *at[:-1])
        return tirx.Select(code == at[-1] % depth, i32(1), i32(0))

    _each(call, element, vector=False)


def _slice(call: OperatorCall) -> None:
    rank = len(call.operands[0].shape)
    _each(call, lambda at: load(call.inputs[0], *at[len(at) - rank :]))


def _matmul(call: OperatorCall) -> None:
    a, b = call.inputs
    transpose = bool(call.node.attributes.get("transpose_b", False))
    multiplier = call.integer("multiplier")
    limit = i32(saturation_limit(multiplier, call.output.range))
    depth = call.builder.size(call.operands[0].shape[-1])
    *lead, columns = call.sizes
    with parallel(product(lead)) as flat:
        *batch, row = unflatten(flat, lead)
        with serial(columns) as column:
            total = local((1,), "int32")
            store(total, i32(0), 0)
            with serial(depth) as k:
                right = load(b, *batch, column, k) if transpose else load(b, *batch, k, column)
                term = convert(load(a, *batch, row, k), "int32") * convert(right, "int32")
                store(total, load(total, 0) + term, 0)
            value = requantize(load(total, 0), i32(multiplier), limit, call.output.range)
            store(call.result, convert(value, call.output.dtype), *batch, row, column)


def _mean_matmul(call: OperatorCall) -> None:
    a, b, multipliers, *masks = call.inputs
    keys = call.builder.size(call.operands[0].shape[-1])
    *lead, columns = call.sizes
    with parallel(product(lead)) as flat:
        *batch, row = unflatten(flat, lead)
        state = local((2,), "int32")

        def seen(k: Expr) -> Expr:
            return convert(load(masks[0], batch[0], k) != i64(0), "int32") if masks else i32(1)

        store(state, i32(0), 0)
        with serial(keys) as k:
            store(state, load(state, 0) + seen(k), 0)
        count = convert(tirx.max(load(state, 0), i32(1)), "int64")
        with serial(columns) as column:
            store(state, i32(0), 1)
            with serial(keys) as k:
                term = convert(load(a, *batch, row, k), "int32") * convert(
                    load(b, *batch, k, column), "int32"
                )
                store(state, load(state, 1) + term * seen(k), 1)
            multiplier = load(multipliers, count - i64(1))
            limit = tirx.truncdiv(i32(saturation_limit(1, call.output.range)), multiplier)
            value = requantize(load(state, 1), multiplier, limit, call.output.range)
            store(call.result, convert(value, call.output.dtype), *batch, row, column)


def _zero_pad(call: OperatorCall) -> None:
    x, *masks = call.inputs
    tokens = call.builder.size(call.operands[0].shape[1])

    def element(at: list[Expr]) -> Expr:
        token = tirx.min(at[1], tokens - i64(1))
        there = at[1] < tokens
        if masks:
            there = tirx.all(there, load(masks[0], at[0], token) != i64(0))
        return tirx.Select(there, convert(load(x, at[0], token, at[2]), "int32"), i32(0))

    _each(call, element)


def _mask(call: OperatorCall) -> None:
    x, mask = call.inputs
    low, high = call.output.range

    def element(at: list[Expr]) -> Expr:
        limit = tirx.Select(load(mask, at[0], at[-1]) != i64(0), i32(high), i32(low))
        return tirx.min(convert(load(x, *at), "int32"), limit)

    _each(call, element)


def _softmax(call: OperatorCall) -> None:
    x, table = call.inputs
    levels, greatest = call.output.levels, call.output.range[1]
    *lead, last = call.sizes
    with parallel(product(lead)) as row:
        at = unflatten(row, lead)
        state = local((2,), "int32")
        store(state, i32(-128), 0)
        store(state, i32(0), 1)
        with serial(last) as j:
            store(state, tirx.max(load(state, 0), convert(load(x, *at, j), "int32")), 0)

        def weight(j: Expr) -> Expr:
            below = load(state, 0) - convert(load(x, *at, j), "int32")
            return load(table, convert(below, "int64"))

        with serial(last) as j:
            store(state, load(state, 1) + weight(j), 1)
        with serial(last) as j:
            # (Q * e + sum // 2) // sum: see archnet.reference.softmax.
            total = load(state, 1)
            share = tirx.truncdiv(i32(levels) * weight(j) + tirx.truncdiv(total, i32(2)), total)
            share = share if levels == greatest else tirx.min(share, i32(greatest))
            store(call.result, convert(share, call.output.dtype), *at, j)


def _log_sum_softmax(call: OperatorCall) -> None:
    x, exponentials, logs, shares = call.inputs
    *lead, last = call.sizes
    multiplier, shift = call.integer("multiplier"), call.integer("shift")
    with parallel(product(lead)) as row:
        at = unflatten(row, lead)
        state = local((3,), "int32")
        for index, value in enumerate((-128, 0, 0)):
            store(state, i32(value), index)

        def below(j: Expr) -> Expr:
            return load(state, 0) - convert(load(x, *at, j), "int32")

        with serial(last) as j:
            store(state, tirx.max(load(state, 0), convert(load(x, *at, j), "int32")), 0)
        with serial(last) as j:
            weight = load(exponentials, convert(below(j), "int64"))
            store(state, load(state, 1) + weight, 1)
        for octave in range(OCTAVES):
            # Rounded as archnet.reference.log_sum_softmax has it.
            bits = NUMERATOR_SHIFT + octave
            rounded = i32(NUMERATOR) * load(state, 1) + i32(2 ** (bits - 1))
            byte = tirx.min(tirx.truncdiv(rounded, i32(2**bits)), i32(255))
            store(state, load(state, 2) + load(logs, convert(byte, "int64")), 2)
        store(state, clamp(round_shift(load(state, 2) * i32(multiplier)), 0, 255), 2)
        with serial(last) as j:
            exponent = tirx.min(below(j) * i32(2**shift) + load(state, 2), i32(255))
            store(call.result, load(shares, convert(exponent, "int64")), *at, j)


def _add(call: OperatorCall) -> None:
    factors = [i32(call.integer("multiplier_a")), i32(call.integer("multiplier_b"))]

    def term(i: int, at: list[Expr]) -> Expr:
        return _broadcast(call, i, at) * factors[i]

    _each(call, lambda at: clamp(round_shift(term(0, at) + term(1, at)), *call.output.range))


def _broadcast(call: OperatorCall, i: int, at: list[Expr]) -> Expr:
    """Operand i at a place of the output, int32."""
    shape = call.operands[i].shape
    own = [i64(0) if n == 1 else k for n, k in zip(shape, at[len(at) - len(shape) :], strict=True)]
    return convert(load(call.inputs[i], *own), "int32")


def _mul(call: OperatorCall) -> None:
    multiplier, bounds = call.integer("multiplier"), call.output.range
    limit = i32(saturation_limit(multiplier, bounds))

    def element(at: list[Expr]) -> Expr:
        product = _broadcast(call, 0, at) * _broadcast(call, 1, at)
        return requantize(product, i32(multiplier), limit, bounds)

    _each(call, element)


def _requantize(call: OperatorCall) -> None:
    multiplier = call.integer("multiplier")
    limit, bounds = i32(saturation_limit(multiplier, call.output.range)), call.output.range

    def element(at: list[Expr]) -> Expr:
        return requantize(convert(load(call.inputs[0], *at), "int32"), i32(multiplier), limit, bounds)

    _each(call, element)


def _lookup(call: OperatorCall) -> None:
    x, table = call.inputs
    low = -128 if call.operands[0].dtype == "int8" else 0
    _each(call, lambda at: load(table, convert(load(x, *at), "int64") - low), vector=False)


def _transpose(call: OperatorCall) -> None:
    perm = call.node.attributes["perm"]
    assert isinstance(perm, tuple)
    source = [perm.index(axis) for axis in range(len(perm))]
    _each(call, lambda at: load(call.inputs[0], *(at[i] for i in source)))


def _concat(call: OperatorCall) -> None:
    rank = len(call.output.shape)
    axis = call.integer("axis") % rank
    start: Expr = i64(0)
    for part, operand in zip(call.inputs, call.operands, strict=True):
        sizes = [call.builder.size(dim) for dim in operand.shape]
        with parallel(product(sizes[:-1])) as row, serial(sizes[-1]) as last:
            at = [*unflatten(row, sizes[:-1]), last]
            target = [index + start if i == axis else index for i, index in enumerate(at)]
            store(call.result, load(part, *at), *target)
        start = start + sizes[axis]


def _select(call: OperatorCall) -> None:
    shape = call.operands[0].shape
    axis, index = call.integer("axis") % len(shape), call.integer("index")
    place = call.builder.size(shape[axis]) + index if index < 0 else i64(index)
    _each(call, lambda at: load(call.inputs[0], *at[:axis], place, *at[axis:]))


def _mean_pool(call: OperatorCall) -> None:
    x, mask, offset = call.inputs
    batch, channels = call.sizes
    width = vector_width(call.output.shape[-1], _LANES)
    positions = call.builder.size(call.operands[0].shape[1])
    with parallel(batch) as b:
        count = local((1,), "int32")
        store(count, i32(0), 0)
        with serial(positions) as s:
            seen = convert(load(mask, b, s) != i64(0), "int32")
            store(count, load(count, 0) + seen, 0)
        store(count, tirx.max(load(count, 0), i32(1)), 0)
        with serial(channels // width) as block:
            total = local((width,), "int32")
            with vectorized(width) if width > 1 else serial(1) as lane:
                store(total, i32(0), lane)
            with serial(positions) as s:
                keep = convert(load(mask, b, s) != i64(0), "int32")
                with vectorized(width) if width > 1 else serial(1) as lane:
                    term = convert(load(x, b, s, block * width + lane), "int32") * keep
                    store(total, load(total, lane) + term, lane)
            with serial(width) as lane:
                n = load(count, 0)
                twice = load(total, lane) * i32(2 ** (WIDEN_SHIFT + 1)) + n
                mean = tirx.floordiv(twice, n * i32(2))
                store(call.result, mean + load(offset, block * width + lane), b, block * width + lane)


def _widen(call: OperatorCall) -> None:
    x, offset = call.inputs
    _each(call, lambda at: convert(load(x, *at), "int32") * i32(2**WIDEN_SHIFT) + load(offset, at[-1]))


def table_sum_kernel(ids: Operand, table: TableRows, depth: int, output: TensorSpec, name: str) -> Any:
    """PrimFunc (ids, table, columns) -> clamp(requantize(bias + sum over digits of table rows)).

    A fully connected layer over the one-hot codes of ids (B, S) or (B, S, K): digit k reads row
    k * depth + code of the table (K * depth, N), the transposed weights.

    Args:
        depth: codes of a digit.
    """
    builder = KernelBuilder(name)
    width = output.shape[-1]
    parameters = [(ids.shape, ids.dtype), (table.shape, table.dtype), ((3, width), "int32")]
    digits = ids.shape[2] if len(ids.shape) == 3 else 1
    assert isinstance(digits, int)
    assert isinstance(width, int)
    with builder.body([*parameters, (output.shape, output.dtype)]) as (codes, rows, columns, result):
        call = OperatorCall(builder, Node(Op.LINEAR, name, (), output.name), (ids,), (codes,), output, result)

        def element(at: list[Expr]) -> Expr:
            total = load(columns, 0, at[-1])
            for digit in range(digits):
                code = load(codes, *at[:-1], digit) if len(ids.shape) == 3 else load(codes, *at[:-1])
                row = code + digit * depth
                total = total + _table_element(rows, row, at[-1], width, table.packing)
            return requantize(total, load(columns, 1, at[-1]), load(columns, 2, at[-1]), output.range)

        _each(call, element)
    return builder.function


def packed_gather_kernel(ids: Operand, table: TableRows, output: TensorSpec, name: str) -> Any:
    """PrimFunc (ids, packed table) -> the rows of these ids."""
    builder = KernelBuilder(name)
    width = output.shape[-1]
    assert isinstance(width, int)
    parameters = [(ids.shape, ids.dtype), (table.shape, table.dtype), (output.shape, output.dtype)]
    with builder.body(parameters) as (places, rows, result):
        node = Node(Op.EMBEDDING, name, (), output.name)
        call = OperatorCall(builder, node, (ids,), (places,), output, result)
        _each(call, lambda at: _table_element(rows, load(places, *at[:-1]), at[-1], width, table.packing))
    return builder.function


def _table_element(rows: Buffer, row: Expr, column: Expr, columns: int, packing: Packing | None) -> Expr:
    if packing is None:
        return convert(load(rows, row, column), "int32")
    return packed_element(rows, row, column, columns, packing)


OPERATORS: Mapping[Op, Callable[[OperatorCall], None]] = {
    Op.EMBEDDING: _embedding,
    Op.ONE_HOT: _one_hot,
    Op.SLICE: _slice,
    Op.MATMUL: _matmul,
    Op.MASK: _mask,
    Op.SOFTMAX: _softmax,
    Op.TABLE_SOFTMAX: _softmax,
    Op.LOG_SUM_SOFTMAX: _log_sum_softmax,
    Op.MEAN_MATMUL: _mean_matmul,
    Op.RELATIVE_MATMUL: relative_matmul,
    Op.ZERO_PAD: _zero_pad,
    Op.CROP: _slice,
    Op.ADD: _add,
    Op.MUL: _mul,
    Op.REQUANTIZE: _requantize,
    Op.LOOKUP: _lookup,
    Op.TRANSPOSE: _transpose,
    Op.CONCAT: _concat,
    Op.SELECT: _select,
    Op.MEAN_POOL: _mean_pool,
    Op.WIDEN: _widen,
    Op.CONV: grouped_convolution,
    Op.MAX_POOL: max_pool,
    Op.PREPEND: prepend,
    Op.SHIFT: shift,
    Op.WINDOWS: windows,
}
"""What writes each operator's loops. RESHAPE is a view; LINEAR and dense CONV are built in tvm_module.py."""
