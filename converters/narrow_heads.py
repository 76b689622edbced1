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
and their number stay as they are, and distillation learns back what was lost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from archnet.converters.softmax import relative
from archnet.executor import NetworkModule
from archnet.network import Network, Site
from archnet.operators import Op
from archnet.valid import mask_of, row_masks, valid_rows

ROLES = ("query", "key", "value")

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


def keeps_width(site: Site, network: Network, width: int) -> str | None:
    """Why an attention's heads cannot have so few features, or None."""
    if relative(site):
        return "its scores have terms of distances (DeBERTa), whose tables have the width of a head"
    readers = network.consumers()
    for role, name in zip(ROLES, site.inputs, strict=False):
        if name in network.inputs or network.site(name).op is not Op.LINEAR or len(readers[name]) != 1:
            return f"its {role} does not come from a fully connected layer of its own"
    after = readers[site.name]
    if len(after) != 1 or after[0].op is not Op.LINEAR or site.name in network.outputs.values():
        return "it is not read by one fully connected layer alone"
    has = head_width(site, network)
    if width >= has:
        return f"its heads have {has} features"
    return None


def head_width(site: Site, network: Network) -> int:
    """Features of each head of an attention whose values come from a fully connected layer."""
    return len(network.parameter(network.site(site.inputs[2]), "bias")) // int(site.attributes["heads"])


@torch.no_grad()
def head_moments(teacher: NetworkModule, batches: Sequence[Mapping[str, Tensor]]) -> dict[str, HeadMoments]:
    """The moments of every attention of the teacher over some batches."""
    network, masks = teacher.network, row_masks(teacher.network)
    attentions = [site for site in network.sites if site.op is Op.ATTENTION]
    sources = {name: int(site.attributes["heads"]) for site in attentions for name in site.inputs[:3]}
    sums: dict[str, tuple[int, Tensor, Tensor]] = {}
    for batch in batches:
        values = teacher(batch, keep=set(sources))
        for name, heads in sources.items():
            rows = valid_rows(values[name].double(), mask_of(batch, masks[name]))
            rows = rows.reshape(len(rows), heads, -1).transpose(0, 1)
            count, total, products = sums.get(name, (0, torch.zeros(()), torch.zeros(())))
            sums[name] = count + rows.shape[1], total + rows.sum(1), products + rows.mT @ rows
    means = {name: total / count for name, (count, total, _) in sums.items()}
    moments = {name: products / count for name, (count, _, products) in sums.items()}
    apart = {name: moments[name] - mean[:, :, None] * mean[:, None] for name, mean in means.items()}
    return {
        site.name: HeadMoments(moments[query], apart[key], apart[value], means[value])
        for site in attentions
        for query, key, value in [site.inputs[:3]]
    }


def narrow_heads(network: Network, moments: Mapping[str, HeadMoments], width: int) -> Network:
    """The network whose heads have `width` features, as near to it as that allows.

    Args:
        network: captured; none of its attentions has a reason against it (`keeps_width`).
        moments: of each attention by its site's name.
    """
    sites = {site.name: site for site in network.sites}
    tensors = dict(network.tensors)
    for site in network.sites:
        if site.op is not Op.ATTENTION:
            continue
        after = network.consumers()[site.name][0].name
        layers = [*site.inputs[:3], after]
        weights = {
            name: (network.parameter(sites[name], "weight"), network.parameter(sites[name], "bias"))
            for name in layers
        }
        narrowed = _narrowed(weights, layers, moments[site.name], width)
        for name, (weight, bias) in narrowed.items():
            keys = {"weight": f"{name}.narrow_weight", "bias": f"{name}.narrow_bias"}
            tensors |= {keys["weight"]: weight.float().contiguous(), keys["bias"]: bias.float().contiguous()}
            sites[name] = replace(sites[name], parameters={**sites[name].parameters, **keys})
    return replace(network, sites=tuple(sites.values()), tensors=tensors).pruned()


def _narrowed(
    layers: Mapping[str, tuple[Tensor, Tensor]], names: Sequence[str], moments: HeadMoments, width: int
) -> dict[str, tuple[Tensor, Tensor]]:
    """New weights and biases of the layers for queries, keys, values, and of the one behind attention."""
    heads = len(moments.mean)
    query, key, value, after = names
    (of_query, query_back), (of_key, key_back) = _roots(moments.query), _roots(moments.key)
    left, strength, right = torch.linalg.svd(of_query @ of_key.mT)
    share = strength[:, :width, None].sqrt()
    to_query, to_key = (
        share * (query_back @ left[:, :, :width]).mT,
        share * (key_back @ right.mT[:, :, :width]).mT,
    )
    weight, bias = (tensor.double() for tensor in layers[after])
    joined = weight.reshape(len(weight), heads, -1).transpose(0, 1)  # (heads, outputs, width of a head)
    of_value, value_back = _roots(moments.value)
    left, strength, right = torch.linalg.svd(joined @ of_value.mT, full_matrices=False)
    to_value = (value_back @ right.mT[:, :, :width]).mT
    back = left[:, :, :width] * strength[:, None, :width]
    return {
        query: _projected(layers[query], to_query),
        key: _projected(layers[key], to_key),
        value: _projected(layers[value], to_value, moments.mean),
        after: (back.transpose(0, 1).flatten(1), bias + torch.einsum("how,hw->o", joined, moments.mean)),
    }


def _projected(layer: tuple[Tensor, Tensor], to: Tensor, mean: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """A layer followed by (heads, width, features of a head) on each head, less a mean before it."""
    heads = len(to)
    weight, bias = (tensor.double().reshape(heads, -1, *tensor.shape[1:]) for tensor in layer)
    moved = bias if mean is None else bias - mean
    return (to @ weight).flatten(0, 1), (to @ moved[:, :, None]).flatten()


def _roots(moment: Tensor) -> tuple[Tensor, Tensor]:
    """R with moment = R^T R, and its pseudoinverse: some heads leave some of their features unused."""
    values, vectors = torch.linalg.eigh(moment)
    used = values > UNUSED * values[:, -1:]
    scale = torch.where(used, values, 0.0).sqrt()
    inverse = torch.where(used, 1.0 / scale, 0.0)
    return scale[:, :, None] * vectors.mT, vectors * inverse[:, None]
