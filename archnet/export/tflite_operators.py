"""Operators of the integer network -> int8 operators of TFLite, with the same integers.

TFLite requantizes with `input scale * weight scale / output scale`; the scales of the integer network give
that factor as m / 2**16 exactly in float32 (archnet/calibration/affine.py), so XNNPACK, which multiplies
in float32 and rounds half to even, computes the reference executor's integers. TFLite's own kernels
multiply in fixed point and round twice; where that differs is measured, not assumed (docs/chips.md).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import numpy as np

from archnet.export.host_split import HOST_ONLY, MaskInput
from archnet.export.tflite_attention import (
    lower_log_sum_softmax,
    lower_mask,
    lower_matmul,
    lower_softmax,
)
from archnet.export.tflite_image import lower_conv, lower_max_pool, lower_windows
from archnet.export.tflite_model import INT32, Quantization
from archnet.export.tflite_relative import lower_relative_matmul, lower_shift
from archnet.export.tflite_state import Layout, TfliteLowering, no_form
from archnet.graph import Node
from archnet.operators import Op
from archnet.reference import first_positions


def lower_node(state: TfliteLowering, node: Node) -> None:
    """Emit one node.

    Raises:
        ArchNetError: TFLite has no int8 operator for it.
    """
    if node.op in REFUSED:
        raise no_form(node, *REFUSED[node.op])
    LOWERINGS[node.op](state, node)


def _linear(state: TfliteLowering, node: Node) -> None:
    x, weight, bias, _, weight_scale = node.inputs
    spec, constants, file = state.spec(node.output), state.graph.constants, state.file
    if spec.dtype == "int32":
        _logits(state, node)
        return
    scales = constants[weight_scale].astype(np.float32)
    bias_scale = np.float32(cast(float, state.quantization(x).scale)) * scales
    w = file.constant(f"{node.name}/weight", constants[weight], Quantization(scales))
    b = file.constant(f"{node.name}/bias", constants[bias], Quantization(bias_scale))
    out = state.new(node.output)
    keep = len(spec.shape) > 2
    file.node("FULLY_CONNECTED", [state.get(x), w, b], out, keepNumDims=keep)
    state.define(node.output, out)


def _logits(state: TfliteLowering, node: Node) -> None:
    """Accumulators as int16 in one scale for all classes, which no input can make saturate."""
    x, weight, bias, _, weight_scale = node.inputs
    file, constants = state.file, state.graph.constants
    source, quantization = state.spec(x), state.quantization(x)
    scale_x = cast(float, quantization.scale)
    wide = file.tensor(f"{x}/int16", state.shape(x), "int16", Quantization(scale_x))
    file.node("QUANTIZE", [state.get(x)], wide)
    scales = constants[weight_scale].astype(np.float32)
    magnitude = max(abs(value) for value in source.range)
    bound = np.abs(constants[weight].astype(np.int64)).sum(axis=1) * magnitude
    bound += np.abs(constants[bias].astype(np.int64))
    bias_scale = np.float32(scale_x) * scales
    scale = float(np.float32(np.max(bias_scale.astype(np.float64) * bound) / 32767))
    w = file.constant(f"{node.name}/weight", constants[weight], Quantization(scales))
    # An int32 bias and accumulator: the integers are those of bytes, and Vela 5.2 crashes on int64 for U85.
    b = file.constant(f"{node.name}/bias", constants[bias], Quantization(bias_scale))
    out = file.tensor(node.output, state.shape(node.output), "int16", Quantization(scale))
    options = {"keepNumDims": len(source.shape) > 2, "quantizedBiasType": INT32}
    file.node("FULLY_CONNECTED", [wide, w, b], out, **options)
    state.quantizations[node.output] = Quantization(scale)
    state.pass_on(node.output, out)


def _add(state: TfliteLowering, node: Node) -> None:
    _elementwise(state, node, "ADD")


def _mul(state: TfliteLowering, node: Node) -> None:
    _elementwise(state, node, "MUL")


def _elementwise(state: TfliteLowering, node: Node, kind: str) -> None:
    maps = len(state.spec(node.output).shape) == 4 and any(state.has(n, "last") for n in node.inputs)
    layout: Layout = "last" if maps else "logical"
    out = state.new(node.output, layout)
    state.file.node(kind, [state.get(name, layout) for name in node.inputs], out)
    state.define(node.output, out, layout)


def _requantize(state: TfliteLowering, node: Node) -> None:
    x = node.inputs[0]
    layout: Layout = "logical" if state.has(x, "logical") else "last"
    out = state.new(node.output, layout)
    state.file.node("QUANTIZE", [state.get(x, layout)], out)
    state.define(node.output, out, layout)


def _slice(state: TfliteLowering, node: Node) -> None:
    sizes = state.shape(node.output)
    rows = first_positions(state.graph.constants[node.inputs[0]], sizes)
    # As many axes as what it is added to: Vela wants the ranks alike.
    values = np.broadcast_to(rows, sizes) if len(sizes) > rows.ndim else rows[None]
    index = state.file.constant(node.output, values.astype(np.int8), state.quantization(node.output))
    state.pass_on(node.output, index)


def _reshape(state: TfliteLowering, node: Node) -> None:
    x = node.inputs[0]
    state.quantizations[node.output] = state.quantization(x)
    before, after = state.spec(x).shape, state.shape(node.output)
    # (1, C, H, W) -> (1, C, H W) of a map whose channels are stored last is (1, H, W, C) -> (1, H W, C),
    # and with H = W = 1 there is no difference between the layouts.
    flat = len(before) == 4 and state.has(x, "last") and not state.has(x, "logical")
    spatial = flat and len(after) == 3 and after[1] == before[1]
    single = flat and before[2:] == (1, 1)
    layout: Layout = "last" if spatial else "logical"
    source = state.get(x, "last" if spatial or single else "logical")
    shape = state.integers(state.shape(node.output, layout))
    out = state.new(node.output, layout)
    state.pass_on(node.output, state.file.node("RESHAPE", [source, shape], out), layout)


def _transpose(state: TfliteLowering, node: Node) -> None:
    x, perm = node.inputs[0], cast(tuple[int, ...], node.attributes["perm"])
    state.quantizations[node.output] = state.quantization(x)
    if perm == (0, 2, 1) and state.has(x, "last") and not state.has(x, "logical"):
        state.pass_on(node.output, state.get(x, "last"))
        return
    out = state.new(node.output)
    state.pass_on(node.output, state.file.node("TRANSPOSE", [state.get(x), state.integers(list(perm))], out))


def _concat(state: TfliteLowering, node: Node) -> None:
    rank, axis = len(state.spec(node.output).shape), cast(int, node.attributes["axis"])
    axis %= rank
    maps = rank == 4 and axis == 1 and any(state.has(n, "last") for n in node.inputs)
    layout: Layout = "last" if maps else "logical"
    out = state.new(node.output, layout)
    parts = [state.get(name, layout) for name in node.inputs]
    state.file.node("CONCATENATION", parts, out, axis=rank - 1 if maps else axis)
    state.pass_on(node.output, out, layout)


def _select(state: TfliteLowering, node: Node) -> None:
    x = node.inputs[0]
    sizes, axis = state.shape(x), cast(int, node.attributes["axis"])
    index = cast(int, node.attributes["index"]) % sizes[axis]
    begin = [index if i == axis else 0 for i in range(len(sizes))]
    size = [1 if i == axis else s for i, s in enumerate(sizes)]
    state.quantizations[node.output] = state.quantization(x)
    part = state.file.tensor(f"{node.output}/slice", size, "int8", state.quantization(x))
    state.file.node("SLICE", [state.get(x), state.integers(begin), state.integers(size)], part)
    shape = state.integers(state.shape(node.output))
    state.pass_on(node.output, state.file.node("RESHAPE", [part, shape], state.new(node.output)))


def _pad_rows(state: TfliteLowering, node: Node, x: int, front: int, back: int) -> None:
    """Zeros before and behind axis 1 of (1, S, C); PAD fills with the zero point."""
    if front == back == 0:
        state.pass_on(node.output, x)
        return
    pads = state.integers([[0, 0], [front, back], [0, 0]])
    state.pass_on(node.output, state.file.node("PAD", [x, pads], state.new(node.output)))


def _prepend(state: TfliteLowering, node: Node) -> None:
    x = node.inputs[0]
    state.quantizations[node.output] = state.quantization(x)
    _pad_rows(state, node, state.get(x), cast(int, node.attributes["rows"]), 0)


def _zero_pad(state: TfliteLowering, node: Node) -> None:
    """Times 1 or 0 at one scale, which is exact, then PAD to the longest sequence."""
    x, *mask = node.inputs
    state.quantizations[node.output] = state.quantization(x)
    value = state.get(x)
    if mask:
        kept = state.file.tensor(f"{node.output}/kept", state.shape(x), "int8", state.quantization(x))
        tokens = state.values[MaskInput(mask[0], "tokens").name, "logical"]
        value = state.file.node("MUL", [value, tokens], kept)
    _pad_rows(state, node, value, 0, state.shape(node.output)[1] - state.shape(x)[1])


def _crop(state: TfliteLowering, node: Node) -> None:
    x = node.inputs[0]
    state.quantizations[node.output] = state.quantization(x)
    size = state.shape(node.output)
    if size == state.shape(x):
        state.pass_on(node.output, state.get(x))
        return
    inputs = [state.get(x), state.integers([0] * len(size)), state.integers(size)]
    state.pass_on(node.output, state.file.node("SLICE", inputs, state.new(node.output)))


LOWERINGS: dict[Op, Callable[[TfliteLowering, Node], None]] = {
    Op.LINEAR: _linear,
    Op.MATMUL: lower_matmul,
    Op.MASK: lower_mask,
    Op.SOFTMAX: lower_softmax,
    Op.LOG_SUM_SOFTMAX: lower_log_sum_softmax,
    Op.ADD: _add,
    Op.MUL: _mul,
    Op.REQUANTIZE: _requantize,
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
    Op.CONV: lower_conv,
    Op.MAX_POOL: lower_max_pool,
    Op.WINDOWS: lower_windows,
}

REFUSED: dict[Op, tuple[str, str]] = {
    **HOST_ONLY,
    Op.TABLE_SOFTMAX: (
        "integer division is in no int8 operator",
        "convert with --attention logsum, softmax or mixing",
    ),
    Op.MEAN_MATMUL: (
        "its factor depends on the number of tokens",
        "convert with --attention logsum, softmax or mixing",
    ),
    Op.LOOKUP: ("TFLite has no table of 256 entries", "convert so that activations become ReLU"),
}
"""What is refused: why, and what to do."""
