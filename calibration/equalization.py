"""Makes the channels of a folded network alike before one scale a tensor has to serve them all.

Tensors that an Add, a ReLU or attention's values tie together form a group. Within a group every
channel may be divided by a number of its own, and every tensor may be shifted by a number a channel:
the fully connected layers that write the group's tensors and those that read them take both in, and
the network computes what it did. (Cross-layer equalization, arXiv 1906.04721, section 4.1, over whole
residual streams, with the exponent of arXiv 2211.10438, equation 4.)
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from archnet.converters.fold import Affine, Folded, adds_zeros
from archnet.network import Network, Site
from archnet.operators import Op

EXPONENT = 0.5
"""1 makes all channels alike and leaves all unevenness to the weights; 0 changes nothing."""

FEW_BITS_EXPONENT = 0.25
"""For weights of fewer than 8 bits, which bear less unevenness."""

GATED_EXPONENT = 1.0
"""For gated products of fewer than 8 bits, whose channels differ most, and which no rotation reaches.

Channels of a product of two activations reach up to 30 times as far as most others (a gate that opens wide
belongs to a large value), and 4 bits of one scale then round most of the others to 0. What is taken from
them is given to weights, and those are trained."""


@dataclass(frozen=True, slots=True)
class ChannelStatistics:
    """Of one tensor over calibration tokens, each (features,) float32."""

    mean: Tensor
    reach: Tensor
    """Largest distance from the mean."""


def groups(network: Network) -> list[list[str]]:
    """Sites whose channels must be scaled alike, each group in execution order.

    Groups that something reads which does not commute with a positive scale a channel are left out.
    """
    parent = {site.name: site.name for site in network.sites}

    def find(name: str) -> str:
        while parent[name] != name:
            name = parent[name]
        return name

    blocked: set[str] = set()
    readers = network.consumers()
    for site in network.sites:
        if site.op in (Op.ADD, Op.RELU, Op.MEAN_POOL, Op.TOKEN_MEAN, Op.SELECT):
            tied = [name for name in site.inputs if name in parent]
        elif site.op is Op.ATTENTION:
            tied = [site.inputs[2]]
            blocked.update(site.inputs[:2])
        elif site.op in (Op.TO_TOKENS, Op.PREPEND, Op.WINDOWS):
            tied = [name for name in site.inputs if name in parent]
            if len(tied) < len(site.inputs):  # what the user gives stays as it is
                blocked.add(site.name)
        elif site.op is Op.RESHAPE:  # layers read it and take in what each of its parts has
            tied = []
            if any(reader.op is not Op.LINEAR for reader in readers[site.name]):
                blocked.update(site.inputs)
        elif site.op is Op.MUL and len(site.inputs) == 2:  # what is gated may be scaled as its gates stay
            tied = [site.inputs[1]]
            blocked.add(site.inputs[0])
        elif site.op in (Op.LINEAR, Op.EMBEDDING):
            tied = []
            if site.attributes.get("logits", False):  # accumulators, whose channels have scales of their own
                blocked.add(site.name)
        elif site.op is Op.CONV:
            # Channels of maps are left as they are; what a patch embedding writes is a token stream.
            tied = []
            blocked.update(site.inputs)
            if [reader.op for reader in readers[site.name]] != [Op.TO_TOKENS]:
                blocked.add(site.name)
        else:
            tied = []
            blocked.update([*site.inputs, site.name])
        for name in tied:
            parent[find(name)] = find(site.name)
    stopped = {find(name) for name in blocked if name in parent}
    members: dict[str, list[str]] = {}
    for site in network.sites:
        if find(site.name) not in stopped and site.op is not Op.RESHAPE:
            members.setdefault(find(site.name), []).append(site.name)
    return list(members.values())


def joined(network: Network) -> list[tuple[Site, int]]:
    """The sites that put the features of several tokens in one, and how many."""
    found = [site for site in network.sites if site.op is Op.RESHAPE]
    return [(site, int(site.attributes["beside"])) for site in found]


def equalize(
    folded: Folded,
    statistics: Mapping[str, ChannelStatistics],
    *,
    outputs: Collection[str] = (),
    exponent: float = EXPONENT,
    gated_exponent: float | None = None,
) -> Folded:
    """Equalize every group that can be.

    Args:
        folded: the network, and what its sites stand for.
        statistics: of every site's result (before pooling).
        outputs: the unfolded network's sites that are outputs: what they are of their carriers gets
            positive gains, which is what an output's dequantization can have.
        exponent: see `EXPONENT`.
        gated_exponent: that of products of two activations, and of what they are tied to; `exponent` if None.

    Returns:
        The same function with other weights; `values` say what the sites stand for now.
    """
    network = folded.network
    scales: dict[str, Tensor] = {}
    shifts: dict[str, Tensor] = {}
    readers = network.consumers()
    for group in groups(network):
        sites = [network.site(name) for name in group]
        measured = [statistics[site.name] for site in sites if site.name in statistics]
        if not measured:  # behind the pooling
            continue
        own = gated_exponent if any(site.op is Op.MUL for site in sites) else None
        scale = _common_scale(measured, exponent if own is None else own)
        shiftable = all(site.op not in (Op.RELU, Op.ATTENTION, Op.MUL) for site in sites)
        shiftable &= not any(adds_zeros(site) for site in sites)
        if shiftable:
            scale = scale * _output_signs(folded, group, outputs)
        scales |= dict.fromkeys(group, scale)
        if shiftable:
            _shift(sites, statistics, readers, shifts)
    for site, count in joined(network):
        for numbers in (scales, shifts):
            if site.inputs[0] in numbers:
                given = numbers[site.inputs[0]]
                numbers[site.name] = given.repeat(count) if given.dim() else given
    return _apply(folded, scales, shifts)


def _common_scale(measured: list[ChannelStatistics], exponent: float) -> Tensor:
    """(features,) one number a channel: how far it reaches against the others, over all tensors."""
    shares = torch.stack([s.reach / s.reach.mean().clamp_min(1e-12) for s in measured])
    scale = shares.amax(0).clamp_min(1e-3) ** exponent
    return scale / scale.log().mean().exp()


def _output_signs(folded: Folded, group: list[str], outputs: Collection[str]) -> Tensor | float:
    """1 or -1 a channel, so that an output that stands for a tensor of the group has positive gains."""
    for name in outputs:
        affine = folded.values[name]
        if affine.carrier in group and affine.weight is not None:
            return torch.where(affine.weight < 0, -1.0, 1.0)
    return 1.0


def _shift(
    sites: list[Site],
    statistics: Mapping[str, ChannelStatistics],
    readers: Mapping[str, list[Site]],
    shifts: dict[str, Tensor],
) -> None:
    """Choose the shift of every tensor of a group, in execution order, so that each has mean 0 if it can.

    What writes a tensor by itself (fully connected, look-up, constant table) takes any shift in. The
    shift of an Add is the sum of its operands': an operand that nothing else reads makes up the
    difference, and where there is none the Add is left with that sum.
    """
    writers = {site.name for site in sites if site.op in (Op.LINEAR, Op.EMBEDDING)}
    for site in sites:
        if site.op in (Op.MEAN_POOL, Op.TOKEN_MEAN, Op.SELECT, Op.WINDOWS):
            shifts[site.name] = shifts[site.inputs[0]]
        elif site.op is Op.ADD and len(site.inputs) == 2:
            free = [name for name in site.inputs if name in writers and len(readers[name]) == 1]
            if free and site.name in statistics and site.inputs[0] != site.inputs[1]:
                (other,) = (name for name in site.inputs if name != free[-1])
                shifts[free[-1]] = statistics[site.name].mean - shifts[other]
            shifts[site.name] = shifts[site.inputs[0]] + shifts[site.inputs[1]]
        elif site.op in (Op.CONV, Op.TO_TOKENS, Op.PREPEND):  # rows of zeros stand in front
            shifts[site.name] = torch.zeros(())
        elif site.name in statistics:
            shifts[site.name] = statistics[site.name].mean
        else:
            shifts[site.name] = torch.zeros(())


def _apply(folded: Folded, scales: Mapping[str, Tensor], shifts: Mapping[str, Tensor]) -> Folded:
    network = folded.network
    tensors = dict(network.tensors)
    for site in network.sites:
        if site.op is Op.LINEAR:
            _absorb(site, tensors, scales, shifts)
        elif site.op is Op.CONV and site.name in scales:
            for role in ("weight", "bias"):
                key = site.parameters[role]
                scale = scales[site.name].reshape(-1, *[1] * (tensors[key].dim() - 1))
                tensors[key] = tensors[key] / scale
        elif site.op is Op.EMBEDDING and site.name in scales:
            key = site.parameters["table"]
            tensors[key] = (tensors[key] - shifts.get(site.name, 0.0)) / scales[site.name]
        elif site.op is Op.ADD and len(site.inputs) == 1 and site.name in scales:
            key = site.parameters["table"]
            moved = shifts.get(site.name, 0.0) - shifts.get(site.inputs[0], 0.0)
            tensors[key] = (tensors[key] - moved) / scales[site.name]
    values = {name: _moved(affine, scales, shifts) for name, affine in folded.values.items()}
    return Folded(replace(network, tensors=tensors), values)


def _absorb(
    site: Site, tensors: dict[str, Tensor], scales: Mapping[str, Tensor], shifts: Mapping[str, Tensor]
) -> None:
    """A fully connected layer reads scaled and shifted channels, and writes such."""
    key_w, key_b = site.parameters["weight"], site.parameters["bias"]
    weight, bias = tensors[key_w], tensors[key_b]
    source = site.inputs[0]
    if source in shifts and shifts[source].dim():  # a single number is 0, of what nothing shifts
        bias = bias + weight @ shifts[source]
    if source in scales:
        weight = weight * scales[source]
    if site.name in shifts:
        bias = bias - shifts[site.name]
    if site.name in scales:
        weight, bias = weight / scales[site.name][:, None], bias / scales[site.name]
    tensors[key_w], tensors[key_b] = weight.contiguous(), bias.contiguous()


def _moved(affine: Affine, scales: Mapping[str, Tensor], shifts: Mapping[str, Tensor]) -> Affine:
    """What a value is of its carrier, now that the carrier is scaled and shifted."""
    scale, shift = scales.get(affine.carrier), shifts.get(affine.carrier)
    weight, bias = affine.weight, affine.bias
    if shift is not None:
        moved = shift if weight is None else weight * shift
        bias = moved if bias is None else bias + moved
    if scale is not None:
        weight = scale if weight is None else weight * scale
    return Affine(affine.carrier, weight, bias)
