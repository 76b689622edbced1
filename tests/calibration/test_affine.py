"""Affine arithmetic against exact fractions, and scales against float32 computed another way."""

from __future__ import annotations

import struct
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from archnet import graph
from archnet.calibration import affine
from archnet.errors import ArchNetError

ACCUMULATORS = st.integers(-(2**31), 2**31 - 1)
MULTIPLIERS = st.integers(1, 2**17)
ODD = st.integers(0, 2**16 - 1).map(lambda i: 2 * i + 1)
SCALES = st.floats(2.0**-20, 2.0**4, width=32)


def float32(value: float) -> float:
    """Round to float32 without NumPy. A product of two float32 is exact in Python's doubles, and a
    quotient rounded to double and then to float32 is the correctly rounded one."""
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


def runtime_factor(scale_a: float, scale_b: float, scale_y: float) -> float:
    return float32(float32(scale_a * scale_b) / scale_y)


def random_scales(rng: np.random.Generator, count: int) -> list[float]:
    return [float(s) for s in np.exp(rng.uniform(-8, 1, count)).astype(np.float32)]


@given(ACCUMULATORS, MULTIPLIERS)
@example(2**15, 1)
@example(3 * 2**15, 1)
@example(-(2**15), 1)
@example(-(2**31), 2**17)
def test_requantize_is_the_fraction_rounded_half_to_even(accumulator: int, multiplier: int) -> None:
    result = affine.requantize(np.array([accumulator], dtype=np.int32), multiplier)
    assert result.dtype == np.int64
    assert result.tolist() == [round(Fraction(accumulator * multiplier, 2**16))]


def test_requantize_breaks_ties_to_even_in_both_directions() -> None:
    halves = np.arange(-7, 8, 2, dtype=np.int32) * 2**15
    assert affine.requantize(halves, 1).tolist() == [-4, -2, -2, 0, 0, 2, 2, 4]


def test_requantize_takes_one_multiplier_a_channel() -> None:
    accumulator = np.array([[2**16, 2**16], [3, -(2**17)]], dtype=np.int32)
    assert affine.requantize(accumulator, np.array([2, 5], dtype=np.int32)).tolist() == [[2, 5], [0, -10]]


@given(ACCUMULATORS, ODD, st.booleans())
@example(2**24 + 1, 1, True)
@example(2**15, 1, False)
def test_one_float32_product_gives_the_same_clamped_integer(
    accumulator: int, multiplier: int, signed: bool
) -> None:
    low, high = affine.integer_range(8, signed=signed)
    exact = int(np.clip(affine.requantize(np.array([accumulator]), multiplier), low, high)[0])
    product = np.float32(accumulator) * np.float32(multiplier / 2**16)
    assert exact == int(np.clip(np.rint(product), low, high))


@given(st.floats(1e-9, 2.0, exclude_max=True))
def test_snapped_multiplier_is_the_nearest_odd_one(factor: float) -> None:
    multiplier = affine.snap_multiplier(factor)
    assert multiplier % 2 == 1
    assert 1 <= multiplier <= affine.MAX_MULTIPLIER
    assert abs(multiplier - factor * 2**16) <= 1


@pytest.mark.parametrize("factor", [0.0, -0.5, 2.0, float("nan"), float("inf")])
def test_factor_outside_the_range_is_refused(factor: float) -> None:
    with pytest.raises(ArchNetError, match="factors between 0 and 2"):
        affine.snap_multiplier(factor)


def test_matching_weight_scales_give_the_multiplier_in_float32() -> None:
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(40):
        scale_x, scale_y = random_scales(rng, 2)
        multiplier = rng.integers(0, 2**16, 100) * 2 + 1
        possible = ~np.isnan(affine._weight_scales(multiplier, scale_x, scale_y))
        scales = affine.matching_weight_scale(multiplier[possible], scale_x, scale_y)
        assert scales.dtype == np.float32
        for m, scale in zip(multiplier[possible].tolist(), scales.tolist(), strict=True):
            assert runtime_factor(scale_x, scale, scale_y) == m / 2**16
            assert scale == pytest.approx(m / 2**16 * scale_y / scale_x, rel=1e-6)
        found += len(scales)
    assert found > 2500


def test_where_no_scale_matches_none_exists() -> None:
    rng = np.random.default_rng(1)
    missing = 0
    for _ in range(30):
        scale_x, scale_y = random_scales(rng, 2)
        multiplier = int(rng.integers(0, 2**16)) * 2 + 1
        if not np.isnan(affine._weight_scales(np.array(multiplier), scale_x, scale_y)):
            continue
        missing += 1
        near = np.float32(multiplier / 2**16 * scale_y / scale_x).view(np.int32)
        around = (near + np.arange(-100, 101, dtype=np.int32)).view(np.float32).tolist()
        assert all(runtime_factor(scale_x, s, scale_y) != multiplier / 2**16 for s in around)
        with pytest.raises(ArchNetError, match="no float32 weight scale gives the multiplier exactly"):
            affine.matching_weight_scale(multiplier, scale_x, scale_y)
    assert missing > 0


@given(SCALES, SCALES, ODD)
def test_matching_output_scale_gives_the_multiplier_in_float32(
    scale_a: float, scale_b: float, multiplier: int
) -> None:
    try:
        scale = affine.matching_output_scale(multiplier, scale_a, scale_b)
    except ArchNetError:
        assert np.isnan(affine._output_scales(np.array(multiplier), scale_a, scale_b))
        return
    assert runtime_factor(scale_a, scale_b, scale) == multiplier / 2**16


def test_fitted_weight_scales_are_exact_and_near_the_wished_ones() -> None:
    rng = np.random.default_rng(2)
    for _ in range(30):
        scale_x, scale_y = random_scales(rng, 2)
        wished = rng.uniform(500, 30000, 200) / 2**16 * scale_y / scale_x
        multiplier, scale, output_scale = affine.fit_linear_scales(wished, scale_x, scale_y)
        assert multiplier.dtype == np.int32
        assert output_scale == pytest.approx(scale_y, rel=1e-6)
        np.testing.assert_allclose(scale, wished, rtol=0.01)
        factors = [runtime_factor(scale_x, s, output_scale) for s in scale.tolist()]
        assert factors == (multiplier / 2**16).tolist()
        fixed, fixed_scale = affine.fit_weight_scale(wished, scale_x, scale_y)
        factors = [runtime_factor(scale_x, s, scale_y) for s in fixed_scale.tolist()]
        assert factors == (fixed / 2**16).tolist()
        assert (fixed % 2 == 1).all()


def test_linear_scales_choose_among_given_output_scales() -> None:
    wished = np.array([0.001, 0.002])
    _, _, chosen = affine.fit_linear_scales(wished, 0.05, 0.04, among=[0.0625, 0.03125])
    assert chosen in (0.0625, 0.03125)


@given(SCALES, st.floats(0.001, 1.9))
def test_fitted_scales_of_an_add_are_exact(scale_a: float, factor: float) -> None:
    multiplier, scale_y = affine.fit_output_scale(scale_a / factor, scale_a)
    assert float32(scale_a / scale_y) == multiplier / 2**16
    other, scale_b = affine.fit_operand_scale(scale_y * 0.7, scale_y)
    assert float32(scale_b / scale_y) == other / 2**16
    assert scale_b == pytest.approx(scale_y * 0.7, rel=0.01)


@given(st.integers(1, 2**17), st.integers(1, 2**17), st.integers(2, 6), st.booleans(), st.booleans())
def test_ties_are_sums_that_lie_between_two_integers(
    first: int, second: int, bits: int, signed: bool, other_signed: bool
) -> None:
    """Where there are none, rounding to the even integer and to the greater one is the same."""
    ranges = affine.integer_range(bits, signed=signed), affine.integer_range(bits, signed=other_signed)
    a, b = (np.arange(low, high + 1, dtype=np.int64) for low, high in ranges)
    sums = a[:, None] * first + b * second
    greater = (sums + 2**15) >> 16
    differ = bool((affine.round_shift(sums) != greater).any())
    tied = bool((sums % 2**16 == 2**15).any())
    assert affine.sum_has_ties((first, second), ranges) == tied
    assert tied or not differ


@pytest.mark.parametrize(("factors", "tied"), [((2**15, 2**16), True), ((2**16, 2**16), False)])
def test_ties_of_halves_and_of_wholes(factors: tuple[int, int], tied: bool) -> None:
    assert affine.sum_has_ties(factors, ((-128, 127), (0, 255))) == tied


@given(SCALES, SCALES, st.floats(0.001, 1.9))
def test_fitted_output_scale_of_a_product_is_exact(scale_a: float, scale_b: float, factor: float) -> None:
    multiplier, scale_y = affine.fit_output_scale(scale_a * scale_b / factor, scale_a, scale_b)
    assert runtime_factor(scale_a, scale_b, scale_y) == multiplier / 2**16


@given(SCALES, SCALES, st.integers(5, 60))
def test_with_a_factors_scale_beside_its_own_a_product_keeps_its_scale(
    scale_a: float, scale_b: float, half: int
) -> None:
    multiplier = 2 * half + 1
    product = scale_a * scale_b * 2**16 / multiplier
    found = affine.factor_scales(scale_a, scale_b, product)
    assert found
    for scale in found:
        assert scale == pytest.approx(scale_a, rel=2e-6)
        kept, scale_y = affine.fit_output_scale(product, scale, scale_b)
        assert kept == multiplier
        assert runtime_factor(scale, scale_b, scale_y) == multiplier / 2**16


def test_a_pair_of_factors_without_a_match_has_one_beside_it() -> None:
    scale_a, scale_b, product = 0.016407808288931847, 0.03426512545940883, 0.6699156761169434
    assert affine.fit_output_scale(product, scale_a, scale_b)[0] == 57
    scale = affine.factor_scales(scale_a, scale_b, product)[0]
    assert affine.fit_output_scale(product, scale, scale_b)[0] == 55


@pytest.mark.parametrize(
    ("wished", "scale_x", "scale_y"),
    [
        (0.3531090319156647, 0.39627906680107117, 0.08252021670341492),
        (0.0565912090241909, 0.008831263519823551, 0.0020275134593248367),
        (0.014398325234651566, 0.035129696130752563, 0.0011463224655017257),
    ],
)
def test_a_tables_scale_steps_aside_where_none_near_it_is_exact(
    wished: float, scale_x: float, scale_y: float
) -> None:
    with pytest.raises(ArchNetError, match="no float32 weight scale gives the multiplier exactly"):
        affine.fit_weight_scale(wished, scale_x, scale_y)
    multiplier, scale = affine.fit_table_scale(wished, scale_x, scale_y)
    assert runtime_factor(scale_x, scale, scale_y) == multiplier / 2**16
    assert scale == pytest.approx(wished, rel=1 / 16)


@given(st.integers(1, 8), st.booleans(), st.floats(2.0**-10, 1.0, width=32))
def test_quantization_error_is_at_most_half_a_step_inside_the_range(
    bits: int, signed: bool, scale: float
) -> None:
    low, high = affine.integer_range(bits, signed=signed)
    values = np.linspace(low, high, 101, dtype=np.float64) * scale
    integers = affine.quantize_affine(values, scale, bits=bits, signed=signed)
    assert low <= integers.min() <= integers.max() <= high
    assert np.abs(affine.dequantize_affine(integers, scale) - values).max() <= scale * 0.5001


def test_quantize_clamps_and_rounds_half_to_even() -> None:
    values = np.array([-9.0, -0.25, 0.25, 0.75, 9.0])
    assert affine.quantize_affine(values, 0.5, bits=4).tolist() == [-8, 0, 0, 2, 7]
    assert affine.quantize_affine(values, 0.5, bits=4, signed=False).tolist() == [0, 0, 0, 2, 15]


def test_quantize_takes_one_scale_a_channel() -> None:
    scale = np.array([[0.5], [2.0]])
    assert affine.quantize_affine(np.full((2, 2), 4.0), scale).tolist() == [[8, 8], [2, 2]]


def test_values_and_scales_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(ArchNetError, match="NaN or infinite"):
        affine.quantize_affine(np.array([1.0, np.nan]), 0.1)
    for scale in (0.0, -1.0, np.nan, np.inf, 1e-42):
        with pytest.raises(ArchNetError, match="a scale must be a positive number"):
            affine.quantize_affine(np.ones(2), scale)


def test_graph_and_arithmetic_mean_the_same_multiplier() -> None:
    assert affine.MULTIPLIER_SHIFT == graph.MULTIPLIER_SHIFT
