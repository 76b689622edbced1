"""Prepares what attention multiplies for one scale a tensor: queries, keys and values.

Softmax does not change when one number is added to all scores of a query, so keys may lose their mean:
q (k - m) = q k - q m; not so where keys are multiplied with constants of distances as well. Its weights
add up to 1, so values may lose theirs as well, and the layer behind attention takes it in: p (v - m) + m.
Queries and keys may be scaled against each other, channel by channel, since only their products count:
(q d) (k / d). With d the square root of the quotient of their reaches no channel is small in one of them
only (arXiv 2308.13137, section 3.3, has such scales learned). Rotary positions multiply the channels of two
layers by constants and add them, so both layers take the channel's scale in; a mean they would turn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from archnet.calibration.equalization import ChannelStatistics
from archnet.config import SOFTMAX_FORMS
from archnet.converters.fold import Affine, Folded
from archnet.converters.softmax import RELATIVE
from archnet.network import Network, Site
from archnet.operators import Op

LARGEST = 1e3
"""Bound of a channel's scale."""


def balance_attention(folded: Folded, statistics: Mapping[str, ChannelStatistics]) -> Folded:
    """Balance every attention with softmax whose operands are layers of its own.

    Args:
        folded: the network, and what its sites stand for.
        statistics: of every site's result.

    Returns:
        The same function with other weights; `values` say what the sites stand for now.
    """
    network, values = folded.network, dict(folded.values)
    tensors = dict(network.tensors)
    readers = network.consumers()
    for site in network.sites:
        if site.op is not Op.ATTENTION or site.attributes.get("form", "softmax") not in SOFTMAX_FORMS:
            continue
        query, key, value = (_own_sites(network, name, site, readers) for name in site.inputs[:3])
        if query and key:
            # What keys are multiplied with by distance sees their mean.
            centred = len(key) == 1 and "relative_queries" not in site.parameters
            shift = statistics[key[-1].name].mean if centred else None
            scale = _common_scale(statistics[query[-1].name], statistics[key[-1].name], centred=centred)
            for own in query:
                _move(own, tensors, values, scale=1.0 / scale)
            for own in key:
                _move(own, tensors, values, scale=scale, shift=shift)
            _balance_tables(site, tensors, scale)
        behind = readers[site.name]
        if len(value) == 1 and behind and all(r.op is Op.LINEAR for r in behind):
            mean = statistics[value[0].name].mean
            _move(value[0], tensors, values, shift=mean)
            for reader in behind:
                name = reader.parameters["bias"]
                tensors[name] = tensors[name] + tensors[reader.parameters["weight"]] @ mean
            _stand_for(site.name, values, torch.ones_like(mean), mean)
    return Folded(replace(network, tensors=tensors), values)


def _own_sites(
    network: Network, name: str, attention: Site, readers: Mapping[str, list[Site]]
) -> tuple[Site, ...]:
    """What makes an operand of this attention and nothing else, in execution order; empty if there is more.

    A fully connected layer, or sums of such layers' results times tables of positions.
    """
    found, open_names = set[str](), [name]
    while open_names:
        name = open_names.pop()
        if name in network.inputs:
            return ()
        site = network.site(name)
        found.add(name)
        if (site.op is Op.ADD and len(site.inputs) == 2) or (site.op is Op.MUL and len(site.inputs) == 1):
            open_names += site.inputs
        elif site.op is not Op.LINEAR:
            return ()
    own = tuple(site for site in network.sites if site.name in found)
    inside = {*found, attention.name}
    alone = inside.issuperset(reader.name for site in own for reader in readers[site.name])
    return own if alone and [r.name for r in readers[own[-1].name]] == [attention.name] else ()


def _common_scale(query: ChannelStatistics, key: ChannelStatistics, *, centred: bool) -> Tensor:
    """What keys are divided and queries multiplied by, (features,); centred keys count without their mean."""
    reach = (query.mean.abs() + query.reach).clamp_min(1e-12)
    keys = key.reach if centred else key.reach + key.mean.abs()
    return (keys.clamp_min(1e-12) / reach).clamp(1.0 / LARGEST, LARGEST).sqrt()


def _balance_tables(site: Site, tensors: dict[str, Tensor], scale: Tensor) -> None:
    """Let tables of distances follow: what queries meet is divided as keys are, what keys meet multiplied."""
    heads = int(site.attributes["heads"])
    for role, factor in zip(RELATIVE, (1.0 / scale, scale), strict=True):
        if role in site.parameters:
            name = site.parameters[role]
            tensors[name] = tensors[name] * factor.reshape(heads, 1, -1)


def _move(
    site: Site,
    tensors: dict[str, Tensor],
    values: dict[str, Affine],
    *,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
) -> None:
    """Let a layer, or what is made of such layers alone, give (x - shift) / scale instead of x."""
    given = scale if shift is None else shift
    assert given is not None
    moved = torch.zeros_like(given) if shift is None else shift
    scale = torch.ones_like(given) if scale is None else scale
    if site.op is Op.LINEAR:
        weight, bias = (tensors[site.parameters[role]] for role in ("weight", "bias"))
        tensors[site.parameters["weight"]] = weight / scale[:, None]
        tensors[site.parameters["bias"]] = (bias - moved) / scale
    _stand_for(site.name, values, scale, moved)


def _stand_for(carrier: str, values: dict[str, Affine], scale: Tensor, shift: Tensor) -> None:
    """The carrier is now (what it was - shift) / scale."""
    for name, affine in values.items():
        if affine.carrier == carrier:
            weight = torch.ones_like(scale) if affine.weight is None else affine.weight
            bias = torch.zeros_like(shift) if affine.bias is None else affine.bias
            values[name] = replace(affine, weight=weight * scale, bias=bias + weight * shift)
