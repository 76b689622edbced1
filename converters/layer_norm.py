"""LayerNorm and RMSNorm -> BatchNorm (arXiv 2111.01135, section 3), folded into the neighbours at freeze.

x: (batch, tokens, features). With per-token mean mu and deviation sigma, and progress g,

    n = (x - (1 - g) mu - g m0) / (sigma**(1 - g) * s0**g)

is the norm's own normalisation at g = 0 and a static one at g = 1 (m0 learned per channel, s0 learned, one
number, or one for each head where the norm works within heads). Its gain and bias stay a per-channel affine
for the layers that read it; the residual path gets a copy whose gain becomes one number, alpha:

    r = n * ((1 - g) w + g alpha) + b

so that at g = 1 the residual stream is only rescaled, which costs nothing in integers, and
everything else folds into fully connected layers.

A static n cannot follow a token's own deviation. The form "corrected" adds what a small layer reads of it
from n itself, before anything else reads n:

    n + g V max(U n + c, 0)

U with half as many rows as n has features, V = 0 at the start. At g = 1 that is a fully connected layer,
ReLU, a fully connected layer and an Add; what it costs and what it brings is in docs/results.md.
"""

from __future__ import annotations

import zlib
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from archnet.config import NORM_FORMS
from archnet.converters.base import Expansion, Replacement, Statistics, TokenStatistics
from archnet.converters.homotopy import Homotopy
from archnet.network import Network, Site, grouped
from archnet.operators import Op

NORMS = (Op.LAYER_NORM, Op.RMS_NORM)


def norm_form(site: Site, network: Network, asked: str) -> str:
    """The form that a norm takes: "static" where nothing can stand between it and what reads it.

    That is behind a fully connected layer that only it reads, as in attention's heads: its static numbers
    become that layer's, and the result may go into a product, where a correction would be in the way.

    Args:
        asked: one of NORM_FORMS.
    """
    behind_layer = any(s.name == site.inputs[0] and s.op is Op.LINEAR for s in network.sites)
    return NORM_FORMS[0] if behind_layer and len(network.consumers()[site.inputs[0]]) == 1 else asked


class NormToBatchNorm(Homotopy):
    """The normalisation itself.

    Args:
        mean: (features,) start of m0; zeros for RMSNorm.
        scale: (groups,) start of s0, the median token deviation over calibration data; features are
            normalised in so many groups, one after the other.
        eps: the norm's own.
        centred: False for RMSNorm, which subtracts no mean.
    """

    def __init__(self, mean: Tensor, scale: Tensor, eps: float, *, centred: bool = True) -> None:
        super().__init__()
        self.mean = nn.Parameter(mean.clone())
        self.log_scale = nn.Parameter(scale.log())
        self.eps = eps
        self.centred = centred

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, features) -> the same shape, float32."""
        x = x.float()
        if self.done:
            return (x - self.mean) * self._each(torch.exp(-self.log_scale))
        g, x = self.progress, grouped(x, len(self.log_scale))
        mean = x.mean(-1, keepdim=True) if self.centred else 0.0
        variance = (x - mean).square().mean(-1, keepdim=True) + self.eps
        inverse = torch.exp(-g * self.log_scale[:, None] - 0.5 * (1.0 - g) * torch.log(variance))
        moved = x - (1.0 - g) * mean - g * grouped(self.mean, len(self.log_scale))
        return (moved * inverse).flatten(-2)

    def _each(self, scale: Tensor) -> Tensor:
        """(groups,) -> (features,), the number of each feature's group; one number stays one."""
        return scale if len(scale) == 1 else scale.repeat_interleave(len(self.mean) // len(scale))

    def affine(self) -> tuple[Tensor, Tensor]:
        """(weight, bias), each (features,): what is left at progress 1, n = x * weight + bias."""
        inverse = self._each(torch.exp(-self.log_scale.detach()))
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


class NormCorrection(Homotopy):
    """What is added to a static normalisation: two fully connected layers with a ReLU between them.

    Args:
        features: of what it reads and corrects.
        seed: of the first layer's weights.
    """

    def __init__(self, features: int, seed: int) -> None:
        super().__init__()
        rows = max(1, features // 2)
        random = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(rows, features, generator=random) / features**0.5)
        self.bias = nn.Parameter(torch.zeros(rows))
        self.back = nn.Parameter(torch.zeros(features, rows))

    def forward(self, n: Tensor) -> Tensor:
        """(batch, tokens, features) -> the same shape."""
        if self.progress == 0.0:
            return n
        return n + self.progress * F.linear(F.linear(n, self.weight, self.bias).relu(), self.back)

    def expand(self, site: Site) -> Expansion:
        """What is left at progress 1: fully connected layer, ReLU, fully connected layer, Add."""
        names = {part: f"{site.name}.{part}" for part in ("hidden", "relu", "back")}
        keys = {part: {r: f"{names[part]}.{r}" for r in ("weight", "bias")} for part in ("hidden", "back")}
        sites = (
            Site(names["hidden"], Op.LINEAR, site.inputs, keys["hidden"], block=site.block),
            Site(names["relu"], Op.RELU, (names["hidden"],), block=site.block),
            Site(names["back"], Op.LINEAR, (names["relu"],), keys["back"], block=site.block),
            replace(site, op=Op.ADD, inputs=(*site.inputs, names["back"])),
        )
        tensors = {
            keys["hidden"]["weight"]: self.weight,
            keys["hidden"]["bias"]: self.bias,
            keys["back"]["weight"]: self.back,
            keys["back"]["bias"]: torch.zeros(len(self.back)),
        }
        return Expansion(sites, {key: tensor.detach() for key, tensor in tensors.items()})


class NormConverter:
    """LayerNorm or RMSNorm -> BatchNorm; see the module's text.

    Args:
        source: the norm.
        form: one of NORM_FORMS.
    """

    def __init__(self, source: Op, form: str = NORM_FORMS[0]) -> None:
        self.source, self.form = source, form
        self.needs: tuple[Op, ...] = (Op.BATCH_NORM,)
        self.becomes = "BatchNorm, folded into its neighbours"
        if form == "corrected":
            self.needs = (*self.needs, Op.LINEAR, Op.RELU)
            self.becomes += "; fully connected, ReLU, fully connected, added to it"

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
        sites = [core]
        if self.form == "corrected":
            name = f"{site.name}.correct"
            modules[name] = NormCorrection(len(mean), zlib.crc32(name.encode()))
            sites.append(Site(name, Op.BATCH_NORM, (core.name,), block=site.block))
        normalized = sites[-1].name
        sites.append(replace(site, op=Op.BATCH_NORM, inputs=(normalized,), attributes={}))
        readers = network.consumers()[site.name]
        if not any(reader.op is Op.ADD for reader in readers):
            return Replacement(tuple(sites), modules)
        residual = Site(f"{site.name}.residual", Op.BATCH_NORM, (normalized,), block=site.block)
        modules[residual.name] = ResidualGain(weight, bias)
        return Replacement((*sites, residual), modules, residual.name)
