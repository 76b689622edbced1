"""Equalization keeps the function and evens out channels."""

from __future__ import annotations

import pytest
import torch

from archnet.calibration.equalization import equalize, groups
from archnet.converters.fold import Folded, fold
from archnet.executor import NetworkModule
from archnet.operators import Op
from archnet.quantized_student import channel_statistics
from tests.converters.test_fold import BATCH, POST_NORM, PRE_NORM, network
from tests.small_language import folded_language, text_batch

FLIPPED = PRE_NORM.replace("sum ADD down words", "sum ADD words down")
TWO_STREAMS = """
words EMBEDDING input_ids
a LINEAR words
b LINEAR words
inner ADD a b
outer ADD words inner
norm BATCH_NORM outer
head LINEAR norm
"""
CLASSIFIER = """
words EMBEDDING input_ids
norm BATCH_NORM words
first SELECT norm
up LINEAR first
relu RELU up
logits LINEAR relu
"""
TEXTS = {
    "post-norm": POST_NORM,
    "pre-norm": PRE_NORM,
    "flipped": FLIPPED,
    "two-streams": TWO_STREAMS,
    "classifier": CLASSIFIER,
}


def folded_and_equalized(text: str, seed: int) -> tuple[Folded, Folded]:
    source = network(text, seed)
    folded = fold(source)
    statistics = channel_statistics(folded.network, [BATCH])
    return folded, equalize(folded, statistics, outputs=source.outputs.values())


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("seed", range(2))
def test_every_value_is_kept(text: str, seed: int) -> None:
    folded, equal = folded_and_equalized(text, seed)
    with torch.no_grad():
        before, after = NetworkModule(folded.network)(BATCH), NetworkModule(equal.network)(BATCH)
    assert set(folded.values) == set(equal.values)
    for name, affine in folded.values.items():
        if name in ("input_ids", "attention_mask"):
            continue
        now = equal.values[name]
        wanted, got = affine.apply(before[affine.carrier]), now.apply(after[now.carrier])
        scale = float(wanted.abs().max())
        torch.testing.assert_close(got / scale, wanted / scale, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("text", [POST_NORM, PRE_NORM, FLIPPED], ids=["post-norm", "pre-norm", "flipped"])
def test_outputs_have_positive_gains(text: str) -> None:
    source = network(text)
    folded, equal = folded_and_equalized(text, 0)
    (output,) = source.outputs.values()
    before, after = folded.values[output].weight, equal.values[output].weight
    assert before is not None
    assert after is not None
    assert bool((before < 0).any())
    assert bool((after > 0).all())


def test_channels_of_the_stream_become_alike() -> None:
    folded, equal = folded_and_equalized(PRE_NORM, 1)

    def unevenness(value: Folded) -> float:
        reach = channel_statistics(value.network, [BATCH])["sum"].reach
        return float(reach.max() / reach.min())

    assert unevenness(equal) < unevenness(folded)
    mean = channel_statistics(equal.network, [BATCH])["sum"].mean
    torch.testing.assert_close(mean, torch.zeros(4), rtol=0, atol=1e-4)


def test_queries_and_keys_stay_as_they_are() -> None:
    names = {name for group in groups(fold(network(POST_NORM)).network) for name in group}
    assert names.isdisjoint({"query", "key"})
    assert {"value", "attend", "sum", "sum2", "mean"} <= names
    assert all(site.op is not Op.BATCH_NORM for site in fold(network(POST_NORM)).network.sites)


def test_gated_products_may_be_evened_out_more_than_the_rest() -> None:
    folded = folded_language("llama")
    batch = text_batch(0)
    statistics = channel_statistics(folded.network, [batch])
    products = [s.name for s in folded.network.sites if s.op is Op.MUL and len(s.inputs) == 2]
    assert products
    plain, own = (equalize(folded, statistics, exponent=0.0, gated_exponent=e) for e in (None, 1.0))
    new = channel_statistics(own.network, [batch])
    for name in products:
        up = folded.network.site(name).inputs[1]
        shares = [of[name].reach / of[name].reach.mean() for of in (statistics, new)]
        beside = [of[up].reach / of[up].reach.mean() for of in (statistics, new)]
        before, after = (torch.maximum(*pair).max() for pair in zip(shares, beside, strict=True))
        assert float(after) < 0.8 * float(before)
    changed = [
        site.name
        for site in folded.network.sites
        for key in site.parameters.values()
        if not torch.allclose(plain.network.tensors[key], own.network.tensors[key])
    ]
    readers = folded.network.consumers()
    around = {folded.network.site(name).inputs[1] for name in products}
    around |= {reader.name for name in products for reader in readers[name]}
    assert set(changed) == around
    with torch.no_grad():
        was, now = (NetworkModule(f.network)(batch) for f in (folded, own))
    logits = folded.network.outputs["logits"]
    torch.testing.assert_close(now[logits], was[logits], rtol=1e-3, atol=1e-3)
