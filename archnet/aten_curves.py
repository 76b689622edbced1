"""Elementwise operators of a graph as functions of one value, and the sites that compute these."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, fx

from archnet.aten_moved import SCALING
from archnet.converters.activation import BECOMES
from archnet.curves import GRID, activation_of, evaluate, factor_of, is_rectifier, is_squared_relu
from archnet.network import SiteAttribute
from archnet.operators import Op
from archnet.token_values import FEATURES, HEADS, Curve, Moved, Value, node_kind

if TYPE_CHECKING:
    from archnet.aten import Translator

NORMS = ("moment", "variance", "centred")
"""Layouts on the way to a norm."""

PLAIN = (*FEATURES, "tokens_t", "map", "pooled", *NORMS)
"""Layouts that functions of single elements keep."""


def curve_of(t: Translator, node: fx.Node) -> Curve | None:
    """An elementwise node as a function of the one value that all its operands are functions of."""
    bases: set[Value] = set()
    operands: dict[fx.Node, Tensor] = {}
    for source in node.all_input_nodes:
        found = t.known.get(source)
        if isinstance(found, Curve):
            bases.add(found.base)
            operands[source] = found.samples
        elif isinstance(found, Moved) and len(t.shape(source)) == 3 and not _only_scales(t, node):
            bases.add(replace(t.value(source, "tokens", "tokens_t", "turned"), gain=1.0))
            operands[source] = GRID
        elif isinstance(found, Moved) and len(t.shape(source)) == 4 and _squares(node):
            bases.add(replace(t.value(source, *HEADS), gain=1.0))
            operands[source] = GRID
        elif isinstance(found, Value) and (
            found.layout in PLAIN or (found.layout in HEADS and _squares(node))
        ):
            bases.add(replace(found, gain=1.0))
            operands[source] = GRID * found.gain
        elif found is None and source in t.recorded[0] and t.recorded[0][source].numel() == 1:
            operands[source] = t.tensor(source).double().reshape(())
        else:
            return None
    if len(bases) != 1:
        return None
    return Curve(bases.pop(), evaluate(node, operands), node)


def _only_scales(t: Translator, node: fx.Node) -> bool:
    """Whether a node is part of how features are moved, and no function of them."""
    known = [t.known[source] for source in node.all_input_nodes if source in t.known]
    return node_kind(node).rstrip("_") in SCALING and all(isinstance(k, Moved) for k in known)


def _squares(node: fx.Node) -> bool:
    """Whether a node begins a norm; whatever else is done to the features of heads belongs to attention."""
    return node_kind(node) in ("pow", "square") or node.args[:1] == node.args[1:2]


def named_curve(t: Translator, curve: Curve) -> Value:
    """The site that computes a curve."""
    factor = factor_of(curve.samples)
    if factor == 1.0:
        return curve.base
    activation = activation_of(curve.samples)
    if activation is not None:
        return _activated(t, curve, *activation)
    if is_squared_relu(curve.samples):
        relu = t.add_site(curve.node, Op.RELU, (curve.base.site,))
        return replace(curve.base, site=t.add_site(curve.node, Op.MUL, (relu, relu)))
    operands = [a for a in curve.node.args[:2] if isinstance(a, fx.Node) and a in t.known]
    if node_kind(curve.node).rstrip("_") == "add" and len(operands) == 2 and not curve.node.kwargs:
        left, right = (t.value(a, "tokens", "row", "map", "grid") for a in operands)
        return replace(left, site=t.add_site(curve.node, Op.ADD, (left.site, right.site)))
    if curve.base.layout not in NORMS and is_rectifier(curve.samples):
        return _activated(t, curve, Op.RECTIFIER, {}, {"samples": curve.samples.float()})
    if factor is not None and curve.base.site in t.tables:
        return t.scaled_words(curve.node, curve.base, factor)
    if factor is not None:
        return replace(curve.base, gain=factor)
    reason = "an elementwise function that no converter knows"
    return t.refuse(curve.node, node_kind(curve.node), reason, [curve.base.site])


def _activated(
    t: Translator,
    curve: Curve,
    op: Op,
    attributes: Mapping[str, SiteAttribute],
    parameters: Mapping[str, Tensor] | None = None,
) -> Value:
    """An activation; of tokens that come from a map one of the map, whose convolution takes it in.

    What no layer makes passes through one that changes nothing.
    """
    curve = replace(curve, base=_from_layer(t, curve, op))
    producer = next((site for site in t.sites if site.name == curve.base.site), None)
    turned = producer is not None and producer.op is Op.TO_TOKENS
    inputs = producer.inputs if producer is not None and turned else (curve.base.site,)
    site = t.add_site(curve.node, op, inputs, parameters=parameters, attributes=attributes)
    return replace(curve.base, site=t.add_site(curve.node, Op.TO_TOKENS, (site,)) if turned else site)


def _from_layer(t: Translator, curve: Curve, op: Op) -> Value:
    """What an activation is of, behind a layer, convolution or sum that can take the activation in."""
    x = curve.base
    producer = next((site for site in t.sites if site.name == x.site), None)
    if producer is None or x.layout not in FEATURES or producer.name in t.refused:
        return x
    if producer.op is Op.ADD and len(producer.inputs) == 1:  # a constant, which may be the layer's bias
        producer = next((site for site in t.sites if site.name == producer.inputs[0]), producer)
    summed = producer.op is Op.ADD and len(producer.inputs) == 2 and op not in (*BECOMES, Op.CLIP)
    if summed or producer.op in (Op.LINEAR, Op.CONV, Op.TO_TOKENS, Op.BATCH_NORM):
        return x
    features = t.shape(curve.node)[-1]
    parameters = {"weight": torch.eye(features), "bias": torch.zeros(features)}
    return replace(x, site=t.add_site(curve.node, Op.LINEAR, (x.site,), parameters=parameters))
