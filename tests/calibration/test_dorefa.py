"""DoReFa's weights against NumPy and autograd, and the plain quantizer that is left of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from archnet.calibration.dorefa import DoReFaWeightQuantizer
from archnet.calibration.lsq import WeightQuantizer
from archnet.calibration.observers import best_scales

BITS = [2, 3, 4, 8]


def weights(seed: int = 0) -> Tensor:
    """Channels of very different magnitude, the last one of zeros."""
    made = torch.randn(4, 200, generator=torch.Generator().manual_seed(seed))
    return made * torch.tensor([3.0, 0.1, 0.002, 0.0])[:, None]


@pytest.mark.parametrize("bits", BITS)
def test_a_layer_starts_with_the_weights_that_it_has(bits: int) -> None:
    weight = weights()
    module = DoReFaWeightQuantizer(weight, bits)
    latent = module.start(weight)
    torch.testing.assert_close(module.bounded(latent), weight, rtol=1e-5, atol=1e-9)
    plain = WeightQuantizer(weight, bits)
    wanted, got = plain(weight).detach(), module(latent).detach()
    share = (wanted - got).abs() > 1e-3 * plain.scale[:, None]
    assert float(share.float().mean()) < 0.01  # values that lie between two integers may round either way


@pytest.mark.parametrize("bits", BITS)
def test_forward_is_its_formula(bits: int) -> None:
    weight = weights()
    module = DoReFaWeightQuantizer(weight, bits)
    latent = module.start(weight)
    latent = latent + 0.3 * latent.abs().mean(1, keepdim=True) * torch.randn_like(latent)
    w = weight.double().numpy()
    u = np.maximum(np.abs(w).max(1, keepdims=True), 1e-8) / np.tanh(1.0)
    k = best_scales(weight, bits).double().numpy() / np.maximum(np.abs(w).mean(1), 1e-8)
    bounded = u * np.tanh(latent.double().numpy() / u)
    assert (np.abs(bounded) <= u).all()
    scale = np.maximum(k * np.abs(bounded).mean(1), 1e-8)[:, None]
    if bits == 2:
        integers = np.clip(2 * np.rint((bounded / scale - 1) / 2) + 1, -3, 3)
    else:
        limit = 2 ** (bits - 1) - 1
        integers = np.clip(np.rint(bounded / scale), -limit, limit)
    got = module(latent).detach().numpy()[:3]
    off = np.abs(got / scale[:3] - integers[:3]) > 1e-3
    assert off.mean() < 0.005  # float32 against float64


def test_the_gradient_is_that_of_tanh_alone() -> None:
    weight = weights()[:3]
    module = DoReFaWeightQuantizer(weight, 2)
    latent = module.start(weight).requires_grad_()
    factors = torch.randn(3, 200, generator=torch.Generator().manual_seed(1))
    (module(latent) * factors).sum().backward()
    slope = 1.0 - torch.tanh(latent.detach() / module.unit).square()
    torch.testing.assert_close(latent.grad, factors * slope)  # also where the integers are clipped
    assert [name for name, p in module.named_parameters() if p.requires_grad] == []


@pytest.mark.parametrize("bits", BITS)
def test_what_is_left_gives_the_same(bits: int) -> None:
    weight = weights()
    module = DoReFaWeightQuantizer(weight, bits)
    latent = module.start(weight)
    latent = latent + 0.5 * latent.abs().mean(1, keepdim=True) * torch.randn_like(latent)
    bounded, plain = module.settled(latent)
    assert type(plain) is WeightQuantizer
    assert torch.equal(plain(bounded), module(latent))
