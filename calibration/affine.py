"""Affine quantization arithmetic as pure functions: scales, integers and Q16 multipliers.

Everything is symmetric: `real = scale * integer`. A requantization factor is the Q16 multiplier
m / 2**16 with m odd in [1, 2**17]. Runtimes that take QDQ networks compute that factor themselves, in
float32, from the three scales: `(scale_x * scale_w) / scale_y`. The `matching_*` and `fit_*` functions
choose scales for which this float32 expression is exactly m / 2**16, so that every runtime multiplies
by the number that the integer network means.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from math import isclose
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from archnet.errors import ArchNetError

Integers = NDArray[np.signedinteger[Any]]
Floats = NDArray[np.float32]
_Search = Callable[[NDArray[Any]], Floats]

MULTIPLIER_SHIFT = 16
"""A multiplier m stands for the real number m / 2**16."""

MAX_MULTIPLIER = 2**17
"""The largest multiplier: a factor of 2."""

SMALLEST_OPERAND = 2.0**-15
"""Of an operand's scale against a sum's: all of its integers together are less than a step of the sum."""

# How far from the ideal scale, in float32 steps, a match is looked for. Two roundings of half a step
# each move the factor by at most two steps of the scale, so there is no match farther away.
_NEIGHBOURS = np.array([0, 1, -1, 2, -2, 3, -3], dtype=np.int32)

# Odd multipliers that are tried from the wished one on, the nearest first. About one in five has no
# match for a given pair of scales, and sometimes long runs have none: see `fit_linear_scales`.
_FEW_STEPS = np.array([0, 2, -2, 4, -4, 6, -6], dtype=np.int32)
_ALL_STEPS = np.array(sorted(range(-128, 129, 2), key=abs), dtype=np.int32)

# By how many float32 steps `fit_linear_scales` may move an output's scale.
_NUDGES = np.array(sorted(range(-8, 9), key=abs), dtype=np.int32)

# Scales that differ by less are one: a float32 step or a few.
_SAME = 1e-5


def integer_range(bits: int, *, signed: bool = True) -> tuple[int, int]:
    """The least and the greatest integer of so many bits."""
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


def quantize_affine(
    values: ArrayLike, scale: ArrayLike, *, bits: int = 8, signed: bool = True
) -> NDArray[np.int32]:
    """round_half_even(values / scale), clamped to the range of `bits`.

    Args:
        values: floats of any shape.
        scale: positive, broadcast against `values` (per channel: shape (channels, 1, ...)).

    Raises:
        ArchNetError: a value is not finite, or a scale is not a positive finite number.
    """
    values, scale = np.asarray(values), np.asarray(scale)
    if not np.isfinite(values).all():
        raise ArchNetError(
            "a tensor to quantize holds NaN or infinite values", fix="check the model's weights"
        )
    _check_scales(scale)
    low, high = integer_range(bits, signed=signed)
    rounded = np.clip(np.rint(values / scale), low, high)
    return np.asarray(rounded, dtype=np.int32)


def dequantize_affine(integers: Integers | NDArray[np.uint8], scale: ArrayLike) -> Floats:
    """integers * scale in float32."""
    return integers.astype(np.float32) * np.asarray(scale, dtype=np.float32)


def requantize(accumulator: Integers, multiplier: int | Integers) -> NDArray[np.int64]:
    """round_half_even(accumulator * multiplier / 2**16) in 64-bit integers, not clamped.

    The product of a 32-bit accumulator and an 18-bit multiplier needs 50 bits, so nothing overflows.
    """
    return round_shift(accumulator.astype(np.int64) * np.asarray(multiplier, dtype=np.int64))


def round_shift(product: NDArray[np.int64]) -> NDArray[np.int64]:
    """round_half_even(product / 2**16) in 64-bit integers.

    Adding one half less 1, and 1 more when the floor is odd, carries exactly when the rest is above
    one half, or is one half and the floor is odd.
    """
    rounded = product >> MULTIPLIER_SHIFT
    rounded &= 1
    rounded += product
    rounded += 2 ** (MULTIPLIER_SHIFT - 1) - 1
    rounded >>= MULTIPLIER_SHIFT
    return rounded


def snap_multipliers(factors: ArrayLike) -> NDArray[np.int32]:
    """The odd multipliers in [1, 2**17] whose factors m / 2**16 are nearest to `factors`.

    Raises:
        ArchNetError: a factor is not a number in (0, 2).
    """
    real = np.asarray(factors, dtype=np.float64)
    if not (np.isfinite(real) & (real > 0) & (real < 2)).all():
        raise ArchNetError(
            f"requantization needs factors between 0 and 2, not {real.min():.3g} to {real.max():.3g}",
            fix="calibrate with more data, so that the output's scale fits its values",
        )
    pairs = np.asarray(np.floor(real * 2 ** (MULTIPLIER_SHIFT - 1)), dtype=np.int32)
    return 2 * pairs + 1


def snap_multiplier(factor: float) -> int:
    """`snap_multipliers` of one factor."""
    return int(snap_multipliers(factor))


def accumulator_factor(scale_a: ArrayLike, scale_b: ArrayLike, scale_y: ArrayLike) -> Floats:
    """(scale_a * scale_b) / scale_y, rounded to float32 after each step as runtimes do it."""
    a, b, y = (np.asarray(s, dtype=np.float32) for s in (scale_a, scale_b, scale_y))
    return np.asarray((a * b) / y, dtype=np.float32)


def matching_weight_scale(multiplier: ArrayLike, scale_x: float, scale_y: float) -> Floats:
    """Weight scales near m / 2**16 * scale_y / scale_x that give m exactly.

    float32(float32(scale_x * result) / scale_y) == m / 2**16, element by element.

    Raises:
        ArchNetError: for some m there is no such float32 number; `fit_weight_scale` avoids those.
    """
    return _required(_weight_scales(np.asarray(multiplier), scale_x, scale_y), "weight")


def matching_output_scale(multiplier: int, scale_a: float, scale_b: float = 1.0) -> float:
    """The output scale near scale_a * scale_b * 2**16 / m that gives m exactly.

    float32(float32(scale_a * scale_b) / result) == m / 2**16. With scale_b = 1 it is the output scale
    of an Add whose operand of scale_a is to have the multiplier m.

    Raises:
        ArchNetError: there is no such float32 number; `fit_output_scale` avoids those.
    """
    return float(_required(_output_scales(np.asarray(multiplier), scale_a, scale_b), "output"))


def matching_operand_scale(multiplier: int, scale_y: float) -> float:
    """The scale of an Add's operand near m / 2**16 * scale_y: float32(result / scale_y) == m / 2**16.

    Raises:
        ArchNetError: there is no such float32 number; `fit_operand_scale` avoids those.
    """
    return float(matching_weight_scale(multiplier, 1.0, scale_y))


def fit_weight_scale(
    weight_scale: ArrayLike, scale_x: float, scale_y: float
) -> tuple[NDArray[np.int32], Floats]:
    """Multipliers and matching weight scales, as near as there are to the wished weight scales.

    Returns:
        (multipliers int32, weight scales float32) with `accumulator_factor` exactly m / 2**16.

    Raises:
        ArchNetError: some channel has no match near by (rare; `fit_linear_scales` steps aside).
    """
    wished = np.asarray(weight_scale, dtype=np.float64) * float(scale_x) / float(scale_y)
    multiplier, scale = _fit(wished, partial(_weight_scales, scale_x=scale_x, scale_y=scale_y))
    return multiplier, _required(scale, "weight")


def fit_linear_scales(
    weight_scale: ArrayLike, scale_x: float, scale_y: float, *, among: Sequence[float] | None = None
) -> tuple[NDArray[np.int32], Floats, float]:
    """`fit_weight_scale` that also chooses the output's scale.

    Args:
        weight_scale: the wished weight scales.
        among: output scales to choose from; by default those within 8 float32 steps of scale_y
            (relative changes of less than 1e-6).

    Returns:
        (multipliers int32, weight scales float32, output scale): of all output scales the one for
        which the most changed channel's scale changes least.

    Raises:
        ArchNetError: no output scale has a match for every channel.
    """
    if among is None:
        among = (np.float32(scale_y).view(np.int32) + _NUDGES).view(np.float32).tolist()
    wished = np.asarray(weight_scale, dtype=np.float64)
    best, least = (np.zeros(0, np.int32), np.full(wished.shape, np.nan, np.float32), float(scale_y)), np.inf
    for output_scale in among:
        search = partial(_weight_scales, scale_x=scale_x, scale_y=output_scale)
        multiplier, scale = _fit(wished * float(scale_x) / output_scale, search)
        change = float(np.max(np.abs(scale / wished - 1.0)))
        if change < least:
            best, least = (multiplier, scale, output_scale), change
    _required(best[1], "weight")
    return best


def fit_output_scale(scale_y: float, scale_a: float, scale_b: float = 1.0) -> tuple[int, float]:
    """(multiplier, output scale) near the wished output scale, with the factor exactly m / 2**16."""
    wished = float(scale_a) * float(scale_b) / float(scale_y)
    multiplier, scale = _fit(wished, partial(_output_scales, scale_a=scale_a, scale_b=scale_b))
    return int(multiplier), float(_required(scale, "output"))


def factor_scales(scale: float, other: float, product: float) -> list[float]:
    """Scales of one factor, the nearest first, with which the product of both may have the scale that it has.

    Of two factors whose scales are given one product in five has no float32 scale near the wished one; a few
    float32 steps on one of them help.
    """
    near = (np.float32(scale).view(np.int32) + _NUDGES).view(np.float32).tolist()
    found = []
    for factor in near:
        with suppress(ArchNetError):
            if isclose(fit_output_scale(product, factor, other)[1], product, rel_tol=_SAME):
                found.append(float(factor))
    return found


def fit_operand_scale(scale_a: float, scale_y: float) -> tuple[int, float]:
    """(multiplier, operand scale) of an Add near the wished operand scale, exactly m / 2**16."""
    multiplier, scale = fit_weight_scale(scale_a, 1.0, scale_y)
    return int(multiplier), float(scale)


def operand_scale(wished: float, scale_y: float) -> float:
    """`fit_operand_scale`, stepping away from the wished scale where no number near it matches.

    An operand that is next to nothing beside the sum gets the least scale that has a multiplier.
    """
    wished = max(wished, SMALLEST_OPERAND * scale_y)
    for step in sorted(range(-16, 17), key=abs):
        with suppress(ArchNetError):
            return fit_operand_scale(wished * (1.0 + step / 256), scale_y)[1]
    return float(np.float32(wished))


def sum_has_ties(multipliers: tuple[int, int], ranges: tuple[tuple[int, int], tuple[int, int]]) -> bool:
    """Whether some sum a * m_a + b * m_b lies in the middle between two integers times 2**16.

    Such sums are rounded to the even integer here and to the greater one elsewhere (TFLite), so that an Add
    without any is the same everywhere. About every other pair of multipliers of two int8 operands has none.

    Args:
        multipliers: m_a and m_b.
        ranges: least and greatest integer of a, and of b.
    """
    unit = 2**MULTIPLIER_SHIFT
    left, right = (m * np.arange(low, high + 1) for m, (low, high) in zip(multipliers, ranges, strict=True))
    return bool(np.isin((unit // 2 - right) % unit, left % unit).any())


def without_ties(
    scales: Iterable[float], other: float, scale_y: float, ranges: tuple[tuple[int, int], tuple[int, int]]
) -> list[float]:
    """Those scales of an Add's operand with which it has no ties; all of them where none is left.

    Args:
        scales: from `operand_scale` and the like.
        other: scale of the other operand.
        scale_y: of the sum.
        ranges: of the integers of the one and of the other.
    """
    found = list(scales)
    factor = round(other / scale_y * 2**MULTIPLIER_SHIFT)
    factors = (round(scale / scale_y * 2**MULTIPLIER_SHIFT) for scale in found)
    untied = [
        scale for scale, own in zip(found, factors, strict=True) if not sum_has_ties((own, factor), ranges)
    ]
    return untied or found


def operand_scale_beside(
    wished: float, other: float, scale_y: float, ranges: tuple[tuple[int, int], tuple[int, int]]
) -> float:
    """`operand_scale`, the nearest with which an Add to another operand has no ties (see `without_ties`)."""
    near = (operand_scale(wished * (1.0 + step / 4096), scale_y) for step in sorted(range(-64, 65), key=abs))
    return without_ties(near, other, scale_y, ranges)[0]


def fit_table_scale(wished: float, scale_x: float, scale_y: float) -> tuple[int, float]:
    """`fit_weight_scale` of a table with one scale, which steps away from the wished one as `operand_scale`.

    Raises:
        ArchNetError: no scale within a sixteenth of the wished one has a match.
    """

    def fitted(step: int) -> tuple[int, float]:
        multiplier, scale = fit_weight_scale(wished * (1.0 + step / 256), scale_x, scale_y)
        return int(multiplier), float(scale)

    for step in sorted(range(-16, 17), key=abs):
        with suppress(ArchNetError):
            return fitted(step)
    return fitted(0)  # raises


def _weight_scales(multiplier: NDArray[Any], scale_x: float, scale_y: float) -> Floats:
    target = multiplier / 2**MULTIPLIER_SHIFT
    near = (target * float(scale_y) / float(scale_x)).astype(np.float32)
    return _search(near, target.astype(np.float32), lambda w: accumulator_factor(scale_x, w, scale_y))


def _output_scales(multiplier: NDArray[Any], scale_a: float, scale_b: float) -> Floats:
    target = multiplier / 2**MULTIPLIER_SHIFT
    near = (float(scale_a) * float(scale_b) / target).astype(np.float32)
    return _search(near, target.astype(np.float32), lambda y: accumulator_factor(scale_a, scale_b, y))


def _search(near: Floats, target: Floats, factor: Callable[[Floats], Floats]) -> Floats:
    """The float32 neighbours of `near` that come first with factor(neighbour) == target, or NaN.

    Positive floats are ordered as their bits are when these are read as integers.
    """
    _check_scales(near)
    bits = np.asarray(near).view(np.int32)
    neighbours = (bits[..., None] + _NEIGHBOURS).view(np.float32)
    hits = factor(neighbours) == target[..., None]
    first = np.take_along_axis(neighbours, hits.argmax(axis=-1)[..., None], axis=-1)[..., 0]
    return np.where(hits.any(axis=-1), first, np.float32(np.nan))


def _fit(wished: ArrayLike, search: _Search) -> tuple[NDArray[np.int32], Floats]:
    """The multipliers nearest to the wished factors whose search succeeds, and what it found, or NaN."""
    snapped = snap_multipliers(wished)
    multiplier, scales = _nearest_match(snapped, _FEW_STEPS, search)
    missing = np.isnan(scales)
    if missing.any():
        multiplier[missing], scales[missing] = _nearest_match(snapped[missing], _ALL_STEPS, search)
    return multiplier, scales


def _nearest_match(
    multiplier: NDArray[np.int32], steps: NDArray[np.int32], search: _Search
) -> tuple[NDArray[np.int32], Floats]:
    tried = multiplier[..., None] + steps
    scales = search(np.clip(tried, 1, MAX_MULTIPLIER - 1))
    scales = np.where((tried >= 1) & (tried < MAX_MULTIPLIER), scales, np.float32(np.nan))
    first = (~np.isnan(scales)).argmax(axis=-1)[..., None]
    return np.take_along_axis(tried, first, axis=-1)[..., 0], np.take_along_axis(scales, first, axis=-1)[
        ..., 0
    ]


def _required(scales: Floats, what: str) -> Floats:
    missing = int(np.count_nonzero(np.isnan(scales)))
    if missing:
        raise ArchNetError(
            f"no float32 {what} scale gives the multiplier exactly for {missing} channels",
            fix="take a neighbouring odd multiplier (fit_weight_scale, fit_output_scale)",
        )
    return scales


def _check_scales(scale: NDArray[Any]) -> None:
    tiny = np.finfo(np.float32).tiny
    if not (np.isfinite(scale) & (scale >= tiny)).all():
        raise ArchNetError(
            f"a scale must be a positive number that float32 can hold, not {np.min(scale)!r}",
            fix="calibrate with data that moves this tensor, and check the model's weights for NaN",
        )
