"""Scales of least squared error against a search over the same candidates in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from archnet.calibration.observers import SAMPLE, SHARES, best_scale, best_scales, sample_of


def squared_error(values: np.ndarray, scale: float, low: int, high: int) -> float:
    return float(((np.clip(np.rint(values / scale), low, high) * scale - values) ** 2).sum())


@pytest.mark.parametrize(("low", "high"), [(-128, 127), (0, 255), (-8, 7)])
def test_best_scale_has_the_least_error(low: int, high: int) -> None:
    values = np.random.default_rng(0).standard_t(3, 500).astype(np.float32)
    values = np.abs(values) if low == 0 else values
    scale = best_scale(torch.from_numpy(values), low, high)
    reach = -low if -values.min() > values.max() else high
    candidates = SHARES.numpy() * np.abs(values).max() / reach
    least = min(squared_error(values, float(s), low, high) for s in candidates)
    assert squared_error(values, scale, low, high) == pytest.approx(least, rel=1e-3)


def test_four_bits_clip_outliers() -> None:
    values = torch.cat([torch.randn(2000, generator=torch.Generator().manual_seed(0)), torch.tensor([20.0])])
    assert best_scale(values, -8, 7) * 7 < 15


def test_zeros_have_a_usable_scale() -> None:
    assert best_scale(torch.zeros(5), -128, 127) == pytest.approx(1 / 127)
    assert bool((best_scales(torch.zeros(2, 3), 8) > 0).all())


def test_rows_are_scaled_each_by_itself() -> None:
    rows = torch.randn(3, 50, generator=torch.Generator().manual_seed(1))
    scales = best_scales(rows, 4)
    alone = torch.cat([best_scales(row[None], 4) for row in rows])
    assert torch.equal(scales, alone)
    torch.testing.assert_close(best_scales(rows * 4, 4), scales * 4)


def test_sample_is_bounded_and_holds_the_extremes() -> None:
    values = torch.zeros(5 * SAMPLE)
    values[12345], values[54321] = 7.0, -9.0
    sample = sample_of(values)
    assert SAMPLE <= sample.numel() <= 2 * SAMPLE
    assert (float(sample.max()), float(sample.min())) == (7.0, -9.0)
