"""Handlers of the ATen nodes that work on the features of tokens: layers, norms, sums, selections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, fx

from archnet.aten_moved import shifted_heads
from archnet.aten_pooling import add_norm
from archnet.aten_relative import added
from archnet.operators import Op
from archnet.token_values import FEATURES, HEADS, Known, Relative, Scores, Unknown, Value, scalar_of

if TYPE_CHECKING:
    from archnet.aten import Translator


def linear(t: Translator, node: fx.Node) -> Known:
    x = t.scaled_value(node.args[0], *FEATURES)
    parameters = {"weight": t.tensor(node.args[1]) * x.gain}
    bias = node.args[2] if len(node.args) > 2 else None
    parameters["bias"] = t.tensor(bias) if bias is not None else torch.zeros(parameters["weight"].shape[0])
    return replace(x, site=t.add_site(node, Op.LINEAR, (x.site,), parameters=parameters), gain=1.0)


def times_matrix(t: Translator, node: fx.Node, left: object, matrix: Tensor) -> Known:
    """x @ W, a fully connected layer whose weight is written as (inputs, outputs)."""
    x = t.scaled_value(left, *FEATURES)
    if matrix.dim() != 2:
        raise Unknown("a product with a constant that is no matrix")
    parameters = {"weight": matrix.T.contiguous() * x.gain, "bias": torch.zeros(matrix.shape[1])}
    return replace(x, site=t.add_site(node, Op.LINEAR, (x.site,), parameters=parameters), gain=1.0)


def addmm(t: Translator, node: fx.Node) -> Known:
    x = t.value(node.args[1], *FEATURES)
    parameters = {"weight": t.tensor(node.args[2]).T.contiguous(), "bias": t.tensor(node.args[0])}
    return replace(x, site=t.add_site(node, Op.LINEAR, (x.site,), parameters=parameters))


def layer_norm(t: Translator, node: fx.Node) -> Known:
    x = t.value(node.args[0], *FEATURES, *HEADS)
    shape = node.args[1]
    if not isinstance(shape, Sequence) or len(shape) != 1:
        raise Unknown("LayerNorm over more than the last axis")
    weight, bias = (t.tensor(a) if a is not None else None for a in (*node.args[2:4], None, None)[:2])
    eps = scalar_of(node.args[4]) if len(node.args) > 4 else 1e-5
    return add_norm(t, node, Op.LAYER_NORM, x, eps or 0.0, weight, bias)


def rms_norm(t: Translator, node: fx.Node) -> Known:
    x = t.value(node.args[0], *FEATURES, *HEADS)
    shape = node.args[1]
    if not isinstance(shape, Sequence) or len(shape) != 1:
        raise Unknown("RMSNorm over more than the last axis")
    given = dict(zip(("weight", "eps"), node.args[2:], strict=False)) | dict(node.kwargs)
    weight = t.tensor(given["weight"]) if given.get("weight") is not None else None
    eps = scalar_of(given.get("eps"))
    eps = torch.finfo(torch.float32).eps if eps is None else eps
    return add_norm(t, node, Op.RMS_NORM, x, eps, weight)


def add(t: Translator, node: fx.Node) -> Known:
    left, right = node.args[0], node.args[1]
    if node.kwargs.get("alpha", 1) != 1:
        raise Unknown("add with alpha")
    if left not in t.known:
        left, right = right, left
    assert isinstance(left, fx.Node)
    found = t.settled(left)
    if isinstance(found, (Scores, Relative)):
        if right == 0:
            return found
        other = t.settled(right) if right in t.known else None
        if isinstance(other, (Scores, Relative)):
            return added(found, other)
        if isinstance(found, Relative) or found.probabilities:
            raise Unknown("probabilities, or products with constants of distances, plus another tensor")
        if not isinstance(right, fx.Node) or right in t.known:
            raise Unknown("attention scores plus a token-dependent tensor")
        return replace(found, addends=(*found.addends, (right, 1.0)))
    if isinstance(found, Value) and found.layout in HEADS and isinstance(right, fx.Node):
        return shifted_heads(t, node, found, t.tensor(right))
    x = t.value(left, *FEATURES, "tokens_t", "map")
    if isinstance(right, fx.Node) and right in t.known:
        other = t.value(right, *FEATURES, "tokens_t", "map")
        if (t.shape(left), x.layout, x.tokens) != (t.shape(right), other.layout, other.tokens):
            raise Unknown("an Add that broadcasts")
        return replace(x, site=t.add_site(node, Op.ADD, (x.site, other.site)))
    if not isinstance(right, fx.Node):
        raise Unknown("a number is added to token features")
    table = table_added(t, right, x, t.shape(left))
    return replace(x, site=t.add_site(node, Op.ADD, (x.site,), parameters={"table": table}))


def table_added(t: Translator, node: fx.Node, x: Value, shape: tuple[int, ...]) -> Tensor:
    """A constant that is added to tokens as float32 (sequence, features)."""
    if x.layout == "tokens":
        return t.side_table(node, shape[1:])
    if x.layout != "turned" or len(shape) != 3:
        raise Unknown("a constant is added to something else than tokens")
    table = t.tensor(node).float().expand(shape)
    if not torch.equal(table, table[:, :1].expand(shape)):
        raise Unknown("what is added depends on the row of the batch")
    return table[:, 0].contiguous()


def select(t: Translator, node: fx.Node) -> Known:
    x = t.value(node.args[0], "tokens", "turned")
    axis, index = (int(str(a)) for a in node.args[1:3])
    if axis != (1 if x.layout == "tokens" else 0) or len(t.shape(node)) != 2:
        raise Unknown("a selection along another axis than the sequence")
    return Value(t.add_site(node, Op.SELECT, (x.site,), attributes={"index": index}), "row")
