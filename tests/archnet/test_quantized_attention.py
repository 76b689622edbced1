"""Fake-quantized attention against the same in floating point, once its steps are set."""

from __future__ import annotations

import pytest
import torch

from archnet.converters.softmax import HIDDEN
from archnet.executor import merge_heads, split_heads
from archnet.quantized_layers import QuantizedAttention
from archnet.quantized_student import LARGEST_FACTOR

HEADS, LENGTH, WIDTH = 8, 128, 32


def distances() -> torch.Tensor:
    """A slope for each head times how far a key is behind; those in front are hidden."""
    away = torch.arange(LENGTH)[None] - torch.arange(LENGTH)[:, None]
    slopes = 2.0 ** -torch.arange(1.0, HEADS + 1)
    return torch.where(away > 0, HIDDEN, (slopes[:, None, None] * away).clamp_min(HIDDEN))


@pytest.mark.parametrize(("cap", "least"), [(0.0, 27.0), (1.5, 27.0)])
@torch.no_grad()
def test_a_bias_of_distances_leaves_steps_for_the_keys_that_keep_a_weight(cap: float, least: float) -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(3, 4, LENGTH, HEADS * WIDTH, generator=generator) * 1.2).unbind(0)
    bias, scale = distances(), WIDTH**-0.5
    scores = split_heads(query, HEADS) @ split_heads(key, HEADS).transpose(-1, -2) * scale
    scores = cap * torch.tanh(scores / cap) if cap else scores
    wanted = merge_heads((scores + bias).softmax(-1) @ split_heads(value, HEADS), HEADS)
    module = QuantizedAttention(HEADS, scale, (8, 8), bias, cap=cap)
    module.calibrating = True
    module(query, key, value)
    module.calibrate(LARGEST_FACTOR)
    noise = (module(query, key, value) - wanted).square().sum()
    assert 10 * torch.log10(wanted.square().sum() / noise) > least  # dB
