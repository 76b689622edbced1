"""Packing against ONNX's own layout, and there and back."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from onnx import numpy_helper

from archnet.calibration.packing import pack, packed_width, unpack
from archnet.errors import ArchNetError

SHAPES = arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=7)


@st.composite
def integers(draw: st.DrawFn) -> tuple[NDArray[Any], int]:
    """An array of int8 or uint8 whose values fit a width, and the width."""
    width, signed = draw(st.sampled_from([2, 4])), draw(st.booleans())
    low, high = (-(2 ** (width - 1)), 2 ** (width - 1) - 1) if signed else (0, 2**width - 1)
    values = arrays.arrays(
        np.int8 if signed else np.uint8, SHAPES, elements=st.integers(low, high), fill=st.nothing()
    )
    return draw(values), width


@given(integers())
def test_what_is_unpacked_is_what_was_packed(case: tuple[NDArray[Any], int]) -> None:
    values, width = case
    packed = pack(values, width)
    assert packed.dtype == np.uint8
    assert packed.nbytes == -(-values.size * width // 8)
    back = unpack(packed, width, values.shape, signed=values.dtype == np.int8)
    assert back.dtype == values.dtype
    np.testing.assert_array_equal(back, values)


TYPES = {
    ("int8", 4): ml_dtypes.int4,
    ("uint8", 4): ml_dtypes.uint4,
    ("int8", 2): ml_dtypes.int2,
    ("uint8", 2): ml_dtypes.uint2,
}


@given(integers())
def test_the_bytes_are_those_of_an_onnx_tensor(case: tuple[NDArray[Any], int]) -> None:
    values, width = case
    tensor = numpy_helper.from_array(values.astype(TYPES[str(values.dtype), width]), "t")
    assert pack(values, width).tobytes() == tensor.raw_data


def test_the_first_element_stands_in_the_lowest_bits() -> None:
    assert pack(np.array([1, -1, 7, -8, 3], np.int8), 4).tolist() == [0xF1, 0x87, 0x03]
    assert pack(np.array([1, -1, 0, -2, -2], np.int8), 2).tolist() == [0b10_00_11_01, 0b10]


def test_widths_that_whole_bytes_hold_as_well_are_not_packed() -> None:
    assert [packed_width(bits) for bits in (1, 2, 3, 4, 5, 8)] == [2, 2, 4, 4, None, None]


@pytest.mark.parametrize(
    ("values", "width", "message"),
    [
        (np.array([8], np.int8), 4, "integers from 8 to 8 do not fit 4 bits"),
        (np.array([-3, 1], np.int8), 2, "integers from -3 to 1 do not fit 2 bits"),
        (np.array([16], np.uint8), 4, "integers from 16 to 16 do not fit 4 bits"),
        (np.array([1], np.int8), 3, "integers of 3 bits are not packed"),
    ],
)
def test_what_does_not_fit_is_refused(values: NDArray[Any], width: int, message: str) -> None:
    with pytest.raises(ArchNetError, match=message):
        pack(values, width)


def test_bytes_of_another_number_of_integers_are_refused() -> None:
    with pytest.raises(ArchNetError, match="2 values of uint8 are not 5 integers of 4 bits") as caught:
        unpack(np.zeros(2, np.uint8), 4, (5,))
    assert caught.value.fix == "give 3 bytes"
