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

from archnet.converters.base import Replacement, Statistics
from archnet.converters.homotopy import Homotopy
from archnet.network import Network, Site
from archnet.operators import Op

REACH = 8.0
"""How far to both sides of 0 the samples of a function go."""


def interpolated(x: Tensor, samples: Tensor) -> Tensor:
    """The function with these samples: a line between neighbours, and straight on from the outermost.

    Args:
        x: float, any shape.
        samples: float, at equal distances from -REACH to REACH.
    """
    each = 2 * REACH / (len(samples) - 1)
    inside = x.clamp(-REACH, REACH)
    place = (inside + REACH) / each
    below = place.detach().floor().clamp(0, len(samples) - 2).long()
    left, right = samples[below], samples[below + 1]
    beyond = torch.where(x < 0, _slope(samples[:2], each), _slope(samples[-2:], each))
    return left + (place - below) * (right - left) + (x - inside) * beyond


def _slope(pair: Tensor, each: float) -> Tensor:
    """Of the line that a function nears beyond two samples; next to 0 or 1 it is on its way there."""
    slope = (pair[1] - pair[0]) / each
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


class ActivationConverter:
    """GELU, SiLU and the like -> ReLU, tanh -> hard tanh, each fused into the layer before it."""

    form = ""

    def __init__(self, source: Op) -> None:
        self.source = source
        self.result = Op.CLIP if source is Op.TANH else Op.RELU
        self.needs: tuple[Op, ...] = (Op.LINEAR,) if source is Op.TANH else (Op.RELU,)
        self.becomes = (
            "hard tanh: the layer before it saturates at [-1, 1]"
            if source is Op.TANH
            else "ReLU, fused into the layer before it"
        )

    def rejects(self, site: Site, network: Network) -> str | None:
        """The activation must follow a fully connected layer that nothing else reads."""
        return follows_linear(site, network)

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
        new = replace(site, op=self.result, parameters={}, attributes={})
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
        and site.op not in (Op.TANH, Op.CLIP)
    )
    if before is None or (before.op not in (Op.LINEAR, Op.CONV) and not joined):
        return "it does not follow a fully connected layer"
    if len(network.consumers()[source]) != 1:
        return f"the {LAYER_NAMES[before.op]} before it is read by other operators too"
    return None
