"""LayerNorm and RMSNorm -> BatchNorm (arXiv 2111.01135, section 3), folded into the neighbours at freeze.

x: (batch, tokens, features). With per-token mean mu and deviation sigma, and progress g,

    n = (x - (1 - g) mu - g m0) / (sigma**(1 - g) * s0**g)

is the norm's own normalisation at g = 0 and a static one (m0 learned per channel, s0 learned, one
number) at g = 1. Its gain and bias stay a per-channel affine for the layers that read it; the
residual path gets a copy whose gain becomes one number, alpha:

    r = n * ((1 - g) w + g alpha) + b

so that at g = 1 the residual stream is only rescaled, which costs nothing in integers, and
everything else folds into fully connected layers.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from archnet.converters.base import Replacement, Statistics, TokenStatistics
from archnet.converters.homotopy import Homotopy
from archnet.network import Network, Site
from archnet.operators import Op


class NormToBatchNorm(Homotopy):
    """The normalisation itself.

    Args:
        mean: (features,) start of m0; zeros for RMSNorm.
        scale: start of s0, the median token deviation over calibration data.
        eps: the norm's own.
        centred: False for RMSNorm, which subtracts no mean.
    """

    def __init__(self, mean: Tensor, scale: float, eps: float, *, centred: bool = True) -> None:
        super().__init__()
        self.mean = nn.Parameter(mean.clone())
        self.log_scale = nn.Parameter(torch.tensor(float(scale)).log())
        self.eps = eps
        self.centred = centred

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, features) -> the same shape, float32."""
        x = x.float()
        if self.done:
            return (x - self.mean) * torch.exp(-self.log_scale)
        g = self.progress
        mean = x.mean(-1, keepdim=True) if self.centred else 0.0
        variance = (x - mean).square().mean(-1, keepdim=True) + self.eps
        inverse = torch.exp(-g * self.log_scale - 0.5 * (1.0 - g) * torch.log(variance))
        return (x - (1.0 - g) * mean - g * self.mean) * inverse

    def affine(self) -> tuple[Tensor, Tensor]:
        """(weight, bias), each (features,): what is left at progress 1, n = x * weight + bias."""
        inverse = torch.exp(-self.log_scale.detach())
        return inverse.expand_as(self.mean).clone(), -self.mean.detach() * inverse


class ResidualGain(Homotopy):
    """The affine of a norm on its way into a residual Add: its gain becomes one number."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.clone())
        self.bias = nn.Parameter(bias.clone())
        self.alpha = nn.Parameter(weight.abs().median().clamp_min(1e-3))

    def forward(self, n: Tensor) -> Tensor:
        """(batch, tokens, features) -> the same shape."""
        g = self.progress
        gain = self.alpha if self.done else (1.0 - g) * self.weight + g * self.alpha
        return n * gain + self.bias

    def affine(self) -> tuple[Tensor, Tensor]:
        """(weight, bias), each (features,), at progress 1."""
        return self.alpha.detach().expand_as(self.bias).clone(), self.bias.detach().clone()


class NormConverter:
    """LayerNorm or RMSNorm -> BatchNorm; see the module's text."""

    form = ""
    needs: tuple[Op, ...] = (Op.BATCH_NORM,)
    becomes = "BatchNorm, folded into its neighbours"

    def __init__(self, source: Op) -> None:
        self.source = source

    def rejects(self, site: Site, network: Network) -> str | None:
        """A norm can be replaced wherever its parameters are constants, which capture made sure of."""
        return None

    def build(self, site: Site, network: Network, statistics: Statistics | None) -> Replacement:
        """Normalisation, the affine for layers that read it, and the one for residual Adds."""
        assert isinstance(statistics, TokenStatistics)
        weight, bias = network.parameter(site, "weight"), network.parameter(site, "bias")
        centred = self.source is Op.LAYER_NORM
        mean = statistics.mean if centred else torch.zeros_like(statistics.mean)
        core = Site(f"{site.name}.normalize", Op.BATCH_NORM, site.inputs, block=site.block)
        eps = float(site.attributes["eps"])
        modules: dict[str, Homotopy] = {
            core.name: NormToBatchNorm(mean, statistics.deviation, eps, centred=centred)
        }
        sites = [core, replace(site, op=Op.BATCH_NORM, inputs=(core.name,), attributes={})]
        readers = network.consumers()[site.name]
        if not any(reader.op is Op.ADD for reader in readers):
            return Replacement(tuple(sites), modules)
        residual = Site(f"{site.name}.residual", Op.BATCH_NORM, (core.name,), block=site.block)
        modules[residual.name] = ResidualGain(weight, bias)
        return Replacement((*sites, residual), modules, residual.name)
