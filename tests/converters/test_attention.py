"""The homotopy from attention to static token mixing, at both ends and between."""

from __future__ import annotations

import pytest
import torch

from archnet.converters.attention import AttentionToMixing, MixingConverter
from archnet.converters.base import AttentionStatistics
from archnet.converters.homotopy import set_progress
from archnet.converters.softmax import softmax_attention
from archnet.executor import NetworkModule
from archnet.network import Network, Site
from archnet.operators import Op

SITE = Site("a", Op.ATTENTION, ("q", "k", "v", "mask"), {}, {"heads": 2, "scale": 0.5, "masked": True})


def operands() -> dict[str, torch.Tensor]:
    """Queries, keys, values (3, 5, 8) and a mask."""
    generator = torch.Generator().manual_seed(0)
    made = {name: torch.randn(3, 5, 8, generator=generator) for name in "qkv"}
    made["mask"] = (torch.arange(5)[None] < torch.tensor([5, 3, 1])[:, None]).long()
    return made


def module() -> AttentionToMixing:
    """With parameters that are none of their start values."""
    generator = torch.Generator().manual_seed(1)
    made = AttentionToMixing(2, 0.5, 8, 8, torch.randn(2, 6, 6, generator=generator))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return made


def mixed(made: AttentionToMixing) -> torch.Tensor:
    """W [q, mixed] + b, one token at a time."""
    x = operands()
    result = torch.zeros(3, 5, 8)
    for batch in range(3):
        for t in range(5):
            own = torch.zeros(8)
            for head in range(2):
                part = slice(4 * head, 4 * head + 4)
                own[part] = made.mixing_bias[head, t]
                for s in range(int(x["mask"][batch].sum())):
                    own[part] += made.mixing[head, t, s] * x["v"][batch, s, part]
            result[batch, t] = made.gate @ torch.cat([x["q"][batch, t], own]) + made.gate_bias
    return result


@torch.no_grad()
@pytest.mark.parametrize("g", [0.0, 0.3, 1.0])
def test_blend_is_the_formula(g: float) -> None:
    x, made = operands(), module()
    set_progress(made, g)
    attended = softmax_attention(x["q"], x["k"], x["v"], x["mask"], heads=2, scale=0.5)
    z = mixed(made)
    torch.testing.assert_close(made(*x.values()), (1 - g) * attended + g * ((1 - g) * z + g * z.relu()))


@torch.no_grad()
def test_what_is_left_is_mixing_concatenation_gate_and_relu() -> None:
    x, made = operands(), module()
    set_progress(made, 1.0)
    expansion = made.expand(SITE)
    assert [site.op for site in expansion.sites] == [Op.TOKEN_MIX, Op.CONCAT, Op.LINEAR, Op.RELU]
    assert all("k" not in site.inputs for site in expansion.sites)
    network = Network(("q", "k", "v", "mask"), expansion.sites, expansion.tensors, {"output": "a"})
    torch.testing.assert_close(NetworkModule(network)(x)["a"], made(*x.values()))


@torch.no_grad()
def test_starts_near_attention() -> None:
    weights = torch.softmax(torch.randn(2, 5, 5, generator=torch.Generator().manual_seed(2)), -1)
    linear = [Site(name, Op.LINEAR, ("x",), {"weight": "w", "bias": "b"}) for name in "qkv"]
    tensors = {"w": torch.ones(8, 8), "b": torch.zeros(8)}
    network = Network(("x", "mask"), (*linear, SITE), tensors, {"output": "a"})
    converter = MixingConverter()
    assert converter.rejects(SITE, network) is None
    built = converter.build(SITE, network, AttentionStatistics(weights))
    made = built.modules["a"]
    set_progress(made, 1.0)
    x = operands()
    full = torch.ones(3, 5, dtype=torch.int64)
    split = x["v"].reshape(3, 5, 2, 4)
    wanted = torch.einsum("hts,bshw->bthw", weights, split).flatten(-2).relu()
    torch.testing.assert_close(made(x["q"], x["k"], x["v"], full), wanted)


def test_shared_layers_are_refused() -> None:
    shared = Site("a", Op.ATTENTION, ("q", "q", "v"), {}, SITE.attributes)
    sites = (Site("q", Op.LINEAR, ("x",)), Site("v", Op.RELU, ("q",)), shared)
    network = Network(("x",), sites, {}, {"output": "a"})
    reason = "its query does not come from a fully connected layer of its own"
    assert MixingConverter().rejects(shared, network) == reason
