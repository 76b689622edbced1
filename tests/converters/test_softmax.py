"""The homotopy from softmax to ReLU weights, at both ends and between."""

from __future__ import annotations

import pytest
import torch

from archnet.converters.homotopy import set_progress
from archnet.converters.softmax import SMALLEST_SUM, SoftmaxConverter, SoftmaxToReLU
from archnet.network import Network, Site
from archnet.operators import Op

HEADS, SCALE = 2, 0.5


def operands() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries, keys, values (3, 5, 8) and a mask."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(3, 5, 8, generator=generator) for _ in range(3))
    mask = (torch.arange(5)[None] < torch.tensor([5, 3, 1])[:, None]).long()
    return q, k, v, mask


def wanted(g: float, masked: bool, *, causal: bool = False, queries: int = 5) -> torch.Tensor:
    """The module's formula, one query of one head at a time."""
    q, k, v, mask = operands()
    result = torch.zeros(3, queries, 8)
    for batch in range(3):
        valid = int(mask[batch].sum()) if masked else 5
        for head in range(HEADS):
            part = slice(4 * head, 4 * head + 4)
            for query in range(queries):
                count = min(valid, query + 1) if causal else valid
                s = SCALE * k[batch, :count, part] @ q[batch, query, part]
                soft = s.exp() / s.exp().sum()
                flat = s.clamp_min(0) / (count**g * (s.clamp_min(0).sum() + SMALLEST_SUM) ** (1 - g))
                result[batch, query, part] = ((1 - g) * soft + g * flat) @ v[batch, :count, part]
    return result


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("g", [0.0, 0.3, 1.0])
def test_blend_is_the_formula(g: float, masked: bool) -> None:
    q, k, v, mask = operands()
    module = SoftmaxToReLU(HEADS, SCALE)
    set_progress(module, g)
    torch.testing.assert_close(module(q, k, v, *([mask] if masked else [])), wanted(g, masked))


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("g", [0.0, 0.3, 1.0])
def test_causal_attention_divides_by_the_keys_up_to_its_own_place(g: float, masked: bool) -> None:
    q, k, v, mask = operands()
    module = SoftmaxToReLU(HEADS, SCALE, causal=True)
    set_progress(module, g)
    torch.testing.assert_close(module(q, k, v, *([mask] if masked else [])), wanted(g, masked, causal=True))


@pytest.mark.parametrize("g", [0.0, 0.3, 1.0])
def test_cross_attention_divides_by_the_valid_source_tokens(g: float) -> None:
    q, k, v, mask = operands()
    module = SoftmaxToReLU(HEADS, SCALE)
    set_progress(module, g)
    torch.testing.assert_close(module(q[:, :2], k, v, mask), wanted(g, True, queries=2))


def test_gradients_are_finite_without_any_positive_score() -> None:
    q, k, v, mask = operands()
    query = (-k.sum(1, keepdim=True)).expand_as(q).clone().requires_grad_()
    module = SoftmaxToReLU(HEADS, 100.0)
    for g in (0.1, 0.9, 1.0):
        set_progress(module, g)
        (gradient,) = torch.autograd.grad(module(query, k, v, mask).square().sum(), query)
        assert bool(torch.isfinite(gradient).all())


def test_a_position_bias_is_for_softmax_and_its_table() -> None:
    attributes = {"heads": 2, "scale": 0.5, "masked": True}
    site = Site("a", Op.ATTENTION, ("x", "x", "x"), {"bias": "b"}, attributes)
    network = Network(("x",), (site,), {}, {"output": "a"})
    reason = "its scores have a bias of positions or a window, which relu does not take"
    assert SoftmaxConverter("relu").rejects(site, network) == reason
    assert SoftmaxConverter("table").rejects(site, network) is None
    plain = Site("a", Op.ATTENTION, ("x", "x", "x"), {}, attributes)
    assert SoftmaxConverter("relu").rejects(plain, network) is None
    for form in ("table", "relu"):
        (new,) = SoftmaxConverter(form).build(plain, network, None).sites
        assert new.attributes == {**attributes, "form": form}


@pytest.mark.parametrize("causal", [True, False])
def test_what_is_built_hides_the_keys_that_the_site_hides(causal: bool) -> None:
    attributes = {"heads": HEADS, "scale": SCALE, "masked": False, "causal": causal}
    site = Site("a", Op.ATTENTION, ("q", "k", "v"), {}, attributes)
    network = Network(("q", "k", "v"), (site,), {}, {"output": "a"})
    module = SoftmaxConverter("relu").build(site, network, None).modules["a"]
    set_progress(module, 1.0)
    q, k, v, _ = operands()
    torch.testing.assert_close(module(q, k, v), wanted(1.0, False, causal=causal))
