"""Attention of one head after the other in TensorIR: scores, mask, softmax and context in the cache.

For each sequence and head, keys and values are packed once for the dot product; then, for a few
queries at a time, their scores, shares and context are computed without leaving the first-level cache.
The integers are those of the single operators (archnet/reference.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import tirx
from tvm.tirx.script.builder import ir as T

from archnet.export.tvm_fusion import AttentionGroup
from archnet.export.tvm_isa import Isa, product_tile
from archnet.export.tvm_linear import store_vector
from archnet.export.tvm_tir import (
    Buffer,
    Expr,
    KernelBuilder,
    ceil_div,
    convert,
    i32,
    i64,
    load,
    local,
    parallel,
    ramp,
    requantize,
    saturation_limit,
    serial,
    splat,
    store,
)
from archnet.graph import Dim, QuantizedGraph

# Registers across a tile of scores: few, because the last tile of a short sequence is padded.
_SCORE_VECTORS = 2

# A sum of softmax weights is at least 2**20 and a numerator below 2**30, so that the quotient by
# way of this reciprocal is too small by less than 2**-8: at most one too low when rounded down.
_RECIPROCAL_SHIFT = 38

_SCORE_MULTIPLIER, _SCORE_LIMIT, _CONTEXT_MULTIPLIER, _CONTEXT_LIMIT = range(4)


@dataclass(frozen=True, slots=True)
class AttentionForm:
    """What a kernel is specialised for; layers of the same form share one kernel.

    Attributes:
        width: of one head.
        levels: units of shares that make 1.
        greatest: the greatest share's integer.
    """

    isa: Isa
    tokens: Dim
    heads: int
    width: int
    masked: bool
    score_bounds: tuple[int, int]
    levels: int
    greatest: int
    context_dtype: str
    context_bounds: tuple[int, int]
    max_sequence: int

    @classmethod
    def of(cls, isa: Isa, group: AttentionGroup, graph: QuantizedGraph) -> AttentionForm | None:
        """The form of a group; None where the kernel does not fit it."""
        context = graph.tensors[group.context.output]
        heads, width = context.shape[1], context.shape[3]
        if not isinstance(heads, int) or not isinstance(width, int) or width % isa.depth:
            return None
        scores, shares = graph.tensors[group.scores.output], graph.tensors[group.softmax.output]
        if scores.dtype != "int8":
            return None
        tokens = context.shape[2]
        longest = tokens if isinstance(tokens, int) else graph.max_sequence
        return cls(
            isa, tokens, heads, width, group.mask is not None, scores.range, shares.levels, shares.range[1],
            context.dtype, context.range, longest,
        )  # fmt: skip

    @property
    def parameters(self) -> list[tuple[tuple[Dim, ...], str]]:
        """Shape and dtype of query, key, value, (mask,) table, numbers and context."""
        tokens: tuple[Dim, ...] = ("batch", self.tokens)
        state = (*tokens, self.heads * self.width)
        masks = [(tokens, "int64")] if self.masked else []
        inputs = [(state, "int8")] * 3
        return [*inputs, *masks, ((256,), "int32"), ((4,), "int32"), (state, self.context_dtype)]

    @property
    def tile(self) -> tuple[int, int]:
        """Registers across a tile of context, and queries computed at a time."""
        return self.isa.tile(self.width)

    @property
    def keys(self) -> int:
        """The greatest sequence, padded to whole tiles of scores."""
        block = _SCORE_VECTORS * self.isa.lanes
        return -(-self.max_sequence // block) * block


def attention_numbers(group: AttentionGroup, form: AttentionForm) -> NDArray[np.int32]:
    """The constant that the kernel reads: multiplier and limit of the scores and of the context."""
    numbers: list[int] = []
    for node, bounds in ((group.scores, form.score_bounds), (group.context, form.context_bounds)):
        multiplier = node.attributes["multiplier"]
        assert isinstance(multiplier, int)
        numbers += [multiplier, saturation_limit(multiplier, bounds)]
    return np.array(numbers, dtype=np.int32)


def attention_kernel(form: AttentionForm, name: str) -> Any:
    """PrimFunc (query, key, value, [mask,] table, numbers) -> context; heads divided among the threads."""
    builder = KernelBuilder(name)
    with builder.body(form.parameters) as buffers:
        batch, sequence = builder.size("batch"), builder.size(form.tokens)
        with parallel(batch * form.heads) as task:
            head = _Head(form, buffers, sequence, task // form.heads, task % form.heads)
            head.pack_keys()
            head.pack_values()
            head.limit_scores()
            rows = form.tile[1]
            with serial(ceil_div(sequence, rows)) as tile:
                head.scores(tile * rows)
                head.softmax()
                head.context(tile * rows)
    return builder.function


class _Head:
    """The work for one head of one sequence, and the arrays that it works in."""

    def __init__(
        self, form: AttentionForm, buffers: Sequence[Buffer], sequence: Expr, batch: Expr, head: Expr
    ) -> None:
        self.form, self.isa = form, form.isa
        self.query, self.key, self.value, *masks, self.table, self.numbers, self.result = buffers
        self.mask = masks[0] if masks else None
        self.sequence, self.batch, self.start = sequence, batch, head * form.width
        self.vectors, self.rows = form.tile
        self.lanes, self.depth = form.isa.lanes, form.isa.depth
        keys, packed = form.keys, self.lanes * self.depth
        block = _SCORE_VECTORS * self.lanes
        self.blocks = -(-form.width // (self.vectors * self.lanes))
        self.keys = local((keys // block, form.width // self.depth, _SCORE_VECTORS, packed), "int8")
        self.values = local((self.blocks, keys // self.depth, self.vectors, packed), "int8")
        self.key_start = local((keys,), "int32")
        self.value_start = local((self.blocks * self.vectors * self.lanes,), "int32")
        self.limits = local((keys,), "int32")
        self.weights = local((self.rows, keys), "int32")
        self.shares = local((self.rows, keys), "uint8")

    def pack_keys(self) -> None:
        """Keys in the layout of a tile's weights; the last key stands in for those that are missing."""
        block_size = _SCORE_VECTORS * self.lanes
        steps = self.form.width // self.depth
        with serial(ceil_div(self.sequence, block_size)) as block:
            with serial(block_size) as lane:
                source = tirx.min(block * block_size + lane, self.sequence - 1)
                with serial(steps) as step:
                    piece = load(
                        self.key, self.batch, source, ramp(self.start + step * self.depth, self.depth)
                    )
                    at = ramp(lane % self.lanes * self.depth, self.depth)
                    store(self.keys, piece, block, step, lane // self.lanes, at)
            if self.isa.flips("int8"):
                for v in range(_SCORE_VECTORS):
                    total = self._flipped(steps, self._packed(self.keys, block), v)
                    store(self.key_start, total, ramp(block * block_size + v * self.lanes, self.lanes))

    def pack_values(self) -> None:
        """Values in the layout of a tile's weights, positions being what is summed over."""
        steps = ceil_div(self.sequence, self.depth)
        with serial(steps) as step:
            rows = [tirx.min(step * self.depth + t, self.sequence - 1) for t in range(self.depth)]
            if self.form.width % self.lanes == 0:
                for column in range(0, self.form.width, self.lanes):
                    self._interleave(rows, step, column)
            else:
                self._interleave_bytes(rows, step)
        if self.isa.flips("uint8"):
            for block in range(self.blocks):
                for v in range(self.vectors):
                    total = self._flipped(steps, self._packed(self.values, block), v)
                    at = (block * self.vectors + v) * self.lanes
                    store(self.value_start, total, ramp(at, self.lanes))

    def limit_scores(self) -> None:
        """The greatest score that each position may have; the least behind the sequence's end."""
        low, high = i32(self.form.score_bounds[0]), i32(self.form.score_bounds[1])
        with serial(self.sequence) as j:
            seen = None if self.mask is None else load(self.mask, self.batch, j) != i64(0)
            store(self.limits, high if seen is None else tirx.Select(seen, high, low), j)
        block = _SCORE_VECTORS * self.lanes
        with serial(ceil_div(self.sequence, block) * block - self.sequence) as j:
            store(self.limits, low, self.sequence + j)

    def scores(self, first: Expr) -> None:
        """Masked scores of `rows` queries from `first` on; the last query stands in for missing ones."""
        isa, lanes = self.isa, self.lanes
        queries = [tirx.min(first + r, self.sequence - 1) for r in range(self.rows)]
        multiplier = splat(load(self.numbers, _SCORE_MULTIPLIER), lanes)
        limit = splat(load(self.numbers, _SCORE_LIMIT), lanes)
        with serial(ceil_div(self.sequence, _SCORE_VECTORS * lanes)) as block:
            places = [ramp((block * _SCORE_VECTORS + v) * lanes, lanes) for v in range(_SCORE_VECTORS)]
            flips = isa.flips("int8")
            start = [load(self.key_start, at) if flips else splat(0, lanes) for at in places]
            sums = product_tile(
                isa,
                self.form.width // self.depth,
                [start for _ in queries],
                lambda r, step: isa.operand(
                    self.query, self.batch, queries[r], self.start + step * self.depth,
                    dtype="int8", flips=flips,
                ),
                self._packed(self.keys, block),
            )  # fmt: skip
            for r in range(self.rows):
                for v, at in enumerate(places):
                    score = requantize(sums[r][v], multiplier, limit, self.form.score_bounds, lanes)
                    store(self.weights, tirx.min(score, load(self.limits, at)), r, at)

    def softmax(self) -> None:
        """Shares of `rows` queries: (Q * e + sum // 2) // sum, 0 behind the sequence's end.

        One step for all queries, then the next: so the processor need not wait for one query's sum.
        """
        lanes = self.lanes
        vectors = ceil_div(self.sequence, lanes)
        tops, totals = local((self.rows,), "int32"), local((self.rows,), "int32")
        reciprocals = local((self.rows,), "int32")
        with serial(self.rows) as row:
            store(tops, self._reduce(row, vectors, self.form.score_bounds[0], tirx.max), row)
        with serial(self.rows) as row:
            with serial(self.sequence) as j:
                below = load(tops, row) - load(self.weights, row, j)
                store(self.weights, load(self.table, convert(below, "int64")), row, j)
            with serial(vectors * lanes - self.sequence) as j:
                store(self.weights, i32(0), row, self.sequence + j)
        with serial(self.rows) as row:
            total = self._reduce(row, vectors, 0, lambda a, b: a + b)
            store(totals, total, row)
            one = tirx.IntImm("int64", 2**_RECIPROCAL_SHIFT)
            store(reciprocals, convert(tirx.truncdiv(one, convert(total, "int64")), "int32"), row)
        with serial(self.rows) as row, serial(vectors) as j:
            share = self._share(load(self.weights, row, ramp(j * lanes, lanes)), totals, reciprocals, row)
            store(self.shares, convert(share, "uint8", lanes), row, ramp(j * lanes, lanes))

    def _share(self, weight: Expr, totals: Buffer, reciprocals: Buffer, row: Expr) -> Expr:
        """(Q * weight + total // 2) // total: the quotient by the reciprocal, one more where it fits."""
        lanes = self.lanes
        total = splat(load(totals, row), lanes)
        numerator = weight * splat(self.form.levels, lanes) + T.shift_right(total, splat(1, lanes))
        reciprocal = tirx.Broadcast(convert(load(reciprocals, row), "int64"), lanes)
        product = convert(numerator, "int64", lanes) * reciprocal
        low = convert(T.shift_right(product, tirx.Broadcast(i64(_RECIPROCAL_SHIFT), lanes)), "int32", lanes)
        higher = low + splat(1, lanes)
        share = tirx.Select(higher * total <= numerator, higher, low)
        if self.form.levels == self.form.greatest:
            return share
        return tirx.min(share, splat(self.form.greatest, lanes))

    def context(self, first: Expr) -> None:
        """shares @ values of `rows` queries from `first` on, stored where the heads are joined."""
        isa, lanes = self.isa, self.lanes
        multiplier = splat(load(self.numbers, _CONTEXT_MULTIPLIER), lanes)
        limit = splat(load(self.numbers, _CONTEXT_LIMIT), lanes)
        flips = isa.flips("uint8")
        for block in range(self.blocks):
            columns = [(block * self.vectors + v) * lanes for v in range(self.vectors)]
            start = [
                load(self.value_start, ramp(column, lanes)) if flips else splat(0, lanes)
                for column in columns
            ]
            sums = product_tile(
                isa,
                ceil_div(self.sequence, self.depth),
                [start for _ in range(self.rows)],
                lambda r, step: isa.operand(self.shares, r, step * self.depth, dtype="uint8", flips=flips),
                self._packed(self.values, block),
            )
            for r in range(self.rows):
                query = tirx.min(first + r, self.sequence - 1)
                for v, column in enumerate(columns):
                    value = requantize(sums[r][v], multiplier, limit, self.form.context_bounds, lanes)
                    valid = min(max(self.form.width - column, 0), lanes)
                    store_vector(
                        self.result, value, self.form.context_dtype, lanes, valid,
                        self.batch, query, self.start + column,
                    )  # fmt: skip

    def _packed(self, buffer: Buffer, block: Expr | int) -> Callable[[Expr, int], Expr]:
        """The weights of a step and a vector in one block of packed keys or values."""
        return lambda step, v: load(buffer, block, step, v, ramp(0, self.lanes * self.depth))

    def _flipped(self, steps: Expr | int, weights: Callable[[Expr, int], Expr], v: int) -> Expr:
        """What flipping the activations adds to the products with these weights, to be taken off."""
        total = local((self.lanes,), "int32")
        every = ramp(0, self.lanes)
        store(total, splat(0, self.lanes), every)
        with serial(steps) as step:
            store(total, self.isa.dot(load(total, every), self.isa.flip_operand(), weights(step, v)), every)
        return splat(0, self.lanes) - load(total, every)

    def _interleave(self, rows: Sequence[Expr], step: Expr, column: int) -> None:
        parts = [load(self.value, self.batch, row, ramp(self.start + column, self.lanes)) for row in rows]
        if len(parts) > 1:
            order = [t * self.lanes + lane for lane in range(self.lanes) for t in range(self.depth)]
            parts = [tirx.Shuffle(parts, [i32(i) for i in order])]
        block, place = divmod(column, self.vectors * self.lanes)
        store(self.values, parts[0], block, step, place // self.lanes, ramp(0, self.lanes * self.depth))

    def _interleave_bytes(self, rows: Sequence[Expr], step: Expr) -> None:
        across = self.vectors * self.lanes
        with serial(self.form.width) as column:
            for t, row in enumerate(rows):
                byte = load(self.value, self.batch, row, self.start + column)
                at = column % self.lanes * self.depth + t
                store(self.values, byte, column // across, step, column % across // self.lanes, at)

    def _reduce(self, row: Expr, vectors: Expr, start: int, combine: Callable[[Expr, Expr], Expr]) -> Expr:
        """All elements of a row's first `vectors` vectors combined."""
        result = local((self.lanes,), "int32")
        every = ramp(0, self.lanes)
        store(result, splat(start, self.lanes), every)
        with serial(vectors) as j:
            value = load(self.weights, row, ramp(j * self.lanes, self.lanes))
            store(result, combine(load(result, every), value), every)
        width = self.lanes // 2
        while width:
            halves = load(result, ramp(0, width)), load(result, ramp(width, width))
            store(result, combine(*halves), ramp(0, width))
            width //= 2
        return load(result, 0)
