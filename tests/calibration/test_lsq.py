"""Learned step sizes against autograd of a straight-through reference and the paper's equation 3."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from archnet.calibration.lsq import SAMPLED, ActivationQuantizer, WeightQuantizer


def straight_through(x: Tensor, step: Tensor, low: int, high: int, scale: float) -> Tensor:
    """LSQ as its paper's appendix writes it: rounding passes gradients, the step's are scaled."""
    step = step * scale + (step - step * scale).detach()
    scaled = (x / step).clamp(low, high)
    return (scaled + (scaled.round() - scaled).detach()) * step


@pytest.mark.parametrize(("signed", "low", "high"), [(True, -128, 127), (False, 0, 255)])
def test_activation_gradients_equal_autograd(signed: bool, low: int, high: int) -> None:
    generator = torch.Generator().manual_seed(0)
    row = torch.randn(1, 32, generator=generator)
    weights = torch.randn(1, 32, generator=generator)
    # The step's gradient is taken from every 16th row: with equal rows nothing is lost.
    x = row.repeat(SAMPLED, 1).requires_grad_()
    module = ActivationQuantizer(8, signed=signed)
    with torch.no_grad():
        module.step.fill_(0.01)  # clips part of the values
    y = module(x)
    (y * weights).sum().backward()
    other = row.repeat(SAMPLED, 1).requires_grad_()
    step = torch.tensor(0.01, requires_grad=True)
    wanted = straight_through(other, step, low, high, 1 / (other.numel() * high) ** 0.5)
    (wanted * weights).sum().backward()
    torch.testing.assert_close(y, wanted)
    torch.testing.assert_close(x.grad, other.grad)
    torch.testing.assert_close(module.step.grad, step.grad, rtol=1e-3, atol=1e-5)


def test_step_gradient_is_equation_3() -> None:
    module = ActivationQuantizer(8, signed=True)
    with torch.no_grad():
        module.step.fill_(1.0)
    for value, slope in [(0.3, -0.3), (0.7, 0.3), (200.0, 127.0), (-500.0, -128.0)]:
        module.step.grad = None
        module(torch.tensor([[value]])).sum().backward()
        assert float(module.step.grad) == pytest.approx(slope / 127**0.5, rel=1e-4)  # type: ignore[arg-type]


def test_weight_gradients_equal_autograd_a_channel() -> None:
    generator = torch.Generator().manual_seed(2)
    weight = torch.randn(5, 7, generator=generator, requires_grad=True)
    factors = torch.randn(5, 7, generator=generator)
    module = WeightQuantizer(weight, 4)
    with torch.no_grad():
        module.step.mul_(0.6)
    y = module(weight)
    (y * factors).sum().backward()
    for channel in range(5):
        row = weight.detach()[channel].clone().requires_grad_()
        step = module.step.detach()[channel].clone().requires_grad_()
        wanted = straight_through(row, step, -7, 7, 1 / (7 * 7) ** 0.5)
        (wanted * factors[channel]).sum().backward()
        torch.testing.assert_close(y[channel], wanted)
        torch.testing.assert_close(weight.grad[channel], row.grad)  # type: ignore[index]
        torch.testing.assert_close(module.step.grad[channel], step.grad, rtol=1e-4, atol=1e-5)  # type: ignore[index]


@pytest.mark.parametrize("signed", [True, False])
def test_results_are_integers_of_the_scale_in_range(signed: bool) -> None:
    x = torch.linspace(-9, 9, 100)[None]
    module = ActivationQuantizer(8, signed=signed)
    module.calibrate(x)
    integers = module(x).detach() / module.scale
    torch.testing.assert_close(integers, integers.round(), rtol=0, atol=1e-3)
    assert float(integers.min()) >= module.low - 1e-3
    assert float(integers.max()) <= module.high + 1e-3


def test_step_stays_between_least_and_most() -> None:
    module = ActivationQuantizer(8, signed=True, least=0.1, most=0.2)
    module.calibrate(torch.zeros(4))
    assert module.scale == pytest.approx(0.1)
    module.calibrate(torch.full((4,), 1000.0))
    assert module.scale == pytest.approx(0.2)
    assert float(module(torch.tensor([[1000.0]])).detach()) == pytest.approx(127 * 0.2)
