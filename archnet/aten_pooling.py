"""Pooling and normalisation that a model writes in plain ATen, recognised on the probes by their values."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from archnet.curves import GRID
from archnet.executor import mean_pool
from archnet.network import SiteAttribute
from archnet.operators import Op
from archnet.token_values import HEADS, Curve, Known, Unknown, Value

if TYPE_CHECKING:
    from archnet.aten import Translator

LEAST_SQUARE = 1e-12
"""Added to the mean square of features that are divided by their norm, so that those of zeros stay zeros."""

PRODUCT = "a product of token features with something that is not a number"


def _same(got: Tensor, wanted: Tensor) -> bool:
    return got.shape == wanted.shape and torch.allclose(got, wanted, rtol=1e-4, atol=1e-5)


def feature_mean(t: Translator, node: fx.Node) -> Value:
    """The mean over a token's features of what a node holds, on the way to a norm in plain arithmetic.

    Of squared features (or squared distances from their mean) it is a "moment" (a "variance"), of features
    themselves their "average".
    """
    found = t.known[node]
    if not isinstance(found, Curve):
        return replace(t.value(node, "tokens", "row"), layout="average")
    operand = next((a for a in node.all_input_nodes if a in t.known), node)
    x, inner = t.settled(operand), t.known[operand]
    reals = inner.samples if isinstance(inner, Curve) else GRID
    square = isinstance(x, Value) and torch.allclose(found.samples, reals.square())
    if not isinstance(x, Value) or not square or x.layout not in ("tokens", "row", "centred", *HEADS):
        raise Unknown("a mean over features that is no part of a norm")
    return replace(x, layout="variance" if x.layout == "centred" else "moment", gain=1.0)


def centred(t: Translator, node: fx.Node) -> Value:
    """Features minus their mean."""
    x, mean = t.value(node.args[0], "tokens", "row"), t.value(node.args[1], "average")
    if x.site != mean.site:
        raise Unknown("features minus the mean of others")
    return replace(x, layout="centred")


def add_norm(
    t: Translator,
    node: fx.Node,
    op: Op,
    x: Value,
    eps: float,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
) -> Value:
    """A norm over the last axis of a node: of all features, or of those of each head.

    Features times a number have the norm of the features themselves, with another eps.
    """
    if x.gain <= 0.0:
        raise Unknown("a norm of features times a number that is not positive")
    width, heads = t.shape(node)[-1], x.heads if x.layout in HEADS else 1
    parameters = {
        "weight": (torch.ones(width) if weight is None else weight).repeat(heads),
        "bias": (torch.zeros(width) if bias is None else bias).repeat(heads),
    }
    attributes: dict[str, SiteAttribute] = {"eps": eps / x.gain**2}
    if heads > 1:
        attributes["groups"] = heads
    site = t.add_site(node, op, (x.site,), parameters=parameters, attributes=attributes)
    return replace(x, site=site, gain=1.0)


def normed(t: Translator, node: fx.Node, source: object, by: Known, *, divided: bool) -> Value:
    """Features times (m + eps)**-0.5, or divided by its inverse: an RMSNorm, or of centred ones a LayerNorm.

    m is the mean of their squares.
    """
    assert isinstance(by, Curve)
    x = t.value(source, "tokens", "row", "centred", *HEADS)
    factor = 1 / by.samples if divided else by.samples
    alike = x.site == by.base.site and x.heads == by.base.heads
    alike &= (x.layout == "centred") == (by.base.layout == "variance")
    gain, eps = _inverse_root(factor)
    if not alike or gain == 0.0:
        raise Unknown("features divided by something else than their root mean square")
    op, width = Op.LAYER_NORM if x.layout == "centred" else Op.RMS_NORM, t.shape(node)[-1]
    made = add_norm(t, node, op, x, eps, torch.full((width,), gain))
    return replace(made, layout="tokens" if x.layout == "centred" else x.layout)


def _inverse_root(factor: Tensor) -> tuple[float, float]:
    """(c, eps) where the samples are those of c * (m + eps)**-0.5, c = 0 elsewhere.

    A deviation that eps is added to, instead of to its square, differs from that by less than counts.
    """
    positive = GRID > 0.5
    m, inverse = GRID[positive], factor[positive] ** -2
    gain = float(((m[-1] - m[0]) / (inverse[-1] - inverse[0])).sqrt())
    gain = 1.0 if abs(gain - 1.0) < 1e-7 else gain
    eps = max(round(float(inverse[0] * gain**2 - m[0]), 12), 0.0)
    return (gain if torch.allclose(factor[positive], gain * (m + eps) ** -0.5, rtol=1e-5) else 0.0), eps


def masked(t: Translator, node: fx.Node) -> Known:
    """Token features times the attention mask, or filled with 0 where it is 0."""
    sources = [a for a in node.all_input_nodes if a in t.known]
    found = t.value(sources[0], "tokens") if len(sources) == 1 else None
    if found is None:
        raise Unknown(PRODUCT)
    for recorded, probe in zip(t.recorded, t.probes, strict=True):
        source = recorded[sources[0]]
        if not _same(recorded[node], source * probe.attention_mask[:, :, None].to(source.dtype)):
            raise Unknown(PRODUCT)
    t.unmasked[found.site] = sources[0]
    return replace(found, layout="masked")


def summed(t: Translator, node: fx.Node) -> Known:
    """The sum of masked token features over the sequence."""
    found = t.known[node.all_input_nodes[0]]
    if not isinstance(found, Value) or found.layout != "masked":
        raise Unknown("a sum that is no mean over the valid tokens")
    batch, _, features = t.shape(node.all_input_nodes[0])
    if t.shape(node) != (batch, features):
        raise Unknown("a sum that is no mean over the valid tokens")
    return replace(found, layout="sum")


def averaged(t: Translator, node: fx.Node, total: Value) -> Known:
    """The sum of masked token features divided by the number of valid tokens."""
    source = t.unmasked[total.site]
    for recorded, probe in zip(t.recorded, t.probes, strict=True):
        if not _same(recorded[node], mean_pool(recorded[source], probe.attention_mask)):
            raise Unknown("a sum over tokens that is not divided by the number of valid ones")
    return Value(t.add_site(node, Op.MEAN_POOL, (total.site, "attention_mask")), "row")


def row_norm(t: Translator, node: fx.Node) -> Known:
    """The L2 norm of a row or of the features of a token or head, or what bounds and expands it."""
    found = t.settled(node.all_input_nodes[0])
    if not isinstance(found, Value) or found.layout not in ("row", "norm", "tokens", *HEADS):
        raise Unknown("a norm of something that is no row and no token's or head's features")
    return replace(found, layout="norm")


def normalized(t: Translator, node: fx.Node, x: Value) -> Known:
    """A row divided by its L2 norm; or the features of each token, or of each head.

    Of heads it is cosine attention (arXiv 2111.09883).

    These are what an RMSNorm gives with weights of 1 / sqrt(width).
    """
    source = node.args[0]
    assert isinstance(source, fx.Node)
    for recorded in t.recorded:
        if not _same(recorded[node], F.normalize(recorded[source], dim=-1)):
            raise Unknown("features divided by something else than their L2 norm")
    if x.layout != "row":
        width = t.shape(node)[-1]
        return add_norm(t, node, Op.RMS_NORM, x, LEAST_SQUARE, torch.full((width,), width**-0.5))
    return replace(x, layout="normalized")
