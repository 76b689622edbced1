"""Networks of one operator with random integers: what a chip's compiler is asked about, one at a time.

Each is a valid QuantizedGraph (archnet.graph_check) in a size that real networks have small versions of.
`OPERATORS` says which there are; the name of a case says what is special about it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from archnet.calibration.affine import fit_operand_scale, fit_output_scale, fit_weight_scale
from archnet.calibration.log_sum import log_sum_tables
from archnet.config import Bits
from archnet.graph import AttributeValue, QuantizedGraph, TensorSpec
from archnet.operators import Op
from archnet.single_network import REACH, SCALE, SEQUENCE, Shape, SingleOperator
from archnet.windows import Windows

HEADS, WIDTH, VOCABULARY = 2, 8, 50
_SOFTMAX_ONE = 2**20

Builder = Callable[[SingleOperator], QuantizedGraph]


def _linear(depth: int, width: int, *, flat: bool = False, dtype: str = "int8") -> Builder:
    def build(s: SingleOperator) -> QuantizedGraph:
        lead: Shape = ("batch",) if flat else ("batch", "sequence")
        x = s.tensor("x", (*lead, depth))
        out = s.result((*lead, width), dtype, 32 if dtype == "int32" else None)
        return s.weighted(Op.LINEAR, x, s.weights((width, depth)), out)

    return build


def _conv(
    channels: int, size: int, kernel: int, *, width: int = 16, stride: int = 1, groups: int = 1, pad: int = 0
) -> Builder:
    def build(s: SingleOperator) -> QuantizedGraph:
        x = s.tensor("x", ("batch", channels, size, size), "uint8")
        after = (size + 2 * pad - kernel) // stride + 1
        out = s.result(("batch", width, after, after), "uint8")
        return s.weighted(
            Op.CONV, x, s.weights((width, channels // groups, kernel, kernel)), out,
            strides=(stride, stride), pads=(pad,) * 4, groups=groups,
        )  # fmt: skip

    return build


def _average(channels: int, size: int, window: int) -> Builder:
    """The average over windows that do not overlap: a convolution of each channel by itself."""

    def build(s: SingleOperator) -> QuantizedGraph:
        x = s.tensor("x", ("batch", channels, size, size), "uint8")
        multiplier, scales = fit_weight_scale(np.full(channels, 1 / window**2), SCALE, SCALE)
        values: dict[str, NDArray[Any]] = {
            "weight": np.ones((channels, 1, window, window), np.int8),
            "bias": np.zeros(channels, np.int32),
            "multiplier": multiplier,
            "weight_scale": scales,
        }
        inputs = tuple(s.constant(name, value) for name, value in values.items())
        out = s.result(("batch", channels, size // window, size // window), "uint8")
        return s.graph(
            Op.CONV, (x.name, *inputs), out,
            weight_bits=2, strides=(window, window), pads=(0, 0, 0, 0), groups=channels,
        )  # fmt: skip

    return build


def _max_pool(kernel: int, stride: int, pad: int) -> Builder:
    def build(s: SingleOperator) -> QuantizedGraph:
        x = s.tensor("x", ("batch", 16, 12, 12), "uint8")
        after = (12 + 2 * pad - kernel) // stride + 1
        out = s.result(("batch", 16, after, after), "uint8")
        sizes = {"kernel": (kernel, kernel), "strides": (stride, stride), "pads": (pad,) * 4}
        return s.graph(Op.MAX_POOL, (x.name,), out, **sizes)

    return build


_HEADS: Shape = ("batch", HEADS, "sequence", WIDTH)
_SQUARE: Shape = ("batch", HEADS, "sequence", "sequence")
_TOKENS: Shape = ("batch", "sequence", 32)
_MAP: Shape = ("batch", 16, 8, 8)


def _scores(s: SingleOperator) -> QuantizedGraph:
    a, b = (s.tensor(name, _HEADS) for name in "ab")
    multiplier, scale = s.product_scale(WIDTH, unsigned=False)
    return s.graph(
        Op.MATMUL, (a.name, b.name), s.result(_SQUARE, scale=scale), transpose_b=True, multiplier=multiplier
    )


def _context(s: SingleOperator) -> QuantizedGraph:
    a, b = s.tensor("a", _SQUARE, "uint8"), s.tensor("b", _HEADS)
    multiplier, scale = s.product_scale(SEQUENCE, unsigned=True)
    return s.graph(
        Op.MATMUL, (a.name, b.name), s.result(_HEADS, scale=scale), transpose_b=False, multiplier=multiplier
    )


def _mean_matmul(s: SingleOperator) -> QuantizedGraph:
    a, b = s.tensor("a", _SQUARE, "uint8"), s.tensor("b", _HEADS)
    counts = np.arange(1, SEQUENCE + 1)
    factors = 2**16 * REACH / s.spread / counts
    multipliers = s.constant("multipliers", np.maximum(np.rint(factors), 1).astype(np.int32))
    return s.graph(Op.MEAN_MATMUL, (a.name, b.name, multipliers, s.mask()), s.result(_HEADS))


def _relative_matmul(s: SingleOperator) -> QuantizedGraph:
    x, table = s.tensor("x", _HEADS), s.table(HEADS, 2 * SEQUENCE - 1, WIDTH)
    multiplier, scale = s.product_scale(WIDTH, unsigned=False)
    constants = (table, s.constant("table_scale", np.array([SCALE], np.float32)))
    return s.graph(
        Op.RELATIVE_MATMUL, (x.name, *constants), s.result(_SQUARE, scale=scale), multiplier=multiplier
    )


def _softmax(op: Op) -> Builder:
    def build(s: SingleOperator) -> QuantizedGraph:
        x = s.tensor("x", _SQUARE)
        powers = np.rint(_SOFTMAX_ONE * np.exp(-np.arange(256) * SCALE)).astype(np.int32)
        bits = s.bits.activations
        share = float(np.float32(1.0 / (s.share_levels >> (8 - bits))))
        return s.graph(op, (x.name, s.constant("powers", powers)), s.result(_SQUARE, "uint8", bits, share))

    return build


def _log_sum_softmax(s: SingleOperator) -> QuantizedGraph:
    x, bits = s.tensor("x", _SQUARE), s.bits.activations
    levels = s.share_levels >> (8 - bits)
    tables = log_sum_tables(SCALE, levels, 2**bits - 1)
    names = [s.constant(part, table) for part, table in tables.constants.items()]
    result = s.result(_SQUARE, "uint8", bits, float(np.float32(1.0 / levels)))
    return s.graph(Op.LOG_SUM_SOFTMAX, (x.name, *names), result, **tables.attributes)


def _minimum(s: SingleOperator) -> QuantizedGraph:
    x = s.tensor("x", _SQUARE)
    return s.graph(Op.MASK, (x.name, s.mask()), s.result(_SQUARE))


def _add(a_shape: Shape, b_shape: Shape) -> Builder:
    def build(s: SingleOperator) -> QuantizedGraph:
        multiplier_a, scale_a = fit_operand_scale(0.8 * SCALE, SCALE)
        multiplier_b, scale_b = fit_operand_scale(0.5 * SCALE, SCALE)
        bits = s.bits.activations
        s.inputs = [
            TensorSpec("a", a_shape, "int8", bits, scale_a),
            TensorSpec("b", b_shape, "int8", bits, scale_b),
        ]
        factors = {"multiplier_a": multiplier_a, "multiplier_b": multiplier_b}
        return s.graph(Op.ADD, ("a", "b"), s.result(a_shape), **factors)

    return build


def _mul(a_shape: Shape, b_shape: Shape) -> Builder:
    def build(s: SingleOperator) -> QuantizedGraph:
        a, b = s.tensor("a", a_shape), s.tensor("b", b_shape)
        multiplier, scale = s.product_scale(1, unsigned=False)
        return s.graph(Op.MUL, (a.name, b.name), s.result(a_shape, scale=scale), multiplier=multiplier)

    return build


def _requantize(s: SingleOperator) -> QuantizedGraph:
    """From 8 bits to what products have, or, where these have 8, to another scale of 8."""
    x = s.tensor("x", _TOKENS, bits=8)
    bits = s.bits.activations
    multiplier, scale = fit_output_scale(SCALE * 2 ** (8 - bits) * 1.1, SCALE)
    return s.graph(Op.REQUANTIZE, (x.name,), s.result(_TOKENS, "int8", bits, scale), multiplier=multiplier)


def _lookup(s: SingleOperator) -> QuantizedGraph:
    x, bits = s.tensor("x", _TOKENS), s.bits.activations
    low, high = TensorSpec("", (), "int8", bits).range
    table = s.constant("table", s.random.integers(low, high + 1, 256, dtype=np.int8))
    return s.graph(Op.LOOKUP, (x.name, table), s.result(_TOKENS), function="random")


def _moved(op: Op, before: Shape, after: Shape, **attributes: AttributeValue) -> Builder:
    """An operator that rearranges, pads or cuts."""

    def build(s: SingleOperator) -> QuantizedGraph:
        x = s.tensor("x", before)
        inputs = (x.name, s.mask()) if op is Op.ZERO_PAD else (x.name,)
        if op is Op.CROP:
            s.mask()  # its length is that of the sequence
            s.inputs.reverse()
        return s.graph(op, inputs, s.result(after), **attributes)

    return build


def _windows(windows: Windows) -> Builder:
    before, after = (("batch", tokens, 32) for tokens in windows.tokens)
    return _moved(Op.WINDOWS, before, after, **windows.attributes())


def _concat(shape: Shape, axis: int) -> Builder:
    def build(s: SingleOperator) -> QuantizedGraph:
        names = tuple(s.tensor(name, shape).name for name in "ab")
        joined = list(shape)
        size = shape[axis]
        assert isinstance(size, int)
        joined[axis] = 2 * size
        return s.graph(Op.CONCAT, names, s.result(tuple(joined)), axis=axis)

    return build


def _gather(s: SingleOperator) -> QuantizedGraph:
    ids = s.tensor("input_ids", ("batch", "sequence"), "int64")
    return s.graph(Op.EMBEDDING, (ids.name, s.table(VOCABULARY, 32)), s.result(_TOKENS))


def _one_hot(s: SingleOperator) -> QuantizedGraph:
    ids = s.tensor("input_ids", ("batch", "sequence"), "int64")
    out = s.result(("batch", "sequence", VOCABULARY), "uint8", 1, 1.0)
    return s.graph(Op.ONE_HOT, (ids.name,), out, depth=VOCABULARY)


def _slice(s: SingleOperator) -> QuantizedGraph:
    s.mask()  # binds the sequence
    return s.graph(Op.SLICE, (s.table(SEQUENCE, 32),), s.result(("sequence", 32)))


def _slice_pairs(s: SingleOperator) -> QuantizedGraph:
    s.mask()
    table = s.table(HEADS, SEQUENCE, SEQUENCE)
    return s.graph(Op.SLICE, (table,), s.result((HEADS, "sequence", "sequence")))


def _host(op: Op) -> Builder:
    """Features as int32: for each token, or their mean."""

    def build(s: SingleOperator) -> QuantizedGraph:
        x = s.tensor("x", _TOKENS)
        masks = (s.mask(),) if op is Op.MEAN_POOL else ()
        offset = s.constant("offset", s.random.integers(-99, 99, 32, dtype=np.int32))
        shape: Shape = ("batch", 32) if masks else _TOKENS
        return s.graph(op, (x.name, *masks, offset), s.result(shape, "int32", 32))

    return build


OPERATORS: Mapping[Op, Mapping[str, Builder]] = {
    Op.LINEAR: {
        "32 to 64": _linear(32, 64),
        "384 to 1536": _linear(384, 1536),
        "rows of a batch": _linear(32, 64, flat=True),
        "logits": _linear(32, 10, flat=True, dtype="int32"),
    },
    Op.CONV: {
        "3x3": _conv(16, 8, 3, pad=1),
        "1x1": _conv(16, 8, 1),
        "3x3 in steps of 2": _conv(16, 8, 3, stride=2, pad=1),
        "each channel by itself": _conv(16, 8, 3, groups=16, pad=1),
        "groups": _conv(16, 8, 3, groups=4, pad=1),
        "patches of 8": _conv(3, 16, 8, stride=8),
        "average of 2x2": _average(16, 8, 2),
        "average of 4x4": _average(16, 8, 4),
        "average of the whole map": _average(16, 8, 8),
    },
    Op.MAX_POOL: {"2x2": _max_pool(2, 2, 0), "3x3 in steps of 2": _max_pool(3, 2, 1)},
    Op.MATMUL: {"queries and keys": _scores, "probabilities and values": _context},
    Op.SOFTMAX: {"rank 4": _softmax(Op.SOFTMAX)},
    Op.TABLE_SOFTMAX: {"rank 4": _softmax(Op.TABLE_SOFTMAX)},
    Op.LOG_SUM_SOFTMAX: {"rank 4": _log_sum_softmax},
    Op.MEAN_MATMUL: {"rank 4": _mean_matmul},
    Op.RELATIVE_MATMUL: {"rank 4": _relative_matmul},
    Op.MASK: {"rank 4": _minimum},
    Op.ADD: {
        "rank 3": _add(_TOKENS, _TOKENS),
        "rank 4": _add(_MAP, _MAP),
        "broadcast": _add(_TOKENS, ("sequence", 32)),
    },
    Op.MUL: {"rank 3": _mul(_TOKENS, _TOKENS), "rank 4": _mul(_HEADS, _HEADS)},
    Op.REQUANTIZE: {"rank 3": _requantize},
    Op.LOOKUP: {"rank 3": _lookup},
    Op.RESHAPE: {
        "into heads": _moved(
            Op.RESHAPE, ("batch", "sequence", HEADS * WIDTH), ("batch", "sequence", HEADS, WIDTH),
            shape=("batch", "sequence", HEADS, WIDTH),
        ),
        "a map to features": _moved(Op.RESHAPE, _MAP, ("batch", 1024), shape=("batch", 1024)),
    },
    Op.TRANSPOSE: {
        "rank 3": _moved(Op.TRANSPOSE, ("batch", 16, 64), ("batch", 64, 16), perm=(0, 2, 1)),
        "rank 4": _moved(Op.TRANSPOSE, ("batch", "sequence", HEADS, WIDTH), _HEADS, perm=(0, 2, 1, 3)),
    },
    Op.CONCAT: {"features": _concat(_TOKENS, 2), "channels": _concat(_MAP, 1)},
    Op.SELECT: {"a token": _moved(Op.SELECT, _TOKENS, ("batch", 32), axis=1, index=0)},
    Op.ZERO_PAD: {"tokens": _moved(Op.ZERO_PAD, _TOKENS, ("batch", SEQUENCE, 32))},
    Op.CROP: {"tokens": _moved(Op.CROP, ("batch", SEQUENCE, 32), _TOKENS)},
    Op.SHIFT: {
        "the token before": _moved(Op.SHIFT, _TOKENS, _TOKENS, by=1),
        "the token behind": _moved(Op.SHIFT, _TOKENS, _TOKENS, by=-1),
    },
    Op.WINDOWS: {
        "of 4x4": _windows(Windows(8, 8, 4, 4)),
        "of 4x4, moved": _windows(Windows(8, 8, 4, 4, 2, 2)),
        "of 4x4, back": _windows(Windows(8, 8, 4, 4, 2, 2, inverse=True)),
        "of 4x4 over 7x6": _windows(Windows(7, 6, 4, 4, 2, 2, pad_y=1, pad_x=2)),
        "of 4x4 over 7x6, back": _windows(Windows(7, 6, 4, 4, 2, 2, pad_y=1, pad_x=2, inverse=True)),
        "neighbours": _windows(Windows(8, 8, 2, 1)),
        "of 4x4, spread": _windows(Windows(8, 8, 4, 4, spread=True)),
        "of 4x4, spread, back": _windows(Windows(8, 8, 4, 4, inverse=True, spread=True)),
    },
    Op.PREPEND: {"a row": _moved(Op.PREPEND, ("batch", 15, 32), ("batch", 16, 32), rows=1)},
    Op.EMBEDDING: {"50 words": _gather},
    Op.ONE_HOT: {"50 words": _one_hot},
    Op.SLICE: {"a table of positions": _slice, "of pairs of positions": _slice_pairs},
    Op.MEAN_POOL: {"tokens": _host(Op.MEAN_POOL)},
    Op.WIDEN: {"tokens": _host(Op.WIDEN)},
}  # fmt: skip
"""Operator -> what it is tried with -> what builds that."""

WEIGHTED = (Op.LINEAR, Op.CONV)
"""Operators whose weights have a width of their own."""


def random_inputs(graph: QuantizedGraph, rows: int, tokens: int) -> dict[str, NDArray[Any]]:
    """Integers over the whole range of each input; every token counts.

    Args:
        rows: sentences or pictures.
        tokens: of a sentence.
    """
    rng, sizes = np.random.default_rng(3), {"batch": rows, "sequence": tokens}
    made: dict[str, NDArray[Any]] = {}
    for spec in graph.inputs:
        shape = [sizes[dim] if isinstance(dim, str) else dim for dim in spec.shape]
        if spec.name.endswith("_mask"):
            made[spec.name] = np.ones(shape, np.int64)
            continue
        low, high = (0, VOCABULARY - 1) if spec.dtype == "int64" else spec.range
        made[spec.name] = rng.integers(low, high + 1, shape).astype(spec.dtype)
    return made


def single_operator(op: Op, case: str, bits: Bits, share_levels: int = 255) -> QuantizedGraph:
    """The network of one node.

    Args:
        op, case: keys of `OPERATORS`.
        bits: of weights and activations.
        share_levels: units of probabilities of 8 bits that make 1.
    """
    return OPERATORS[op][case](SingleOperator(bits, share_levels))
