"""Small helpers to write TensorIR: integer constants, vector loads and stores, requantization.

Inside an IRBuilder's `prim_func` frame; every index is an int64, every accumulator an int32.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from archnet.graph import MULTIPLIER_SHIFT, Dim

Expr = Any
"""An expression of TensorIR. TVM has no type information, so neither have these functions."""

Buffer = Any

# The largest allocation that TVM puts on the stack, where LLVM turns it into registers.
STACK_BYTES = 1024


class KernelBuilder:
    """One PrimFunc.

    Args:
        name: the function's name.

    Attributes:
        dims: the variables of the symbolic sizes.
        function: the finished PrimFunc.
    """

    def __init__(self, name: str) -> None:
        self.dims = {dim: tirx.Var(dim, "int64") for dim in ("batch", "sequence")}
        self.function: Any = None
        self._name = name

    @contextmanager
    def body(self, parameters: Sequence[tuple[Sequence[Dim], str]]) -> Iterator[list[Buffer]]:
        """The frame that the statements are written in; afterwards `function` is there.

        Args:
            parameters: shape and dtype of each.

        Yields:
            The parameters' buffers.
        """
        with IRBuilder() as builder:
            with T.prim_func(s_tir=True):
                T.func_name(self._name)
                T.func_attr({"tirx.noalias": True})
                handles = [T.arg(f"p{i}", T.handle()) for i in range(len(parameters))]
                buffers = [
                    T.match_buffer(handle, [self.size(dim) for dim in shape], dtype)
                    for handle, (shape, dtype) in zip(handles, parameters, strict=True)
                ]
                # Relax's passes look for the one block that a scheduled function has.
                with T.sblock("root"):
                    T.reads()
                    T.writes()
                    yield buffers
            self.function = builder.get()

    def size(self, dim: Dim) -> Expr:
        """A size or the variable of a symbol."""
        return self.dims[dim] if isinstance(dim, str) else i64(dim)


def i64(value: int) -> Expr:
    """An index."""
    return tirx.IntImm("int64", value)


def i32(value: int) -> Expr:
    """An int32 constant; values from 2**31 up are taken as the bit pattern."""
    return tirx.IntImm("int32", value - 2**32 if value >= 2**31 else value)


def splat(value: Expr | int, lanes: int) -> Expr:
    """A vector that holds the int32 `value` in every lane (the value itself for one lane)."""
    value = i32(value) if isinstance(value, int) else value
    return tirx.Broadcast(value, lanes) if lanes > 1 else value


def ramp(start: Expr | int, lanes: int) -> Expr:
    """The indices start, start + 1, ... of a vector (a scalar index for one lane)."""
    start = i64(start) if isinstance(start, int) else start
    return tirx.Ramp(start, i64(1), lanes) if lanes > 1 else start


def load(buffer: Buffer, *indices: Expr | int) -> Expr:
    """buffer[indices]; the last index may be a ramp."""
    return tirx.BufferLoad(buffer, [i64(i) if isinstance(i, int) else i for i in indices])


def store(buffer: Buffer, value: Expr, *indices: Expr | int) -> None:
    """buffer[indices] = value; the last index may be a ramp."""
    T.buffer_store(buffer, value, [i64(i) if isinstance(i, int) else i for i in indices])


def convert(value: Expr, dtype: str, lanes: int = 1) -> Expr:
    """The value (of that many lanes) as another dtype."""
    return tirx.Cast(dtype if lanes == 1 else f"{dtype}x{lanes}", value)


def serial(extent: Expr | int) -> Any:
    """A loop from 0, as a context that gives the variable."""
    return T.serial(i64(0), i64(extent) if isinstance(extent, int) else extent)


def parallel(extent: Expr | int) -> Any:
    """A loop whose iterations are divided among the threads."""
    return T.parallel(i64(0), i64(extent) if isinstance(extent, int) else extent)


def vectorized(lanes: int) -> Any:
    """A loop that becomes one vector operation."""
    return T.vectorized(i64(0), i64(lanes))


def local(shape: Sequence[int], dtype: str) -> Buffer:
    """A small array of the running thread: registers up to STACK_BYTES, else its workspace."""
    return T.alloc_buffer([i64(n) for n in shape], dtype, scope="global")


def ceil_div(a: Expr, b: int) -> Expr:
    """How many blocks of b cover a."""
    return (a + (b - 1)) // b


def clamp(value: Expr, low: int, high: int, lanes: int = 1) -> Expr:
    """The int32 value (of that many lanes) within low .. high."""
    if lanes == 1:
        return tirx.max(tirx.min(value, i32(high)), i32(low))
    return tirx.max(tirx.min(value, splat(high, lanes)), splat(low, lanes))


def round_shift(value: Expr, lanes: int = 1) -> Expr:
    """round_half_even(value / 2**16) of int32 values below 2**31 - 2**15 in magnitude.

    value + 2**15 - 1 + (bit 16 of value), shifted down: exactly half way goes up only when the
    quotient is odd.
    """

    def constant(number: int) -> Expr:
        return i32(number) if lanes == 1 else splat(number, lanes)

    odd = T.bitwise_and(T.shift_right(value, constant(MULTIPLIER_SHIFT)), constant(1))
    half = constant(2 ** (MULTIPLIER_SHIFT - 1) - 1)
    return T.shift_right(value + half + odd, constant(MULTIPLIER_SHIFT))


def saturation_limit(multiplier: int, bounds: tuple[int, int]) -> int:
    """The magnitude L from which an accumulator saturates an output in `bounds`.

    Clamping the accumulator to -L .. L first changes no result and keeps accumulator * multiplier
    within 32 bits: L * multiplier <= (span + 4) * 2**16 < 2**25, and (L + 1) * multiplier / 2**16
    lies beyond span + 2, because a multiplier is at most 2**17.
    """
    span = max(-bounds[0], bounds[1])
    limit: int = (span + 4) * 2**MULTIPLIER_SHIFT // multiplier
    return limit


def requantize(
    accumulator: Expr, multiplier: Expr, limit: Expr, bounds: tuple[int, int], lanes: int = 1
) -> Expr:
    """clamp(round_half_even(accumulator * multiplier / 2**16)), int32 in and out, without 64-bit products.

    Args:
        limit: saturation_limit of the multiplier.
    """
    zero = i32(0) if lanes == 1 else splat(0, lanes)
    bounded = tirx.max(tirx.min(accumulator, limit), zero - limit)
    return clamp(round_shift(bounded * multiplier, lanes), *bounds, lanes)


def unflatten(index: Expr, sizes: Sequence[Expr]) -> list[Expr]:
    """The indices, one for each size, of a row-major position."""
    indices: list[Expr] = []
    for size in reversed(sizes[1:]):
        indices.insert(0, index % size)
        index = index // size
    return [index, *indices] if sizes else []


def product(sizes: Sequence[Expr]) -> Expr:
    """The product of sizes; 1 if there are none."""
    return math.prod(sizes[1:], start=sizes[0]) if sizes else i64(1)


def vector_width(size: Dim, lanes: int) -> int:
    """The greatest power of two up to `lanes` that divides a size; 1 for a symbol."""
    return 1 if isinstance(size, str) else math.gcd(size, lanes)
