"""How a processor multiplies bytes: the one instruction that the fast kernels are built on.

An instruction multiplies `depth` neighbouring bytes of an activation row with `depth` weights in each
of `lanes` columns and adds them to int32 accumulators, exactly. Some want one operand unsigned:
x + 128 or x - 128 is one exclusive-or of a byte with 0x80, and the product of the difference with the
weights is a constant of the column, taken off beforehand (`Isa.flips`, `Isa.flip_sign`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import tirx
from tvm.tirx.script.builder import ir as T

from archnet.export.tvm_tir import Buffer, Expr, convert, i32, load, local, ramp, serial, splat, store

_FLIP = 0x80808080

# From this version on LLVM types the operands of the dot product as bytes, before it as int32.
_LLVM_BYTE_OPERANDS = 22


@dataclass(frozen=True, slots=True)
class Isa:
    """A way to multiply bytes.

    Attributes:
        lanes: int32 accumulators in a register.
        depth: products added per accumulator by one instruction.
        tiles: rows of a register tile by the number of registers across it, best width first.
        activations: the dtype that the instruction takes for activations; None: both.
        intrinsic: LLVM's name of the instruction.
        feature: LLVM's name of the processor feature that it needs.
    """

    name: str
    lanes: int
    depth: int
    tiles: tuple[tuple[int, int], ...]
    activations: str | None = None
    intrinsic: str | None = None
    feature: str | None = None

    def flips(self, dtype: str) -> bool:
        """Whether activations of this dtype must be moved by 128."""
        return self.activations is not None and self.activations != dtype

    def flip_sign(self, dtype: str) -> int:
        """s with sum(x * w) = sum(flipped * w) + s * 128 * sum(w)."""
        if not self.flips(dtype):
            return 0
        return -1 if self.activations == "uint8" else 1

    def tile(self, columns: int) -> tuple[int, int]:
        """Registers across and rows of the tile for a product with this many columns."""
        for vectors, rows in self.tiles:
            if columns % (vectors * self.lanes) == 0:
                return vectors, rows
        # The last block of columns is padded: take the width that wastes least.
        padding = [-columns % (vectors * self.lanes) for vectors, _ in self.tiles]
        return self.tiles[padding.index(min(padding))]

    def operand(self, buffer: Buffer, *indices: Expr | int, dtype: str, flips: bool) -> Expr:
        """The `depth` activations from these indices on, in every lane."""
        value = load(buffer, *indices[:-1], ramp(indices[-1], self.depth))
        if self.depth == 1:
            return splat(convert(value, "int32"), self.lanes)
        if self.depth == 2:
            pair = T.reinterpret("int32", convert(value, "int16", 2))
            return T.reinterpret(f"int16x{2 * self.lanes}", splat(pair, self.lanes))
        if flips:
            # On the four bytes before they are spread: LLVM 22 never ends when it meets the same
            # exclusive-or on the whole register.
            high = tirx.IntImm(dtype, -128 if dtype == "int8" else 128)
            value = T.bitwise_xor(value, tirx.Broadcast(high, 4))
        return self._bytes(splat(T.reinterpret("int32", value), self.lanes))

    def flip_operand(self) -> Expr:
        """0x80 in every byte: 128 unsigned, -128 signed."""
        return self._bytes(splat(i32(_FLIP), self.lanes))

    def dot(self, accumulator: Expr, activations: Expr, weights: Expr) -> Expr:
        """accumulator + products, one int32 a lane; `weights` int8 of lanes * depth."""
        if self.depth == 1:
            return accumulator + activations * convert(weights, "int32", self.lanes)
        if self.depth == 2:
            wide = convert(weights, "int16", 2 * self.lanes)
            return accumulator + self._call(activations, wide)
        return self._call(accumulator, activations, self._weights(weights))

    def _call(self, *operands: Expr) -> Expr:
        identifier = tvm.get_global_func("target.llvm_lookup_intrinsic_id")(self.intrinsic)
        return T.call_llvm_pure_intrin(identifier, *operands, dtype=f"int32x{self.lanes}")

    def _takes_bytes(self) -> bool:
        version: int = tvm.get_global_func("target.llvm_version_major")()
        return self.activations == "int8" or version >= _LLVM_BYTE_OPERANDS

    def _bytes(self, value: Expr) -> Expr:
        return T.reinterpret(f"int8x{4 * self.lanes}", value) if self._takes_bytes() else value

    def _weights(self, weights: Expr) -> Expr:
        return weights if self._takes_bytes() else T.reinterpret(f"int32x{self.lanes}", weights)


AVX512_VNNI = Isa(
    "avx512vnni",
    16,
    4,
    ((3, 8), (4, 6), (2, 12), (1, 12)),
    "uint8",
    "llvm.x86.avx512.vpdpbusd.512",
    "avx512vnni",
)
AVX_VNNI = Isa("avxvnni", 8, 4, ((3, 4), (2, 6), (1, 8)), "uint8", "llvm.x86.avx512.vpdpbusd.256", "avxvnni")
AVX2 = Isa("avx2", 8, 2, ((3, 4), (2, 6), (1, 8)), None, "llvm.x86.avx2.pmadd.wd", "avx2")
NEON_DOTPROD = Isa(
    "dotprod", 4, 4, ((4, 6), (3, 8), (2, 8), (1, 8)), "int8", "llvm.aarch64.neon.sdot.v4i32.v16i8", "dotprod"
)
GENERIC = Isa("generic", 8, 1, ((2, 4), (1, 8)))

SCALAR = Isa("scalar", 1, 1, ((4, 4), (2, 4), (1, 8)))
"""No vectors at all, for C source: TVM writes them as OpenCL does, which no C compiler reads."""

ISAS = (AVX512_VNNI, AVX_VNNI, AVX2, NEON_DOTPROD, GENERIC)
"""Best first; the last needs nothing."""


def choose_isa(target: Any) -> Isa:
    """The best of ISAS that the processor of a TVM target has."""
    has = tvm.get_global_func("target.llvm_cpu_has_feature")
    return next(isa for isa in ISAS if isa.feature is None or has(isa.feature, target))


def pack_weights(isa: Isa, weight: NDArray[np.int8], vectors: int) -> NDArray[np.int8]:
    """(N, K) -> (blocks, K / depth, vectors, lanes * depth), zeros where N does not fill a block."""
    columns, depth = weight.shape
    width = vectors * isa.lanes
    padded = np.pad(weight, ((0, -columns % width), (0, 0)))
    split = padded.reshape(-1, vectors, isa.lanes, depth // isa.depth, isa.depth)
    packed = split.transpose(0, 3, 1, 2, 4)
    return np.ascontiguousarray(packed.reshape(*packed.shape[:3], isa.lanes * isa.depth))


def product_tile(
    isa: Isa,
    steps: Expr | int,
    start: list[list[Expr]],
    activations: Callable[[int, Expr], Expr],
    weights: Callable[[Expr, int], Expr],
) -> list[list[Expr]]:
    """One register tile of a product: start[row][vector] + the sum over the steps.

    Args:
        activations: the operand (`Isa.operand`) of a row in a step.
        weights: the int8 weights of a step for a vector of columns.

    Returns:
        int32 accumulators, [row][vector], of `lanes` each.
    """
    every = ramp(0, isa.lanes)
    sums = [[local((isa.lanes,), "int32") for _ in row] for row in start]
    for row, values in zip(sums, start, strict=True):
        for total, value in zip(row, values, strict=True):
            store(total, value, every)
    with serial(steps) as step:
        for r, row in enumerate(sums):
            operand = activations(r, step)
            for v, total in enumerate(row):
                store(total, isa.dot(load(total, every), operand, weights(step, v)), every)
    return [[load(total, every) for total in row] for row in sums]
