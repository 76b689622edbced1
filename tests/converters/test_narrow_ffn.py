"""Narrower feed-forward parts: nothing lost where nothing is, else the least, and refusals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from archnet.converters.narrow_ffn import FeedForward, HiddenMoments, NarrowedFFN, feed_forwards, narrow_ffn
from archnet.executor import NetworkModule
from archnet.moments import hidden_moments
from archnet.network import Network, Site
from archnet.operators import Op
from archnet.plan import make_plan
from archnet.targets import load_profile
from tests.small_encoder import captured_encoder, padded_batch

HIDDEN = 32
"""Features of the small encoder's feed-forward parts."""


@pytest.fixture(scope="module")
def network() -> Network:
    return captured_encoder(layers=2)


def narrowed(network: Network, batch: dict[str, Tensor], features: int) -> NarrowedFFN:
    return narrow_ffn(network, hidden_moments(NetworkModule(network), [batch], features), features)


def first(network: Network) -> FeedForward:
    return feed_forwards(network)[0]


def valid(values: Tensor, batch: dict[str, Tensor]) -> np.ndarray:
    """(valid tokens, features), float64."""
    return values[batch["attention_mask"].bool()].double().numpy()


def test_parts_are_found(network: Network) -> None:
    parts = feed_forwards(network)
    assert [(len(part.ups), part.features, part.keeps) for part in parts] == [(1, HIDDEN, "")] * 2
    assert all(network.site(part.hidden).op is Op.GELU for part in parts)
    assert all(network.site(part.down.name).block == part.ups[0].block for part in parts)


def test_a_head_behind_the_pooling_is_no_part() -> None:
    network = captured_encoder(head=True)
    pooled = network.site(network.outputs["head"])
    behind = Site("classes", Op.LINEAR, (pooled.name,), pooled.parameters)
    assert len(feed_forwards(replace(network, sites=(*network.sites, behind)))) == 1


@torch.no_grad()
@settings(max_examples=20, deadline=None)
@given(unused=st.sets(st.integers(0, HIDDEN - 1), max_size=HIDDEN - 1), seed=st.integers(0, 1000))
def test_features_that_nothing_reads_go_first(unused: set[int], seed: int) -> None:
    """As many features as are read lose nothing, whichever those are."""
    network = captured_encoder()
    part, tensors = first(network), dict(network.tensors)
    tensors[part.down.parameters["weight"]] = tensors[part.down.parameters["weight"]].clone()
    tensors[part.down.parameters["weight"]][:, sorted(unused)] = 0.0
    teacher, batch = replace(network, tensors=tensors), padded_batch(seed)
    found = narrowed(teacher, batch, HIDDEN - len(unused))
    assert found.kept == pytest.approx(1.0, abs=1e-4)
    assert {p.features for p in feed_forwards(found.network)} == {HIDDEN - len(unused)}
    output = teacher.outputs["states"]
    wanted, got = (valid(NetworkModule(net)(batch)[output], batch) for net in (teacher, found.network))
    np.testing.assert_allclose(got, wanted, atol=5e-3)


@torch.no_grad()
@pytest.mark.parametrize("features", [1, 7, 20, 31])
def test_the_rest_stands_in_for_what_went(network: Network, features: int) -> None:
    """The layer behind is the least-squares fit, by NumPy, to its own results from what is left."""
    batch, part = padded_batch(batch=40), first(network)
    narrow = narrowed(network, batch, features).network
    before, after = (NetworkModule(net)(batch) for net in (network, narrow))
    hidden, exact = valid(before[part.hidden], batch), valid(before[part.down.name], batch)
    left = valid(after[part.hidden], batch)
    kept = [
        int(np.flatnonzero(np.isclose(hidden, column[:, None], atol=1e-6).all(0))[0]) for column in left.T
    ]
    weight = network.parameter(part.down, "weight").double().numpy()
    adds = (weight**2).sum(0) * hidden.var(0)
    assert kept == sorted(np.argsort(-adds)[:features].tolist())
    with_ones = np.column_stack([left, np.ones(len(left))])
    best = with_ones @ np.linalg.lstsq(with_ones, exact, rcond=None)[0]
    found = valid(after[part.down.name], batch)
    assert np.linalg.norm(found - exact) == pytest.approx(np.linalg.norm(best - exact), rel=2e-2)
    np.testing.assert_allclose(found.mean(0), exact.mean(0), atol=1e-5)


@torch.no_grad()
def test_the_share_is_of_what_the_part_adds() -> None:
    network, batch = captured_encoder(), padded_batch(batch=40)
    part, found = first(network), narrowed(network, batch, 9)
    exact, near = (
        valid(NetworkModule(net)(batch)[part.down.name], batch) for net in (network, found.network)
    )
    assert found.kept == pytest.approx(1.0 - (near - exact).var(0).sum() / exact.var(0).sum(), rel=1e-4)
    assert 0.1 < found.kept < 0.99


@torch.no_grad()
def test_moments_are_of_valid_tokens(network: Network) -> None:
    batch, other = padded_batch(), padded_batch(1, batch=3)
    found = hidden_moments(NetworkModule(network), [batch, other], 8)
    assert set(found) == {part.hidden for part in feed_forwards(network)}
    name = first(network).hidden
    rows = np.concatenate([valid(NetworkModule(network)(b)[name], b) for b in (batch, other)])
    np.testing.assert_allclose(found[name].mean, rows.mean(0))
    np.testing.assert_allclose(found[name].covariance, np.cov(rows.T, bias=True), atol=1e-12)
    assert hidden_moments(NetworkModule(network), [batch], HIDDEN) == {}


@torch.no_grad()
def test_features_that_never_change_join_the_bias(network: Network) -> None:
    part, batch = first(network), padded_batch()
    mean = torch.arange(HIDDEN, dtype=torch.float64)
    moments = {
        p.hidden: HiddenMoments(mean, torch.zeros(HIDDEN, HIDDEN).double()) for p in feed_forwards(network)
    }
    found = narrow_ffn(network, moments, 4)
    assert found.kept == 1.0
    narrow = feed_forwards(found.network)[0].down
    weight, bias = (network.parameter(part.down, role).double() for role in ("weight", "bias"))
    assert torch.count_nonzero(found.network.parameter(narrow, "weight")) == 0
    torch.testing.assert_close(
        found.network.parameter(narrow, "bias").double(), bias + weight @ mean, rtol=1e-6, atol=1e-6
    )
    assert torch.isfinite(NetworkModule(found.network)(batch)[narrow.name]).all()


def gated(network: Network) -> Network:
    """The network whose first feed-forward part multiplies its activation by another layer's features."""
    part = first(network)
    gate = replace(part.ups[0], name="gate")
    both = Site("both", Op.MUL, (part.hidden, "gate"), block=part.down.block)
    down = replace(part.down, inputs=("both",))
    sites: list[Site] = []
    for site in network.sites:
        sites += [gate, both, down] if site.name == part.down.name else [site]
    return replace(network, sites=tuple(sites))


@torch.no_grad()
def test_gated_parts_lose_the_same_rows_of_both_layers(network: Network) -> None:
    batch, teacher = padded_batch(batch=40), gated(network)
    part = first(teacher)
    assert (part.hidden, len(part.ups), part.keeps) == ("both", 2, "")
    found = narrowed(teacher, batch, 20)
    values = NetworkModule(found.network)(batch)
    assert values["both"].shape[-1] == values["gate"].shape[-1] == 20
    hidden = valid(NetworkModule(teacher)(batch)["both"], batch)
    for column in valid(values["both"], batch).T:
        assert np.isclose(hidden, column[:, None], atol=1e-6).all(0).any()
    assert found.kept > 0.9


@torch.no_grad()
def test_a_layer_between_two_parts_is_changed_twice(network: Network) -> None:
    """U, f, V, f, W: V reads fewer features and gives fewer."""
    part = first(network)
    square = {"weight": "square", "bias": part.ups[0].parameters["bias"]}
    generator = torch.Generator().manual_seed(1)
    tensors = {**network.tensors, "square": torch.randn(HIDDEN, HIDDEN, generator=generator) / 6}
    sites: list[Site] = []
    for site in network.sites:
        if site.name == part.down.name:
            sites.append(Site("more", Op.LINEAR, (part.hidden,), square, block=site.block))
            sites.append(Site("again", Op.RELU, ("more",), block=site.block))
            site = replace(site, inputs=("again",))
        sites.append(site)
    deep = replace(network, sites=tuple(sites), tensors=tensors)
    batch = padded_batch(batch=40)
    found = narrowed(deep, batch, 12)
    assert found.network.parameter(found.network.site("more"), "weight").shape == (12, 12)
    assert torch.isfinite(NetworkModule(found.network)(batch)[part.down.name]).all()
    assert narrowed(deep, batch, HIDDEN).network.tensors.keys() == deep.tensors.keys()


def test_what_keeps_its_width_says_why(network: Network) -> None:
    part = first(network)

    def keeps(changed: Network) -> str | None:
        return next(p for p in feed_forwards(changed) if p.down.name == part.down.name).narrowed_to(8)

    def between(site: Site) -> Network:
        """The network with another site between the features and the layer that reads them."""
        sites: list[Site] = []
        for old in network.sites:
            sites += [site, replace(old, inputs=(site.name,))] if old.name == part.down.name else [old]
        return replace(network, sites=tuple(sites))

    assert keeps(network) is None
    assert part.narrowed_to(HIDDEN) == f"it has {HIDDEN} features"
    elsewhere = "its features are read elsewhere too"
    for read in (part.hidden, part.ups[0].name):
        assert keeps(replace(network, sites=(*network.sites, Site("more", Op.RELU, (read,))))) == elsewhere
        assert keeps(replace(network, outputs={**network.outputs, "y": read})) == elsewhere
    for name in (part.hidden, part.ups[0].name):
        cut = [replace(s, block="block 9") if s.name == name else s for s in network.sites]
        assert keeps(replace(network, sites=tuple(cut))) == "a block ends within it"
    activation = network.site(part.hidden)
    norm = Site("norm", Op.LAYER_NORM, (part.ups[0].name,), part.ups[0].parameters, {"eps": 1e-5})
    normed = [replace(s, inputs=("norm",)) if s.name == activation.name else s for s in network.sites]
    place = network.sites.index(activation)
    assert (
        keeps(replace(network, sites=(*normed[:place], norm, *normed[place:])))
        == "LayerNorm stands within it"
    )
    scaled = Site("scaled", Op.MUL, (part.hidden,), {"table": part.ups[0].parameters["bias"]})
    assert (
        keeps(between(replace(scaled, inputs=(part.hidden, "input_ids"), parameters={})))
        == "it reads an input"
    )
    assert feed_forwards(between(scaled))[0].down.name != part.down.name  # no activation is seen behind it
    narrow = replace(part.ups[0], name="one", parameters={k: f"one_{k}" for k in ("weight", "bias")})
    tensors = {**network.tensors, "one_weight": torch.zeros(1, 16), "one_bias": torch.zeros(1)}
    spread = between(Site("gated", Op.MUL, (part.hidden, "one")))
    sites = list(spread.sites)
    sites.insert(sites.index(spread.site(part.hidden)), narrow)
    assert keeps(replace(spread, sites=tuple(sites), tensors=tensors)) == (
        "its features are spread over each other"
    )


@torch.no_grad()
def test_parts_that_are_narrow_already_stay_and_the_plan_says_so(network: Network) -> None:
    narrow = narrowed(network, padded_batch(), 8).network
    block = first(network).down.block
    sites = [a if a.block == block else b for a, b in zip(narrow.sites, network.sites, strict=True)]
    mixed = replace(network, sites=tuple(sites), tensors={**network.tensors, **narrow.tensors})
    made = make_plan(mixed, load_profile("tvm"), model="t", embedding="gather", ffn_width=12)
    downs = {part.down.name for part in feed_forwards(mixed)}
    stays, becomes = (decision for decision in made.decisions if decision.site in downs)
    assert stays.reason == "its feed-forward part stays: it has 8 features"
    assert becomes.reason == ""
    assert becomes.becomes.endswith("; reads 12 instead of 32 features")
    again = narrowed(mixed, padded_batch(), 12).network
    assert [part.features for part in feed_forwards(again)] == [8, 12]
