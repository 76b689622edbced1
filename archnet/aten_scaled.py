"""Handlers of products element by element: with a number, with one a feature, with features of other layers.

A number around attention is carried on to the operator that takes it in; one a feature goes into the layer
that makes the features, or is a site.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, fx

from archnet.aten_pooling import PRODUCT, averaged, centred, masked, normalized, normed
from archnet.aten_relative import scaled_relative
from archnet.aten_tokens import table_added
from archnet.curves import cap_of_samples
from archnet.operators import Op
from archnet.token_values import (
    HEADS,
    LIKE,
    PER_HEAD,
    Curve,
    Known,
    Relative,
    Scores,
    Unknown,
    Value,
    node_kind,
    scalar_of,
)

if TYPE_CHECKING:
    from archnet.aten import Translator

SCALED = ("tokens", "row", "grid", *PER_HEAD)
"""Layouts of what may carry a factor to the operator that reads it."""


def scaled(t: Translator, node: fx.Node) -> Known:
    """Multiplication or division: by a number around attention, by the mask or a count in pooling."""
    source, by = node.args[0], node.args[1]
    if source not in t.known and not node_kind(node).startswith("div"):
        source, by = by, source
    if _is_moment(t, source):
        source, by = by, source
    if _is_moment(t, by):
        divided = node_kind(node).startswith("div")
        return normed(t, node, source, t.known[by], divided=divided)  # type: ignore[index]
    found = t.settled(source)
    if isinstance(found, Value) and found.layout == "sum":
        return averaged(t, node, found)
    if isinstance(found, Value) and not node_kind(node).startswith("div") and by in t.known:
        return _product(t, node, found, t.settled(by))
    divisor = t.known.get(by) if isinstance(by, fx.Node) else None
    if isinstance(found, Value) and isinstance(divisor, Value) and divisor.layout == "norm":
        return normalized(t, node, found)
    factor = scalar_of(by)
    if factor is None and isinstance(by, fx.Node) and by not in t.known and t.is_constant(by):
        constant = t.tensor(by)
        if constant.numel() == 1:
            factor = float(constant)
        elif (
            isinstance(found, Scores)
            and constant.numel() == constant[..., :1, :1].numel() == found.query.heads
        ):
            return _scaled_by_head(t, node, found, constant.flatten())
        elif _one_a_feature(found, constant):
            x = t.value(source, "tokens", "row", "grid", *HEADS)
            scale = constant.reshape(-1).float().repeat(x.heads if x.layout in HEADS else 1)
            return scaled_features(t, node, x, 1 / scale if node_kind(node) == "div" else scale)
    if factor is None:
        return masked(t, node)
    if node_kind(node).startswith("div"):
        factor = 1.0 / factor
    if isinstance(found, Scores):
        if found.probabilities or factor <= 0.0:
            raise Unknown("attention is scaled after its softmax, or by a factor that is not positive")
        scaled = tuple((addend, gain * factor) for addend, gain in found.addends)
        relative = scaled_relative(Relative(found.relative), factor).terms
        if found.cap:
            return replace(found, cap=found.cap * factor, addends=scaled, relative=relative)
        return replace(found, scale=found.scale * factor, addends=scaled, relative=relative)
    if isinstance(found, Relative):
        return scaled_relative(found, factor)
    if not isinstance(found, Value) or found.layout not in SCALED:
        raise Unknown(PRODUCT)
    if found.site in t.tables:
        return t.scaled_words(node, found, factor)
    return replace(found, gain=found.gain * factor)


def _scaled_by_head(t: Translator, node: fx.Node, scores: Scores, factors: Tensor) -> Scores:
    """Scores times a number a head, which the queries of it take in."""
    if scores.probabilities or scores.addends or scores.hidden or scores.cap or scores.relative:
        raise Unknown("attention is scaled by a number a head after something was added to its scores")
    factors = 1 / factors if node_kind(node).startswith("div") else factors
    query = next(site for site in t.sites if site.name == scores.query.site)
    if "bias" not in query.parameters:
        raise Unknown("attention is scaled by a number a head, and no layer or norm makes its queries")
    features = len(t.tensors[query.parameters["bias"]])
    by_feature = factors.float().repeat_interleave(features // len(factors))
    return replace(scores, query=scaled_features(t, node, scores.query, by_feature))


def _is_moment(t: Translator, node: object) -> bool:
    found = t.known.get(node) if isinstance(node, fx.Node) else None
    return isinstance(found, Curve) and found.base.layout in ("moment", "variance")


def _product(t: Translator, node: fx.Node, left: Value, right: Known) -> Value:
    """Two tensors of tokens multiplied element by element, as gated layers do."""
    alike = isinstance(right, Value) and (left.layout, left.tokens) == (right.layout, right.tokens)
    if not alike or left.layout not in ("tokens", "row") or left.gain != 1.0:
        raise Unknown(PRODUCT)
    assert isinstance(right, Value)
    sizes = {t.shape(source) for source in node.all_input_nodes}
    if len(sizes) > 1 or right.gain != 1.0:
        raise Unknown("a product of tensors that are broadcast or scaled")
    return replace(left, site=t.add_site(node, Op.MUL, (left.site, right.site)))


def _one_a_feature(found: Known, constant: Tensor) -> bool:
    """Whether a constant has one number for each feature of what is known."""
    features = isinstance(found, Value) and found.layout in ("tokens", "row", "grid", *HEADS)
    return features and constant.numel() == constant.shape[-1]


def _read_once(t: Translator, site: str) -> bool:
    """Whether a site's value goes one way only, so far as its graph says."""
    nodes = (n for n, v in t.known.items() if isinstance(v, Value) and v.site == site)
    return all(sum(_reads(user, n) for user in n.users) == 1 for n in nodes)


def _reads(user: fx.Node, node: fx.Node) -> bool:
    """Whether a node reads more of another than its shape."""
    kind = node_kind(user)
    return not kind.startswith("sym_") and (kind not in LIKE or user.args[0] is node)


def difference(t: Translator, node: fx.Node) -> Known:
    """Features minus their mean, which begins a norm, minus a constant, or minus other features."""
    left, right = node.args[:2]
    if left not in t.known or not isinstance(right, fx.Node):
        raise Unknown("a difference of other things than features and features or a constant")
    assert isinstance(left, fx.Node)
    other = t.settled(right) if right in t.known else None
    if isinstance(other, Value) and other.layout == "average":
        return centred(t, node)
    x = t.value(left, "tokens", "row")
    if right not in t.known:
        parameters = {"table": -table_added(t, right, x, t.shape(left))}
        return replace(x, site=t.add_site(node, Op.ADD, (x.site,), parameters=parameters))
    y = t.value(right, x.layout)
    if (t.shape(left), x.tokens) != (t.shape(right), y.tokens):
        raise Unknown("a difference that broadcasts")
    negative = scaled_features(t, node, y, torch.full((t.shape(right)[-1],), -1.0))
    return replace(x, site=t.add_site(node, Op.ADD, (x.site, negative.site)))


def takes_scale(t: Translator, x: Value) -> bool:
    """Whether the weights of what makes a value, and alone reads it, can take a factor of its features in."""
    producer = next(site for site in t.sites if site.name == x.site)
    return producer.op in (Op.LINEAR, Op.RMS_NORM, Op.LAYER_NORM) and _read_once(t, x.site)


def scaled_features(t: Translator, node: fx.Node, x: Value, scale: Tensor) -> Value:
    """Features times a number each: in the weights of what alone makes them (LayerScale), or a site.

    Of a sum it is a site that folds into the layers around it, as norms do.
    """
    producer = next(site for site in t.sites if site.name == x.site)
    if takes_scale(t, x):
        weight, bias = (producer.parameters[role] for role in ("weight", "bias"))
        t.tensors[weight] = t.tensors[weight] * (scale[:, None] if producer.op is Op.LINEAR else scale)
        t.tensors[bias] = t.tensors[bias] * scale
        return x
    if producer.op is Op.ADD and x.layout == "tokens":  # the sum itself may go on without them
        parameters = {"weight": scale, "bias": torch.zeros(len(scale))}
        return replace(x, site=t.add_site(node, Op.BATCH_NORM, (x.site,), parameters=parameters))
    parameters = {"weight": torch.diag(scale), "bias": torch.zeros(len(scale))}
    return replace(x, site=t.add_site(node, Op.LINEAR, (x.site,), parameters=parameters))


def bounded_words(t: Translator, node: fx.Node) -> Value | None:
    """The layer that scores words, its scores bounded by a tanh (Gemma 2), which is left to the host."""
    curve = t.known.get(node)
    cap = cap_of_samples(curve.samples) if isinstance(curve, Curve) else None
    if not isinstance(curve, Curve) or cap is None or "decoder_input_ids" not in t.inputs:
        return None
    index = next(i for i, site in enumerate(t.sites) if site.name == curve.base.site)
    site = t.sites[index]
    if site.op is not Op.LINEAR or any(site.name in reader.inputs for reader in t.sites):
        return None
    t.sites[index] = replace(site, attributes={**site.attributes, "cap": cap})
    return curve.base
