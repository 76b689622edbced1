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


def weight_limit(bits: int) -> int:
    """The greatest magnitude of a weight of so many bits, in integers."""
    return 3 if bits == 2 else 2 ** (bits - 1) - 1


def round_weights(scaled: Tensor, bits: int) -> Tensor:
    """Weights in units of their scale -> integers, as floats.

    From 3 bits on, the whole numbers in [-(2**(b-1) - 1), 2**(b-1) - 1]. With 2 bits the four values
    -3, -1, 1, 3, which are evenly spaced around 0 (DoReFa, arXiv 1606.06160, equation 9): -1, 0, 1
    would leave one of the four codes unused.
    """
    if bits == 2:
        return ((scaled - 1.0) / 2.0).round_().mul_(2.0).add_(1.0).clamp_(-3.0, 3.0)
    high = weight_limit(bits)
    return scaled.round().clamp_(-high, high)


def best_scales(weight: Tensor, bits: int) -> Tensor:
    """The scales of least squared error for the rows of a matrix: (channels, inputs) -> (channels,)."""
    weight = weight.float()
    high = weight_limit(bits)
    largest = weight.abs().amax(1).clamp_min(1e-8)
    best = largest / high
    least = torch.full_like(largest, float("inf"))
    for share in SHARES[(0.4 if bits > 4 else 0.15) <= SHARES]:
        scale = largest * share / high
        quantized = round_weights(weight / scale[:, None], bits) * scale[:, None]
        error = (quantized - weight).square().sum(1)
        best, least = torch.where(error < least, scale, best), torch.minimum(error, least)
    return best
