"""The fully connected layer in TensorIR: packed weights, register tiles, exact int32 requantization."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import tirx

from archnet.calibration.packing import Packing
from archnet.export.tvm_isa import GENERIC, Isa, pack_weights, product_tile
from archnet.export.tvm_packing import pack_runs, unpack_run, unpack_steps
from archnet.export.tvm_tir import (
    Buffer,
    Expr,
    KernelBuilder,
    ceil_div,
    convert,
    i64,
    load,
    local,
    parallel,
    product,
    ramp,
    requantize,
    saturation_limit,
    serial,
    store,
    unflatten,
)
from archnet.graph import Dim, TensorSpec

# Rows that a task works on: their activations stay in the second-level cache, and the tile's rows
# (4, 6, 8 or 12) divide it.
_TASK_ROWS = 48

# Least columns of a task, so that a small batch is still divided among the threads.
_TASK_COLUMNS = 128

_BIAS, _MULTIPLIER, _LIMIT = range(3)


@dataclass(frozen=True, slots=True)
class LinearForm:
    """What a kernel is specialised for; layers of the same form share one kernel.

    Attributes:
        lead: the axes before the last.
        depth, columns: K and N of the weights (N, K).
        bounds: least and greatest output.
        packing: of the weights, where they have fewer bits than a byte.
    """

    isa: Isa
    lead: tuple[Dim, ...]
    depth: int
    columns: int
    input_dtype: str
    output_dtype: str
    bounds: tuple[int, int]
    packing: Packing | None = None

    @classmethod
    def of(
        cls,
        isa: Isa,
        x: TensorSpec,
        weight: NDArray[Any],
        output: TensorSpec,
        packing: Packing | None = None,
    ) -> LinearForm:
        """The form of a layer."""
        columns, depth = weight.shape
        fitting = isa if depth % isa.depth == 0 else GENERIC
        form = cls(fitting, x.shape[:-1], depth, columns, x.dtype, output.dtype, output.range, packing)
        if form.packed_along_depth and depth % (8 // form.packed_width):
            return replace(form, packing=None)  # no whole number of bytes
        return form

    @property
    def run(self) -> int:
        """Weights of one step in one register."""
        return self.isa.lanes * self.isa.depth

    @property
    def packed_width(self) -> int:
        """Bits of a weight as it is stored."""
        return 8 if self.packing is None else self.packing.width

    @property
    def packed_along_depth(self) -> bool:
        """Whether a step's weights in one register are less than a byte, and bytes hold several steps'."""
        return self.run * self.packed_width < 8

    @property
    def tile_shape(self) -> tuple[int, int, int]:
        """Of a tile's weights: steps, registers, run."""
        return self.depth // self.isa.depth, self.width // self.isa.lanes, self.run

    @property
    def wide(self) -> bool:
        """Whether the accumulators themselves are the result."""
        return self.output_dtype == "int32"

    @property
    def width(self) -> int:
        """Columns of a tile."""
        return self.isa.tile(self.columns)[0] * self.isa.lanes

    @property
    def blocks(self) -> int:
        """Tiles across, the padded one included."""
        return math.ceil(self.columns / self.width)

    @property
    def parameters(self) -> list[tuple[tuple[Dim, ...], str]]:
        """Shape and dtype of x, packed weights, columns and y."""
        steps, vectors, run = self.tile_shape
        packed = (steps, vectors, run * self.packed_width // 8)
        if self.packed_along_depth:
            packed = (vectors, run, steps * self.packed_width // 8)
        return [
            ((*self.lead, self.depth), self.input_dtype),
            ((self.blocks, *packed), "int8" if self.packing is None else "uint8"),
            ((3, self.blocks * self.width), "int32"),
            ((*self.lead, self.columns), self.output_dtype),
        ]


def pack_linear(
    form: LinearForm, weight: NDArray[Any], bias: NDArray[Any], multiplier: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[np.int32]]:
    """The constants that the kernel reads: packed weights and (3, padded N) bias, multiplier, limit."""
    isa = form.isa
    sums = weight.astype(np.int64).sum(axis=1)
    moved = bias + 128 * isa.flip_sign(form.input_dtype) * sums
    limits = [0 if form.wide else saturation_limit(int(m), form.bounds) for m in multiplier]
    columns = np.zeros((3, form.blocks * form.width), dtype=np.int32)
    # Wrapping around is harmless here: the accumulator wraps back, its final value fits.
    columns[_BIAS, : form.columns] = moved.astype(np.int32)
    columns[_MULTIPLIER, : form.columns] = multiplier
    columns[_LIMIT, : form.columns] = limits
    weights = pack_weights(isa, weight, isa.tile(form.columns)[0])
    if form.packed_along_depth:
        weights = weights.transpose(0, 2, 3, 1)
    return (weights if form.packing is None else pack_runs(weights, form.packing)), columns


def linear_kernel(form: LinearForm, name: str) -> Any:
    """PrimFunc (x, packed weights, columns) -> y.

    Rows are divided into tasks of _TASK_ROWS, columns into groups; a task runs over its tiles of
    columns, and for each over its tiles of rows, so that the tile's weights stay in the first-level
    cache. Weights of few bits are unpacked there first, once for all rows of the task. The last tile of
    rows repeats the last row where rows are missing.
    """
    builder = KernelBuilder(name)
    with builder.body(form.parameters) as buffers:
        kernel = _Linear(form, builder, buffers)
        rows = kernel.rows
        full = form.columns // form.width
        padded = full < form.blocks
        groups = 1 if padded else _groups(full, form.width)
        with parallel(ceil_div(rows, _TASK_ROWS) * groups) as task:
            first = task // groups * _TASK_ROWS
            tiles = tirx.min(ceil_div(rows - first, kernel.tile_rows), i64(_TASK_ROWS // kernel.tile_rows))
            kernel.begin_task()
            if full:
                with serial(full // groups) as index:
                    block = task % groups * (full // groups) + index
                    kernel.unpack(block)
                    with serial(tiles) as tile:
                        kernel.tile(block, first + tile * kernel.tile_rows)
            if padded:
                kernel.unpack(i64(full))
                with serial(tiles) as tile:
                    kernel.tile(i64(full), first + tile * kernel.tile_rows, form.columns - full * form.width)
    return builder.function


def _groups(blocks: int, width: int) -> int:
    return max(
        g
        for g in range(1, blocks + 1)
        if blocks % g == 0 and (g == 1 or blocks // g * width >= _TASK_COLUMNS)
    )


class _Linear:
    """The parameters of the kernel, and one tile of its work."""

    def __init__(self, form: LinearForm, builder: KernelBuilder, buffers: Sequence[Buffer]) -> None:
        self.form = form
        self.vectors, self.tile_rows = form.isa.tile(form.columns)
        self.x, self.weights, self.columns, self.y = buffers
        self.lead = [builder.size(dim) for dim in form.lead]
        self.rows = product(self.lead)
        self.unpacked: Buffer = None

    def begin_task(self) -> None:
        """Take the memory that a task works in."""
        if self.form.packing is not None:
            self.unpacked = local(self.form.tile_shape, "int8")

    def unpack(self, block: Expr) -> None:
        """Unpack the weights of a block, if they are packed."""
        if self.form.packing is None:
            return
        steps, vectors, run = self.form.tile_shape
        if self.form.packed_along_depth:
            for v in range(vectors):
                unpack_steps(self.weights, [block, v], steps, self.form.packing, self.unpacked, v)
            return
        with serial(steps) as step:
            for v in range(vectors):
                place = [step, v]
                unpack_run(self.weights, [block, *place], run, self.form.packing, self.unpacked, place)

    def weight(self, block: Expr, step: Expr, v: int) -> Expr:
        """The int8 weights of a step for a register of columns."""
        every = ramp(0, self.form.run)
        if self.form.packing is None:
            return load(self.weights, block, step, v, every)
        return load(self.unpacked, step, v, every)

    def tile(self, block: Expr, first: Expr, columns: int | None = None) -> None:
        """Rows from `first` on, columns of `block`; `columns`: how many of a padded block."""
        isa, dtype = self.form.isa, self.form.input_dtype
        rows = [unflatten(tirx.min(first + r, self.rows - 1), self.lead) for r in range(self.tile_rows)]
        starts = [(block * self.vectors + v) * isa.lanes for v in range(self.vectors)]

        def column(kind: int, v: int) -> Expr:
            return load(self.columns, kind, ramp(starts[v], isa.lanes))

        sums = product_tile(
            isa,
            self.form.depth // isa.depth,
            [[column(_BIAS, v) for v in range(self.vectors)] for _ in rows],
            lambda r, step: isa.operand(
                self.x, *rows[r], step * isa.depth, dtype=dtype, flips=isa.flips(dtype)
            ),
            lambda step, v: self.weight(block, step, v),
        )
        for r, row in enumerate(rows):
            for v in range(self.vectors):
                value = sums[r][v]
                if not self.form.wide:
                    value = requantize(
                        value, column(_MULTIPLIER, v), column(_LIMIT, v), self.form.bounds, isa.lanes
                    )
                valid = isa.lanes if columns is None else min(max(columns - v * isa.lanes, 0), isa.lanes)
                store_vector(self.y, value, self.form.output_dtype, isa.lanes, valid, *row, starts[v])


def store_vector(
    buffer: Buffer, value: Expr, dtype: str, lanes: int, valid: int, *indices: Expr | int
) -> None:
    """Store the first `valid` lanes of a vector of int32 as `dtype`, in pieces of powers of two."""
    narrow = convert(value, dtype, lanes)
    if valid == lanes:
        store(buffer, narrow, *indices[:-1], ramp(indices[-1], lanes))
        return
    spare = local((lanes,), dtype)
    store(spare, narrow, ramp(0, lanes))
    done = 0
    while done < valid:
        piece = 2 ** int(math.log2(valid - done))
        store(buffer, load(spare, ramp(done, piece)), *indices[:-1], ramp(indices[-1] + done, piece))
        done += piece
