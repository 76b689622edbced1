"""Learned step sizes (LSQ, arXiv 1902.08153, equations 1 to 5) for activations and weights.

q = clamp(round(x / s), low, high), y = q * s. The gradient passes to x where x / s is inside the range;
ds = q outside, q - x / s inside, scaled by 1 / sqrt(n * high) as in the paper.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from archnet.calibration.observers import best_scale, best_scales, round_weights, weight_limit

SAMPLED = 16
"""The gradient of an activation's step is taken from every 16th token: it is a mean over millions."""


class _ActivationStep(torch.autograd.Function):
    """Per-tensor fake quantization in whole-tensor passes; samples the step's gradient.

    PyTorch's own fake_quantize is not vectorized on CPUs: it takes ten times as long as these passes.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Tensor, low: int, high: int) -> Tensor:
        ctx.save_for_backward(x, step)
        ctx.range = (low, high)
        size = float(step)
        y = x.float().div(size) if x.dtype is torch.float32 else x.float().div_(size)
        return y.round_().clamp_(low, high).mul_(size)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (grad,) = grads
        x, step = ctx.saved_tensors
        low, high = ctx.range
        size = float(step)
        scaled = x.reshape(-1, x.shape[-1])[::SAMPLED].float() / step
        rounded = scaled.round().clamp_(low, high)
        within = (scaled >= low) & (scaled <= high)
        slope = torch.where(within, rounded - scaled, rounded)
        sample = grad.reshape(-1, grad.shape[-1])[::SAMPLED]
        total = (sample * slope).sum() * (grad.numel() / sample.numel())
        # What rounds to an integer of the range passes; hardtanh's backward is that comparison in one pass.
        passed = torch.ops.aten.hardtanh_backward(
            grad.to(x.dtype), x, size * (low - 0.5), size * (high + 0.5)
        )
        return passed, (total / (grad.numel() * high) ** 0.5).reshape(()), None, None


class _WeightStep(torch.autograd.Function):
    """Per-channel (axis 0) symmetric fake quantization of a matrix."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, step: Tensor, bits: int) -> Tensor:
        high = weight_limit(bits)
        scaled = weight / step[:, None]
        rounded = round_weights(scaled, bits)
        ctx.save_for_backward(scaled, rounded)
        ctx.high = high
        return rounded * step[:, None]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        (grad,) = grads
        scaled, rounded = ctx.saved_tensors
        within = scaled.abs() <= ctx.high
        slope = torch.where(within, rounded - scaled, rounded)
        total = (grad * slope).sum(1) / (grad.shape[1] * ctx.high) ** 0.5
        return grad * within, total, None


class ActivationQuantizer(nn.Module):
    """Fake quantization of an activation with one learned step.

    Args:
        bits: width of the integers.
        signed: [-2**(b-1), 2**(b-1) - 1]; else [0, 2**b - 1].
        least: the step never falls below this (attention scores: masked keys must vanish).
        most: the step never rises above this (a hard tanh: the range must end at 1).
    """

    def __init__(self, bits: int, *, signed: bool, least: float = 1e-8, most: float = float("inf")) -> None:
        super().__init__()
        self.low = -(2 ** (bits - 1)) if signed else 0
        self.high = 2 ** (bits - 1) - 1 if signed else 2**bits - 1
        self.bits, self.signed, self.least, self.most = bits, signed, least, most
        self.step = nn.Parameter(torch.tensor(1.0))

    @torch.no_grad()
    def calibrate(self, sample: Tensor) -> None:
        """Set the step that gives a sample of values the least squared error."""
        self.step.fill_(min(max(best_scale(sample, self.low, self.high), self.least), self.most))

    @property
    def scale(self) -> float:
        """The step as it is used: positive, in [least, most]."""
        return min(max(float(self.step.detach()), self.least), self.most)

    def forward(self, x: Tensor) -> Tensor:
        """Any shape with features last -> the same, float32."""
        step = self.step.clamp(self.least, self.most)
        y: Tensor = _ActivationStep.apply(x, step, self.low, self.high)  # type: ignore[no-untyped-call]
        return y


class WeightQuantizer(nn.Module):
    """Fake quantization of a (channels, inputs) matrix with a learned step a channel.

    The integers are those of `round_weights`: with 2 bits the odd ones from -3 to 3.
    """

    def __init__(self, weight: Tensor, bits: int) -> None:
        super().__init__()
        self.bits = bits
        self.step = nn.Parameter(best_scales(weight.detach(), bits))

    @property
    def scale(self) -> Tensor:
        """(channels,) float32, positive."""
        return self.step.detach().abs().clamp_min(1e-8)

    def forward(self, weight: Tensor) -> Tensor:
        """(channels, inputs) float32 -> the same."""
        y: Tensor = _WeightStep.apply(weight, self.step.abs().clamp_min(1e-8), self.bits)  # type: ignore[no-untyped-call]
        return y
