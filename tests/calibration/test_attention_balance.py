"""Balancing attention keeps the function, centres keys and values, and evens queries out with keys."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from archnet.calibration.attention_balance import balance_attention
from archnet.calibration.equalization import equalize
from archnet.converters.fold import Folded, fold
from archnet.executor import NetworkModule
from archnet.operators import Op
from archnet.quantized_student import channel_statistics
from tests.converters.test_fold import BATCH, POST_NORM, network
from tests.small_language import folded_language, text_batch

SHARED = POST_NORM.replace("attend ATTENTION query key value", "attend ATTENTION query key key")


def balanced(text: str, seed: int = 0, *, form: str = "softmax") -> tuple[Folded, Folded]:
    source = network(text, seed)
    sites = [
        replace(site, attributes={**site.attributes, "form": form}) if site.op is Op.ATTENTION else site
        for site in source.sites
    ]
    folded = fold(replace(source, sites=tuple(sites)))
    return folded, balance_attention(folded, channel_statistics(folded.network, [BATCH]))


def assert_same_values(before: Folded, after: Folded) -> None:
    with torch.no_grad():
        old, new = NetworkModule(before.network)(BATCH), NetworkModule(after.network)(BATCH)
    for name, affine in before.values.items():
        if name not in ("input_ids", "attention_mask"):
            now = after.values[name]
            wanted, got = affine.apply(old[affine.carrier]), now.apply(new[now.carrier])
            torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max()))


@pytest.mark.parametrize("seed", range(3))
def test_the_network_computes_what_it_did(seed: int) -> None:
    before, after = balanced(POST_NORM, seed)
    assert_same_values(before, after)


def test_keys_and_values_have_no_mean_and_queries_the_reach_of_keys() -> None:
    before, after = balanced(POST_NORM)
    old, new = (channel_statistics(f.network, [BATCH]) for f in (before, after))
    for name in ("key", "value"):
        assert float(old[name].mean.abs().max()) > 0.1
        torch.testing.assert_close(new[name].mean, torch.zeros(4), rtol=0, atol=1e-5)
    reach = new["query"].mean.abs() + new["query"].reach
    torch.testing.assert_close(reach, new["key"].reach, rtol=1e-4, atol=0)


def test_equalization_may_follow_with_the_same_statistics() -> None:
    before, after = balanced(POST_NORM)
    statistics = channel_statistics(before.network, [BATCH])
    assert_same_values(before, equalize(after, statistics))


def test_other_forms_and_shared_operands_stay_as_they_are() -> None:
    for text, form in ((POST_NORM, "relu"), (SHARED, "softmax")):
        before, after = balanced(text, form=form)
        for name, tensor in after.network.tensors.items():
            assert torch.equal(tensor, before.network.tensors[name])


def test_queries_and_keys_that_positions_turn_are_evened_out_too() -> None:
    before, batch = folded_language("llama"), text_batch(0)
    statistics = channel_statistics(before.network, [batch])
    after = balance_attention(before, statistics)
    new = channel_statistics(after.network, [batch])
    uneven = 0.0
    for site in before.network.sites:
        if site.op is Op.ATTENTION:
            query, key = site.inputs[:2]
            assert before.network.site(query).op is Op.ADD
            old, reaches = (
                [of[name].mean.abs() + of[name].reach for name in (query, key)] for of in (statistics, new)
            )
            torch.testing.assert_close(*reaches, rtol=1e-4, atol=0)
            uneven = max(uneven, float((old[0] / old[1]).max()))
    assert uneven > 1.5
    with torch.no_grad():
        first, second = (NetworkModule(f.network)(batch) for f in (before, after))
    logits = before.network.outputs["logits"]
    torch.testing.assert_close(second[logits], first[logits], rtol=1e-3, atol=1e-3)
