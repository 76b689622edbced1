"""Which encoder-decoders are refused before any training, and why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from archnet.config import Bits
from archnet.network import Network, Site
from archnet.operators import Op
from archnet.plan import make_plan
from archnet.targets import load_profile
from tests.small_translation import captured_translation


def reasons(network: Network) -> list[tuple[str, str]]:
    plan = make_plan(network, load_profile("onnxruntime"), model="tiny", embedding="gather")
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


KINDS = ("encoder", "decoder to itself", "decoder to the source")
RELU = "MatMul, ReLU, mean of values over valid keys"
TABLE = "MatMul, Minimum, TableSoftmax, MatMul: softmax by a table and integer arithmetic"
SOFTMAX = "MatMul, Minimum, Softmax, MatMul in integers"
MIXING = "fully connected over tokens, Concat with the token's own features, fully connected, ReLU"
WHY_NOT = (
    "",
    "no mixing: a step would look its place's row up and multiply it with values, as relu does",
    "no mixing: no position tells which source word a translation has come to",
)


@pytest.mark.parametrize(
    ("form", "becomes", "reasons"),
    [
        ("softmax", (SOFTMAX,) * 3, ("",) * 3),
        ("table", (TABLE,) * 3, ("",) * 3),
        ("relu", (RELU,) * 3, ("",) * 3),
        ("mixing", (MIXING, RELU, RELU), WHY_NOT),
    ],
)
@pytest.mark.parametrize("family", ["marian", "mbart"])
def test_what_becomes_of_each_attention(
    form: str, becomes: tuple[str, ...], reasons: tuple[str, ...], family: str
) -> None:
    network, profile = captured_translation(family), load_profile("archnet")
    plan = make_plan(network, profile, model="tiny", embedding="one-hot", attention=form)
    assert plan.refusals == ()
    found = [(d.becomes, d.reason) for d in plan.decisions if d.op == "Attention"]
    wanted = [f"{kind}: {words}" for kind, words in zip(KINDS, becomes, strict=True)]
    assert found == list(zip(wanted, reasons, strict=True))


def test_mixing_is_refused_where_activations_cannot_be_multiplied() -> None:
    network, profile = captured_translation(), load_profile("archnet5")
    plan = make_plan(network, profile, model="tiny", embedding="one-hot", attention="mixing")
    found = [d.reason for d in plan.refusals if d.op == "Attention"]
    missing = [profile.why_not(op) for op in (Op.MATMUL, Op.MEAN_MATMUL)]
    assert found == [f"{why}; relu instead: {'; '.join(map(str, missing))}" for why in WHY_NOT[1:]]


def test_operators_that_a_form_needs_in_the_decoder_are_asked_for() -> None:
    profile = load_profile("archnet")
    network = captured_translation()

    def refused(form: str, *gone: Op) -> list[str]:
        bare = replace(profile, operators={k: v for k, v in profile.operators.items() if k not in gone})
        plan = make_plan(network, bare, model="t", embedding="one-hot", attention=form)
        return [d.reason for d in plan.refusals]

    lacks = "the profile of archnet does not list"
    assert refused("relu", Op.MEAN_MATMUL) == [f"{lacks} MeanMatMul"] * 3
    assert refused("relu", Op.SOFTMAX, Op.TABLE_SOFTMAX, Op.MASK) == []
    assert refused("table", Op.MASK) == [f"{lacks} Minimum"] * 3


def test_relu_weights_below_8_bits_are_narrow_and_their_products_asked_for() -> None:
    profile, network = load_profile("archnet"), captured_translation()
    support = replace(profile.operators[Op.MEAN_MATMUL], bits=("a8",))
    wide = replace(profile, name="chip", operators={**profile.operators, Op.MEAN_MATMUL: support})
    bits = Bits.parse("w4a4")
    plan = make_plan(network, wide, model="t", embedding="one-hot", attention="relu", bits=bits)
    assert [(d.op, d.count, d.reason) for d in plan.refusals] == [
        ("MeanMatMul", 3, "chip runs MeanMatMul at a8, not at w8a4")
    ]
    kinds = {w.what for w in plan.wider}
    assert "attention scores" not in kinds
    softmax = make_plan(network, profile, model="t", embedding="one-hot", bits=bits)
    assert "attention scores" in {w.what for w in softmax.wider}
