"""Rotates residual streams, so that few bits serve all their channels alike.

Without norms a stream is only added to, written by layers and read by layers. So it may have any basis:
with an orthogonal R, every tensor x of it becomes x R, layers that write it become R^T W, layers that
read it W R, tables T R, and the network computes what it did. The entries of R are all about
1 / sqrt(features) large, so each new channel is a sum of all old ones: what one scale a tensor has to
serve has no outliers any more. (Rotations of Transformers before quantization: QuaRot, arXiv 2404.00456;
there the norm's gain and the per-token scale stand in between, here nothing does.)

What the user gets keeps its own channels: where a stream ends in an output, a fully connected layer that
turns it back is added in front.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from scipy.fft import dct
from scipy.linalg import hadamard
from torch import Tensor

from archnet.calibration.equalization import groups, joined
from archnet.converters.fold import Affine, Folded
from archnet.network import Network, Site
from archnet.operators import Op

OUTWARD = "outward"
"""Attribute of a layer that turns a stream back into the channels of an output."""

POOLING = (Op.MEAN_POOL, Op.TOKEN_MEAN, Op.SELECT)

LINEAR_MAPS = frozenset(
    (Op.LINEAR, Op.CONV, Op.EMBEDDING, Op.ADD, Op.TO_TOKENS, Op.PREPEND, Op.WINDOWS, *POOLING)
)
"""Operators that a rotation of the features passes through, or that take it into their weights."""


def orthogonal(features: int, seed: int = 0) -> Tensor:
    """An orthogonal matrix with entries of like magnitude, float32 (features, features).

    The Kronecker product of a Hadamard matrix of the largest power of two that divides `features` with a
    cosine transform of the odd rest, its rows with random signs.
    """
    power = features & -features
    matrix = np.kron(hadamard(power) / np.sqrt(power), dct(np.eye(features // power), norm="ortho", axis=0))
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], features)
    return torch.from_numpy((signs[:, None] * matrix).astype(np.float32))


def streams(network: Network) -> list[list[str]]:
    """The groups of sites (see `equalization.groups`) whose channels may be mixed."""
    mixed = {
        site.name
        for site in network.sites
        # A convolution in groups writes each channel from those of its group only.
        if site.op in LINEAR_MAPS and int(site.attributes.get("groups", 1)) == 1
    }
    return [group for group in groups(network) if mixed.issuperset(group)]


def outputs_apart(folded: Folded) -> Folded:
    """Put an identity layer before each output that belongs to a stream with readers inside the network.

    An output's mean over tokens, or its selected token, comes after that layer.
    """
    for carrier in dict.fromkeys(folded.network.outputs.values()):
        folded = _apart(folded, carrier)
    return folded


def _apart(folded: Folded, carrier: str) -> Folded:
    network = folded.network
    source, chain = carrier, []
    while network.site(source).op in POOLING:
        chain.append(source)
        source = network.site(source).inputs[0]
    stream = next((group for group in streams(network) if source in group), None)
    if stream is None or network.site(source).op is not Op.ADD:
        return folded
    name = f"{source}/outward"
    width = _features(network, stream)
    keys = {"weight": f"{name}.weight", "bias": f"{name}.bias"}
    block = network.site(source).block
    layer = Site(name, Op.LINEAR, (source,), keys, {OUTWARD: True}, block)
    added = all(site.name != name for site in network.sites)
    sites: list[Site] = []
    for site in network.sites:
        if chain and site.name == chain[-1]:
            site = replace(site, inputs=(name, *site.inputs[1:]))
        sites.append(site)
        if site.name == source and added:
            sites.append(layer)
    tensors = {**network.tensors, keys["weight"]: torch.eye(width), keys["bias"]: torch.zeros(width)}
    moved = {source: name} if not chain else {}
    outputs = {key: moved.get(value, value) for key, value in network.outputs.items()}
    values = {key: replace(a, carrier=moved.get(a.carrier, a.carrier)) for key, a in folded.values.items()}
    return Folded(replace(network, sites=tuple(sites), tensors=tensors, outputs=outputs), values)


def rotate(folded: Folded, seed: int = 0) -> Folded:
    """Rotate every stream that is no output.

    Args:
        folded: from `outputs_apart`, equalized.
        seed: of the matrices' signs.

    Returns:
        The same function with other weights; `values` say what the sites stand for now.
    """
    network = folded.network
    outputs = set(network.outputs.values())
    turned: dict[str, Tensor] = {}
    for stream in streams(network):
        if outputs.isdisjoint(stream) and len(stream) > 1:
            turned |= dict.fromkeys(stream, orthogonal(_features(network, stream), seed))
    for site, count in joined(network):
        if site.inputs[0] in turned:
            turned[site.name] = torch.block_diag(*[turned[site.inputs[0]]] * count)  # type: ignore[no-untyped-call]
    tensors = dict(network.tensors)
    for site in network.sites:
        _turn(site, tensors, turned)
    values = {name: _turned(affine, turned) for name, affine in folded.values.items()}
    return Folded(replace(network, tensors=tensors), values)


def _turned(affine: Affine, turned: Mapping[str, Tensor]) -> Affine:
    matrix = turned.get(affine.carrier)
    return affine if matrix is None else replace(affine, rotation=matrix)


def _turn(site: Site, tensors: dict[str, Tensor], turned: Mapping[str, Tensor]) -> None:
    """Take the rotations of what a site reads and writes into its parameters."""
    before = turned.get(site.inputs[0])
    after = turned.get(site.name)
    if "weight" in site.parameters:
        weight, bias = (tensors[site.parameters[role]] for role in ("weight", "bias"))
        if before is not None:
            weight = weight @ before
        if after is not None:
            weight = torch.tensordot(after.T, weight, 1)
            bias = after.T @ bias
        tensors[site.parameters["weight"]], tensors[site.parameters["bias"]] = weight.contiguous(), bias
    elif "table" in site.parameters and after is not None:
        tensors[site.parameters["table"]] = tensors[site.parameters["table"]] @ after


def _features(network: Network, stream: list[str]) -> int:
    """The width of a stream, from what writes it."""
    for name in stream:
        site = network.site(name)
        for role in ("bias", "table"):
            if role in site.parameters:
                return int(network.parameter(site, role).shape[-1])
    raise AssertionError(f"nothing writes {stream}")
