"""The operators of image networks in TensorIR.

A dense convolution is three kernels: the windows of the map as rows, the fully connected layer over them
(tvm_linear.py), and the rows back into a map. A convolution in groups, as averages are, is plain loops.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tvm import tirx

from archnet.export.tvm_tir import (
    Expr,
    KernelBuilder,
    convert,
    i32,
    i64,
    load,
    local,
    parallel,
    product,
    requantize,
    saturation_limit,
    serial,
    store,
    unflatten,
)
from archnet.graph import Node, TensorSpec
from archnet.windows import Windows

if TYPE_CHECKING:
    from archnet.export.tvm_operators import OperatorCall


@dataclass(frozen=True, slots=True)
class Window:
    """How a window moves over a map (channels, height, width).

    Attributes:
        kernel, strides: down and across.
        pads: top, left, bottom, right.
    """

    channels: int
    height: int
    width: int
    kernel: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]

    @classmethod
    def of(cls, node: Node, x: tuple[Any, ...], kernel: tuple[int, ...]) -> Window:
        """The window of a node that reads a map of shape x."""
        strides, pads = (tuple(int(v) for v in _sizes(node, name)) for name in ("strides", "pads"))
        channels, height, width = (int(size) for size in x[1:])
        return cls(
            channels,
            height,
            width,
            (int(kernel[0]), int(kernel[1])),
            (strides[0], strides[1]),
            (pads[0], pads[1], pads[2], pads[3]),
        )

    def place(self, row: Expr, column: Expr, down: Expr, across: Expr) -> tuple[Expr, Expr, Expr | None]:
        """Where a window's element stands in the map, and whether it does (None: always)."""
        y = row * self.strides[0] - self.pads[0] + down
        x = column * self.strides[1] - self.pads[1] + across
        if not any(self.pads):
            return y, x, None
        inside = tirx.all(y >= 0, y < self.height, x >= 0, x < self.width)
        return y, x, inside

    def element(self, source: Any, at: tuple[Expr, Expr, Expr, Expr, Expr, Expr], fill: Expr) -> Expr:
        """source[batch, channel, ...] at (batch, channel, row, column, down, across), or `fill` outside."""
        batch, channel, *rest = at
        y, x, inside = self.place(*rest)
        if inside is None:
            return load(source, batch, channel, y, x)
        return tirx.if_then_else(inside, load(source, batch, channel, y, x), fill)


def _sizes(node: Node, name: str) -> tuple[int, ...]:
    value = node.attributes[name]
    assert isinstance(value, tuple)
    return tuple(int(v) for v in value)


def windows_kernel(window: Window, dtype: str, size: tuple[int, int], depth: int, name: str) -> Any:
    """PrimFunc (x (B, C, H, W)) -> (B, rows, depth): each window as a row, filled up with zeros.

    Args:
        size: height and width of the convolution's output.
        depth: numbers in a row, at least those of a window.
    """
    builder = KernelBuilder(name)
    shape = ("batch", window.channels, window.height, window.width)
    rows, taken = size[0] * size[1], window.channels * window.kernel[0] * window.kernel[1]
    zero = tirx.IntImm(dtype, 0)
    shapes = [(shape, dtype), (("batch", rows, depth), dtype)]
    with builder.body(shapes) as (x, y), parallel(builder.size("batch") * rows) as flat:
        batch, row = flat // rows, flat % rows
        with (
            serial(window.channels) as c,
            serial(window.kernel[0]) as i,
            serial(window.kernel[1]) as j,
        ):
            at = (batch, c, row // size[1], row % size[1], i, j)
            place = (c * window.kernel[0] + i) * window.kernel[1] + j
            store(y, window.element(x, at, zero), batch, row, place)
        if depth > taken:
            with serial(depth - taken) as k:
                store(y, zero, batch, row, k + taken)
    return builder.function


def map_kernel(dtype: str, size: tuple[int, int], channels: int, name: str) -> Any:
    """PrimFunc (rows (B, H * W, C)) -> (B, C, H, W)."""
    builder = KernelBuilder(name)
    rows = size[0] * size[1]
    shapes = ("batch", rows, channels), ("batch", channels, *size)
    typed = [(shapes[0], dtype), (shapes[1], dtype)]
    with builder.body(typed) as (x, y), parallel(builder.size("batch") * channels) as flat:
        batch, channel = flat // channels, flat % channels
        with serial(size[0]) as row, serial(size[1]) as column:
            value = load(x, batch, row * size[1] + column, channel)
            store(y, value, batch, channel, row, column)
    return builder.function


def grouped_convolution(call: OperatorCall) -> None:
    """A convolution in groups: plain loops over the windows of an output's group."""
    x, weight, bias, multiplier, _ = call.inputs
    window = Window.of(call.node, call.operands[0].shape, call.operands[1].shape[2:])  # type: ignore[arg-type]
    groups, depth = call.integer("groups"), int(call.operands[1].shape[1])
    per_group = int(call.operands[1].shape[0]) // groups
    limit = i32(saturation_limit(1, call.output.range))
    zero = tirx.IntImm(call.operands[0].dtype, 0)
    with parallel(product(call.sizes)) as flat:
        batch, channel, row, column = unflatten(flat, call.sizes)
        total = local((1,), "int32")
        store(total, load(bias, channel), 0)
        with serial(depth) as c, serial(window.kernel[0]) as i, serial(window.kernel[1]) as j:
            at = (batch, channel // per_group * depth + c, row, column, i, j)
            value = convert(window.element(x, at, zero), "int32")
            store(total, load(total, 0) + value * convert(load(weight, channel, c, i, j), "int32"), 0)
        factor = load(multiplier, channel)
        value = requantize(load(total, 0), factor, tirx.truncdiv(limit, factor), call.output.range)
        store(call.result, convert(value, call.output.dtype), batch, channel, row, column)


def max_pool(call: OperatorCall) -> None:
    """The greatest of each window."""
    kernel = _sizes(call.node, "kernel")
    window = Window.of(call.node, call.operands[0].shape, kernel)
    low = call.output.range[0]
    with parallel(product(call.sizes)) as flat:
        batch, channel, row, column = unflatten(flat, call.sizes)
        most = local((1,), "int32")
        store(most, i32(low), 0)
        with serial(window.kernel[0]) as i, serial(window.kernel[1]) as j:
            at = (batch, channel, row, column, i, j)
            fill = tirx.IntImm(call.output.dtype, low)
            value = convert(window.element(call.inputs[0], at, fill), "int32")
            store(most, tirx.max(load(most, 0), value), 0)
        store(call.result, convert(load(most, 0), call.output.dtype), batch, channel, row, column)


def prepend(call: OperatorCall) -> None:
    """Rows of zeros in front."""
    rows = call.integer("rows")
    zero = tirx.IntImm(call.output.dtype, 0)
    batch, length, features = call.sizes
    with parallel(batch * length) as flat, serial(features) as feature:
        b, s = flat // length, flat % length
        value = tirx.if_then_else(s >= i64(rows), load(call.inputs[0], b, s - rows, feature), zero)
        store(call.result, value, b, s, feature)


def shift(call: OperatorCall) -> None:
    """The rows so many places before each, zeros where there is none."""
    by = call.integer("by")
    zero = tirx.IntImm(call.output.dtype, 0)
    batch, length, features = call.sizes
    with parallel(batch * length) as flat, serial(features) as feature:
        b, s = flat // length, flat % length
        there = s >= i64(by) if by > 0 else s < length + i64(by)
        value = tirx.if_then_else(there, load(call.inputs[0], b, s - by, feature), zero)
        store(call.result, value, b, s, feature)


def windows(call: OperatorCall) -> None:
    """Each token from where it stands in the map, or in its window."""
    where = Windows.of(call.node.attributes)
    zero = tirx.IntImm(call.output.dtype, 0)
    batch, length, features = call.sizes
    with parallel(batch * length) as flat, serial(features) as feature:
        b, place = flat // length, flat % length
        token, y, x = where.source(place)
        value = load(call.inputs[0], b, token, feature)
        if where.adds_zeros:
            inside = tirx.all(y < where.height, x < where.width)
            value = tirx.if_then_else(inside, value, zero)
        store(call.result, value, b, place, feature)


def rows_spec(output: TensorSpec, name: str) -> TensorSpec:
    """The result of a dense convolution before it is a map again: (batch, H * W, channels)."""
    channels, height, width = (int(size) for size in output.shape[1:])
    return TensorSpec(
        name, (output.shape[0], height * width, channels), output.dtype, output.bits, output.scale
    )
