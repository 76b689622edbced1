"""Feed-forward parts with fewer features: less to multiply, fewer weights, less to hold between two layers.

A feed-forward part is a fully connected layer W h + b that reads h = f(U x + c), with activations and
products element by element for f (gated ones have two layers U). Of the features of h those stay that add
the greatest variance, |W_j|^2 C_jj with the covariance C of h over calibration data, and W is made anew to
get from them what it got from all. With the mean m of h, and S for those that stay (least squares)

    W' = W C[:, S] C[S, S]^-1,        b' = b + W m - W' m[S]

Rows of U go with the features. Nothing is trained here; distillation learns back what was lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import fmean

import torch
from torch import Tensor

from archnet.network import Network, Site
from archnet.operators import Op

ACTIVATIONS = frozenset((Op.GELU, Op.SILU, Op.RELU, Op.RECTIFIER, Op.SIGMOID, Op.TANH, Op.CLIP))
POOLS = frozenset((Op.SELECT, Op.MEAN_POOL, Op.TOKEN_MEAN, Op.FLATTEN))
RIDGE = 1e-6
"""Added to the covariance's diagonal, in its mean: features that are 0 or alike have no inverse without."""

LEAST_RIDGE = 1e-30
"""Where no feature ever changes."""


@dataclass(frozen=True, slots=True)
class FeedForward:
    """A feed-forward part.

    Attributes:
        ups: the layers that give its features.
        down: the layer that reads them.
        hidden: the site that `down` reads.
        features: how many there are.
        keeps: why it cannot have fewer, or "".
    """

    ups: tuple[Site, ...]
    down: Site
    hidden: str
    features: int
    keeps: str = ""

    def narrowed_to(self, features: int) -> str | None:
        """Why it stays as it is where so many features are asked for, or None."""
        return self.keeps or (f"it has {self.features} features" if self.features <= features else None)


@dataclass(frozen=True, slots=True)
class HiddenMoments:
    """The features of a feed-forward part over the valid tokens of calibration data.

    Attributes:
        mean: (features,) float64.
        covariance: (features, features) float64.
    """

    mean: Tensor
    covariance: Tensor


@dataclass(frozen=True, slots=True)
class NarrowedFFN:
    """A network with narrower feed-forward parts.

    Attributes:
        kept: share of the variance of what they add that is left, mean over those that are narrower.
    """

    network: Network
    kept: float


def feed_forwards(network: Network) -> list[FeedForward]:
    """Every feed-forward part, in order; heads that read a pooled text or image are none."""
    sites = {site.name: site for site in network.sites}
    readers = network.consumers()
    pooled: set[str] = set()
    found = []
    for site in network.sites:
        if site.op in POOLS or pooled.intersection(site.inputs):
            pooled.add(site.name)
        elif site.op is Op.LINEAR:
            part = _part(site, network, sites, readers)
            found += [part] if part is not None else []
    return found


def _part(
    down: Site, network: Network, sites: Mapping[str, Site], readers: Mapping[str, list[Site]]
) -> FeedForward | None:
    """The part that ends in this layer, or None where no activation stands before it."""
    ups: dict[str, Site] = {}
    within: dict[str, Site] = {}
    others: list[str] = []
    ahead = [down.inputs[0]]
    while ahead:
        name = ahead.pop()
        site = sites.get(name)
        if site is not None and site.op is Op.LINEAR:
            ups[name] = site
        elif site is not None and not site.parameters and (site.op in ACTIVATIONS or site.op is Op.MUL):
            within[name] = site
            ahead += site.inputs
        else:
            others.append(f"{site.op} stands within it" if site is not None else "it reads an input")
    if not any(site.op in ACTIVATIONS for site in within.values()):
        return None
    widths = {len(network.parameter(site, "bias")) for site in ups.values()}
    features = network.parameter(down, "weight").shape[1]
    allowed = {*within, down.name}
    inside = (*ups.values(), *within.values())
    elsewhere = any(
        site.name in network.outputs.values() or any(r.name not in allowed for r in readers[site.name])
        for site in inside
    )
    reasons = (
        *others,
        "its features are read elsewhere too" if elsewhere else "",
        "its features are spread over each other" if widths != {features} else "",
        # Distillation compares what a block ends with, feature by feature.
        "a block ends within it" if any(site.block != down.block for site in inside) else "",
    )
    keeps = next(filter(None, reasons), "")
    return FeedForward(tuple(ups.values()), down, down.inputs[0], features, keeps)


def narrow_ffn(network: Network, moments: Mapping[str, HiddenMoments], features: int) -> NarrowedFFN:
    """The network whose feed-forward parts have no more features than that.

    Args:
        network: captured; parts that have a reason to stay (`FeedForward.narrowed_to`) stay.
        moments: by `FeedForward.hidden`.
    """
    sites, tensors = {site.name: site for site in network.sites}, dict(network.tensors)
    shares = []

    def change(name: str, weight: Tensor, bias: Tensor) -> None:
        keys = {"weight": f"{name}.ffn_weight", "bias": f"{name}.ffn_bias"}
        tensors.update({keys["weight"]: weight.float().contiguous(), keys["bias"]: bias.float().contiguous()})
        sites[name] = replace(sites[name], parameters={**sites[name].parameters, **keys})

    for part in feed_forwards(network):
        if part.narrowed_to(features) is not None:
            continue
        # A layer between two such parts is changed twice.
        weight, bias = (
            tensors[sites[part.down.name].parameters[role]].double() for role in ("weight", "bias")
        )
        stay, fewer, share = _fewer(weight, moments[part.hidden].covariance, features)
        mean = moments[part.hidden].mean
        change(part.down.name, fewer, bias + weight @ mean - fewer @ mean[stay])
        shares.append(share)
        for up in part.ups:
            change(up.name, *(tensors[sites[up.name].parameters[role]][stay] for role in ("weight", "bias")))
    narrower = replace(network, sites=tuple(sites.values()), tensors=tensors).pruned()
    return NarrowedFFN(narrower, fmean(shares or [1.0]))


def _fewer(weight: Tensor, covariance: Tensor, count: int) -> tuple[Tensor, Tensor, float]:
    """Which features stay, in order, the weight that reads them, and the share of variance that is left."""
    adds = weight.square().sum(0) * covariance.diagonal()
    stay = adds.topk(count).indices.sort().values
    ridge = (RIDGE * covariance.diagonal().mean()).clamp_min(LEAST_RIDGE)
    damped = covariance[stay][:, stay] + ridge * torch.eye(count, dtype=covariance.dtype)
    fewer = torch.linalg.solve(damped, covariance[stay] @ weight.T).T
    missed = weight.clone()
    missed[:, stay] -= fewer
    before, lost = (float(((w @ covariance) * w).sum()) for w in (weight, missed))
    return stay, fewer, 1.0 - lost / before if before > 0 else 1.0
