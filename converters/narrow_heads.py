"""Attention with fewer features a head: less of what a chip multiplies slowly, and fewer weights.

A head's scores are (Q x + b)(K y + c), and what it gives to the sum is O V y: two matrices of the rank of its
width. For `width` features instead of as many as it has, both become the matrices of that rank which
change scores and results least over calibration data (truncated SVD, whitened by the second moments of
what the layers give; Eckart and Young 1936). With E[z z^T] = R^T R of a head's queries, and of its keys
without their mean, which softmax does not see, and the first `width` columns of U and W each,

    U S W^T = R_q R_k^T,    q' = S^(1/2) U^T R_q^+T q,    k' = S^(1/2) W^T R_k^+T k

and with O of the head and R_v of its values without their mean m

    U S W^T = O R_v^T,      v' = W^T R_v^+T (v - m),      O' = U S,    and O m is added to O's bias.

All of it goes into the weights of the four layers around attention, before anything is trained: the operators
and their number stay as they are, and distillation learns back what was lost. Queries and keys that something
stands between and their layers (rotary positions, norms), or that meet tables of distances, keep their width;
values get the other one all the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import torch
from torch import Tensor

from archnet.config import HeadWidth
from archnet.converters.softmax import relative
from archnet.network import Network, Site
from archnet.operators import Op

Layer = tuple[Tensor, Tensor]
"""Weight and bias of a fully connected layer."""

UNUSED = 1e-12
"""Variance, relative to a head's greatest, that is no more than rounding of float32."""


@dataclass(frozen=True, slots=True)
class HeadMoments:
    """What an attention reads, over the valid tokens of calibration data, head by head.

    Attributes:
        query, key, value: (heads, width, width) float64; those of keys and values without their mean.
        mean: of values, (heads, width) float64.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    mean: Tensor


@dataclass(frozen=True, slots=True)
class Narrowed:
    """A network with narrower heads, and how near it is before it is trained.

    Attributes:
        scores: share of the square of scores that is left, mean over attentions; 1 where none are narrower.
        results: the same of what heads add to the layer behind them, without its mean.
    """

    network: Network
    scores: float
    results: float


def keeps_scores(site: Site, network: Network, width: int) -> str | None:
    """Why the queries and keys of an attention keep their width, or None where they get this one."""
    if relative(site):
        return "tables of distances have the width of a head"
    reason = _not_of_layers(site, network, ("queries", "keys"), site.inputs[:2])
    return reason or _no_wider("queries and keys", _head_width(site, network, site.inputs[1]), width)


def keeps_results(site: Site, network: Network, width: int) -> str | None:
    """Why the values of an attention keep their width, or None where they get this one."""
    after = network.consumers()[site.name]
    if len(after) != 1 or after[0].op is not Op.LINEAR or site.name in network.outputs.values():
        return "what heads give is not read by one fully connected layer alone"
    reason = _not_of_layers(site, network, ("values",), site.inputs[2:3])
    return reason or _no_wider("values", _head_width(site, network, site.inputs[2]), width)


def _no_wider(part: str, has: int, width: int) -> str | None:
    return f"{part} have {has}" if has <= width else None


def _not_of_layers(site: Site, network: Network, roles: Sequence[str], sources: Sequence[str]) -> str | None:
    """Which of them come from anything but a fully connected layer that only this attention reads."""
    readers = network.consumers()
    for role, name in zip(roles, sources, strict=True):
        if name in network.inputs or network.site(name).op is not Op.LINEAR or len(readers[name]) != 1:
            return f"{role} do not come from a fully connected layer of their own"
    return None


def narrowed_to(site: Site, network: Network, width: HeadWidth) -> tuple[str, str | None]:
    """What an attention's heads become in words, and why it cannot be or None."""
    parts = (
        ("queries and keys", width.keys, site.inputs[1], keeps_scores(site, network, width.keys)),
        ("values", width.values, site.inputs[2], keeps_results(site, network, width.values)),
    )
    narrower = [
        f"{part} of {wanted} instead of {_head_width(site, network, name)} features a head"
        for part, wanted, name, reason in parts
        if reason is None
    ]
    kept = [reason for *_, reason in parts if reason is not None]
    if not narrower:
        return "", ", and ".join(kept)
    return "; ".join([", ".join(narrower), *kept]), None


def _head_width(site: Site, network: Network, source: str) -> int:
    """Features of each head of queries, keys or values that come from a fully connected layer."""
    return len(network.parameter(network.site(source), "bias")) // int(site.attributes["heads"])


def narrow_heads(network: Network, moments: Mapping[str, HeadMoments], width: HeadWidth) -> Narrowed:
    """The network whose heads have no more features than that, as near to it as that allows.

    Args:
        network: captured; what has a reason to keep its width (`narrowed_to`) stays as it is.
        moments: of each attention by its site's name.
    """
    sites = {site.name: site for site in network.sites}
    tensors = dict(network.tensors)
    scores, results = [], []
    for site in (site for site in network.sites if site.op is Op.ATTENTION):
        query, key, value = (sites[name] for name in site.inputs[:3])
        changed: dict[str, Layer] = {}
        if keeps_scores(site, network, width.keys) is None:
            layers = _layer(network, query), _layer(network, key)
            changed[query.name], changed[key.name], left = _scores(*layers, moments[site.name], width.keys)
            scores.append(left)
        if keeps_results(site, network, width.values) is None:
            after = network.consumers()[site.name][0]
            layers = _layer(network, value), _layer(network, after)
            changed[value.name], changed[after.name], left = _results(
                *layers, moments[site.name], width.values
            )
            results.append(left)
        for name, (weight, bias) in changed.items():
            keys = {"weight": f"{name}.narrow_weight", "bias": f"{name}.narrow_bias"}
            tensors |= {keys["weight"]: weight.float().contiguous(), keys["bias"]: bias.float().contiguous()}
            sites[name] = replace(sites[name], parameters={**sites[name].parameters, **keys})
    narrower = replace(network, sites=tuple(sites.values()), tensors=tensors).pruned()
    return Narrowed(narrower, fmean(scores or [1.0]), fmean(results or [1.0]))


def _layer(network: Network, site: Site) -> Layer:
    """Weight (outputs, inputs) and bias of a fully connected layer, float64."""
    return network.parameter(site, "weight").double(), network.parameter(site, "bias").double()


def _scores(query: Layer, key: Layer, moments: HeadMoments, width: int) -> tuple[Layer, Layer, float]:
    """The layers for queries and for keys, and the share of the square of scores that is left."""
    (of_query, query_back), (of_key, key_back) = _roots(moments.query), _roots(moments.key)
    left, strength, right = torch.linalg.svd(of_query @ of_key.mT)
    share = strength[:, :width].sqrt()[:, :, None]
    to_query = share * (query_back @ left[:, :, :width]).mT
    to_key = share * (key_back @ right.mT[:, :, :width]).mT
    return _projected(query, to_query), _projected(key, to_key), _share(strength, width)


def _results(value: Layer, after: Layer, moments: HeadMoments, width: int) -> tuple[Layer, Layer, float]:
    """The layer for values, the one behind attention, and the share of the square of results that is left."""
    weight, bias = after
    joined = weight.reshape(len(weight), len(moments.mean), -1).transpose(0, 1)  # heads, outputs, width
    of_value, value_back = _roots(moments.value)
    left, strength, right = torch.linalg.svd(joined @ of_value.mT, full_matrices=False)
    to_value = (value_back @ right.mT[:, :, :width]).mT
    back = (left[:, :, :width] * strength[:, None, :width]).transpose(0, 1).flatten(1)
    bias = bias + torch.einsum("how,hw->o", joined, moments.mean)
    return _projected(value, to_value, moments.mean), (back, bias), _share(strength, width)


def _share(strength: Tensor, width: int) -> float:
    """Of the squares of all heads' singular values, (heads, width), what the first of each have."""
    squares = strength.square()
    return float(squares[:, :width].sum() / squares.sum().clamp_min(torch.finfo(torch.float64).tiny))


def _projected(layer: Layer, to: Tensor, mean: Tensor | None = None) -> Layer:
    """A layer followed by (heads, width, features of a head) on each head, less a mean before it."""
    heads = len(to)
    weight, bias = (tensor.reshape(heads, -1, *tensor.shape[1:]) for tensor in layer)
    moved = bias if mean is None else bias - mean
    return (to @ weight).flatten(0, 1), (to @ moved[:, :, None]).flatten()


def _roots(moment: Tensor) -> tuple[Tensor, Tensor]:
    """R with moment = R^T R, and its pseudoinverse: some heads leave some of their features unused."""
    values, vectors = torch.linalg.eigh(moment)
    used = values > UNUSED * values[:, -1:]
    scale = torch.where(used, values, 0.0).sqrt()
    inverse = torch.where(used, 1.0 / scale, 0.0)
    return scale[:, :, None] * vectors.mT, vectors * inverse[:, None]
