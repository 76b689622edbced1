"""Narrower heads: the same function where the rank allows it, the least error where not, and refusals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from archnet.config import HeadWidth
from archnet.converters.narrow_heads import Narrowed, narrow_heads, narrowed_to
from archnet.executor import NetworkModule, attention_scores
from archnet.moments import head_moments
from archnet.network import Network, Site
from archnet.operators import Op
from archnet.plan import make_plan
from archnet.targets import load_profile
from tests.small_encoder import captured_encoder, padded_batch


@pytest.fixture(scope="module")
def network() -> Network:
    return captured_encoder(layers=2)


def attention_of(network: Network) -> Site:
    return next(site for site in network.sites if site.op is Op.ATTENTION)


def head_width(site: Site, network: Network) -> int:
    return len(network.parameter(network.site(site.inputs[2]), "bias")) // int(site.attributes["heads"])


def narrowed(network: Network, batch: dict[str, Tensor], keys: int, values: int) -> Narrowed:
    return narrow_heads(network, head_moments(NetworkModule(network), [batch]), HeadWidth(keys, values))


def with_rank(network: Network, rank: int, seed: int) -> Network:
    """The network with heads that do not use more than `rank` of their features, in no particular basis."""
    generator = torch.Generator().manual_seed(seed)
    tensors = dict(network.tensors)
    for site in (site for site in network.sites if site.op is Op.ATTENTION):
        heads, width = int(site.attributes["heads"]), head_width(site, network)
        for name in site.inputs[:3]:
            basis = torch.linalg.qr(torch.randn(heads, width, width, generator=generator)).Q[:, :, :rank]
            project = basis @ basis.mT
            for key in network.site(name).parameters.values():
                value = tensors[key].reshape(heads, width, -1)
                tensors[key] = (project @ value).reshape(tensors[key].shape)
    return replace(network, tensors=tensors)


@settings(max_examples=20, deadline=None)
@given(rank=st.integers(1, 8), seed=st.integers(0, 1000))
@torch.no_grad()
def test_heads_of_a_lower_rank_lose_nothing(rank: int, seed: int) -> None:
    teacher = with_rank(captured_encoder(), rank, seed)
    batch = padded_batch(seed)
    narrow = narrowed(teacher, batch, rank, rank).network
    attention = attention_of(narrow)
    assert head_width(attention, narrow) == rank
    assert {len(narrow.parameter(narrow.site(name), "bias")) for name in attention.inputs[:3]} == {2 * rank}
    valid = batch["attention_mask"].bool()
    wanted, got = (NetworkModule(net)(batch, keep=set(net.outputs.values())) for net in (teacher, narrow))
    for name in teacher.outputs.values():
        torch.testing.assert_close(got[name][valid], wanted[name][valid], atol=2e-3, rtol=2e-3)


def rows(values: Tensor, batch: dict[str, Tensor], heads: int) -> np.ndarray:
    """(heads, valid tokens, width), float64."""
    valid = values[batch["attention_mask"].bool()].double()
    return valid.reshape(len(valid), heads, -1).transpose(0, 1).numpy()


@torch.no_grad()
@pytest.mark.parametrize("width", [1, 3, 6])
def test_scores_change_by_the_least_that_their_rank_allows(network: Network, width: int) -> None:
    """Over all pairs of a query and a key of the data, keys without their mean (Eckart and Young)."""
    batch, site = padded_batch(), attention_of(network)
    narrow = narrowed(network, batch, width, width).network
    before, after = (NetworkModule(net)(batch) for net in (network, narrow))
    heads = int(site.attributes["heads"])
    for head in range(heads):
        query, key = (rows(before[name], batch, heads)[head] for name in site.inputs[:2])
        exact = query @ (key - key.mean(0)).T
        query, key = (rows(after[name], batch, heads)[head] for name in site.inputs[:2])
        found = query @ (key - key.mean(0)).T
        best = np.linalg.svd(exact, compute_uv=False)[width:]
        assert np.linalg.norm(found - exact) == pytest.approx(np.linalg.norm(best), rel=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("width", [1, 3, 6])
def test_results_change_by_the_least_that_their_rank_allows(network: Network, width: int) -> None:
    """Of what each head adds to the layer behind attention, over the values of the data."""
    batch, site = padded_batch(), attention_of(network)
    narrow = narrowed(network, batch, width, width).network
    behind = network.consumers()[site.name][0].name
    heads = int(site.attributes["heads"])
    parts = []
    for net in (network, narrow):
        weight = net.parameter(net.site(behind), "weight").double().numpy()
        values = rows(NetworkModule(net)(batch)[site.inputs[2]], batch, heads)
        parts.append(np.einsum("hrw,ohw->hro", values, weight.reshape(len(weight), heads, -1)))
    exact, found = parts
    exact -= exact.mean(1, keepdims=True)
    for head in range(heads):
        best = np.linalg.svd(exact[head], compute_uv=False)[width:]
        change = found[head] - found[head].mean(0) - exact[head]
        assert np.linalg.norm(change) == pytest.approx(np.linalg.norm(best), rel=1e-3)


@torch.no_grad()
def test_the_mean_of_what_attention_adds_stays(network: Network) -> None:
    """With values that are all alike there is nothing to lose, whatever the width."""
    site = attention_of(network)
    tensors = dict(network.tensors)
    key = network.site(site.inputs[2]).parameters["weight"]
    tensors[key] = torch.zeros_like(tensors[key])
    constant = replace(network, tensors=tensors)
    batch = padded_batch()
    narrow = narrowed(constant, batch, 1, 1).network
    behind = constant.consumers()[site.name][0].name
    wanted, got = (NetworkModule(net)(batch)[behind] for net in (constant, narrow))
    valid = batch["attention_mask"].bool()
    torch.testing.assert_close(got[valid], wanted[valid])


@torch.no_grad()
@pytest.mark.parametrize(("keys", "values"), [(2, 5), (8, 3), (4, 9)])
def test_shares_are_of_what_is_left(keys: int, values: int) -> None:
    """Of squares, over the data; means over attentions, which here is one."""
    network, batch = captured_encoder(), padded_batch()
    found, site = narrowed(network, batch, keys, values), attention_of(network)
    query, key, value = (rows(NetworkModule(network)(batch)[name], batch, 2) for name in site.inputs[:3])
    behind = network.parameter(network.consumers()[site.name][0], "weight").double().numpy().reshape(16, 2, 8)
    key, value = (x - x.mean(1, keepdims=True) for x in (key, value))
    for left, width, exact in (
        (found.scores, keys, query @ key.transpose(0, 2, 1)),
        (found.results, values, np.einsum("hrw,ohw->hro", value, behind)),
    ):
        squares = np.linalg.svd(exact, compute_uv=False) ** 2
        assert left == pytest.approx(squares[:, :width].sum() / squares.sum())
        assert (left == 1.0) == (width >= 8)


@torch.no_grad()
def test_moments_are_of_valid_tokens(network: Network) -> None:
    batch, other = padded_batch(), padded_batch(1, batch=3)
    site = attention_of(network)
    found = head_moments(NetworkModule(network), [batch, other])[site.name]
    values = [
        np.concatenate([rows(NetworkModule(network)(b)[name], b, 2) for b in (batch, other)], 1)
        for name in site.inputs[:3]
    ]
    for head in range(2):
        query, key, value = (v[head] for v in values)
        np.testing.assert_allclose(found.query[head], query.T @ query / len(query))
        np.testing.assert_allclose(found.key[head], np.cov(key.T, bias=True), atol=1e-12)
        np.testing.assert_allclose(found.value[head], np.cov(value.T, bias=True), atol=1e-12)
        np.testing.assert_allclose(found.mean[head], value.mean(0))


@torch.no_grad()
def test_other_sites_and_their_number_stay(network: Network) -> None:
    narrow = narrowed(network, padded_batch(), 2, 5).network
    assert [(s.name, s.op, s.inputs) for s in narrow.sites] == [
        (s.name, s.op, s.inputs) for s in network.sites
    ]
    site = attention_of(narrow)
    batch = padded_batch()
    query, key = (NetworkModule(narrow)(batch)[name] for name in site.inputs[:2])
    assert attention_scores(NetworkModule(narrow), site, query, key).shape == (6, 2, 9, 9)
    weights = [sum(t.numel() for t in net.tensors.values()) for net in (network, narrow)]
    per_layer = (
        2 * (16 - 4) * (16 + 1) + (16 - 10) * (16 + 1) + 16 * (16 - 10)
    )  # queries, keys, values, after
    assert weights[0] - weights[1] == 2 * per_layer


def test_what_keeps_its_width_says_why(network: Network) -> None:
    site = attention_of(network)
    query, key, value, *mask = site.inputs

    def says(text: str, site: Site = site, network: Network = network, width: str = "4,5") -> None:
        assert narrowed_to(site, network, HeadWidth.parse(width)) == (text, None)

    def refuses(reason: str, site: Site = site, network: Network = network, width: str = "4,5") -> None:
        assert narrowed_to(site, network, HeadWidth.parse(width)) == ("", reason)

    scores, results = (
        f"{what} instead of 8 features a head" for what in ("queries and keys of 4", "values of 5")
    )
    says(f"{scores}, {results}")
    says(f"{scores}; values have 8", width="4,9")
    says(f"{results}; queries and keys have 8", width="8,5")
    refuses("queries and keys have 8, and values have 8", width="8")

    tables = "tables of distances have the width of a head"
    distances = replace(site, parameters={"relative_keys": "table"})
    says(f"{results}; {tables}", distances)
    refuses(f"{tables}, and values have 8", distances, width="4,8")

    layers = "do not come from a fully connected layer of their own"
    for role, read in (("queries", query), ("keys", key)):
        shared = replace(network, sites=(*network.sites, Site("more", Op.RELU, (read,))))
        says(f"{results}; {role} {layers}", network=shared)
    says(f"{results}; keys {layers}", replace(site, inputs=(query, "input_ids", value, *mask)))
    shared = replace(network, sites=(*network.sites, Site("more", Op.RELU, (value,))))
    says(f"{scores}; values {layers}", network=shared)
    refuses(f"{tables}, and values {layers}", distances, shared)

    alone = "what heads give is not read by one fully connected layer alone"
    read_twice = replace(network, sites=(*network.sites, Site("more", Op.RELU, (site.name,))))
    for other in (read_twice, replace(network, outputs={"x": site.name})):
        says(f"{scores}; {alone}", network=other)


@torch.no_grad()
def test_what_keeps_its_width_is_left_alone(network: Network) -> None:
    """Values alone, and queries and keys alone, are what both together would be."""
    site = attention_of(network)
    moments = head_moments(NetworkModule(network), [padded_batch()])
    both = narrow_heads(network, moments, HeadWidth(3, 3)).network
    behind = network.consumers()[site.name][0].name
    for read, kept in ((site.inputs[0], site.inputs[:2]), (site.inputs[2], (site.inputs[2], behind))):
        shared = replace(
            network, sites=(*network.sites, Site("more", Op.RELU, (read,))), outputs={"y": "more"}
        )
        shared = replace(shared, outputs={**network.outputs, "y": "more"})
        found = narrow_heads(shared, moments, HeadWidth(3, 3)).network
        for name in (*site.inputs[:3], behind):
            wanted = network if name in kept else both
            for role in ("weight", "bias"):
                got = found.parameter(found.site(name), role)
                torch.testing.assert_close(got, wanted.parameter(wanted.site(name), role))


@torch.no_grad()
def test_heads_that_are_narrow_already_stay_and_the_plan_says_so(network: Network) -> None:
    narrow = narrowed(network, padded_batch(), 4, 4).network
    first = attention_of(network).block
    sites = [a if a.block == first else b for a, b in zip(narrow.sites, network.sites, strict=True)]
    mixed = replace(network, sites=tuple(sites), tensors={**network.tensors, **narrow.tensors})
    made = make_plan(mixed, load_profile("tvm"), model="t", embedding="gather", head_width=HeadWidth(4, 6))
    stays, becomes = (decision for decision in made.decisions if decision.op == Op.ATTENTION)
    assert stays.reason == "its heads stay: queries and keys have 4, and values have 4"
    assert "of 4 instead" not in stays.becomes
    assert becomes.reason == ""
    ending = "; queries and keys of 4 instead of 8 features a head, values of 6 instead of 8 features a head"
    assert becomes.becomes.endswith(ending)
    again = narrowed(mixed, padded_batch(), 4, 6).network
    assert [head_width(site, again) for site in again.sites if site.op is Op.ATTENTION] == [4, 6]
