"""Decisions of the plan and the exact texts of its refusals."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from archnet.config import Bits
from archnet.errors import ArchNetError
from archnet.network import Network, Site
from archnet.operators import Op
from archnet.plan import Decision, Plan, make_plan
from archnet.plan_widths import missing_widths
from archnet.targets import Profile, load_profile

LINEAR = {"weight": "w", "bias": "b"}
ATTENTION = {"heads": 2, "scale": 0.5, "masked": True}


def network(*sites: Site, normalized: frozenset[str] = frozenset()) -> Network:
    tensors = {"w": torch.ones(4, 4), "b": torch.zeros(4), "g": torch.ones(4), "t": torch.zeros(9, 4)}
    tensors["bias"] = torch.zeros(2, 6, 6)
    words = Site("words", Op.EMBEDDING, ("input_ids",), {"table": "t"})
    all_sites = (words, *sites)
    return Network(
        ("input_ids", "attention_mask"), all_sites, tensors, {"output": all_sites[-1].name}, normalized
    )


@pytest.fixture(scope="module")
def profile() -> Profile:
    return load_profile("archnet")


def plan(net: Network, profile: Profile, embedding: str = "one-hot") -> Plan:
    return make_plan(net, profile, model="tiny", embedding=embedding)


def test_what_becomes_of_each_site(profile: Profile) -> None:
    made = plan(
        network(
            Site("norm", Op.LAYER_NORM, ("words",), {"weight": "g", "bias": "b"}, {"eps": 1e-5}),
            Site("up", Op.LINEAR, ("norm",), LINEAR),
            Site("gelu", Op.GELU, ("up",)),
            Site("down", Op.LINEAR, ("gelu",), LINEAR),
            Site("sum", Op.ADD, ("down", "norm")),
            Site("mean", Op.MEAN_POOL, ("sum", "attention_mask")),
            normalized=frozenset({"output"}),
        ),
        profile,
    )
    assert made.refusals == ()
    assert [(d.site, d.action) for d in made.decisions] == [
        ("words", "replace"),
        ("norm", "replace"),
        ("up", "keep"),
        ("gelu", "replace"),
        ("down", "keep"),
        ("sum", "keep"),
        ("mean", "keep"),
        ("output output", "host"),
        ("sum/outward", "keep"),
    ]
    assert Plan.from_json(made.to_json()) == made
    made.require()


@pytest.mark.parametrize(
    ("attention", "action", "what"),
    [
        ("softmax", "keep", "MatMul, Add, Minimum, Softmax, MatMul in integers"),
        (
            "table",
            "replace",
            "MatMul, Add, Minimum, TableSoftmax, MatMul: softmax by a table and integer arithmetic",
        ),
        (
            "relu",
            "refuse",
            "its scores have a bias of positions or a window, which relu does not take",
        ),
        (
            "mixing",
            "refuse",
            "its scores have a bias of positions or a window, which mixing does not take",
        ),
    ],
)
def test_a_position_bias_is_added_to_scores(attention: str, action: str, what: str, profile: Profile) -> None:
    own = [Site(name, Op.LINEAR, ("words",), LINEAR) for name in "qkv"]
    net = network(*own, Site("a", Op.ATTENTION, ("q", "k", "v"), {"bias": "bias"}, ATTENTION))
    made = make_plan(net, profile, model="tiny", embedding="one-hot", attention=attention)
    (found,) = (d for d in made.decisions if d.site == "a")
    assert (found.action, found.reason if action == "refuse" else found.becomes) == (action, what)


@pytest.mark.parametrize(
    ("sites", "site", "op", "reason"),
    [
        pytest.param(
            (Site("odd", Op.OTHER, ("words",), {}, {"aten": "aten.cumsum", "reason": "why"}),),
            "odd",
            "aten.cumsum",
            "why",
            id="unknown",
        ),
        pytest.param(
            (Site("r", Op.RELU, ("words",)),),
            "r",
            "ReLU",
            "it does not follow a fully connected layer",
            id="relu",
        ),
        pytest.param(
            (
                Site("up", Op.LINEAR, ("words",), LINEAR),
                Site("g", Op.GELU, ("up",)),
                Site("s", Op.ADD, ("g", "up")),
            ),
            "g",
            "GELU",
            "the fully connected layer before it is read by other operators too",
            id="gelu-shared",
        ),
        pytest.param(
            (Site("up", Op.LINEAR, ("words",), LINEAR), Site("s", Op.NORMALIZE, ("up",))),
            "s",
            "L2Normalize",
            "no converter knows this operator",
            id="normalize",
        ),
        pytest.param(
            (
                Site("m", Op.MEAN_POOL, ("words", "attention_mask")),
                Site("head", Op.LINEAR, ("m",), LINEAR),
            ),
            "m",
            "MeanPool",
            "its mean over tokens is read by another operator; only an output can be pooled",
            id="pooled-then-linear",
        ),
    ],
)
def test_refusals(sites: tuple[Site, ...], site: str, op: str, reason: str, profile: Profile) -> None:
    refused = plan(network(*sites), profile).refusals
    assert [(d.site, d.op, d.reason) for d in refused] == [(site, op, reason)]


def test_norm_that_cannot_fold_is_refused_before_training(profile: Profile) -> None:
    norm = Site("norm", Op.LAYER_NORM, ("words",), {"weight": "g", "bias": "b"}, {"eps": 1e-5})
    made = plan(network(norm, Site("a", Op.ATTENTION, ("norm",) * 3, {}, ATTENTION)), profile)
    reason = "a (Attention) reads a norm directly; norms fold into fully connected layers only"
    assert made.refusals == (Decision("norms", "BatchNorm", "refuse", "", reason),)


def test_embedding_form_that_the_target_lacks(profile: Profile) -> None:
    (refused,) = plan(network(), profile, "gather").refusals
    assert refused.reason == "archnet has no embedding form 'gather'"


def test_operator_that_the_target_lacks(profile: Profile) -> None:
    operators = {op: support for op, support in profile.operators.items() if op is not Op.SOFTMAX}
    bare = replace(profile, operators=operators)
    made = plan(network(Site("a", Op.ATTENTION, ("words",) * 3, {}, {**ATTENTION, "scale": 1.0})), bare)
    assert [d.reason for d in made.refusals] == ["the profile of archnet does not list Softmax"]


def test_forms_of_attention(profile: Profile) -> None:
    sites = network(Site("a", Op.ATTENTION, ("words",) * 3, {}, {**ATTENTION, "scale": 1.0}))
    made = {
        form: make_plan(sites, profile, model="tiny", embedding="one-hot", attention=form).decisions[1]
        for form in ("softmax", "table", "logsum", "relu")
    }
    assert {form: decision.action for form, decision in made.items()} == {
        "softmax": "keep",
        "table": "replace",
        "logsum": "replace",
        "relu": "replace",
    }
    words = "MatMul, Minimum, LogSumSoftmax, MatMul: softmax by tables of 256 entries, without division"
    assert made["logsum"].becomes == words
    assert made["relu"].becomes == "MatMul, ReLU, mean of values over valid keys"
    softmax_only = replace(profile, attention_forms=("softmax",))
    (refused,) = make_plan(sites, softmax_only, model="t", embedding="one-hot", attention="relu").refusals
    assert refused.reason == "archnet has no attention form 'relu'"


def test_all_refusals_are_told_at_once(profile: Profile) -> None:
    made = plan(network(Site("r", Op.RELU, ("words",)), Site("s", Op.SILU, ("r",))), profile)
    with pytest.raises(ArchNetError) as raised:
        made.require()
    assert raised.value.problem == (
        "2 operators of tiny have no form that archnet can run:"
        "\n    r (ReLU): it does not follow a fully connected layer"
        "\n    s (SiLU): it does not follow a fully connected layer"
    )
    assert raised.value.fix == "choose another --target, or add a converter (docs/add_a_converter.md)"


def test_what_every_layer_repeats_is_told_once(profile: Profile) -> None:
    odd = [Site(f"r{i}", Op.RELU, (f"s{i - 1}" if i else "words",)) for i in range(3)]
    between = [Site(f"s{i}", Op.SILU, (f"r{i}",)) for i in range(3)]
    made = plan(network(*(site for pair in zip(odd, between, strict=True) for site in pair)), profile)
    with pytest.raises(ArchNetError) as raised:
        made.require()
    assert raised.value.problem == (
        "6 operators of tiny have no form that archnet can run:"
        "\n    r0 and 2 more (ReLU): it does not follow a fully connected layer"
        "\n    s0 and 2 more (SiLU): it does not follow a fully connected layer"
    )


def test_a_plan_lists_what_stays_wider_than_was_asked_for(profile: Profile) -> None:
    sites = (
        Site("norm", Op.LAYER_NORM, ("words",), {"weight": "g", "bias": "b"}, {"eps": 1e-5}),
        Site("up", Op.LINEAR, ("norm",), LINEAR),
        Site("gelu", Op.GELU, ("up",)),
        Site("down", Op.LINEAR, ("gelu",), LINEAR),
        Site("sum", Op.ADD, ("down", "norm")),
        Site("mean", Op.MEAN_POOL, ("sum", "attention_mask")),
    )
    made = make_plan(network(*sites), profile, model="tiny", embedding="one-hot", bits=Bits.parse("w2a4"))
    assert made.refusals == ()
    assert made.bits == "w2a4"
    assert {(w.what, w.bits) for w in made.wider} >= {("residual stream", 8), ("embedding tables", 4)}
    assert all(w.reason and w.count for w in made.wider)
    assert Plan.from_json(made.to_json()) == made
    plain = make_plan(network(*sites), profile, model="tiny", embedding="one-hot")
    assert (plain.bits, plain.wider) == ("w8a8", ())


def test_an_operator_without_the_width_is_refused_with_the_reason(profile: Profile) -> None:
    support = replace(profile.operators[Op.LINEAR], bits=("w8a8", "w4a8"))
    add = replace(profile.operators[Op.ADD], bits=("a4",))
    other = replace(profile, name="chip", operators={**profile.operators, Op.LINEAR: support, Op.ADD: add})
    sites = (
        Site("up", Op.LINEAR, ("words",), LINEAR),
        Site("down", Op.LINEAR, ("words",), LINEAR),
        Site("sum", Op.ADD, ("down", "up")),
    )
    made = make_plan(network(*sites), other, model="tiny", embedding="one-hot", bits=Bits.parse("w4a4"))
    assert [(d.site, d.reason, d.count) for d in made.refusals] == [
        ("FullyConnected at w4a4", "chip runs FullyConnected at w8a8, w4a8, not at w4a4", 2),
        ("Add at w4a4", "chip runs Add at a4, not at w8a8", 1),
    ]


def test_corrected_norms_need_layers_and_say_so(profile: Profile) -> None:
    norm = Site("norm", Op.LAYER_NORM, ("words",), {"weight": "g", "bias": "b"}, {"eps": 1e-5})
    net = network(norm, Site("up", Op.LINEAR, ("norm",), LINEAR))
    texts = {
        norms: make_plan(net, profile, model="t", embedding="one-hot", norms=norms).decisions[1].becomes
        for norms in ("static", "corrected")
    }
    static = "BatchNorm, folded into its neighbours"
    added = "; fully connected, ReLU, fully connected, added to it"
    assert texts == {"static": static, "corrected": static + added}


def test_wide_probabilities_need_a_product_of_their_width(profile: Profile) -> None:
    sites = (
        Site("patch", Op.CONV, ("pixel_values",), LINEAR, {"groups": 1}),
        Site("tokens", Op.TO_TOKENS, ("patch",)),
        Site("p", Op.ADD, ("tokens",), {"table": "t"}),
        Site("a", Op.ATTENTION, ("p", "p", "p"), attributes={"heads": 2, "scale": 0.5, "masked": False}),
    )
    images = Network(("pixel_values",), sites, {"t": torch.zeros(31, 4)}, {"output": "a"})
    operators = {**profile.operators, Op.MATMUL: replace(profile.operators[Op.MATMUL], bits=("a4",))}
    narrow = replace(profile, operators=operators)
    lacking = missing_widths(images, Bits(4, 4), narrow)
    assert [(op, reason) for op, _, reason in lacking if op is Op.MATMUL] == [
        (Op.MATMUL, f"{profile.name} runs MatMul at a4, not at w8a8")
    ]
    assert all(op is not Op.MATMUL for op, _, _ in missing_widths(images, Bits(4, 4), profile))
