"""Layers whose results are features of another site: other ones, in another order, times numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, fx

from archnet.converters.layer_norm import NORMS
from archnet.network import Site, SiteAttribute, groups_of
from archnet.operators import Op
from archnet.token_values import Moved

if TYPE_CHECKING:
    from archnet.aten import Translator


def features_of(index: Tensor, gain: Tensor) -> Tensor | None:
    """Which feature of its token stands at each place, alike for all tokens; None where it is not.

    What is multiplied with 0 may be any: tokens that are not turned by their positions (DINOv3's first ones).

    Args:
        index: int64 (batch, tokens, places).
        gain: float32 of the same shape.
    """
    counts = gain != 0
    first = counts[0].int().argmax(0, keepdim=True)
    rows = index[0].gather(0, first)[0]
    return rows if bool(((index == rows) | ~counts).all()) else None


def rows_of(t: Translator, node: fx.Node, m: Moved, rows: Tensor, gain: Tensor) -> str:
    """A layer whose results are these features times numbers; the base itself where that is all."""
    features = m.sizes[2]
    if torch.equal(rows, torch.arange(features)) and bool((gain == 1).all()):
        return m.base.site
    return _picked(t, node, m.base.site, rows, gain, features)


def _picked(t: Translator, node: fx.Node, base: str, rows: Tensor, gain: Tensor, features: int) -> str:
    """A site whose features are these of another (which has so many), times numbers."""
    key = (base, tuple(rows.tolist()), tuple(gain.tolist()))
    if key in t.picked:
        return t.picked[key]
    producer = next(site for site in t.sites if site.name == base)
    op, attributes = Op.LINEAR, dict[str, SiteAttribute]()
    weight, bias, source = torch.eye(features), torch.zeros(features), base
    width = _group_width(t, producer, rows)
    if producer.op is Op.LINEAR or width:
        weight, bias = (t.tensors[producer.parameters[role]] for role in ("weight", "bias"))
        source = producer.inputs[0]
    if width:
        op, attributes = producer.op, {**producer.attributes, "groups": len(rows) // width}
        source = _picked(t, node, source, rows, torch.ones(len(rows)), features)
    times = gain[:, None] if op is Op.LINEAR else gain
    parameters = {"weight": weight[rows] * times, "bias": bias[rows] * gain}
    t.picked[key] = t.add_site(node, op, (source,), parameters=parameters, attributes=attributes)
    return t.picked[key]


def _group_width(t: Translator, norm: Site, rows: Tensor) -> int:
    """Of a norm of a layer's results: how many features it normalises together; 0 where it cannot follow.

    It can where rows only reorder the features within such groups, or repeat whole groups: then it is the
    norm of the layer's rows in that order, and both fold into one layer.
    """
    source = next((site for site in t.sites if norm.inputs[:1] == (site.name,)), norm)
    if norm.op not in NORMS or source.op is not Op.LINEAR:
        return 0
    width = len(t.tensors[norm.parameters["weight"]]) // groups_of(norm)
    if len(rows) % width:
        return 0
    groups = rows.reshape(-1, width)
    whole = torch.equal(groups.sort().values % width, torch.arange(width).expand_as(groups))
    return width if whole and bool((groups // width == groups[:, :1] // width).all()) else 0
