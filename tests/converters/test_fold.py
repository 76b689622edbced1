"""Folding keeps the function: the folded network against the one with its BatchNorms."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from archnet.converters.fold import fold, safe_gain
from archnet.errors import ArchNetError
from archnet.executor import NetworkModule
from archnet.network import Network, Site
from archnet.operators import Op

WIDTH = 4


def network(text: str, seed: int = 0, **attributes: object) -> Network:
    """Sites from lines "name Op input ..."; parameters are random, BatchNorm gains of both signs."""
    generator = torch.Generator().manual_seed(seed)
    sites, tensors = [], {}
    shapes: dict[Op, dict[str, tuple[int, ...]]] = {
        Op.EMBEDDING: {"table": (9, WIDTH)},
        Op.LINEAR: {"weight": (WIDTH, WIDTH), "bias": (WIDTH,)},
        Op.BATCH_NORM: {"weight": (WIDTH,), "bias": (WIDTH,)},
    }
    for line in text.strip().splitlines():
        name, kind, *inputs = line.split()
        op = next(o for o in Op if o.name == kind)
        roles = {"table": (6, WIDTH)} if op is Op.ADD and len(inputs) == 1 else shapes.get(op, {})
        for role, shape in roles.items():
            tensors[f"{name}.{role}"] = torch.randn(shape, generator=generator)
        own = {"heads": 2, "scale": 0.5, "masked": False} if op is Op.ATTENTION else {}
        own |= {"index": 0} if op is Op.SELECT else {}
        sites.append(Site(name, op, tuple(inputs), {r: f"{name}.{r}" for r in roles}, own))
    return Network(("input_ids", "attention_mask"), tuple(sites), tensors, {"output": sites[-1].name})


POST_NORM = """
words EMBEDDING input_ids
places ADD words
first BATCH_NORM places
query LINEAR first
key LINEAR first
value LINEAR first
attend ATTENTION query key value
out LINEAR attend
sum ADD out first
second BATCH_NORM sum
up LINEAR second
relu RELU up
down LINEAR relu
sum2 ADD down second
last BATCH_NORM sum2
mean MEAN_POOL last attention_mask
"""
PRE_NORM = """
words EMBEDDING input_ids
norm BATCH_NORM words
up LINEAR norm
relu RELU up
down LINEAR relu
sum ADD down words
last BATCH_NORM sum
first SELECT last
"""
TWICE = """
words EMBEDDING input_ids
a BATCH_NORM words
b BATCH_NORM a
places ADD b
more ADD places
out LINEAR more
"""
WITHIN_HEADS = """
words EMBEDDING input_ids
query LINEAR words
norm BATCH_NORM query
scaled BATCH_NORM norm
key LINEAR words
value LINEAR words
attend ATTENTION scaled key value
"""
TWO_NORMS = """
words EMBEDDING input_ids
a BATCH_NORM words
b BATCH_NORM words
sum ADD a b
out LINEAR sum
"""
SHARED_BRANCH = """
words EMBEDDING input_ids
a BATCH_NORM words
branch RELU words
sum ADD a branch
other LINEAR branch
out ADD sum other
"""
TWO_TOKENS = """
words EMBEDDING input_ids
a BATCH_NORM words
first SELECT a
second SELECT a
sum ADD first second
out LINEAR sum
"""
BATCH = {
    "input_ids": torch.arange(12).reshape(2, 6) % 9,
    "attention_mask": torch.tensor([[1] * 6, [1, 1, 1, 0, 0, 0]]),
}


TEXTS = {
    "post": POST_NORM, "pre": PRE_NORM, "twice": TWICE, "within heads": WITHIN_HEADS,
    "two norms": TWO_NORMS, "shared branch": SHARED_BRANCH, "two tokens": TWO_TOKENS,
}  # fmt: skip


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("seed", range(3))
def test_folded_network_computes_every_value(text: str, seed: int) -> None:
    source = network(text, seed)
    folded = fold(source)
    assert all(site.op is not Op.BATCH_NORM for site in folded.network.sites)
    with torch.no_grad():
        wanted = NetworkModule(source)(BATCH)
        got = NetworkModule(folded.network)(BATCH)
    inside = {"places"} if text == TWICE else set()  # part of the next table, not a value of its own
    for site in source.sites:
        if site.name not in inside:
            value: Tensor = folded.values[site.name].apply(got[folded.values[site.name].carrier])
            torch.testing.assert_close(value, wanted[site.name], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("text", "layers"), [(TWO_NORMS, 2), (SHARED_BRANCH, 2), (TWO_TOKENS, 1)])
def test_a_layer_stands_before_a_sum_that_wants_it(text: str, layers: int) -> None:
    folded = fold(network(text))
    assert [site.op for site in folded.network.sites].count(Op.LINEAR) == layers


def test_scores_are_scaled_by_the_query_layer() -> None:
    folded = fold(network(POST_NORM))
    assert folded.network.site("attend").attributes["scale"] == 1.0


def test_constant_tables_in_a_row_become_one() -> None:
    folded = fold(network(TWICE))
    assert [site.op for site in folded.network.sites] == [Op.EMBEDDING, Op.ADD, Op.LINEAR]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param(
            "w EMBEDDING input_ids\nn BATCH_NORM w\nr RELU n",
            "r (ReLU) reads a norm directly; norms fold into fully connected layers only",
            id="relu",
        ),
        pytest.param(
            "w EMBEDDING input_ids\nq LINEAR w\nv LINEAR w\na ATTENTION q q v",
            "a (Attention) scales its scores, and neither query nor key is a fully connected layer of its "
            "own that could take the factor in",
            id="shared-query",
        ),
    ],
)
def test_refusals(text: str, problem: str) -> None:
    with pytest.raises(ArchNetError) as raised:
        fold(network(text))
    assert raised.value.problem == problem
    assert raised.value.fix == "add a converter for this pattern (docs/add_a_converter.md)"


def test_key_takes_the_scale_when_the_query_is_shared() -> None:
    source = network(
        "w EMBEDDING input_ids\nq LINEAR w\nk LINEAR w\nv LINEAR w\na ATTENTION q k v\nb ATTENTION q v v"
    )
    with pytest.raises(ArchNetError, match=r"b \(Attention\) scales its scores"):
        fold(source)
    text = "w EMBEDDING input_ids\nq LINEAR w\nk LINEAR w\na ATTENTION q k q"
    source = network(text)
    folded = fold(source)
    assert torch.equal(folded.network.tensors["k.weight"], 0.5 * source.tensors["k.weight"])


def test_safe_gain_raises_tiny_gains_and_keeps_signs() -> None:
    gain = torch.tensor([1.0, -1.0, 1e-9, -1e-9, 0.0])
    safe = safe_gain(gain)
    assert torch.equal(safe[:2], gain[:2])
    assert safe[2] > 0 > safe[3]
    assert bool((safe.abs() > 0).all())
