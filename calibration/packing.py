"""Integers of 2 and 4 bits packed into bytes, as pure functions.

The layout is that of ONNX's INT2 and INT4 tensors: row-major, the first element in a byte's lowest bits,
two's complement for signed values, zeros behind the last element.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from archnet.errors import ArchNetError

PACKED_WIDTHS = (2, 4)
"""The widths that divide a byte. Integers of 3 bits are packed as 4."""


def packed_width(bits: int) -> int | None:
    """The width that integers of so many bits are packed in; None where whole bytes are as small."""
    return next((width for width in PACKED_WIDTHS if bits <= width), None)


def pack(values: NDArray[Any], width: int) -> NDArray[np.uint8]:
    """Pack integers of any shape into bytes (n,), 8 / width of them in each.

    Args:
        values: integers in -2**(width - 1) .. 2**(width - 1) - 1, or for unsigned ones 0 .. 2**width - 1.
        width: one of PACKED_WIDTHS.

    Raises:
        ArchNetError: a value does not fit, or there is no such width.
    """
    _check_width(width)
    unsigned = values.dtype.kind == "u"
    low, high = (0, 2**width - 1) if unsigned else (-(2 ** (width - 1)), 2 ** (width - 1) - 1)
    if values.size and not (low <= int(values.min()) and int(values.max()) <= high):
        raise ArchNetError(
            f"integers from {values.min()} to {values.max()} do not fit {width} bits",
            fix=f"pack integers from {low} to {high}",
        )
    per_byte = 8 // width
    flat = values.astype(np.int16).reshape(-1) & (2**width - 1)
    flat = np.pad(flat, (0, -flat.size % per_byte)).reshape(-1, per_byte)
    shifts = width * np.arange(per_byte)
    return np.asarray((flat << shifts).sum(axis=1), dtype=np.uint8)


def unpack(
    packed: NDArray[np.uint8], width: int, shape: Sequence[int], *, signed: bool = True
) -> NDArray[Any]:
    """The integers that `pack` packed: int8, or uint8 when they are not signed, of this shape.

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
    values = fields.reshape(-1)[:size].astype(np.int16)
    if signed:
        values -= (values >> (width - 1)) << width
    return np.asarray(values.reshape(shape), dtype=np.int8 if signed else np.uint8)


def _check_width(width: int) -> None:
    if width not in PACKED_WIDTHS:
        raise ArchNetError(
            f"integers of {width} bits are not packed", fix="pack 2 or 4 bits, and 3 bits as 4"
        )
