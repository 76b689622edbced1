"""Constants of 4 and 2 bits in a TVM library: packed in bytes, and unpacked by the kernel that reads them.

A run of n elements becomes n * width / 8 bytes: byte j holds the codes of the elements j, j + m, j + 2 m,
..., m being the number of bytes, the first in the lowest bits. So whole vectors of bytes are shifted and
masked, and the pieces are stored one after the other. Codes are kept unsigned.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import tirx
from tvm.tirx.script.builder import ir as T

from archnet.calibration.packing import Packing
from archnet.export.tvm_tir import Buffer, Expr, convert, i32, load, ramp, serial, store


def pack_runs(values: NDArray[Any], packing: Packing) -> NDArray[np.uint8]:
    """(..., n) integers -> (..., n * width / 8) bytes; n must be a multiple of 8 / width.

    Integers that the packing does not have, as the zeros that fill a block, become others.
    """
    width, pieces = packing.width, 8 // packing.width
    codes = packing.codes(values).astype(np.int16) + 2 ** (width - 1)
    codes = np.clip(codes, 0, 2**width - 1).reshape(*values.shape[:-1], pieces, -1)
    shifts = (width * np.arange(pieces))[:, None]
    return np.asarray((codes << shifts).sum(axis=-2), dtype=np.uint8)


def _first(packing: Packing) -> int:
    """What the unsigned code 0 means."""
    return packing.offset - packing.step * (1 << (packing.width - 1))


def unpack_run(
    source: Buffer, at: list[Expr | int], size: int, packing: Packing, target: Buffer, place: list[Expr | int]
) -> None:
    """Write the `size` int8 integers of the run that begins at source[*at, 0] to target[*place, 0 ...]."""
    pieces = 8 // packing.width
    count = size // pieces
    packed = load(source, *at, ramp(0, count))

    def constant(value: int, dtype: str) -> Expr:
        number = tirx.IntImm(dtype, value)
        return tirx.Broadcast(number, count) if count > 1 else number

    for piece in range(pieces):
        shifted = T.shift_right(packed, constant(piece * packing.width, "uint8")) if piece else packed
        code = T.bitwise_and(shifted, constant(2**packing.width - 1, "uint8"))
        # Modulo 256, and then read as signed.
        value = code * constant(packing.step, "uint8") if packing.step != 1 else code
        value = value + constant(_first(packing) % 256, "uint8")
        store(target, convert(value, "int8", count), *place, ramp(piece * count, count))


def unpack_steps(
    source: Buffer, at: list[Expr | int], steps: int, packing: Packing, target: Buffer, place: int
) -> None:
    """Write the int8 integers of the run source[*at, 0] to target[0 ... steps - 1, place, 0], one by one."""
    pieces = 8 // packing.width
    count = steps // pieces
    with serial(count) as byte:
        packed = convert(load(source, *at, 0, byte), "int32")
        for piece in range(pieces):
            code = T.bitwise_and(T.shift_right(packed, i32(piece * packing.width)), i32(2**packing.width - 1))
            value = code * i32(packing.step) + i32(_first(packing))
            store(target, convert(value, "int8"), byte + piece * count, place, 0)


def packed_element(source: Buffer, row: Expr, column: Expr, columns: int, packing: Packing) -> Expr:
    """Element `column` of a row of `columns` integers that is one packed run, int32."""
    count = columns * packing.width // 8
    byte = convert(load(source, row, column % count), "int32")
    shift = convert(column // count, "int32") * i32(packing.width)
    code = T.bitwise_and(T.shift_right(byte, shift), i32(2**packing.width - 1))
    return code * i32(packing.step) + i32(_first(packing))
