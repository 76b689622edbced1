"""Operators of the integer network -> QDQ: DequantizeLinear, one float operator, QuantizeLinear.

A compiler that fuses the three computes `accumulator * (input scale * weight scale / output scale)`; the
scales of the integer network give that factor as m / 2**16 exactly in float32 (see calibration/affine.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from archnet.export.host_split import HOST_ONLY, UNWINDOWED, MaskInput
from archnet.export.qdq_state import QdqLowering, QdqTensor, no_form, sizes_of
from archnet.graph import Node
from archnet.operators import Op
from archnet.reference import first_positions

WIDE_MIDDLE, WIDE_GREATEST = 2**15, 2**15 - 1
"""uint16: its zero point, and what is above it."""


def lower_node(state: QdqLowering, node: Node) -> None:
    """Emit one node.

    Raises:
        ArchNetError: it has no QDQ form.
    """
    if node.op in REFUSED:
        raise no_form(node, *REFUSED[node.op])
    LOWERINGS[node.op](state, node)


def _finish(state: QdqLowering, node: Node, real: str, shape: tuple[int, ...]) -> None:
    """ReLU where the output is unsigned, then the Quantize."""
    if state.spec(node.output).dtype == "uint8":
        real = state.onnx.node("Relu", [real], f"{node.output}/relu")
    state.quantize(node.output, real, shape)


def _weights(
    state: QdqLowering, node: Node, stored: NDArray[Any], scale_x: float, *, axis: int = 0
) -> list[str]:
    """The dequantized weights, one scale an output channel (`axis` of `stored`), and the int32 bias."""
    bias, weight_scale = node.inputs[2], node.inputs[4]
    make, key = state.onnx, node.name
    scales = state.graph.constants[weight_scale].astype(np.float32)
    width = len(scales)
    dtype: Any = ml_dtypes.int4 if state.form.packed and stored.min() >= -8 and stored.max() <= 7 else np.int8
    zeros = make.constant(f"zeros:{np.dtype(dtype)}:{width}", np.zeros(width, dtype))
    scale = make.constant(f"{key}/weight_scale", scales)
    values = make.constant(f"{key}/weight", np.ascontiguousarray(stored.astype(dtype)))
    w = make.node("DequantizeLinear", [values, scale, zeros], f"{key}/weight/real", axis=axis)
    bias_scale = make.constant(f"{key}/bias_scale", np.float32(scale_x) * scales)
    bias_zeros = make.constant(f"zeros:int32:{width}", np.zeros(width, np.int32))
    bias_values = make.constant(f"{key}/bias", state.graph.constants[bias])
    return [
        w,
        make.node("DequantizeLinear", [bias_values, bias_scale, bias_zeros], f"{key}/bias/real", axis=0),
    ]


def _linear(state: QdqLowering, node: Node) -> None:
    x, weight = node.inputs[:2]
    if state.spec(node.output).dtype == "int32":
        _accumulators(state, node)
        return
    stored = state.graph.constants[weight]
    tokens, depth = state.matrix(x)
    if state.form.linear == "gemm":
        operands = [state.real(x, (tokens, depth)), *_weights(state, node, stored, state.scale(x))]
        y = state.onnx.node("Gemm", operands, f"{node.output}/exact", transB=1)
        _finish(state, node, y, (tokens, len(stored)))
        return
    _linear_as_convolution(state, node, stored.reshape(*stored.shape, 1, 1))


def _linear_as_convolution(state: QdqLowering, node: Node, stored: NDArray[Any]) -> None:
    """A 1x1 convolution: (tokens, features) -> (1, features, 1, tokens), and back."""
    x = node.inputs[0]
    tokens, depth = state.matrix(x)
    make, width = state.onnx, len(stored)
    columns = _rearranged(state, x, state.real(x, (1, 1, tokens, depth)), f"{x}/features", [0, 3, 1, 2])
    operands = [columns, *_weights(state, node, stored, state.scale(x))]
    y = make.node("Conv", operands, f"{node.output}/columns/exact", kernel_shape=[1, 1])
    if state.spec(node.output).dtype == "uint8":
        y = make.node("Relu", [y], f"{node.output}/relu")
    label = f"{node.output}/columns"
    make.node("QuantizeLinear", [y, *state.quantization(node.output)], label)
    real = make.node("DequantizeLinear", [label, *state.quantization(node.output)], f"{label}/real")
    rows = make.node("Transpose", [real], f"{node.output}/exact", perm=[0, 2, 3, 1])
    state.quantize(node.output, rows, (1, 1, tokens, width))


def _rearranged(state: QdqLowering, name: str, real: str, label: str, perm: list[int]) -> str:
    """A Transpose with a pair of its own, at the tensor's scale; dequantized."""
    if not state.onnx.has(f"{label}/real"):
        moved = state.onnx.node("Transpose", [real], f"{label}/exact", perm=perm)
        state.onnx.node("QuantizeLinear", [moved, *state.quantization(name)], label)
        state.onnx.node("DequantizeLinear", [label, *state.quantization(name)], f"{label}/real")
    return f"{label}/real"


def _accumulators(state: QdqLowering, node: Node) -> None:
    """An output of int32: Gemm in float32, or with 16 bits before and behind it."""
    x, weight, bias, _, weight_scale = node.inputs
    make, constants, spec_x = state.onnx, state.graph.constants, state.spec(x)
    matrix = state.matrix(x)
    units = (np.float32(state.scale(x)) * constants[weight_scale].astype(np.float32)).astype(np.float64)
    real, shape = state.real(x, matrix), (matrix[0], len(units))
    if state.form.wide == "float32":
        operands = [real, *_weights(state, node, constants[weight], state.scale(x))]
        value = make.node("Gemm", operands, node.output, transB=1)
        state.types[value] = "float32"
        state.wide[node.output] = QdqTensor(value, shape, 0, 1 / units)
        return
    zero = state.zero(WIDE_MIDDLE, "uint16")
    numbers = [make.constant(f"{x}/scale", np.float32(state.scale(x))), zero]
    wide = make.node("QuantizeLinear", [real, *numbers], f"{x}/uint16")
    real = make.node("DequantizeLinear", [wide, *numbers], f"{x}/uint16/real")
    operands = [real, *_weights(state, node, constants[weight], state.scale(x))]
    exact = make.node("Gemm", operands, f"{node.output}/exact", transB=1)
    bound = np.abs(constants[weight].astype(np.int64)).sum(axis=1) * max(map(abs, spec_x.range))
    bound += np.abs(constants[bias].astype(np.int64))
    scale = np.float32(np.max(units * bound) / WIDE_GREATEST)
    numbers = [make.constant(f"{node.output}/scale", scale), zero]
    value = make.node("QuantizeLinear", [exact, *numbers], node.output)
    state.types[value] = "uint16"
    state.wide[node.output] = QdqTensor(value, shape, WIDE_MIDDLE, float(scale) / units)


def _conv(state: QdqLowering, node: Node) -> None:
    x, weight = node.inputs[:2]
    stored = state.graph.constants[weight]
    y = state.onnx.node(
        "Conv",
        [state.real(x), *_weights(state, node, stored, state.scale(x))],
        f"{node.output}/exact",
        kernel_shape=list(stored.shape[2:]),
        strides=sizes_of(node, "strides"),
        pads=sizes_of(node, "pads"),
        group=cast(int, node.attributes["groups"]),
    )
    _finish(state, node, y, state.shape(node.output))


def _max_pool(state: QdqLowering, node: Node) -> None:
    y = state.onnx.node(
        "MaxPool",
        [state.real(node.inputs[0])],
        f"{node.output}/exact",
        kernel_shape=sizes_of(node, "kernel"),
        strides=sizes_of(node, "strides"),
        pads=sizes_of(node, "pads"),
    )
    _move(state, node, y)


def _move(state: QdqLowering, node: Node, real: str) -> None:
    """Quantize what only moves integers: no ReLU and no Clip, they are in their range already."""
    value = state.onnx.node("QuantizeLinear", [real, *state.quantization(node.output)], node.output)
    state.define(node.output, value, state.shape(node.output))


def _matmul(state: QdqLowering, node: Node) -> None:
    a, b = node.inputs
    left = state.real(a)
    right = _swapped(state, b) if node.attributes.get("transpose_b", False) else state.real(b)
    y = state.onnx.node("MatMul", [left, right], f"{node.output}/exact")
    _finish(state, node, y, state.shape(node.output))


def _swapped(state: QdqLowering, name: str) -> str:
    """The activation with its last two axes swapped; one Transpose together with one before it."""
    rank = len(state.spec(name).shape)
    source, before = state.transposed.get(name, (name, tuple(range(rank))))
    perm = [*before[:-2], before[-1], before[-2]]
    return _rearranged(state, source, state.real(source), f"{name}/swapped", perm)


def _mask(state: QdqLowering, node: Node) -> None:
    """The minimum with an input of the same scale, or the sum with one of twice the scale.

    There is an input a scale of scores. It holds the greatest integer (for a sum that of 0) for tokens that
    count, the least for padding. Of int8 the least integer there is -256 here, and the greatest score plus
    that is below the range.
    """
    x, mask = node.inputs
    scale, zero_point = state.scale(x), state.zero_point(x)
    given = MaskInput(mask, "limit", f"{np.float32(scale):.9g}")
    name = given.name
    added = state.form.mask == "add"
    if not state.onnx.has(f"{name}/real"):
        state.input(name, scale * 2 if added else scale, zero_point, given.shape(state.graph, state.sequence))
    op = "Add" if added else "Min"
    y = state.onnx.node(op, [state.real(x), f"{name}/real"], f"{node.output}/exact")
    _move(state, node, y)


def _softmax(state: QdqLowering, node: Node) -> None:
    y = state.onnx.node("Softmax", [state.real(node.inputs[0])], f"{node.output}/exact", axis=-1)
    state.quantize(node.output, y, state.shape(node.output))


def _add(state: QdqLowering, node: Node) -> None:
    _elementwise(state, node, "Add")


def _mul(state: QdqLowering, node: Node) -> None:
    _elementwise(state, node, "Mul")


def _elementwise(state: QdqLowering, node: Node, kind: str) -> None:
    a, b = node.inputs
    shape = state.shape(node.output)
    counts = {int(np.prod(state.shape(name))) for name in (a, b, node.output)}
    # The stream between layers stays (tokens, features); without broadcasting any shape will do.
    if len(counts) == 1:
        shape = next(iter(state.values[a]))
        operands = [state.real(a, shape), state.real(b, shape)]
    else:
        operands = [state.real(a), state.real(b)]
    y = state.onnx.node(kind, operands, f"{node.output}/exact")
    _finish(state, node, y, shape)


def _requantize(state: QdqLowering, node: Node) -> None:
    """The minimum with the input's greatest number, quantized with the output's scale.

    A Dequantize and a Quantize alone would stand between two others, and ONNX Runtime makes one pair, with
    other numbers, of two that follow each other.
    """
    x = node.inputs[0]
    shape = next(iter(state.values[x]))
    greatest = state.spec(x).range[1] + state.zero_point(x)
    constant = state.onnx.constant(f"{x}/greatest", np.array(greatest, state.form.activations))
    limit = state.onnx.node("DequantizeLinear", [constant, *state.quantization(x)], f"{node.output}/limit")
    y = state.onnx.node("Min", [state.real(x, shape), limit], f"{node.output}/exact")
    state.quantize(node.output, y, shape)


def _slice(state: QdqLowering, node: Node) -> None:
    """Rows of a constant table at a fixed length: a constant."""
    sizes = state.shape(node.output)
    rows = first_positions(state.graph.constants[node.inputs[0]], sizes).astype(np.int64)
    values = (rows + state.zero_point(node.output)).astype(state.form.activations)
    state.define(node.output, state.onnx.constant(node.output, values.reshape(sizes)), sizes)


def _reshape(state: QdqLowering, node: Node) -> None:
    """A view: readers ask for the shape that they need."""
    state.values[node.output] = state.values[node.inputs[0]]


def _transpose(state: QdqLowering, node: Node) -> None:
    x, perm = node.inputs[0], cast(tuple[int, ...], node.attributes["perm"])
    _move(state, node, state.onnx.node("Transpose", [state.real(x)], f"{node.output}/exact", perm=list(perm)))
    state.transposed[node.output] = (x, perm)


def _concat(state: QdqLowering, node: Node) -> None:
    axis = cast(int, node.attributes["axis"]) % len(state.spec(node.output).shape)
    parts = [state.real(name) for name in node.inputs]
    _move(state, node, state.onnx.node("Concat", parts, f"{node.output}/exact", axis=axis))


def _select(state: QdqLowering, node: Node) -> None:
    """A Slice; without its axis the elements are in the same order."""
    x, make = node.inputs[0], state.onnx
    sizes, axis = state.shape(x), cast(int, node.attributes["axis"])
    index = cast(int, node.attributes["index"]) % sizes[axis]
    bounds = [make.integers(index), make.integers(index + 1), make.integers(axis)]
    y = make.node("Slice", [state.real(x), *bounds], f"{node.output}/exact")
    kept = tuple(1 if i == axis else size for i, size in enumerate(sizes))
    value = make.node("QuantizeLinear", [y, *state.quantization(node.output)], node.output)
    state.define(node.output, value, kept)


def _pad_rows(state: QdqLowering, node: Node, real: str, front: int, back: int) -> str:
    """Zeros before and behind axis 1 of (1, S, C)."""
    pads = state.onnx.integers(0, front, 0, 0, back, 0)
    return state.onnx.node("Pad", [real, pads], f"{node.output}/exact")


def _prepend(state: QdqLowering, node: Node) -> None:
    rows = cast(int, node.attributes["rows"])
    _move(state, node, _pad_rows(state, node, state.real(node.inputs[0]), rows, 0))


def _zero_pad(state: QdqLowering, node: Node) -> None:
    """Times 1 or 0 at one scale, which is exact, then a Pad to the longest sequence."""
    x, *mask = node.inputs
    make, shape = state.onnx, state.shape(x)
    missing = state.shape(node.output)[1] - shape[1]
    if not mask and not missing:
        state.values[node.output] = state.values[x]
        return
    real = state.real(x)
    if mask:
        tokens = MaskInput(mask[0], "tokens")
        if not make.has(f"{tokens.name}/real"):
            state.input(tokens.name, 1.0, 0, tokens.shape(state.graph, state.sequence))
        real = make.node("Mul", [real, f"{tokens.name}/real"], f"{node.output}/kept")
        if missing:
            value = make.node("QuantizeLinear", [real, *state.quantization(x)], f"{node.output}/kept/integer")
            real = make.node("DequantizeLinear", [value, *state.quantization(x)], f"{node.output}/kept/real")
    _move(state, node, _pad_rows(state, node, real, 0, missing) if missing else real)


def _crop(state: QdqLowering, node: Node) -> None:
    x, make = node.inputs[0], state.onnx
    if state.shape(x) == state.shape(node.output):
        state.values[node.output] = state.values[x]
        return
    bounds = [make.integers(0), make.integers(state.shape(node.output)[1]), make.integers(1)]
    _move(state, node, make.node("Slice", [state.real(x), *bounds], f"{node.output}/exact"))


LOWERINGS: dict[Op, Callable[[QdqLowering, Node], None]] = {
    Op.LINEAR: _linear,
    Op.MATMUL: _matmul,
    Op.MASK: _mask,
    Op.SOFTMAX: _softmax,
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
    Op.CONV: _conv,
    Op.MAX_POOL: _max_pool,
}

REFUSED: dict[Op, tuple[str, str]] = {
    **HOST_ONLY,
    Op.SHIFT: ("no chip's compiler was asked about it", "convert for onnxruntime or tvm"),
    Op.RELATIVE_MATMUL: (
        "no compiler behind this format was asked whether it moves products by the distances of tokens",
        "export it as onnx or tvm",
    ),
    Op.WINDOWS: UNWINDOWED,
    Op.TABLE_SOFTMAX: (
        "its table and division are integer arithmetic",
        "convert with --attention softmax or mixing",
    ),
    Op.LOG_SUM_SOFTMAX: (
        "its tables are integer arithmetic",
        "convert with --attention softmax or mixing",
    ),
    Op.MEAN_MATMUL: (
        "its factor depends on the number of tokens",
        "convert with --attention softmax or mixing",
    ),
    Op.LOOKUP: ("no float operator is a table of 256 entries", "convert so that activations become ReLU"),
}
"""What is refused: why, and what to do."""
