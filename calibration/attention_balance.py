"""Prepares what attention multiplies for one scale a tensor: queries, keys and values.

Softmax does not change when one number is added to all scores of a query, so keys may lose their mean:
q (k - m) = q k - q m; not so where keys are multiplied with constants of distances as well. Its weights
add up to 1, so values may lose theirs as well, and the layer behind attention takes it in: p (v - m) + m.
Queries and keys may be scaled against each other, channel by channel, since only their products count:
(q d) (k / d). With d the square root of the quotient of their reaches no channel is small in one of them
only (arXiv 2308.13137, section 3.3, has such scales learned).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from archnet.calibration.equalization import ChannelStatistics
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
        if site.op is not Op.ATTENTION or site.attributes.get("form", "softmax") != "softmax":
            continue
        own = [_own_layer(network, name, site, readers) for name in site.inputs[:3]]
        query, key, value = own
        if query is not None and key is not None:
            # What keys are multiplied with by distance sees their mean.
            shift = None if "relative_queries" in site.parameters else statistics[key.name].mean
            scale = _common_scale(statistics[query.name], statistics[key.name], centred=shift is not None)
            _move(query, tensors, values, scale=1.0 / scale)
            _move(key, tensors, values, scale=scale, shift=shift)
            _balance_tables(site, tensors, scale)
        behind = readers[site.name]
        if value is not None and behind and all(r.op is Op.LINEAR for r in behind):
            mean = statistics[value.name].mean
            _move(value, tensors, values, shift=mean)
            for reader in behind:
                name = reader.parameters["bias"]
                tensors[name] = tensors[name] + tensors[reader.parameters["weight"]] @ mean
            _stand_for(site.name, values, torch.ones_like(mean), mean)
    return Folded(replace(network, tensors=tensors), values)


def _own_layer(
    network: Network, name: str, attention: Site, readers: Mapping[str, list[Site]]
) -> Site | None:
    """The fully connected layer that gives an operand of this attention and of nothing else."""
    if name in network.inputs:
        return None
    site = network.site(name)
    alone = [reader.name for reader in readers[name]] == [attention.name]
    return site if site.op is Op.LINEAR and alone else None


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
    """Let a layer give (x - shift) / scale instead of x."""
    weight, bias = (tensors[site.parameters[role]] for role in ("weight", "bias"))
    moved = torch.zeros_like(bias) if shift is None else shift
    scale = torch.ones_like(bias) if scale is None else scale
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
