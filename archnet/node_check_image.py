"""Checks of the operators of image networks (see archnet/node_check.py)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

from archnet.graph import TensorSpec
from archnet.node_check import Fault, NodeCheck, Shape, check_weighted, require
from archnet.operators import Op
from archnet.windows import Windows


def _map(c: NodeCheck) -> tuple[TensorSpec, tuple[int, int, int]]:
    """The map that the node reads, with its channels, height and width."""
    x = c.tensor(0, "int8", "uint8")
    sizes = tuple(dim for dim in x.shape[1:] if isinstance(dim, int))
    require(len(x.shape) == 4 and len(sizes) == 3, f"its input {x.name} has shape {x.shape}, which is no map")
    return x, (sizes[0], sizes[1], sizes[2])


def _after(c: NodeCheck, before: tuple[int, int], kernel: tuple[int, ...]) -> tuple[int, int]:
    """Height and width of what a window over a map gives."""
    strides, pads = _numbers(c, "strides", 2, 1), _numbers(c, "pads", 4, 0)
    sizes = [(before[i] + pads[i] + pads[i + 2] - kernel[i]) // strides[i] + 1 for i in range(2)]
    require(min(sizes) >= 1, f"its window of {kernel} is larger than its input")
    return sizes[0], sizes[1]


def _numbers(c: NodeCheck, name: str, count: int, least: int) -> tuple[int, ...]:
    values = tuple(v for v in c.sizes(name) if isinstance(v, int) and v >= least)
    require(len(values) == len(c.sizes(name)) == count, f"attribute {name} is {c.sizes(name)}")
    return values


def _convolution(c: NodeCheck) -> Shape:
    x, (channels, height, width) = _map(c)
    groups = c.integer("groups", 1, channels)
    require(channels % groups == 0, f"divides {channels} channels into {groups} groups")
    weight = c.constant(1, "int8", (None, channels // groups, None, None))
    require(weight.shape[0] % groups == 0, f"divides {weight.shape[0]} results into {groups} groups")
    check_weighted(c, x, weight)
    return (x.shape[0], int(weight.shape[0]), *_after(c, (height, width), weight.shape[2:]))


def _max_pool(c: NodeCheck) -> Shape:
    x, (channels, height, width) = _map(c)
    c.output_like(x)
    kernel, pads = _numbers(c, "kernel", 2, 1), _numbers(c, "pads", 4, 0)
    require(max(pads[::2]) < kernel[0] and max(pads[1::2]) < kernel[1], "has windows of nothing but padding")
    return (x.shape[0], channels, *_after(c, (height, width), kernel))


def _prepend(c: NodeCheck) -> Shape:
    x = c.tensor(0, "int8", "uint8")
    c.output_like(x)
    length = x.shape[1] if len(x.shape) == 3 else None
    if not isinstance(length, int):
        raise Fault(f"its input {x.name} has shape {x.shape}, which is no fixed number of tokens")
    return (x.shape[0], length + c.integer("rows", 1, 2**16), x.shape[2])


def _windows(c: NodeCheck) -> Shape:
    x = c.tensor(0, "int8", "uint8")
    c.output_like(x)
    whether = {"inverse": None, "spread": False}  # the second is there where it is true
    for name, default in whether.items():
        value = c.node.attributes.get(name, default)
        require(isinstance(value, bool), f"attribute {name} is {value!r}, not a bool")
    for name in (field.name for field in fields(Windows) if field.name not in whether):
        c.integer(name, 0 if name.startswith(("shift", "pad")) else 1, 2**16)
    windows = Windows.of(c.node.attributes)
    (height, width), (down, right) = windows.filled, (windows.window_y, windows.window_x)
    require(height % down == 0 == width % right, f"cuts {height} x {width} into windows of {down} x {right}")
    require(windows.shift_y < height and windows.shift_x < width, "moves a map by more than its size")
    before, after = windows.tokens
    require(len(x.shape) == 3 and x.shape[1] == before, f"its input {x.name} has shape {x.shape}")
    return (x.shape[0], after, x.shape[2])


IMAGE_OPERATORS: dict[Op, tuple[int, Callable[[NodeCheck], Shape]]] = {
    Op.CONV: (5, _convolution),
    Op.MAX_POOL: (1, _max_pool),
    Op.PREPEND: (1, _prepend),
    Op.WINDOWS: (1, _windows),
}
