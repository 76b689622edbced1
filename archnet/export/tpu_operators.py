"""Operators of the integer network -> operations of TpuLang: the same integers, without a difference.

A requantization is "multiply": an int32 times an integer, shifted right by 16 with rounding half to even, in
64 bits, saturated to the output's type. That a multiplier has an axis of its own is what lets it serve layers
with one scale an output channel: TpuLang's RequantInt of three axes takes the second for the channels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from archnet.export.host_split import HOST_ONLY, MaskInput
from archnet.export.tpu_relative import lower_relative_matmul, lower_shift
from archnet.export.tpu_state import TpuLowering, Value, no_form
from archnet.graph import MULTIPLIER_SHIFT, Node
from archnet.operators import Op
from archnet.reference import first_positions
from archnet.windows import Step, Windows


def lower_node(state: TpuLowering, node: Node) -> None:
    """Emit one node.

    Raises:
        ArchNetError: it has no form in TpuLang.
    """
    if node.op in REFUSED:
        raise no_form(node, *REFUSED[node.op])
    LOWERINGS[node.op](state, node)


def _numbers(node: Node, name: str) -> list[int]:
    return [int(size) for size in cast(tuple[Any, ...], node.attributes[name])]


def _along(values: NDArray[Any], rank: int, axis: int) -> NDArray[Any]:
    """One number a channel, with axes of 1 around the channels'."""
    shape = [1] * rank
    shape[axis] = len(values)
    return values.reshape(shape)


def _layer(state: TpuLowering, node: Node, kind: str, weight: NDArray[Any], axis: int, **more: Any) -> None:
    """Accumulators of a fully connected layer or a convolution, and their requantization.

    Args:
        axis: of the output's channels.
    """
    x, _, bias, multiplier = node.inputs[:4]
    shape, make, constants = state.shape(node.output), state.constant, state.graph.constants
    operands = [
        state.of(x),
        make(f"{node.name}/weight", weight),
        make(f"{node.name}/bias", _along(constants[bias], len(shape), axis)),
    ]
    total = state.emit(kind, operands, f"{node.output}/accumulator", "int32", shape, **more)
    if state.spec(node.output).dtype == "int32":  # logits are the accumulators
        state.values[node.output] = Value(total, shape)
        return
    factor = make(f"{node.name}/multiplier", _along(constants[multiplier], len(shape), axis))
    state.define(node, "multiply", [total, factor], shift=MULTIPLIER_SHIFT)


def _linear(state: TpuLowering, node: Node) -> None:
    weight = state.graph.constants[node.inputs[1]]
    _layer(state, node, "matmul", weight.T, len(state.shape(node.output)) - 1, transpose=False)


def _conv(state: TpuLowering, node: Node) -> None:
    weight = state.graph.constants[node.inputs[1]]
    pads, strides = _numbers(node, "pads"), _numbers(node, "strides")
    _layer(state, node, "conv", weight, 1, pads=pads, strides=strides, groups=node.attributes["groups"])


def _max_pool(state: TpuLowering, node: Node) -> None:
    state.move(
        node,
        "max_pool",
        [state.of(node.inputs[0])],
        kernel=_numbers(node, "kernel"),
        strides=_numbers(node, "strides"),
        pads=_numbers(node, "pads"),
    )


def _matmul(state: TpuLowering, node: Node) -> None:
    operands = [state.of(name) for name in node.inputs]
    transpose = bool(node.attributes.get("transpose_b", False))
    total = state.emit(
        "matmul",
        operands,
        f"{node.output}/accumulator",
        "int32",
        state.shape(node.output),
        transpose=transpose,
    )
    state.define(node, "multiply", [total], factor=node.attributes["multiplier"], shift=MULTIPLIER_SHIFT)


def _mean_matmul(state: TpuLowering, node: Node) -> None:
    """The scores of padding times 0, and the multiplier of the number of tokens from the host.

    The scores, not the values: of a product whose right operand is not split into heads right before it,
    tpu-mlir 1.30 turns both operands around and takes signed numbers for unsigned ones.
    """
    a, b, multipliers, *mask = node.inputs
    left, table = state.of(a), state.graph.constants[multipliers]
    tokens = state.shape(a)[-1]
    if mask:
        sizes, given = (1, 1, 1, tokens), state.mask_input(MaskInput(mask[0], "tokens"))
        seen = state.emit("reshape", [given], f"{node.output}/seen", "int8", sizes, sizes=list(sizes))
        left = state.emit(
            "multiply", [left, seen], f"{node.output}/kept", state.spec(a).dtype, state.shape(a), shift=0
        )
    total = state.emit(
        "matmul",
        [left, state.of(b)],
        f"{node.output}/accumulator",
        "int32",
        state.shape(node.output),
        transpose=False,
    )
    if not mask:
        factor = int(table[tokens - 1])
        state.define(node, "multiply", [total], factor=factor, shift=MULTIPLIER_SHIFT)
        return
    name = state.mask_input(MaskInput(mask[0], "factor", multipliers))
    state.define(node, "multiply", [total, name], shift=MULTIPLIER_SHIFT)


def _mask(state: TpuLowering, node: Node) -> None:
    x, mask = node.inputs
    state.define(node, "minimum", [state.of(x), state.mask_input(MaskInput(mask, "limit"))])


def _softmax(state: TpuLowering, node: Node) -> None:
    """Of real numbers, rounded half to even; the definition rounds a half up, which a share seldom is."""
    x, spec = node.inputs[0], state.spec(node.output)
    state.define(node, "softmax", [state.of(x)], scale=state.spec(x).scale, levels=spec.levels)


def _add(state: TpuLowering, node: Node) -> None:
    parts = []
    for side, name in zip("ab", node.inputs, strict=True):
        factor, value = cast(int, node.attributes[f"multiplier_{side}"]), state.values[name]
        label = f"{node.output}/{side}"
        if value.name in state.constants:
            wide = state.constants[value.name].astype(np.int32) * np.int32(factor)
            parts.append(state.constant(label, wide))
        else:
            parts.append(
                state.emit("multiply", [value.name], label, "int32", value.shape, factor=factor, shift=0)
            )
    state.define(node, "add", parts, shift=MULTIPLIER_SHIFT)


def _mul(state: TpuLowering, node: Node) -> None:
    operands = [state.of(name) for name in node.inputs]
    product = state.emit(
        "multiply", operands, f"{node.output}/product", "int32", state.shape(node.output), shift=0
    )
    state.define(node, "multiply", [product], factor=node.attributes["multiplier"], shift=MULTIPLIER_SHIFT)


def _requantize(state: TpuLowering, node: Node) -> None:
    x = state.values[node.inputs[0]]
    wide = state.emit("multiply", [x.name], f"{node.output}/int32", "int32", x.shape, factor=1, shift=0)
    state.define(node, "multiply", [wide], factor=node.attributes["multiplier"], shift=MULTIPLIER_SHIFT)


def _lookup(state: TpuLowering, node: Node) -> None:
    x, table = node.inputs
    values = state.graph.constants[table]
    if state.spec(x).dtype == "int8":  # the chip's index is the byte: 0 .. 127, then -128 .. -1
        values = np.roll(values, -128)
    state.move(
        node, "lookup", [state.of(x), state.constant(f"{node.name}/table", values.reshape(1, 1, 1, 256))]
    )


def _slice(state: TpuLowering, node: Node) -> None:
    """Rows of a constant table at a fixed length: a constant."""
    sizes = state.shape(node.output)
    rows = first_positions(state.graph.constants[node.inputs[0]], sizes)
    rows = np.broadcast_to(rows, sizes)
    if len(sizes) == 2:  # an Add's operands have as many axes as its result
        rows = rows[None]
    name = state.constant(node.output, rows)
    state.values[node.output] = Value(name, tuple(rows.shape))


def _reshape(state: TpuLowering, node: Node) -> None:
    state.move(node, "reshape", [state.of(node.inputs[0])], sizes=list(state.shape(node.output)))


def _transpose(state: TpuLowering, node: Node) -> None:
    state.move(node, "transpose", [state.of(node.inputs[0])], order=_numbers(node, "perm"))


def _concat(state: TpuLowering, node: Node) -> None:
    axis = cast(int, node.attributes["axis"]) % len(state.shape(node.output))
    state.move(node, "concat", [state.of(name) for name in node.inputs], axis=axis)


def _select(state: TpuLowering, node: Node) -> None:
    x = state.values[node.inputs[0]]
    axis = cast(int, node.attributes["axis"]) % len(x.shape)
    index = cast(int, node.attributes["index"]) % x.shape[axis]
    kept = tuple(1 if i == axis else size for i, size in enumerate(x.shape))
    starts = [index if i == axis else 0 for i in range(len(kept))]
    ends = [index + 1 if i == axis else size for i, size in enumerate(x.shape)]
    dtype = state.spec(node.output).dtype
    part = state.emit("slice", [x.name], f"{node.output}/kept", dtype, kept, starts=starts, ends=ends)
    state.move(node, "reshape", [part], sizes=list(state.shape(node.output)))


def _pad_rows(state: TpuLowering, node: Node, value: str, before: int, behind: int) -> None:
    """Zeros before and behind axis 1 of (1, S, C)."""
    state.move(node, "pad", [value], pads=[0, before, 0, 0, behind, 0])


def _prepend(state: TpuLowering, node: Node) -> None:
    _pad_rows(state, node, state.of(node.inputs[0]), cast(int, node.attributes["rows"]), 0)


def _windows(state: TpuLowering, node: Node) -> None:
    """Reshapes and Transposes of four axes; Slices and Concats of what moves around an edge, and Pads."""
    name, dtype = state.of(node.inputs[0]), state.spec(node.output).dtype
    sizes = list(state.shape(node.inputs[0]))
    for number, step in enumerate(Windows.of(node.attributes).steps(sizes[-1])):
        before, sizes = sizes, step.shape(sizes)
        name = _stepped(state, step, name, (before, sizes), f"{node.output}/{number}", dtype)
    state.values[node.output] = Value(name, state.shape(node.output))


def _stepped(
    state: TpuLowering, step: Step, x: str, sizes: tuple[list[int], list[int]], output: str, dtype: str
) -> str:
    """One step of windows, from a value of some sizes to one of others."""
    before, after = sizes
    ends = list(before)

    def part(label: str, first: int, last: int) -> str:
        starts, stops = [0] * len(ends), list(ends)
        starts[step.axis], stops[step.axis] = first, last
        shape = tuple(stop - start for start, stop in zip(starts, stops, strict=True))
        return state.emit("slice", [x], label, dtype, shape, starts=starts, ends=stops)

    if step.kind == "crop":
        return part(output, 0, step.count)
    shape = tuple(after)
    if step.kind == "roll":
        parts = [
            part(f"{output}/rest", step.count, before[step.axis]),
            part(f"{output}/first", 0, step.count),
        ]
        return state.emit("concat", parts, output, dtype, shape, axis=step.axis)
    if step.kind == "reshape":
        return state.emit("reshape", [x], output, dtype, shape, sizes=after)
    if step.kind == "swap":
        return state.emit("transpose", [x], output, dtype, shape, order=[0, 2, 1, 3])
    behind = [step.count if i == step.axis else 0 for i in range(len(before))]
    return state.emit("pad", [x], output, dtype, shape, pads=[*[0] * len(before), *behind])


def _zero_pad(state: TpuLowering, node: Node) -> None:
    """Times 1 or 0, then rows of zeros up to the longest sequence."""
    x, *mask = node.inputs
    value = state.values[x]
    if mask:
        kept = state.emit(
            "multiply",
            [value.name, state.mask_input(MaskInput(mask[0], "tokens"))],
            f"{node.output}/kept",
            state.spec(x).dtype,
            value.shape,
            shift=0,
        )
        value = Value(kept, value.shape)
    missing = state.shape(node.output)[1] - value.shape[1]
    if missing:
        _pad_rows(state, node, value.name, 0, missing)
    else:
        state.values[node.output] = value


def _crop(state: TpuLowering, node: Node) -> None:
    x, sizes = state.values[node.inputs[0]], state.shape(node.output)
    if x.shape == sizes:
        state.values[node.output] = x
        return
    state.move(node, "slice", [x.name], starts=[0] * len(sizes), ends=list(sizes))


LOWERINGS: dict[Op, Callable[[TpuLowering, Node], None]] = {
    Op.LINEAR: _linear,
    Op.MATMUL: _matmul,
    Op.MEAN_MATMUL: _mean_matmul,
    Op.MASK: _mask,
    Op.SOFTMAX: _softmax,
    Op.TABLE_SOFTMAX: _softmax,
    Op.ADD: _add,
    Op.MUL: _mul,
    Op.REQUANTIZE: _requantize,
    Op.LOOKUP: _lookup,
    Op.SLICE: _slice,
    Op.RESHAPE: _reshape,
    Op.TRANSPOSE: _transpose,
    Op.CONCAT: _concat,
    Op.SELECT: _select,
    Op.PREPEND: _prepend,
    Op.ZERO_PAD: _zero_pad,
    Op.CROP: _crop,
    Op.SHIFT: lower_shift,
    Op.RELATIVE_MATMUL: lower_relative_matmul,
    Op.CONV: _conv,
    Op.MAX_POOL: _max_pool,
    Op.WINDOWS: _windows,
}

REFUSED: dict[Op, tuple[str, str]] = {
    **HOST_ONLY,
    Op.LOG_SUM_SOFTMAX: (
        "it stands for a division that this chip has",
        "convert with --attention softmax",
    ),
}
"""What is refused: why, and what to do."""
