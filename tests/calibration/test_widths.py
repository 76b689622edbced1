"""Which tensors get how many bits, and what is listed as wider."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from archnet.calibration.observers import best_scales, round_weights
from archnet.calibration.widths import assign, narrowed
from archnet.config import Bits
from archnet.network import Network, Site
from archnet.operators import Op


def block() -> Network:
    """Embedding, attention and feed-forward with a residual stream, and a layer on the first token."""
    sites = (
        Site("e", Op.EMBEDDING, ("input_ids",), {"table": "t"}),
        Site("p", Op.ADD, ("e",), {"table": "t"}),
        Site("q", Op.LINEAR, ("p",)),
        Site("a", Op.ATTENTION, ("q", "q", "q", "attention_mask")),
        Site("o", Op.LINEAR, ("a",)),
        Site("s", Op.ADD, ("p", "o")),
        Site("up", Op.LINEAR, ("s",)),
        Site("relu", Op.RELU, ("up",)),
        Site("down", Op.LINEAR, ("relu",)),
        Site("r", Op.ADD, ("s", "down")),
        Site("first", Op.SELECT, ("r",)),
        Site("head", Op.LINEAR, ("first",)),
    )
    tensors = {"t": torch.zeros(3, 4)}
    return Network(("input_ids", "attention_mask"), sites, tensors, {"logits": "head"})


def test_eight_bits_change_nothing() -> None:
    bits = Bits(8, 8)
    network = block()
    assert narrowed(network, bits).sites == network.sites
    widths = assign(network, bits)
    assert set(widths.results.values()) == {8}
    assert widths.wider == ()


def of_pictures(positions: int, form: str = "softmax") -> Network:
    """Patches as tokens, their positions, and attention among them."""
    sites = (
        Site("patch", Op.CONV, ("pixel_values",)),
        Site("tokens", Op.TO_TOKENS, ("patch",)),
        Site("p", Op.ADD, ("tokens",), {"table": "t"}),
        Site("q", Op.LINEAR, ("p",)),
        Site("a", Op.ATTENTION, ("q", "q", "q"), attributes={"form": form}),
        Site("head", Op.LINEAR, ("a",)),
    )
    return Network(("pixel_values",), sites, {"t": torch.zeros(positions, 4)}, {"logits": "head"})


@pytest.mark.parametrize(
    ("positions", "activations", "form", "wanted"),
    [
        (30, 4, "softmax", 4),
        (31, 4, "softmax", 8),
        (31, 4, "table", 8),
        (31, 4, "relu", 4),
        (126, 6, "softmax", 6),
        (127, 6, "softmax", 8),
        (1000, 8, "softmax", 8),
    ],
)
def test_probabilities_that_would_round_to_0_stay_wide(
    positions: int, activations: int, form: str, wanted: int
) -> None:
    network, bits = of_pictures(positions, form), Bits(4, activations)
    widths = assign(narrowed(network, bits), bits)
    assert widths.shares == {"a": wanted}
    found = [w for w in widths.wider if w.what == "attention probabilities"]
    assert [(w.bits, w.count) for w in found] == ([(8, 1)] if wanted > activations else [])
    if found:
        assert found[0].reason == f"their mean over {positions} tokens would round to 0"


@pytest.mark.parametrize(("window", "wanted"), [(30, 4), (31, 8)])
@pytest.mark.parametrize("form", ["window", "bias"])
def test_windows_have_the_keys_that_count(form: str, window: int, wanted: int) -> None:
    """However many tokens the whole picture has; a bias of all pairs tells as well."""
    network = of_pictures(1000)
    attention = network.site("a")
    if form == "window":
        changed = replace(attention, attributes={"window": window})
    else:
        changed = replace(attention, parameters={"bias": "pairs"})
    sites = tuple(changed if site is attention else site for site in network.sites)
    tensors = {**network.tensors, "pairs": torch.zeros(2, window, window)}
    network, bits = replace(network, sites=sites, tensors=tensors), Bits(4, 4)
    widths = assign(narrowed(network, bits), bits)
    assert widths.shares == {"a": wanted}
    reasons = [w.reason for w in widths.wider if w.what == "attention probabilities"]
    assert reasons == ([f"their mean over {window} tokens would round to 0"] if wanted == 8 else [])


def test_products_are_narrow_and_sums_are_not() -> None:
    bits = Bits(2, 4)
    network = narrowed(block(), bits)
    names = [site.name for site in network.sites]
    assert [n for n in names if n.endswith("/a4")] == ["p/a4", "s/a4", "first/a4"]
    assert network.site("q").inputs == ("p/a4",)
    assert network.site("s").inputs == ("p", "o")
    widths = assign(network, bits)
    narrow = {"q", "a", "relu", "up", "p/a4", "s/a4", "first/a4"}
    assert {n for n, width in widths.results.items() if width == 4} == narrow
    assert widths.weights == {"e": 4, "q": 2, "o": 2, "up": 2, "down": 2, "head": 2}
    assert widths.shares == {"a": 4}
    assert widths.scores == {"a": 8}
    assert [(w.what, w.bits, w.count) for w in widths.wider] == [
        ("residual stream", 8, 3),
        ("layers that only feed an Add or an output", 8, 3),
        ("attention scores", 8, 1),
        ("embedding tables", 4, 1),
        ("position tables", 8, 1),
    ]
    assert all(w.reason for w in widths.wider)


def gated() -> Network:
    """Queries turned by their positions, and a gated layer, on a residual stream."""
    sites = (
        Site("e", Op.EMBEDDING, ("input_ids",), {"table": "t"}),
        Site("q", Op.LINEAR, ("e",)),
        Site("turned", Op.LINEAR, ("e",)),
        Site("cos", Op.MUL, ("q",), {"table": "c"}),
        Site("sin", Op.MUL, ("turned",), {"table": "c"}),
        Site("rotary", Op.ADD, ("cos", "sin")),
        Site("a", Op.ATTENTION, ("rotary", "rotary", "q", "attention_mask")),
        Site("o", Op.LINEAR, ("a",)),
        Site("s", Op.ADD, ("e", "o")),
        Site("gate", Op.LINEAR, ("s",)),
        Site("relu", Op.RELU, ("gate",)),
        Site("up", Op.LINEAR, ("s",)),
        Site("product", Op.MUL, ("relu", "up")),
        Site("down", Op.LINEAR, ("product",)),
        Site("r", Op.ADD, ("s", "down")),
    )
    tensors = {"t": torch.zeros(3, 4), "c": torch.ones(3, 4)}
    return Network(("input_ids", "attention_mask"), sites, tensors, {"features": "r"})


def test_factors_of_products_element_by_element_stay_wide_and_what_comes_of_them_is_narrow() -> None:
    bits = Bits(4, 4)
    network = narrowed(gated(), bits)
    assert [s.name for s in network.sites if s.op is Op.REQUANTIZE] == ["e/a4", "q/a4", "s/a4"]
    assert network.site("cos").inputs == ("q",)
    assert network.site("product").inputs == ("relu", "up")
    assert network.site("a").inputs[:3] == ("rotary", "rotary", "q/a4")
    widths = assign(network, bits)
    narrow = {n for n, width in widths.results.items() if width == 4}
    assert narrow == {"e/a4", "q/a4", "s/a4", "rotary", "a", "product"}
    found = {w.what: w.count for w in widths.wider}
    assert found["factors of products element by element"] == 4  # gate and its ReLU are one tensor
    assert found["layers that only feed an Add or an output"] == 4
    assert found["residual stream"] == 2


def test_single_layers_may_differ() -> None:
    layers = {"down": Bits(8, 8), "q": Bits(4, 8)}
    network = narrowed(block(), Bits(4, 4), layers)
    widths = assign(network, Bits(4, 4), layers)
    assert widths.results["relu"] == 8
    assert widths.weights["down"] == 8
    assert network.site("q").inputs == ("p",)
    assert network.site("up").inputs == ("s/a4",)


def test_two_bits_are_four_odd_integers() -> None:
    scaled = torch.tensor([[-9.0, -2.1, -1.9, -0.1, 0.1, 1.9, 2.1, 9.0]])
    assert round_weights(scaled, 2).tolist() == [[-3, -3, -1, -1, 1, 1, 3, 3]]
    assert round_weights(scaled, 3).tolist() == [[-3, -2, -2, 0, 0, 2, 2, 3]]
    weight = torch.randn(50, 256, generator=torch.Generator().manual_seed(0))
    for bits, worst in ((2, 0.13), (3, 0.06), (4, 0.02)):
        scale = best_scales(weight, bits)[:, None]
        error = (round_weights(weight / scale, bits) * scale - weight).square().mean()
        assert float(error / weight.var()) < worst, bits
