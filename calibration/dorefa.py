"""Weights limited by tanh, with scales that follow the weights (DoReFa, arXiv 1606.06160, equation 9).

The paper trains v, and multiplies by w = tanh(v) rounded to even steps between -max|w| and max|w|; in the
way back it is as if nothing had been rounded. Here, for every output channel of a layer or convolution,

    w = u tanh(v / u),    s = k mean|w| / limit,    y = s round(w / s)

with the integers that the integer network has (`round_weights`), `limit` the greatest of them. What is
different has to do with a network that was trained already, and whose norms are folded away:

- Its weights have no common unit: u is the channel's greatest magnitude at the start over tanh(1).
- v starts as the inverse, u artanh(w / u), so that the layer starts with the weights that it has.
- No norm behind the layer would make up for another scale: y stays near w.
- max|w| wastes most of few steps. The code published with Arch-Net (arXiv 2111.01135) takes the mean of the
  magnitudes instead, and the greatest for layers of 8 bits. k is the factor to that mean which gives the
  least squared error at the start, and stays.

Activations are clipped to ranges that are not learned: those of `ActivationQuantizer.calibrate`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from archnet.calibration.lsq import WeightQuantizer
from archnet.calibration.observers import round_weights

SMALLEST = 1e-8
"""Of a unit and a scale: a channel may be all zeros."""


class _StraightThrough(torch.autograd.Function):
    """Rounded on the way there, as if it had not been on the way back."""

    @staticmethod
    def forward(ctx: Any, bounded: Tensor, scale: Tensor, bits: int) -> Tensor:
        return round_weights(bounded / scale[:, None], bits) * scale[:, None]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return grads[0], None, None


class DoReFaWeightQuantizer(WeightQuantizer):
    """Fake quantization of a (channels, inputs) matrix v; its scales are not trained.

    Args:
        weight: the matrix w to start with; `start` gives its v.
        bits: width of the integers.
    """

    def __init__(self, weight: Tensor, bits: int) -> None:
        super().__init__(weight, bits)  # whose step is the scale of least squared error
        self.step.requires_grad_(False)
        weight = weight.detach().float()
        self.unit: Tensor
        self.ratio: Tensor
        unit = weight.abs().amax(1, keepdim=True).clamp_min(SMALLEST) / math.tanh(1.0)
        self.register_buffer("unit", unit)
        self.register_buffer("ratio", self.step / weight.abs().mean(1).clamp_min(SMALLEST))

    def start(self, weight: Tensor) -> Tensor:
        """The v of the weights that the quantizer was made for."""
        return self.unit * torch.atanh(weight / self.unit)

    def bounded(self, latent: Tensor) -> Tensor:
        """The w of a v."""
        return self.unit * torch.tanh(latent / self.unit)

    def scale_of(self, bounded: Tensor) -> Tensor:
        """The scales of a w: (channels,) float32, positive."""
        return (self.ratio * bounded.detach().abs().mean(1)).clamp_min(SMALLEST)

    def forward(self, latent: Tensor) -> Tensor:
        """v, (channels, inputs) float32 -> y."""
        bounded = self.bounded(latent)
        y: Tensor = _StraightThrough.apply(bounded, self.scale_of(bounded), self.bits)  # type: ignore[no-untyped-call]
        return y

    def settled(self, latent: Tensor) -> tuple[Tensor, WeightQuantizer]:
        """w, and a plain quantizer that gives of it what this one gives of v."""
        bounded = self.bounded(latent.detach())
        plain = WeightQuantizer(bounded, self.bits)
        plain.step.data.copy_(self.scale_of(bounded))
        return bounded, plain
