"""Figures of agreement between two arrays of numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = NDArray[Any]


def sqnr_db(reference: Values, approximation: Values) -> float:
    """Signal-to-quantization-noise ratio: 10 log10(sum reference**2 / sum (reference - approximation)**2).

    In decibels; infinite when both are equal, minus infinite when only the reference is all zeros.

    Raises:
        ValueError: the shapes differ.
    """
    signal, other = _pair(reference, approximation)
    power, noise = float(np.sum(signal**2)), float(np.sum((signal - other) ** 2))
    if noise == 0.0:
        return float("inf")
    return float(10 * np.log10(power / noise)) if power > 0 else float("-inf")


def cosine(a: Values, b: Values) -> NDArray[np.float64]:
    """Cosine of the angle between a and b over the last axis: (..., C) -> (...).

    0 where one of the two is all zeros.

    Raises:
        ValueError: the shapes differ.
    """
    x, y = _pair(a, b)
    lengths = np.linalg.norm(x, axis=-1) * np.linalg.norm(y, axis=-1)
    products = np.sum(x * y, axis=-1)
    return np.asarray(np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0))


def spearman(a: Values, b: Values) -> float:
    """Spearman's rank correlation of two vectors (ties share the mean of their ranks).

    NaN when one of them is constant: it has no order to compare.

    Raises:
        ValueError: the shapes differ or there are fewer than two values.
    """
    # SciPy's statistics take a second to import, which most commands need not wait for.
    from scipy import stats

    x, y = _pair(a, b)
    if x.size < 2:
        raise ValueError(f"a rank correlation needs two values or more, not {x.size}")
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(stats.spearmanr(x, y).statistic)


def _pair(a: Values, b: Values) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if a.shape != b.shape:
        raise ValueError(f"shapes {a.shape} and {b.shape} differ")
    return a.astype(np.float64), b.astype(np.float64)
