"""QuantizedGraph operators -> ONNX nodes, one function an operator; `LOWERINGS` lists them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import cast

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from archnet.errors import ArchNetError
from archnet.export.onnx_attention import (
    lower_crop,
    lower_log_sum_softmax,
    lower_mean_matmul,
    lower_shift,
    lower_table_softmax,
    lower_zero_pad,
)
from archnet.export.onnx_handover import hand_on, wide_linear
from archnet.export.onnx_image import (
    lower_conv,
    lower_max_pool,
    lower_prepend,
    lower_windows,
    real_weights,
)
from archnet.export.onnx_model import ELEMENT_TYPES
from archnet.export.onnx_relative import lower_relative_matmul
from archnet.export.onnx_state import Layout, Lowering, StoredTensor
from archnet.graph import WIDEN_SHIFT, Dim, GraphOutput, Node, TensorSpec
from archnet.operators import Op

Lower = Callable[[Lowering, Node], None]


def lower_input(state: Lowering, spec: TensorSpec) -> None:
    """A graph input: ids and masks as they are; int8 rows from the host are stored like activations."""
    state.onnx.input(spec.name, spec.dtype, spec.shape)
    if spec.dtype == "int64":
        return
    if state.stored_dtype(spec) == spec.dtype:
        state.define(spec.name, spec.name, "logical")
        return
    scale, _ = state.quantization(spec)
    zero = state.onnx.constant(f"zero_point:{spec.dtype}:0", np.array(0, dtype=spec.dtype))
    real = state.onnx.node("DequantizeLinear", [spec.name, scale, zero], f"{spec.name}/real")
    value = state.onnx.node("QuantizeLinear", [real, *state.quantization(spec)], f"{spec.name}/stored")
    state.define(spec.name, value, "logical")


def lower_node(state: Lowering, node: Node, lowerings: Mapping[Op, Lower] | None = None) -> None:
    """Append the ONNX nodes of one operator, by `LOWERINGS` or another table."""
    table = LOWERINGS if lowerings is None else lowerings
    if node.op not in table:
        raise ArchNetError(
            f"{node.name} ({node.op}) has no ONNX form",
            fix="choose another --format, or add a lowering in archnet/export/onnx_operators.py",
        )
    table[node.op](state, node)


def _stored_table(state: Lowering, node: Node, constant: str) -> str:
    """A constant table of activations, with the zero point of the node's output."""
    spec = state.spec(node.output)
    table = state.graph.constants[constant].astype(np.int16) + state.zero_point(spec)
    name = state.onnx.constant(f"{constant}/stored", table.astype(state.stored_dtype(spec)))
    if constant in state.packings:
        packing = state.packings[constant]
        state.packed[name] = replace(packing, offset=packing.offset + state.zero_point(spec))
    return name


def _integers(state: Lowering, constant: str) -> NDArray[np.int32]:
    return state.graph.constants[constant].astype(np.int32)


def _embedding(state: Lowering, node: Node) -> None:
    table = _stored_table(state, node, node.inputs[1])
    state.onnx.node("Gather", [table, node.inputs[0]], node.output, axis=0)
    state.define(node.output, node.output, "logical")


def _one_hot(state: Lowering, node: Node) -> None:
    """ids[..., None] == [0 .. depth - 1], as uint8 (ONNX Runtime has no OneHot with uint8 values)."""
    depth = cast(int, node.attributes["depth"])
    ids, spec = node.inputs[0], state.spec(node.output)
    codes = state.onnx.node("Unsqueeze", [ids, state.onnx.integers(-1)], f"{node.output}/ids")
    digits = state.onnx.constant(f"digits:{depth}", np.arange(depth, dtype=np.int64))
    equal = state.onnx.node("Equal", [codes, digits], f"{node.output}/equal")
    hot = state.onnx.node("Cast", [equal], node.output, to=ELEMENT_TYPES[spec.dtype])
    state.define(node.output, hot, "contiguous")


def _slice(state: Lowering, node: Node) -> None:
    table = _stored_table(state, node, node.inputs[0])
    zero = state.onnx.integers(0)
    spec = state.spec(node.output)
    if state.graph.constants[node.inputs[0]].ndim == 3:
        _slice_pairs(state, node, table)
        return
    rows = state.onnx.node("Slice", [table, zero, _extent(state, spec.shape[-2]), zero], node.output)
    if len(spec.shape) == 3:
        batch = state.onnx.size("batch", state.graph.inputs[0])
        ones = state.onnx.integers(1, 1)
        shape = state.onnx.node("Concat", [batch, ones], f"{node.output}/shape", axis=0)
        rows = state.onnx.node("Expand", [rows, shape], f"{node.output}/rows")
    state.define(node.output, rows, "logical")


def _slice_pairs(state: Lowering, node: Node, table: str) -> None:
    """Of a table of pairs of positions, (heads, queries, keys)."""
    make = state.onnx
    extents = [_extent(state, dim) for dim in state.spec(node.output).shape[-2:]]
    ends = make.node("Concat", extents, f"{node.output}/ends", axis=0)
    state.define(
        node.output,
        make.node("Slice", [table, make.integers(0, 0), ends, make.integers(1, 2)], node.output),
        "logical",
    )


def _extent(state: Lowering, dim: Dim) -> str:
    """A size as a tensor of one number."""
    if isinstance(dim, int):
        return state.onnx.integers(dim)
    return state.onnx.size(dim, state.graph.inputs[0])


def _linear(state: Lowering, node: Node) -> None:
    """Gemm, or a convolution with kernel 1x1, of the dequantized operands; ReLU before the Quantize."""
    if state.spec(node.output).dtype == "int32":
        wide_linear(state, node)
        return
    integers = state.graph.constants[node.inputs[1]]
    width, depth = integers.shape
    as_gemm = state.linear == "gemm"
    stored = integers.T if as_gemm else integers.reshape(width, depth, 1, 1)
    operands = [
        state.real(node.inputs[0], "matrix"),
        *real_weights(state, node, stored, axis=1 if as_gemm else 0),
    ]
    if as_gemm:
        y = state.onnx.node("Gemm", operands, f"{node.output}/exact")
    else:
        y = state.onnx.node("Conv", operands, f"{node.output}/exact", kernel_shape=[1, 1])
    if state.spec(node.output).dtype == "uint8":
        y = state.onnx.node("Relu", [y], f"{node.output}/relu")
    state.quantize(node.output, y, "matrix")


def _matmul(state: Lowering, node: Node) -> None:
    a, b = node.inputs
    operands = [state.real(a, "logical")]
    if node.attributes.get("transpose_b", False):
        operands.append(transposed_real(state, b))
    else:
        operands.append(state.real(b, "logical"))
    y = state.onnx.node("MatMul", operands, f"{node.output}/exact")
    state.quantize(node.output, y, "logical")


def transposed_real(state: Lowering, name: str) -> str:
    """The dequantized activation with its last two axes swapped; merged with a Transpose before it."""
    rank = len(state.spec(name).shape)
    source, before = state.transposed.get(name, (name, tuple(range(rank))))
    perm = [*before[:-2], before[-1], before[-2]]
    return state.onnx.node("Transpose", [state.real(source, "logical")], f"{name}/swapped", perm=perm)


def _mask(state: Lowering, node: Node) -> None:
    """Min with the greatest or the least real of the tensor's range: exact, whatever computes it."""
    x, mask = node.inputs
    spec = state.spec(node.output)
    limits = [np.float32(v) * np.float32(cast(float, spec.scale)) for v in spec.range]
    low, high = (
        state.onnx.constant(f"{node.output}/{end}", v) for end, v in zip(("low", "high"), limits, strict=True)
    )
    seen = _mask_as_bool(state, mask, len(spec.shape))
    limit = state.onnx.node("Where", [seen, high, low], f"{node.output}/limit")
    real = state.onnx.node("Min", [state.real(x, "logical"), limit], f"{node.output}/real")
    state.values[node.output, "logical", "real"] = real
    state.stored[node.output] = StoredTensor(real, 0, spec.shape, (), spec.scale)


def _mask_as_bool(state: Lowering, mask: str, rank: int) -> str:
    """The attention mask as bool (batch, 1, ..., 1, sequence), shared by all layers."""
    name = f"{mask}/bool{rank}"
    if not state.onnx.has(name):
        axes = state.onnx.integers(*range(1, rank - 1))
        seen = state.onnx.node("Cast", [mask], f"{name}/flat", to=TensorProto.BOOL)
        state.onnx.node("Unsqueeze", [seen, axes], name)
    return name


def _softmax(state: Lowering, node: Node) -> None:
    """Softmax of the dequantized scores.

    ONNX Runtime would turn DequantizeLinear -> Softmax -> QuantizeLinear into QLinearSoftmax, which is ten
    times as slow as the three. The Min of a Mask in between keeps it from that; without a Mask, a Min
    with the greatest real of the range takes its place.
    """
    x = node.inputs[0]
    scores = state.real(x, "logical")
    if (x, "logical", "integer") in state.values:
        spec = state.spec(x)
        high = np.float32(spec.range[1]) * np.float32(cast(float, spec.scale))
        limit = state.onnx.constant(f"{node.output}/scores/high", high)
        scores = state.onnx.node("Min", [scores, limit], f"{node.output}/scores")
    y = state.onnx.node("Softmax", [scores], f"{node.output}/exact", axis=-1)
    state.quantize(node.output, y, "logical")


def _add(state: Lowering, node: Node) -> None:
    a, b = node.inputs
    same = state.spec(a).shape == state.spec(b).shape
    layout: Layout = "matrix" if same and (state.has(a, "matrix") or state.has(b, "matrix")) else "logical"
    y = state.onnx.node("Add", [state.real(a, layout), state.real(b, layout)], f"{node.output}/exact")
    if state.spec(node.output).dtype == "uint8":
        y = state.onnx.node("Relu", [y], f"{node.output}/relu")
    state.quantize(node.output, y, layout)


def _mul(state: Lowering, node: Node) -> None:
    operands = [state.real(name, "logical") for name in node.inputs]
    y = state.onnx.node("Mul", operands, f"{node.output}/exact")
    if state.spec(node.output).dtype == "uint8":
        y = state.onnx.node("Relu", [y], f"{node.output}/relu")
    state.quantize(node.output, y, "logical")


def _requantize(state: Lowering, node: Node) -> None:
    """Quantize, with the output's scale, of what is dequantized and limited to the output's range.

    The limits stand between the Dequantize and the Quantize, because ONNX Runtime makes one pair, with other
    numbers, of two that follow each other; it drops a Clip of the whole range, but no Min.
    """
    x, spec = node.inputs[0], state.spec(node.output)
    layout: Layout = "matrix" if state.has(x, "matrix") else "logical"
    ends = [
        state.onnx.constant(f"{node.output}/{end}", np.float32(v) * np.float32(cast(float, spec.scale)))
        for end, v in zip(("low", "high"), spec.range, strict=True)
    ]
    op, limits = ("Min", ends[1:]) if spec.bits == 8 else ("Clip", ends)
    real = state.onnx.node(op, [state.real(x, layout), *limits], f"{node.output}/limited")
    state.onnx.node("QuantizeLinear", [real, *state.quantization(spec)], node.output)
    state.define(node.output, node.output, layout)


def _lookup(state: Lowering, node: Node) -> None:
    """Gather from a table of 256 integers; the index is the stored (unsigned) integer."""
    x, table = node.inputs
    layout: Layout = "matrix" if state.has(x, "matrix") else "logical"
    index = state.onnx.node(
        "Cast", [state.integer(x, layout)], f"{node.output}/index", to=ELEMENT_TYPES["int32"]
    )
    if state.spec(x).dtype != state.stored_dtype(state.spec(x)) or state.spec(x).dtype == "uint8":
        shifted = index
    else:
        shift = state.onnx.constant("shift:128", np.int32(128))
        shifted = state.onnx.node("Add", [index, shift], f"{node.output}/shifted")
    value = state.onnx.node("Gather", [_stored_table(state, node, table), shifted], node.output, axis=0)
    state.define(node.output, value, layout)


def _reshape(state: Lowering, node: Node) -> None:
    """Only a view: consumers ask for the shape that they need."""
    state.values[node.output, "contiguous", "real"] = state.real(node.inputs[0], "contiguous")


def _transpose(state: Lowering, node: Node) -> None:
    x, perm = node.inputs[0], cast(tuple[int, ...], node.attributes["perm"])
    value = state.onnx.node("Transpose", [state.real(x, "logical")], f"{node.output}/real", perm=list(perm))
    state.values[node.output, "logical", "real"] = value
    state.transposed[node.output] = (x, perm)


def _concat(state: Lowering, node: Node) -> None:
    rank = len(state.spec(node.output).shape)
    axis = cast(int, node.attributes["axis"]) % rank
    layout: Layout = "matrix" if axis == rank - 1 and state.has(node.inputs[0], "matrix") else "logical"
    parts = [state.integer(name, layout) for name in node.inputs]
    state.onnx.node("Concat", parts, node.output, axis=1 if layout == "matrix" else axis)
    state.define(node.output, node.output, layout)


def _select(state: Lowering, node: Node) -> None:
    index = state.onnx.constant(
        f"index:{node.attributes['index']}", np.int64(cast(int, node.attributes["index"]))
    )
    value = state.onnx.node(
        "Gather", [state.integer(node.inputs[0], "logical"), index], node.output, axis=node.attributes["axis"]
    )
    state.define(node.output, value, "logical")


def _mean_pool(state: Lowering, node: Node) -> None:
    """Mask times tokens as an integer product, then a rounding division of non-negative int32.

    ONNX's Div of integers rounds towards zero, the operator rounds down. With K = 2**15 >= 2**8 * 128,
    (2 * 2**8 * total + n) // (2 * n) = (2 * (2**8 * total + K * n) + n) // (2 * n) - K, and what is
    divided is then not negative.
    """
    x, mask, offset = node.inputs
    key, make = node.output, state.onnx
    spec = state.spec(x)
    ones = make.node("Cast", [mask], f"{key}/seen", to=TensorProto.BOOL)
    row = make.node("Unsqueeze", [ones, make.integers(1)], f"{key}/row/bool")
    row = make.node("Cast", [row], f"{key}/row", to=ELEMENT_TYPES["uint8"])
    _, zero_x = state.quantization(spec)
    zero = make.constant("zero_point:uint8:0", np.uint8(0))
    total = make.node("MatMulInteger", [row, state.integer(x, "logical"), zero, zero_x], f"{key}/total3")
    total = make.node("Squeeze", [total, make.integers(1)], f"{key}/total")
    wide = make.node("Cast", [ones], f"{key}/seen32", to=ELEMENT_TYPES["int32"])
    count = make.node("ReduceSum", [wide, make.integers(1)], f"{key}/count0", keepdims=1)
    count = make.node("Max", [count, make.constant("i32:1", np.int32(1))], f"{key}/count")
    shift = 2**15
    factor = make.constant("i32:512", np.int32(2 * 2**WIDEN_SHIFT))
    scaled = make.node("Mul", [total, factor], f"{key}/scaled")
    rest = make.node("Mul", [count, make.constant("i32:pool", np.int32(2 * shift + 1))], f"{key}/rest")
    positive = make.node("Add", [scaled, rest], f"{key}/positive")
    twice = make.node("Mul", [count, make.constant("i32:2", np.int32(2))], f"{key}/twice")
    mean = make.node("Div", [positive, twice], f"{key}/mean")
    offsets = make.constant(f"{key}/offset", _integers(state, offset) - shift)
    state.define(key, make.node("Add", [mean, offsets], key), "logical")


def _widen(state: Lowering, node: Node) -> None:
    x, offset = node.inputs
    key, make = node.output, state.onnx
    zero_point = state.zero_point(state.spec(x))
    wide = make.node("Cast", [state.integer(x, "logical")], f"{key}/wide", to=ELEMENT_TYPES["int32"])
    factor = make.constant("i32:256", np.int32(2**WIDEN_SHIFT))
    scaled = make.node("Mul", [wide, factor], f"{key}/scaled")
    offsets = make.constant(f"{key}/offset", _integers(state, offset) - zero_point * 2**WIDEN_SHIFT)
    state.define(key, make.node("Add", [scaled, offsets], key), "logical")


def lower_output(state: Lowering, output: GraphOutput) -> None:
    """Dequantize per channel, and pool, divide by the L2 norm or bound where asked: all in float."""
    make, spec = state.onnx, state.spec(output.tensor)
    if output.integers:
        hand_on(state, output)
        return
    value = state.integer(output.tensor, "logical")
    scale = make.constant(f"{output.name}/scale", output.scale.astype(np.float32))
    further = output.normalize or output.pool or output.cap
    name = f"{output.name}/dequantized" if further else output.name
    axis = len(spec.shape) - 1
    if spec.dtype == "int32":
        # DequantizeLinear says the same, but ONNX Runtime runs it on int32 one element after the other.
        exact = make.node("Cast", [value], f"{output.name}/float", to=TensorProto.FLOAT)
        real = make.node("Mul", [exact, scale], name)
    else:
        zero_point = np.full(output.scale.shape, state.zero_point(spec), state.stored_dtype(spec))
        zero = make.constant(f"{output.name}/zero_point", zero_point)
        real = make.node("DequantizeLinear", [value, scale, zero], name, axis=axis)
    shape = spec.shape
    if output.pool:
        shape, axis = (spec.shape[0], spec.shape[2]), 1
        real = _pooled(state, output, real)
    if output.normalize:
        norm = make.node("ReduceL2", [real, make.integers(axis)], f"{output.name}/norm", keepdims=1)
        least = make.constant("least_norm", np.float32(1e-12))
        norm = make.node("Max", [norm, least], f"{output.name}/norm/positive")
        real = make.node("Div", [real, norm], f"{output.name}/normalized" if output.cap else output.name)
    if output.cap:
        cap = make.constant(f"{output.name}/cap", np.float32(output.cap))
        share = make.node("Div", [real, cap], f"{output.name}/share")
        make.node("Mul", [make.node("Tanh", [share], f"{output.name}/tanh"), cap], output.name)
    make.output(output.name, "float32", shape)


def _pooled(state: Lowering, output: GraphOutput, real: str) -> str:
    """The mean of (batch, tokens, features) over the tokens that the mask keeps."""
    make, key = state.onnx, f"{output.name}/pool"
    seen = make.node("Cast", [output.pool], f"{key}/seen", to=TensorProto.BOOL)
    ones = make.node("Cast", [seen], f"{key}/ones", to=TensorProto.FLOAT)
    column = make.node("Unsqueeze", [ones, make.integers(2)], f"{key}/column")
    kept = make.node("Mul", [real, column], f"{key}/kept")
    total = make.node("ReduceSum", [kept, make.integers(1)], f"{key}/total", keepdims=0)
    count = make.node("ReduceSum", [ones, make.integers(1)], f"{key}/count", keepdims=1)
    count = make.node("Max", [count, make.constant("f32:1", np.float32(1.0))], f"{key}/positive")
    return make.node("Div", [total, count], f"{key}/mean" if output.normalize or output.cap else output.name)


LOWERINGS: dict[Op, Lower] = {
    Op.EMBEDDING: _embedding,
    Op.ONE_HOT: _one_hot,
    Op.SLICE: _slice,
    Op.LINEAR: _linear,
    Op.MATMUL: _matmul,
    Op.MASK: _mask,
    Op.SOFTMAX: _softmax,
    Op.TABLE_SOFTMAX: lower_table_softmax,
    Op.LOG_SUM_SOFTMAX: lower_log_sum_softmax,
    Op.MEAN_MATMUL: lower_mean_matmul,
    Op.RELATIVE_MATMUL: lower_relative_matmul,
    Op.ZERO_PAD: lower_zero_pad,
    Op.CROP: lower_crop,
    Op.SHIFT: lower_shift,
    Op.ADD: _add,
    Op.MUL: _mul,
    Op.REQUANTIZE: _requantize,
    Op.LOOKUP: _lookup,
    Op.RESHAPE: _reshape,
    Op.TRANSPOSE: _transpose,
    Op.CONCAT: _concat,
    Op.SELECT: _select,
    Op.MEAN_POOL: _mean_pool,
    Op.WIDEN: _widen,
    Op.CONV: lower_conv,
    Op.MAX_POOL: lower_max_pool,
    Op.PREPEND: lower_prepend,
    Op.WINDOWS: lower_windows,
}
"""What each operator becomes, in ONNX."""
