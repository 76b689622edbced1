"""Integers of 2 and 4 bits packed into bytes, as pure functions.

A constant that is packed holds `step * code + offset`, codes being signed integers of so many bits: weights
of 4 bits are their own codes, those of 2 bits are the odd numbers from -3 to 3, rows of a 4-bit embedding
are multiples of 16. The bytes have the layout of ONNX's INT2 and INT4 tensors: row-major, the first code in
a byte's lowest bits, two's complement, zeros behind the last.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from archnet.errors import ArchNetError

PACKED_WIDTHS = (2, 4)
"""The widths that divide a byte. Integers of 3 bits are packed as 4."""


@dataclass(frozen=True, slots=True)
class Packing:
    """How a constant is packed: value = step * code + offset, codes being signed and `width` bits wide."""

    width: int
    step: int = 1
    offset: int = 0

    def codes(self, values: NDArray[Any]) -> NDArray[np.int8]:
        """The codes of values that lie on the grid."""
        return np.asarray((values.astype(np.int32) - self.offset) // self.step, dtype=np.int8)

    def values(self, codes: NDArray[np.int8], dtype: str) -> NDArray[Any]:
        """The values of codes, int8 or uint8."""
        return (codes.astype(np.int32) * self.step + self.offset).astype(dtype)


def packed_width(bits: int) -> int | None:
    """The width that integers of so many bits are packed in; None where whole bytes are as small."""
    return next((width for width in PACKED_WIDTHS if bits <= width), None)


def find_packing(values: NDArray[Any], width: int) -> Packing | None:
    """The packing of integers of any shape in this width, the plainest that holds them exactly, or None."""
    _check_width(width)
    distinct = np.unique(values).astype(np.int64)
    if not distinct.size:
        return Packing(width)
    least, low, high = int(distinct[0]), -(2 ** (width - 1)), 2 ** (width - 1) - 1
    step = math.gcd(*(int(v) for v in distinct - least)) or 1
    common = math.gcd(*(int(v) for v in distinct)) or 1
    forms = (Packing(width), Packing(width, common), Packing(width, step, least - low * step))
    for form in forms:
        codes = (distinct - form.offset) // form.step
        if low <= int(codes[0]) and int(codes[-1]) <= high:
            return form
    return None


def pack(codes: NDArray[Any], width: int) -> NDArray[np.uint8]:
    """Pack signed integers of any shape into bytes (n,), 8 / width of them in each.

    Args:
        codes: integers in -2**(width - 1) .. 2**(width - 1) - 1.
        width: one of PACKED_WIDTHS.

    Raises:
        ArchNetError: a value does not fit, or there is no such width.
    """
    _check_width(width)
    low, high = -(2 ** (width - 1)), 2 ** (width - 1) - 1
    if codes.size and not (low <= int(codes.min()) and int(codes.max()) <= high):
        raise ArchNetError(
            f"integers from {codes.min()} to {codes.max()} do not fit {width} bits",
            fix=f"pack integers from {low} to {high}",
        )
    per_byte = 8 // width
    flat = codes.astype(np.int16).reshape(-1) & (2**width - 1)
    flat = np.pad(flat, (0, -flat.size % per_byte)).reshape(-1, per_byte)
    shifts = width * np.arange(per_byte)
    return np.asarray((flat << shifts).sum(axis=1), dtype=np.uint8)


def unpack(packed: NDArray[np.uint8], width: int, shape: Sequence[int]) -> NDArray[np.int8]:
    """The integers that `pack` packed, of this shape.

    Raises:
        ArchNetError: the bytes are not those of that many integers, or there is no such width.
    """
    _check_width(width)
    size, per_byte = math.prod(shape), 8 // width
    if packed.dtype != np.uint8 or packed.shape != (-(-size // per_byte),):
        raise ArchNetError(
            f"{packed.size} values of {packed.dtype} are not {size} integers of {width} bits",
            fix=f"give {-(-size // per_byte)} bytes",
        )
    fields = (packed[:, None] >> (width * np.arange(per_byte, dtype=np.uint8))) & (2**width - 1)
    codes = fields.reshape(-1)[:size].astype(np.int16)
    codes -= (codes >> (width - 1)) << width
    return np.asarray(codes.reshape(shape), dtype=np.int8)


def _check_width(width: int) -> None:
    if width not in PACKED_WIDTHS:
        raise ArchNetError(
            f"integers of {width} bits are not packed", fix="pack 2 or 4 bits, and 3 bits as 4"
        )
