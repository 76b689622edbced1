"""Affine quantization arithmetic as pure functions: scales, integers and Q16 multipliers.

Everything is symmetric: `real = scale * integer`. A requantization factor is the Q16 multiplier
m / 2**16 with m odd in [1, 2**17]. Runtimes that take QDQ networks compute that factor themselves, in
float32, from the three scales: `(scale_x * scale_w) / scale_y`. The `matching_*` and `fit_*` functions
choose scales for which this float32 expression is exactly m / 2**16, so that every runtime multiplies
by the number that the integer network means.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from archnet.errors import ArchNetError

Integers = NDArray[np.signedinteger[Any]]
Floats = NDArray[np.float32]

MULTIPLIER_SHIFT = 16
"""A multiplier m stands for the real number m / 2**16."""

MAX_MULTIPLIER = 2**17
"""The largest multiplier: a factor of 2."""

# How far from the ideal scale a match is looked for. One step of a float32 scale moves the factor by
# at most a few steps of its own, so a match that is not this near does not exist.
_NEIGHBOURS = np.array(sorted(range(-8, 9), key=abs), dtype=np.int32)

# How many odd multipliers are tried from the wished one on. About one in five has no match for a given
# pair of scales; runs of several are rare, and `fit_linear_scales` steps aside from them.
_ATTEMPTS = 256


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
        raise ArchNetError("a tensor to quantize holds NaN or infinite values", fix="check the model's weights")
    _check_scales(scale)
    low, high = integer_range(bits, signed=signed)
    return np.clip(np.rint(values / scale), low, high).astype(np.int32)


def dequantize_affine(integers: Integers | NDArray[np.uint8], scale: ArrayLike) -> Floats:
    """integers * scale in float32."""
    return integers.astype(np.float32) * np.asarray(scale, dtype=np.float32)


def requantize(accumulator: Integers, multiplier: int | Integers) -> NDArray[np.int64]:
    """round_half_even(accumulator * multiplier / 2**16) in 64-bit integers, not clamped.

    The product of a 32-bit accumulator and an 18-bit multiplier needs 50 bits, so nothing overflows.
    """
    return round_shift(accumulator.astype(np.int64) * np.asarray(multiplier, dtype=np.int64))


def round_shift(product: NDArray[np.int64]) -> NDArray[np.int64]:
    """round_half_even(product / 2**16) in 64-bit integers."""
    floor = product >> MULTIPLIER_SHIFT
    rest = product & (2**MULTIPLIER_SHIFT - 1)
    half = 2 ** (MULTIPLIER_SHIFT - 1)
    up = (rest > half) | ((rest == half) & ((floor & 1) == 1))
    return floor + up.astype(np.int64)


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
    return (2 * np.floor(real * 2 ** (MULTIPLIER_SHIFT - 1)) + 1).astype(np.int32)


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

    Where the nearest odd multiplier has no match the next greater ones are tried: a greater scale
    clips no weight.

    Returns:
        (multipliers int32, weight scales float32) with `accumulator_factor` exactly m / 2**16.
    """
    wished = np.asarray(weight_scale, dtype=np.float64) * float(scale_x) / float(scale_y)
    return _fit(wished, lambda m: _weight_scales(m, scale_x, scale_y), "weight")


def fit_linear_scales(
    weight_scale: ArrayLike, scale_x: float, scale_y: float
) -> tuple[NDArray[np.int32], Floats, float]:
    """`fit_weight_scale` that may also move the output's scale by a few float32 steps (about 1e-6).

    Returns:
        (multipliers int32, weight scales float32, output scale), of all output scales tried the one
        with the least change of any channel's factor.
    """
    best: tuple[float, NDArray[np.int32], Floats, float] | None = None
    nearby = (np.float32(scale_y).view(np.int32) + _NEIGHBOURS).view(np.float32)
    for output_scale in nearby.tolist():
        multiplier, scale = fit_weight_scale(weight_scale, scale_x, output_scale)
        change = float(np.max(np.abs(scale / np.asarray(weight_scale) - 1.0)))
        if best is None or change < best[0]:
            best = change, multiplier, scale, output_scale
    assert best is not None
    return best[1:]


def fit_output_scale(scale_y: float, scale_a: float, scale_b: float = 1.0) -> tuple[int, float]:
    """(multiplier, output scale) near the wished output scale, with the factor exactly m / 2**16."""
    wished = float(scale_a) * float(scale_b) / float(scale_y)
    # A smaller multiplier means a greater scale, which clips nothing.
    multiplier, scale = _fit(wished, lambda m: _output_scales(m, scale_a, scale_b), "output", step=-2)
    return int(multiplier), float(scale)


def fit_operand_scale(scale_a: float, scale_y: float) -> tuple[int, float]:
    """(multiplier, operand scale) of an Add near the wished operand scale, exactly m / 2**16."""
    multiplier, scale = fit_weight_scale(scale_a, 1.0, scale_y)
    return int(multiplier), float(scale)


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


def _fit(
    wished: ArrayLike, search: Callable[[NDArray[Any]], Floats], what: str, *, step: int = 2
) -> tuple[NDArray[np.int32], Floats]:
    multiplier = snap_multipliers(wished)
    scales = search(multiplier)
    for _ in range(_ATTEMPTS):
        missing = np.isnan(scales)
        if not missing.any():
            break
        if step < 0 and (multiplier[missing] == 1).any():
            step = -step
        multiplier = np.where(missing, multiplier + step, multiplier).astype(np.int32)
        multiplier = np.minimum(multiplier, MAX_MULTIPLIER - 1).astype(np.int32)
        scales = search(multiplier)
    return multiplier, _required(scales, what)


def _required(scales: Floats, what: str) -> Floats:
    if np.isnan(scales).any():
        raise ArchNetError(
            f"no float32 {what} scale gives the multiplier exactly for {int(np.isnan(scales).sum())} channels",
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
