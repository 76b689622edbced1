"""GELU, SiLU and other rectifiers -> ReLU, by a blend that moves from the one to the other.

y = (1 - g) f(x) + g max(x, 0), elementwise, any shape. ReLU is what an integer network gets for
nothing: the clamp at 0 of the layer before it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from archnet.converters.base import Expansion, Replacement, Statistics
from archnet.converters.homotopy import Homotopy
from archnet.network import Network, Site, SiteAttribute
from archnet.operators import Op

REACH = 8.0
"""How far to both sides of 0 the samples of a function go."""


def _points() -> Tensor:
    """Every hundredth, and around 0 each a twentieth farther than the one before, for small numbers."""
    small = 1e-6 * 1.05 ** torch.arange(250, dtype=torch.float64)
    evenly = torch.linspace(-REACH, REACH, 1601, dtype=torch.float64)
    return torch.cat([evenly, small, -small]).sort().values


POINTS = _points()
"""Where functions of single elements are sampled, float64, rising."""


def interpolated(x: Tensor, samples: Tensor) -> Tensor:
    """The function with these samples: a line between neighbours, and straight on from the outermost.

    Args:
        x: float, any shape.
        samples: float, at POINTS.
    """
    points, inside = POINTS.to(x), x.clamp(-REACH, REACH)
    below = (torch.bucketize(inside.detach(), points) - 1).clamp(0, len(points) - 2)
    slopes = samples.to(x).diff() / points.diff()
    beyond = torch.where(x < 0, _limit(slopes[0]), _limit(slopes[-1]))
    return samples.to(x)[below] + (inside - points[below]) * slopes[below] + (x - inside) * beyond


def _limit(slope: Tensor) -> Tensor:
    """The slope that a function nears beyond its last samples; next to 0 or 1 it is on its way there."""
    return torch.where((slope - slope.round()).abs() < 0.005, slope.round(), slope)


class SmoothToReLU(Homotopy):
    """A smooth rectifier on its way to ReLU."""

    def __init__(self, smooth: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.smooth = smooth

    def forward(self, x: Tensor) -> Tensor:
        """Elementwise, any shape."""
        if self.done:
            return F.relu(x)
        if self.progress == 0.0:
            return self.smooth(x)
        return torch.lerp(self.smooth(x), F.relu(x), self.progress)


def _silu(x: Tensor, slope: float) -> Tensor:
    """x * sigmoid(slope * x): SiLU, or with slope 1.702 the quick form of GELU."""
    return F.silu(x) if slope == 1.0 else x * torch.sigmoid(slope * x)


class TanhToClip(Homotopy):
    """tanh on its way to the hard tanh, min(max(x, -1), 1), which is what saturation at [-1, 1] computes."""

    def forward(self, x: Tensor) -> Tensor:
        """Elementwise, any shape."""
        if self.done:
            return x.clamp(-1.0, 1.0)
        return torch.lerp(torch.tanh(x), x.clamp(-1.0, 1.0), self.progress)


class SigmoidToClip(Homotopy):
    """sigmoid on its way to the hard sigmoid, min(max(x / 5 + 1/2, 0), 1): saturation at [0, 1].

    Args:
        features: of what it reads; the fully connected layer before it takes the factor and the 1/2 in.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = features

    def forward(self, x: Tensor) -> Tensor:
        """Elementwise, any shape."""
        hard = (x * HARD_SLOPE + 0.5).clamp(0.0, 1.0)
        return hard if self.done else torch.lerp(torch.sigmoid(x), hard, self.progress)

    def expand(self, site: Site) -> Expansion:
        """What is left at progress 1: a factor and a shift, which fold into the layer, and the limits."""
        before = f"{site.name}.scaled"
        keys = {"weight": f"{before}.weight", "bias": f"{before}.bias"}
        sites = (
            Site(before, Op.BATCH_NORM, site.inputs, keys, block=site.block),
            replace(site, inputs=(before,)),
        )
        weight = torch.full((self.features,), HARD_SLOPE)
        return Expansion(sites, {keys["weight"]: weight, keys["bias"]: torch.full((self.features,), 0.5)})


HARD_SLOPE = 0.2
"""Of the hard sigmoid, which is 0.076 from the sigmoid at most, and 0.119 with the slope that it has at 0."""

BECOMES = {
    Op.TANH: "hard tanh: the layer before it saturates at [-1, 1]",
    Op.SIGMOID: "hard sigmoid: the layer before it saturates at [0, 1]",
}


class ActivationConverter:
    """GELU, SiLU and the like -> ReLU, tanh and sigmoid -> hard ones, each fused into the layer before it."""

    form = ""

    def __init__(self, source: Op) -> None:
        self.source = source
        self.result = Op.CLIP if source in BECOMES else Op.RELU
        self.needs: tuple[Op, ...] = (Op.LINEAR,) if source in BECOMES else (Op.RELU,)
        self.becomes = BECOMES.get(source, "ReLU, fused into the layer before it")

    def rejects(self, site: Site, network: Network) -> str | None:
        """The activation must follow a fully connected layer that nothing else reads.

        Most may follow a convolution as well, not a sigmoid, whose factor only such layers take in.
        """
        reason = follows_linear(site, network)
        if reason is None and self.source is Op.SIGMOID and network.site(site.inputs[0]).op is not Op.LINEAR:
            return "it does not follow a fully connected layer"
        return reason

    def build(self, site: Site, network: Network, statistics: Statistics | None) -> Replacement:
        """The blend at the activation's own site."""
        approximate = str(site.attributes.get("approximate", "none"))
        slope = float(site.attributes.get("slope", 1.0))
        modules: dict[Op, Homotopy] = {
            Op.GELU: SmoothToReLU(partial(F.gelu, approximate=approximate)),
            Op.SILU: SmoothToReLU(partial(_silu, slope=slope)),
            Op.TANH: TanhToClip(),
        }
        if self.source is Op.RECTIFIER:
            samples = network.parameter(site, "samples").detach()
            modules[self.source] = SmoothToReLU(partial(interpolated, samples=samples))
        if self.source is Op.SIGMOID:
            layer = network.site(site.inputs[0])
            modules[self.source] = SigmoidToClip(len(network.parameter(layer, "bias")))
        limits: dict[str, SiteAttribute] = {"least": 0.0, "most": 1.0} if self.source is Op.SIGMOID else {}
        new = replace(site, op=self.result, parameters={}, attributes=limits)
        return Replacement((new,), {site.name: modules[self.source]})


def limits_of(clip: Site) -> tuple[float, float]:
    """Between which numbers a CLIP keeps what it reads; a hard tanh where it does not say."""
    return float(clip.attributes.get("least", -1.0)), float(clip.attributes.get("most", 1.0))


LAYER_NAMES = {Op.LINEAR: "fully connected layer", Op.CONV: "convolution", Op.ADD: "Add"}


def follows_linear(site: Site, network: Network) -> str | None:
    """Why an activation cannot be fused into the layer before it, or None."""
    source = site.inputs[0]
    before = None if source in network.inputs else network.site(source)
    joined = (
        before is not None
        and before.op is Op.ADD
        and len(before.inputs) == 2
        and site.op not in (*BECOMES, Op.CLIP)
    )
    if before is None or (before.op not in (Op.LINEAR, Op.CONV) and not joined):
        return "it does not follow a fully connected layer"
    if len(network.consumers()[source]) != 1:
        return f"the {LAYER_NAMES[before.op]} before it is read by other operators too"
    return None
