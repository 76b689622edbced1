"""Which encoder-decoders are refused before any training, and why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from archnet.network import Network, Site
from archnet.operators import Op
from archnet.plan import make_plan
from archnet.targets import load_profile
from tests.small_translation import captured_translation


def reasons(network: Network, attention: str = "softmax") -> list[tuple[str, str]]:
    plan = make_plan(
        network, load_profile("onnxruntime"), model="tiny", embedding="gather", attention=attention
    )
    return [(decision.op, decision.reason) for decision in plan.refusals]


def changed(change: Callable[[Site], Site]) -> Network:
    network = captured_translation()
    return replace(network, sites=tuple(change(site) for site in network.sites))


@pytest.mark.parametrize("family", ["marian", "bart", "mbart"])
def test_all_of_these_families_can_be_converted(family: str) -> None:
    assert reasons(captured_translation(family)) == []


def test_a_decoder_that_looks_ahead_is_refused() -> None:
    def seeing_all(site: Site) -> Site:
        rest = {k: v for k, v in site.attributes.items() if k != "causal"}
        return replace(site, attributes=rest)

    assert reasons(changed(seeing_all)) == [
        ("Attention", "the decoder looks at tokens that are still to come, so it cannot run token by token")
    ]


def test_an_output_that_scores_no_words_is_refused() -> None:
    def unmarked(site: Site) -> Site:
        return replace(site, attributes={k: v for k, v in site.attributes.items() if k != "logits"})

    reason = "the output of an encoder-decoder must be a fully connected layer: the logits of its words"
    assert reasons(changed(unmarked)) == [("FullyConnected", reason)]


def test_a_decoder_that_mixes_tokens_is_refused() -> None:
    network = captured_translation()
    logits = network.site(network.outputs["logits"])
    pooled = Site("pool", Op.MEAN_POOL, (logits.inputs[0], "decoder_attention_mask"))
    sites = (*network.sites[:-1], pooled, replace(logits, inputs=("pool",)))
    found = reasons(replace(network, sites=sites))
    reason = "it stands in the decoder, where only operators that work token by token are known"
    assert ("MeanPool", reason) in found


def test_attention_with_other_weights_than_softmax_is_refused() -> None:
    found = {reason for _, reason in reasons(captured_translation(), "relu")}
    assert "it is part of an encoder-decoder, whose decoder has keys of another sequence" in found
    assert reasons(captured_translation(), "table") == []
