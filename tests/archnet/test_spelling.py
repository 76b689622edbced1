"""Operators in other spellings: captured networks that compute what the models do, and what stays unknown."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn

from archnet.capture import Capture, capture, exported
from archnet.operators import Op
from archnet.spelling import spelled_alike
from archnet.token_values import node_kind

WIDTH, HEADS = 8, 2


class Parts(nn.Module):
    """Normalised words, and layers and weights to do something with."""

    def __init__(self, function: Callable[[Parts, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)

        def random(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape, generator=generator) * 0.4)

        self.words, self.norm = nn.Embedding(40, WIDTH), nn.LayerNorm(WIDTH)
        self.a, self.b, self.wide = (nn.Linear(WIDTH, n) for n in (WIDTH, WIDTH, 2 * WIDTH))
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.4, generator=generator)
        self.w, self.g = random(WIDTH, WIDTH), random(WIDTH)
        self.split, self.join = random(WIDTH, HEADS, 4), random(HEADS, 4, WIDTH)
        self.function = function

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = self.norm(self.a(self.words(input_ids)))
        return self.function(self, x, attention_mask)


def found(function: Callable[[Parts, Tensor, Tensor], Tensor]) -> Capture:
    """The capture, which has compared the network with the module."""
    return capture(Parts(function).eval(), max_sequence=12)


def apart(p: Parts, x: Tensor, move: Callable[[Tensor], Tensor], turn: Callable[[Tensor], Tensor]) -> Tensor:
    """Attention of two heads without padding, its axes moved in some way."""
    q, k, v = (move(layer(x).unflatten(-1, (HEADS, -1))) for layer in (p.a, p.b, p.a))
    return move((q @ turn(k) / 2).softmax(-1) @ v).flatten(2)


def in_einsums(p: Parts, x: Tensor, mask: Tensor) -> Tensor:
    """Attention with a mask, whose layers are einsums as well."""
    q, k, v = (torch.einsum("btd,dhk->bhtk", x, w) for w in (p.split, p.split * 0.5, p.split))
    scores = torch.einsum("bhqk,bhsk->bhqs", q, k) / 2
    scores = scores.masked_fill(mask[:, None, None, :] == 0, -math.inf)
    mixed = torch.einsum("bhqs,bhsk->bqhk", scores.softmax(-1), v)
    return torch.einsum("bqhk,hkd->bqd", mixed, p.join)


def hidden(mask: Tensor) -> Tensor:
    return (1 - mask[:, None, :].float()) * -1e4


ATTENTION: dict[str, Callable[[Parts, Tensor, Tensor], Tensor]] = {
    "mT": lambda p, x, m: apart(p, x, lambda y: y.transpose(1, 2), lambda y: y.mT),
    "adjoint": lambda p, x, m: apart(p, x, lambda y: y.transpose(1, 2), lambda y: y.adjoint()),
    "swapaxes": lambda p, x, m: apart(p, x, lambda y: y.swapaxes(1, 2), lambda y: y.swapdims(-1, -2)),
    "movedim": lambda p, x, m: apart(p, x, lambda y: y.movedim(2, 1), lambda y: y.moveaxis((2, 3), (3, 2))),
    "einsum": in_einsums,
    "an ellipsis": lambda p, x, m: apart(
        p, x, lambda y: torch.einsum("bsh...->bhs...", y), lambda y: torch.einsum("...sk->...ks", y)
    ),
    "one head": lambda p, x, m: ((p.a(x) @ p.b(x).mT) * 0.5 + hidden(m)).softmax(-1) @ x,
    "one head, bmm": lambda p, x, m: torch.special.softmax(
        torch.baddbmm(hidden(m), p.a(x), p.b(x).transpose(1, 2), alpha=0.5), -1
    ).bmm(x),
    "one head, fused": lambda p, x, m: F.scaled_dot_product_attention(
        p.a(x), p.b(x), x, attn_mask=m[:, None, :].bool()
    ),
    "one head, scaled queries": lambda p, x, m: ((p.a(x) / 2) @ p.b(x).mT).softmax(-1) @ x,
}


@pytest.mark.parametrize("name", ATTENTION)
def test_attention_is_captured_however_it_is_spelled(name: str) -> None:
    made = found(ATTENTION[name])
    assert made.unknown == ()
    assert made.error < 1e-5
    (site,) = (site for site in made.network.sites if site.op is Op.ATTENTION)
    assert site.attributes["heads"] == (1 if name.startswith("one head") else HEADS)


LAYERS: dict[str, Callable[[Parts, Tensor, Tensor], Tensor]] = {
    "einsum": lambda p, x, m: torch.einsum("btd,de->bte", x, p.w),
    "einsum, turned": lambda p, x, m: torch.einsum("ed,btd->bte", p.w, x),
    "einsum with an ellipsis": lambda p, x, m: torch.einsum("...d,de->...e", x, p.w),
    "tensordot": lambda p, x, m: torch.tensordot(x, p.w, dims=([2], [0])),
    "inner": lambda p, x, m: torch.inner(x, p.w),
    "mT": lambda p, x, m: x @ p.w.mT,
}


@pytest.mark.parametrize("name", LAYERS)
def test_products_with_weights_are_layers(name: str) -> None:
    made = found(LAYERS[name])
    assert made.unknown == ()
    assert made.error < 1e-5
    assert [site.op for site in made.network.sites][-1] is Op.LINEAR


def mean(x: Tensor) -> Tensor:
    return x.mean(-1, keepdim=True)


def by_moments(y: Tensor, g: Tensor) -> Tensor:
    variance, average = torch.var_mean(y, -1, correction=0, keepdim=True)
    return (y - average) * torch.rsqrt(variance + 1e-5) * g


NORMS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Op]] = {
    # as in "The Annotated Transformer": the deviation of a sample, eps added to it, and weights in front
    "of a sample": (lambda y, g: g * (y - mean(y)) / (y.std(-1, keepdim=True) + 1e-6), Op.LAYER_NORM),
    "deviation": (
        lambda y, g: (y - mean(y)) / (y.std(-1, keepdim=True, unbiased=False) + 1e-6) * g, Op.LAYER_NORM
    ),
    "variance": (
        lambda y, g: (y - mean(y)) / torch.sqrt(y.var(-1, False, keepdim=True) + 1e-5) * g, Op.LAYER_NORM
    ),
    "variance and mean": (by_moments, Op.LAYER_NORM),
    "L2 norm": (lambda y, g: F.normalize(y, dim=-1) * g, Op.RMS_NORM),
}  # fmt: skip


@pytest.mark.parametrize("name", NORMS)
def test_norms_are_recognised_however_they_are_spelled(name: str) -> None:
    function, op = NORMS[name]
    made = found(lambda p, x, m: function(p.b(x), p.g))
    assert made.unknown == ()
    assert made.error < 1e-4
    assert [site.op for site in made.network.sites][-1] is op


SUMS: dict[str, Callable[[Parts, Tensor, Tensor], Tensor]] = {
    "a difference": lambda p, x, m: x - p.a(x),
    "a difference of halves": lambda p, x, m: torch.sub(x, p.a(x), alpha=0.5),
    "less a constant": lambda p, x, m: torch.subtract(x, p.g),
    "a multiple": lambda p, x, m: torch.add(x, p.a(x), alpha=0.5),
    "a gated one": lambda p, x, m: torch.addcmul(x, p.a(x), p.b(x)),
    "gated by halves": lambda p, x, m: F.glu(p.wide(x)),
    "products": lambda p, x, m: torch.multiply(p.a(x), p.b(x)),
    "quotients": lambda p, x, m: p.a(torch.true_divide(torch.divide(x, 2.0), 2.0)),
    "side by side": lambda p, x, m: torch.concat([p.a(x), torch.concatenate([x, p.b(x)], -1)], -1),
}


@pytest.mark.parametrize("name", SUMS)
def test_sums_and_products_are_captured_however_they_are_spelled(name: str) -> None:
    made = found(SUMS[name])
    assert made.unknown == ()
    assert made.error < 1e-5


def batch_norm(p: Parts, x: Tensor) -> Tensor:
    """(rows, WIDTH) or (batch, WIDTH, tokens)."""
    return F.batch_norm(x, p.g, p.g.square() + 0.5, p.w[0], p.w[1])


BATCH_NORMS: dict[str, tuple[Callable[[Parts, Tensor, Tensor], Tensor], Op]] = {
    "behind a layer": (lambda p, x, m: batch_norm(p, (y := p.b(x)).flatten(0, 1)).view_as(y), Op.LINEAR),
    "behind a sum": (
        lambda p, x, m: batch_norm(p, (y := x + p.b(x)).flatten(0, 1)).reshape_as(y), Op.BATCH_NORM
    ),
    "features first": (lambda p, x, m: batch_norm(p, (x + p.b(x)).mT).mT, Op.BATCH_NORM),
    "of a row": (lambda p, x, m: batch_norm(p, p.b(x)[:, 0]), Op.BATCH_NORM),
}  # fmt: skip


@pytest.mark.parametrize("name", BATCH_NORMS)
def test_batch_norms_of_features(name: str) -> None:
    function, last = BATCH_NORMS[name]
    made = found(function)
    assert made.unknown == ()
    assert made.error < 1e-5
    assert [site.op for site in made.network.sites][-1] is last


ACTIVATIONS: dict[str, tuple[Callable[[Parts, Tensor, Tensor], Tensor], Op, Op]] = {
    "behind attention": (
        lambda p, x, m: F.relu(((p.a(x) @ p.b(x).mT) * 0.5).softmax(-1) @ x), Op.ATTENTION, Op.RELU
    ),
    "behind a norm": (lambda p, x, m: p.a(F.gelu(x)), Op.LAYER_NORM, Op.GELU),
    "behind a table": (lambda p, x, m: p.a(F.silu(x + p.g)), Op.ADD, Op.SILU),
    "hard, behind a sum": (lambda p, x, m: torch.tanh(x + p.a(x)), Op.ADD, Op.TANH),
}  # fmt: skip


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_behind_other_things_pass_through_a_layer(name: str) -> None:
    function, before, op = ACTIVATIONS[name]
    made = found(function)
    assert made.unknown == ()
    assert made.error < 1e-5
    (site,) = (site for site in made.network.sites if site.op is op)
    layer = made.network.site(site.inputs[0])
    assert (layer.op, made.network.site(layer.inputs[0]).op) == (Op.LINEAR, before)
    torch.testing.assert_close(made.network.parameter(layer, "weight"), torch.eye(WIDTH))


UNKNOWN: dict[str, tuple[Callable[[Parts, Tensor, Tensor], Tensor], str, str]] = {
    "three operands": (
        lambda p, x, m: torch.einsum("btd,de,ef->btf", x, p.w, p.w), "einsum", "no converter knows this"
    ),
    "an outer product": (
        lambda p, x, m: torch.einsum("btd,e->btde", x, p.g).flatten(2), "einsum", "no converter knows this"
    ),
    "sums over one": (
        lambda p, x, m: torch.einsum("btd,e->btd", x, p.g), "einsum", "no converter knows this"
    ),
    "a number": (lambda p, x, m: 1.0 - x, "rsub", "an elementwise function that no converter knows"),
    "over tokens": (lambda p, x, m: x - x.std(1, keepdim=True), "std", "no converter knows this operator"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_cannot_be_said_otherwise_keeps_its_name(name: str) -> None:
    function, operator, reason = UNKNOWN[name]
    refused = {(site.attributes["aten"], site.attributes["reason"]) for site in found(function).unknown}
    assert any(aten == f"aten.{operator}" and reason in str(why) for aten, why in refused)


@st.composite
def equations(draw: st.DrawFn) -> tuple[str, list[int], list[int]]:
    """A product of matrices, of several, or with weights of several axes, its axes in any order."""
    sizes = {"a": 2, "b": 3, "c": 4, "d": 5, "e": 2}
    batch = draw(st.sampled_from(["", "a"]))
    left, over, right = "b", "c", "d"
    if not batch:
        left, over, right = (draw(st.sampled_from(s)) for s in (["b", "ab"], ["c", "ce"], ["d", "de"]))
        if "e" in over and "e" in right:
            over = "c"
    operands = (batch + left + over, batch + over + right, batch + left + right)
    first, second, kept = ("".join(draw(st.permutations(axes))) for axes in operands)
    return f"{first},{second}->{kept}", [sizes[c] for c in first], [sizes[c] for c in second]


@settings(max_examples=25, deadline=None)
@given(equations())
def test_products_are_those_of_einsum(given_: tuple[str, list[int], list[int]]) -> None:
    equation, first, second = given_

    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(second, generator=torch.Generator().manual_seed(0)))

        def forward(self, x: Tensor) -> Any:
            return torch.einsum(equation, x, self.weight)

    module, x = Product().eval(), torch.randn(first, generator=torch.Generator().manual_seed(1))
    graph, _ = exported(module, {"x": x}, free_axes=0)
    kinds = {node_kind(node) for node in graph.graph.nodes if node.op == "call_function"}
    assert "matmul" in kinds
    assert kinds <= {"matmul", "permute", "flatten", "unflatten"}
    torch.testing.assert_close(graph(x=x), module(x), rtol=1e-5, atol=1e-5)


def test_arguments_that_are_not_expected_leave_a_node_as_it_is() -> None:
    graph = fx.Graph()
    x, y = graph.placeholder("x"), graph.placeholder("y")  # nothing is known of their sizes
    odd = graph.call_function(torch.ops.aten.var_mean.correction, (x, [-1]), {"keepdim": True})
    made = graph.call_function(torch.ops.aten.einsum.default, ("ab,bc->ac", [odd, y]))
    graph.output(made)
    module = fx.GraphModule(nn.Module(), graph)
    before = [node.name for node in module.graph.nodes]
    spelled_alike(module)
    assert [node.name for node in module.graph.nodes] == before


def test_a_graph_in_one_spelling_is_left_alone() -> None:
    class Plain(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.add(x, x) - x / 2

    graph = torch.export.export(Plain(), (torch.randn(2, 3),)).module()
    assert isinstance(graph, fx.GraphModule)
    before = [(node.op, node.target, node.name) for node in graph.graph.nodes]
    spelled_alike(graph)
    assert [(node.op, node.target, node.name) for node in graph.graph.nodes] == before
