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

from archnet.calibration.packing import Packing, find_packing, pack, packed_width, unpack
from archnet.errors import ArchNetError

SHAPES = arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=7)
TYPES = {4: ml_dtypes.int4, 2: ml_dtypes.int2}


@st.composite
def integers(draw: st.DrawFn) -> tuple[NDArray[Any], int]:
    """An array of codes of a width, and the width."""
    width = draw(st.sampled_from([2, 4]))
    elements = st.integers(-(2 ** (width - 1)), 2 ** (width - 1) - 1)
    return draw(arrays.arrays(np.int8, SHAPES, elements=elements, fill=st.nothing())), width


@given(integers())
def test_what_is_unpacked_is_what_was_packed(case: tuple[NDArray[Any], int]) -> None:
    codes, width = case
    packed = pack(codes, width)
    assert packed.dtype == np.uint8
    assert packed.nbytes == -(-codes.size * width // 8)
    back = unpack(packed, width, codes.shape)
    assert back.dtype == np.int8
    np.testing.assert_array_equal(back, codes)


@given(integers())
def test_the_bytes_are_those_of_an_onnx_tensor(case: tuple[NDArray[Any], int]) -> None:
    codes, width = case
    tensor = numpy_helper.from_array(codes.astype(TYPES[width]), "t")
    assert pack(codes, width).tobytes() == tensor.raw_data


@given(integers(), st.integers(1, 16), st.integers(-4, 4), st.sampled_from(["int8", "uint8"]))
def test_values_on_any_grid_are_packed_without_loss(
    case: tuple[NDArray[Any], int], step: int, offset: int, dtype: str
) -> None:
    codes, width = case
    wished = codes.astype(int) * step + offset
    values = (wished % 256).astype(np.uint8).view(dtype)
    packing = find_packing(values, width)
    if packing is None:  # only values that wrapped around may be more than the codes can say
        assert (values != wished).any()
        return
    np.testing.assert_array_equal(packing.values(packing.codes(values), dtype), values)
    assert packing.codes(values).min(initial=0) >= -(2 ** (width - 1))
    assert packing.codes(values).max(initial=0) < 2 ** (width - 1)


@pytest.mark.parametrize(
    ("values", "width", "expected"),
    [
        ([-7, 0, 7], 4, Packing(4)),
        ([-3, -1, 1, 3], 2, Packing(2, 2, 1)),
        ([-2, 1], 2, Packing(2)),
        ([-128, 16, 112], 4, Packing(4, 16)),
        ([0, 1, 15], 4, Packing(4, 1, 8)),
        ([5, 5], 2, Packing(2, 5)),
        ([-8, 8], 4, Packing(4, 8)),
        ([-8, 0, 1, 8], 4, None),
        ([-3, -2, 1, 3], 2, None),
    ],
)
def test_the_plainest_packing_is_found(values: list[int], width: int, expected: Packing | None) -> None:
    assert find_packing(np.array(values, np.int8), width) == expected


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
