"""Attention -> static token mixing: fully connected layers, and no product of two activations.

With queries q, keys k and values v (batch, tokens, features), those of padded tokens 0, a matrix M[h] of
tokens x tokens and a bias c[h] for each head h, and [,] for features side by side:

    mixed[t] = sum over s of M[h, t, s] v[s] + c[h, t]            each head of v with its own M and c
    y = max(W [q, mixed] + b, 0)                                  q: now features of the token's own

W is the gate: what a token's own features say against what is mixed in decides, channel by channel, on
which side of 0 the sum falls. Keys are not read any more. (Token mixing by a matrix as in MLP-Mixer, arXiv
2105.01601, one matrix a head as in Synthesizer, arXiv 2005.00743.)

M starts as attention's own weights, averaged for each pair of positions over calibration text, W as
[0, 1], so that y is near what attention gives. On the way there

    y(g) = (1 - g) attention(q, k, v) + g ((1 - g) z + g max(z, 0)),   z = W [q, mixed] + b

Padded tokens have value 0 and so reach nobody, but no division by their number is left: a mean over all
tokens becomes a sum, and the layers learn to live with it.

A decoder's attention does not become mixing but ReLU attention (`forms_of`). Cross-attention looks up the
source word that the translation has come to, which no position tells: fixed weights there cost most of what
fixed weights cost a translation model at all (arXiv 2005.00742). A chip for decoders therefore multiplies
activations anyway; and one step of mixing would need the row of M that belongs to its place, which is all
rows' work and a selection, or a row that is looked up and multiplied as an activation is.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from archnet.converters.base import AttentionStatistics, Expansion, Replacement, Statistics
from archnet.converters.homotopy import Homotopy
from archnet.converters.softmax import softmax_attention, unbiased_only
from archnet.network import Network, Site, decoder_sites
from archnet.operators import Op

IN_DECODER = "relu"
"""The form of a decoder's attention where mixing is asked for."""


def forms_of(network: Network, asked: str) -> dict[str, str]:
    """The form that every attention takes where one is asked for: by site name, that one or IN_DECODER."""
    behind = {site.name for site in decoder_sites(network)} if asked == "mixing" else set()
    attentions = (site.name for site in network.sites if site.op is Op.ATTENTION)
    return {name: IN_DECODER if name in behind else asked for name in attentions}


def mix_tokens(value: Tensor, weight: Tensor, bias: Tensor, mask: Tensor | None) -> Tensor:
    """Sum over tokens s of weight[h, t, s] * value[s], plus bias[h, t], head by head.

    Args:
        value: (batch, tokens, features); features are divided among the heads in order.
        weight: (heads, positions, positions); tokens are the first positions.
        bias: (heads, positions).
        mask: int64 (batch, tokens); where it is 0 the value counts as 0.

    Returns:
        (batch, tokens, features).
    """
    length, heads = value.shape[1], weight.shape[0]
    if mask is not None:
        value = value * mask.bool()[:, :, None]
    parts = value.reshape(*value.shape[:2], heads, value.shape[-1] // heads)
    mixed = torch.einsum("hts,bshw->bthw", weight[:, :length, :length].to(value.dtype), parts)
    return (mixed + bias[:, :length].T[None, :, :, None]).flatten(-2)


class AttentionToMixing(Homotopy):
    """Attention on its way to static token mixing.

    Args:
        heads: that features are divided among.
        scale: of attention's scores.
        own: features of queries.
        features: of values.
        weights: (heads, positions, positions) start of the mixing matrices.
    """

    def __init__(self, heads: int, scale: float, own: int, features: int, weights: Tensor) -> None:
        super().__init__()
        self.heads, self.scale = heads, scale
        self.mixing = nn.Parameter(weights.clone())
        self.mixing_bias = nn.Parameter(torch.zeros(weights.shape[:2]))
        self.gate = nn.Parameter(torch.cat([torch.zeros(features, own), torch.eye(features)], 1))
        self.gate_bias = nn.Parameter(torch.zeros(features))

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """(batch, tokens, own or features) each, mask int64 (batch, tokens) -> (batch, tokens, features)."""
        g = self.progress
        if g == 0.0:
            return softmax_attention(query, key, value, mask, heads=self.heads, scale=self.scale)
        mixed = mix_tokens(value, self.mixing, self.mixing_bias, mask)
        gated = F.linear(torch.cat([query, mixed.to(query.dtype)], -1), self.gate, self.gate_bias)
        if self.done:
            return gated.relu()
        attended = softmax_attention(query, key, value, mask, heads=self.heads, scale=self.scale)
        return (1.0 - g) * attended + g * torch.lerp(gated, gated.relu(), g)

    def expand(self, site: Site) -> Expansion:
        """What is left at progress 1: mixing, concatenation, fully connected layer, ReLU."""
        names = {part: f"{site.name}.{part}" for part in ("mix", "joined", "gate")}
        keys = {part: {r: f"{names[part]}.{r}" for r in ("weight", "bias")} for part in ("mix", "gate")}
        query, _, value, *mask = site.inputs
        heads = {"heads": self.heads}
        sites = (
            Site(names["mix"], Op.TOKEN_MIX, (value, *mask), keys["mix"], heads, site.block),
            Site(names["joined"], Op.CONCAT, (query, names["mix"]), block=site.block),
            Site(names["gate"], Op.LINEAR, (names["joined"],), keys["gate"], block=site.block),
            replace(site, op=Op.RELU, inputs=(names["gate"],), attributes={}),
        )
        tensors = {
            keys["mix"]["weight"]: self.mixing,
            keys["mix"]["bias"]: self.mixing_bias,
            keys["gate"]["weight"]: self.gate,
            keys["gate"]["bias"]: self.gate_bias,
        }
        return Expansion(sites, {key: tensor.detach() for key, tensor in tensors.items()})


class MixingConverter:
    """Attention -> static token mixing; see the module's text."""

    source = Op.ATTENTION
    form = "mixing"
    needs: tuple[Op, ...] = (Op.LINEAR, Op.CONCAT, Op.RELU, Op.ZERO_PAD, Op.CROP)
    becomes = "fully connected over tokens, Concat with the token's own features, fully connected, ReLU"

    def rejects(self, site: Site, network: Network) -> str | None:
        """Queries and values must come from fully connected layers of one sentence, of its own."""
        readers = network.consumers()
        for role, name in (("query", site.inputs[0]), ("value", site.inputs[2])):
            if name in network.inputs or network.site(name).op is not Op.LINEAR or len(readers[name]) != 1:
                return f"its {role} does not come from a fully connected layer of its own"
        return unbiased_only(site, self.form)

    def build(self, site: Site, network: Network, statistics: Statistics | None) -> Replacement:
        """The blend at the attention's own site; it becomes several sites at the end of training."""
        heads = int(site.attributes["heads"])
        weights = torch.zeros(heads, 1, 1)
        if isinstance(statistics, AttentionStatistics):
            weights = statistics.weights
        own, features = (len(network.parameter(network.site(site.inputs[i]), "bias")) for i in (0, 2))
        module = AttentionToMixing(heads, float(site.attributes["scale"]), own, features, weights)
        new = replace(site, attributes={**site.attributes, "form": self.form})
        return Replacement((new,), {site.name: module})
