"""Ranges for quantizers: the scale of least squared error over a sample."""

from __future__ import annotations

import torch
from torch import Tensor

SHARES = torch.linspace(0.15, 1.0, 48)
"""Candidate clipping points, as shares of the largest magnitude."""

SAMPLE = 65536
"""Values that are enough to choose a per-tensor scale."""


def sample_of(x: Tensor) -> Tensor:
    """At most SAMPLE values spread evenly over a tensor, plus its extremes, float32."""
    flat = x.detach().reshape(-1)
    stride = max(1, flat.numel() // SAMPLE)
    return torch.cat([flat[::stride], flat.min()[None], flat.max()[None]]).float()


def best_scale(sample: Tensor, low: int, high: int) -> float:
    """Scale whose integers in [low, high] reproduce the sample with the least squared error."""
    sample = sample.float().reshape(-1)
    largest = float(sample.abs().max()) if sample.numel() else 0.0
    if largest == 0.0:
        return 1.0 / high
    reach = -low if low < 0 and float(sample.max()) < float(-sample.min()) else high
    scales = SHARES * largest / reach
    errors = torch.stack(
        [((sample / s).round_().clamp_(low, high) * s - sample).square().sum() for s in scales]
    )
    return float(scales[int(errors.argmin())])


def best_scales(weight: Tensor, high: int) -> Tensor:
    """The same for each row of a matrix: (channels, inputs) -> (channels,) float32."""
    weight = weight.float()
    largest = weight.abs().amax(1).clamp_min(1e-8)
    best = largest / high
    least = torch.full_like(largest, float("inf"))
    for share in SHARES[SHARES >= 0.4]:
        scale = largest * share / high
        quantized = (weight / scale[:, None]).round_().clamp_(-high, high) * scale[:, None]
        error = (quantized - weight).square().sum(1)
        best, least = torch.where(error < least, scale, best), torch.minimum(error, least)
    return best
