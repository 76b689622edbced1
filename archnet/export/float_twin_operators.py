"""Operators of the integer network -> float ONNX operators of the same real numbers.

Only what every compiler knows: MatMul, Conv, Add, Mul, Clip, MaxPool, Softmax, Concat, and data movement.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import numpy as np
from numpy.typing import NDArray

from archnet.export.float_twin_state import TwinLowering, no_form
from archnet.export.host_split import HOST_ONLY, UNWINDOWED, MaskInput
from archnet.export.static_relative import neighbour_pads
from archnet.graph import MULTIPLIER_SHIFT, Node
from archnet.operators import Op
from archnet.reference import first_positions

EXACT = 1e-3
"""A factor that is this near 1 is that of rounded multipliers, and left out."""


def lower_node(state: TwinLowering, node: Node) -> None:
    """Emit one node.

    Raises:
        ArchNetError: there is no float operator for it.
    """
    if node.op in REFUSED:
        raise no_form(node, *REFUSED[node.op])
    LOWERINGS[node.op](state, node)


def _weights(state: TwinLowering, node: Node) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights (N, ...) and bias (N,) in reals: float64."""
    x, weight, bias, _, weight_scale = node.inputs
    constants = state.graph.constants
    scales = constants[weight_scale].astype(np.float64)
    stored = constants[weight].astype(np.float64)
    real = stored * scales.reshape(-1, *(1,) * (stored.ndim - 1))
    return real, constants[bias].astype(np.float64) * scales * state.scale(x)


def _linear(state: TwinLowering, node: Node) -> None:
    x, onnx = node.inputs[0], state.onnx
    weight, bias = _weights(state, node)
    if state.short.get(x) == len(state.spec(x).shape) - 1:  # the layer mixes tokens
        size = state.sequence
        weight, bias = weight[:size, :size], bias[:size]
    state.keep_short(x, node.output)
    total = state.real(f"{node.name}/bias", bias)
    for i, (part, columns) in enumerate(_joined(state, x)):
        w = state.real(f"{node.name}/weight:{i}", weight[:, columns].T)
        product = onnx.node("MatMul", [state.values[part], w], f"{node.output}/product:{i}")
        total = onnx.node("Add", [product, total], f"{node.output}/sum:{i}")
    state.define(node.output, total)


def _joined(state: TwinLowering, x: str) -> list[tuple[str, slice]]:
    """What features are put together of, and where each part is: a layer over all is a sum of layers.

    nncase runs a Concat behind quantized layers on the CPU.
    """
    maker, rank = state.makers.get(x), len(state.spec(x).shape)
    if maker is None or maker.op is not Op.CONCAT or maker.attributes["axis"] not in (rank - 1, -1):
        return [(x, slice(None))]
    parts, start = [], 0
    for name in maker.inputs:
        width = state.shape(name)[-1]
        parts.append((name, slice(start, start + width)))
        start += width
    return parts


def _mixing(state: TwinLowering, node: Node) -> None:
    """All heads' fully connected layers over tokens as one 1x1 convolution in groups.

    Its channels are (head, token), its pixels the features of a head. Compilers take a product with
    constants of one matrix a head apart, and run the slices on another processor.
    """
    source, layers = state.mixed[node.output]
    both = [_weights(state, layer) for layer in layers]
    weight, bias = (np.stack([pair[i] for pair in both]) for i in (0, 1))
    if source in state.short:
        size = state.sequence
        weight, bias = weight[:, :size, :size], bias[:, :size]
        state.short[node.output] = 2
    onnx, (heads, width, tokens) = state.onnx, state.shape(source)
    turned = onnx.node("Transpose", [state.values[source]], f"{node.output}/turned", perm=[0, 2, 1])
    pixels = onnx.integers(1, heads * tokens, 1, width)
    x = onnx.node("Reshape", [turned, pixels], f"{node.output}/pixels")
    w = state.real(f"{node.name}/weight", weight.reshape(heads * tokens, tokens, 1, 1))
    b = state.real(f"{node.name}/bias", bias.reshape(-1))
    y = onnx.node("Conv", [x, w, b], f"{node.output}/mixed", kernel_shape=[1, 1], group=heads)
    split = onnx.node("Reshape", [y, onnx.integers(heads, tokens, width)], f"{node.output}/split")
    back = onnx.node("Transpose", [split], f"{node.output}/back", perm=[0, 2, 1])
    shape = onnx.integers(*state.shape(node.output))
    state.define(node.output, onnx.node("Reshape", [back, shape], f"{node.output}/heads"))


def _conv(state: TwinLowering, node: Node) -> None:
    weight, bias = _weights(state, node)
    w, b = state.real(f"{node.name}/weight", weight), state.real(f"{node.name}/bias", bias)
    y = state.onnx.node(
        "Conv",
        [state.values[node.inputs[0]], w, b],
        f"{node.output}/exact",
        kernel_shape=list(weight.shape[2:]),
        strides=_sizes(node, "strides"),
        pads=_sizes(node, "pads"),
        group=cast(int, node.attributes["groups"]),
    )
    state.define(node.output, y)


def _max_pool(state: TwinLowering, node: Node) -> None:
    y = state.onnx.node(
        "MaxPool",
        [state.values[node.inputs[0]]],
        node.output,
        kernel_shape=_sizes(node, "kernel"),
        strides=_sizes(node, "strides"),
        pads=_sizes(node, "pads"),
    )
    state.pass_on(node.output, y)


def _right_operand(state: TwinLowering, node: Node) -> str:
    """What is multiplied from the right; turned over where the node asks for it, with one Transpose."""
    name = node.inputs[1]
    if not node.attributes.get("transpose_b", False):
        return state.values[name]
    rank, source = len(state.spec(name).shape), name
    perm = list(range(rank))
    maker = state.makers.get(name)
    if maker is not None and maker.op is Op.TRANSPOSE:
        source, perm = maker.inputs[0], [int(i) for i in cast(tuple[int, ...], maker.attributes["perm"])]
    perm[-2:] = perm[-1], perm[-2]
    perm = state.permutation(source, perm)
    return state.onnx.node("Transpose", [state.values[source]], f"{node.output}/right", perm=perm)


def _matmul(state: TwinLowering, node: Node) -> None:
    a, b = node.inputs
    right = _right_operand(state, node)
    y = state.onnx.node("MatMul", [state.values[a], right], f"{node.output}/exact")
    factor = cast(int, node.attributes["multiplier"]) / 2**MULTIPLIER_SHIFT
    state.define(
        node.output, _times(state, y, factor * state.scale(node.output) / state.scale(a) / state.scale(b))
    )


def _times(state: TwinLowering, value: str, factor: float) -> str:
    """A value times a number that is 1 in networks whose scales fit their multipliers."""
    if abs(factor - 1.0) < EXACT:
        return value
    return state.onnx.node("Mul", [value, state.scalar(factor)], f"{value}/scaled")


def _mean_matmul(state: TwinLowering, node: Node) -> None:
    """Scores times the values of the n tokens that count: multipliers[n - 1] is that of their sum over n."""
    a, b, multipliers, *mask = node.inputs
    onnx, right = state.onnx, state.values[b]
    stored = state.graph.constants[multipliers].astype(np.float64)
    counts = np.arange(1, len(stored) + 1)
    # The median, because the multipliers of many tokens are rounded most, and those of few may be limited.
    factor = float(np.median(stored * counts)) / 2**MULTIPLIER_SHIFT
    factor *= state.scale(node.output) / state.scale(a) / state.scale(b)
    if mask:
        # The values, not the scores: nncase 2.11 left those of all-MiniLM-L6-v2's first layer on the CPU.
        tokens = state.values[MaskInput(mask[0], "tokens").name]
        right = onnx.node("Mul", [right, tokens], f"{node.output}/seen")
    y = onnx.node("MatMul", [state.values[a], right], f"{node.output}/sum")
    if mask:
        y = onnx.node("Mul", [y, state.values[MaskInput(mask[0], "share").name]], f"{node.output}/mean")
    else:
        factor /= state.shape(a)[-1]
    state.define(node.output, _times(state, y, factor))


def _mask(state: TwinLowering, node: Node) -> None:
    """Scores of padding so far below all others that they have no share.

    In the integer network they have the least score, and their shares round to 0: here nothing is rounded.
    """
    x, mask = node.inputs
    limit = state.values[MaskInput(mask, "limit").name]
    y = state.onnx.node("Add", [state.values[x], limit], node.output)
    state.pass_on(node.output, y)


def _softmax(state: TwinLowering, node: Node) -> None:
    y = state.onnx.node("Softmax", [state.values[node.inputs[0]]], node.output, axis=-1)
    state.pass_on(node.output, y)


def _add(state: TwinLowering, node: Node) -> None:
    _elementwise(state, node, "Add", "sum")


def _mul(state: TwinLowering, node: Node) -> None:
    _elementwise(state, node, "Mul", "product")


def _elementwise(state: TwinLowering, node: Node, kind: str, part: str) -> None:
    for name in node.inputs:
        state.keep_short(name, node.output)
    y = state.onnx.node(kind, [state.values[name] for name in node.inputs], f"{node.output}/{part}")
    state.define(node.output, y)


def _requantize(state: TwinLowering, node: Node) -> None:
    state.keep_short(node.inputs[0], node.output)
    state.define(node.output, state.values[node.inputs[0]])


def _slice(state: TwinLowering, node: Node) -> None:
    sizes = state.shape(node.output)
    rows = first_positions(state.graph.constants[node.inputs[0]], sizes).astype(np.float64)
    rows = rows * state.scale(node.output)
    values = np.broadcast_to(rows, sizes) if len(sizes) > rows.ndim else rows[None]
    state.pass_on(node.output, state.real(node.output, values))


def _reshape(state: TwinLowering, node: Node) -> None:
    x = node.inputs[0]
    if x in state.short:
        before, after = state.spec(x).shape, state.spec(node.output).shape
        if state.short[x] != len(before) - 1 or before[-1] != after[-1]:
            raise no_form(node, "it moves the tokens of mixing to another axis", "convert again")
        state.short[node.output] = len(after) - 1
    shape = state.onnx.integers(*state.shape(node.output))
    state.pass_on(node.output, state.onnx.node("Reshape", [state.values[x], shape], node.output))


def _transpose(state: TwinLowering, node: Node) -> None:
    x = node.inputs[0]
    perm = [int(i) for i in cast(tuple[int, ...], node.attributes["perm"])]
    if x in state.short:
        state.short[node.output] = perm.index(state.short[x])
    perm = state.permutation(x, perm)
    state.pass_on(node.output, state.onnx.node("Transpose", [state.values[x]], node.output, perm=perm))


def _concat(state: TwinLowering, node: Node) -> None:
    if node.output in state.mixed:
        _mixing(state, node)
        return
    rank = len(state.spec(node.output).shape)
    state.keep_short(node.inputs[0], node.output)
    parts = [state.values[name] for name in node.inputs]
    axis = cast(int, node.attributes["axis"]) % rank - (1 if node.output in state.flat else 0)
    state.pass_on(node.output, state.onnx.node("Concat", parts, node.output, axis=axis))


def _select(state: TwinLowering, node: Node) -> None:
    """One token as a 1x1 convolution with a single weight of 1; compilers leave Slice to other processors."""
    x, onnx = node.inputs[0], state.onnx
    sizes, axis = state.shape(x), cast(int, node.attributes["axis"])
    if len(sizes) != 3 or axis != 1 or x in state.flat:
        raise no_form(node, f"axis {axis} of {sizes}; one token of a sentence can be taken", "convert again")
    tokens, features = sizes[1:]
    pick = np.zeros((1, tokens, 1, 1))
    pick[0, cast(int, node.attributes["index"]) % tokens] = 1.0
    w = state.real(f"{node.name}/pick", pick)
    pixels = onnx.node(
        "Reshape", [state.values[x], onnx.integers(1, tokens, 1, features)], f"{node.output}/pixels"
    )
    y = onnx.node("Conv", [pixels, w], f"{node.output}/picked", kernel_shape=[1, 1])
    state.pass_on(node.output, onnx.node("Reshape", [y, onnx.integers(1, features)], node.output))


def _shift(state: TwinLowering, node: Node) -> None:
    """Each token as a 1x1 convolution of tokens with one weight of 1; of none where there is no neighbour."""
    x, onnx = node.inputs[0], state.onnx
    front, back = neighbour_pads(state.graph, node)
    _, tokens, features = sizes = state.shape(x)
    pick = np.eye(tokens, k=back - front).reshape(tokens, tokens, 1, 1)
    pixels = onnx.node(
        "Reshape", [state.values[x], onnx.integers(1, tokens, 1, features)], f"{node.output}/pixels"
    )
    w = state.real(f"{node.name}/pick", pick)
    y = onnx.node("Conv", [pixels, w], f"{node.output}/picked", kernel_shape=[1, 1])
    state.pass_on(node.output, onnx.node("Reshape", [y, onnx.integers(*sizes)], node.output))


def _prepend(state: TwinLowering, node: Node) -> None:
    x, rows = node.inputs[0], cast(int, node.attributes["rows"])
    sizes = state.shape(x)
    zeros = state.real(f"zeros:{rows}x{sizes[2]}", np.zeros((1, rows, sizes[2])))
    state.pass_on(node.output, state.onnx.node("Concat", [zeros, state.values[x]], node.output, axis=1))


def _zero_pad(state: TwinLowering, node: Node) -> None:
    """Times 1 or 0; the rows of zeros behind the tokens are left out (see `TwinLowering`)."""
    x, *mask = node.inputs
    state.short[node.output] = 1
    value = state.values[x]
    if mask:
        value = state.onnx.node("Mul", [value, state.values[MaskInput(mask[0], "tokens").name]], node.output)
    state.pass_on(node.output, value)


def _crop(state: TwinLowering, node: Node) -> None:
    x, onnx = node.inputs[0], state.onnx
    if state.shape(x) == state.shape(node.output):
        state.pass_on(node.output, state.values[x])
        return
    ends = [onnx.integers(0), onnx.integers(state.sequence), onnx.integers(1)]
    state.pass_on(node.output, onnx.node("Slice", [state.values[x], *ends], node.output))


LOWERINGS: dict[Op, Callable[[TwinLowering, Node], None]] = {
    Op.LINEAR: _linear,
    Op.MATMUL: _matmul,
    Op.MEAN_MATMUL: _mean_matmul,
    Op.MASK: _mask,
    Op.SOFTMAX: _softmax,
    Op.TABLE_SOFTMAX: _softmax,
    Op.LOG_SUM_SOFTMAX: _softmax,
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
    Op.SHIFT: _shift,
    Op.CONV: _conv,
    Op.MAX_POOL: _max_pool,
}

REFUSED: dict[Op, tuple[str, str]] = {
    **HOST_ONLY,
    Op.RELATIVE_MATMUL: (
        "nncase leaves the Slices that move its products on the CPU",
        "convert for another chip, or for onnxruntime or tvm",
    ),
    Op.WINDOWS: UNWINDOWED,
    Op.LOOKUP: ("a table of 256 entries is no function of reals", "convert so that activations become ReLU"),
}
"""What is refused: why, and what to do."""


def _sizes(node: Node, name: str) -> list[int]:
    return [int(size) for size in cast(tuple[int, ...], node.attributes[name])]
