"""Attention's softmax -> its table form, or ReLU divided by the number of keys.

Scores s = scale * q k, over the valid keys of a sentence, n of them (padded keys take no part):

    softmax   p = exp(s) / sum(exp(s))
    table     the same numbers; the exponentials come from a table, the rest is integer arithmetic
    relu      p = max(s, 0) / n                        (arXiv 2309.08586, with n counted and not constant)

Softmax becomes relu by a blend in which the new part is at first divided by its own sum, as softmax is,
and in the end by the number of keys, which is known before any score is:

    p = (1 - g) softmax(s) + g max(s, 0) / (n**g * (sum(max(s, 0)) + eps)**(1 - g))

Softmax does not change when all scores of a query rise by the same number; max(s, 0) does, and the key
layer's bias, of which softmax sees nothing, learns it.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from archnet.converters.base import Replacement, TokenStatistics
from archnet.converters.homotopy import Homotopy
from archnet.network import Network, Site
from archnet.operators import Op

SMALLEST_SUM = 1e-2
"""Added to the sum of a query's positive scores, so that a query with none is not divided by 0."""


def relu_weights(scores: Tensor, keep: Tensor | None, progress: float = 1.0) -> Tensor:
    """max(s, 0) / (n**g * (sum(max(s, 0)) + eps)**(1 - g)) over the last axis, 0 for keys left out.

    Args:
        scores: (batch, heads, queries, keys).
        keep: bool, broadcast against the scores; None keeps every key.
        progress: g; at 1 what is divided by is the number of keys alone.
    """
    weights = scores.relu() if keep is None else scores.relu() * keep
    count = float(scores.shape[-1]) if keep is None else keep.sum(-1, keepdim=True).clamp_min(1)
    if progress >= 1.0:
        return weights / count
    total = weights.sum(-1, keepdim=True) + SMALLEST_SUM
    return weights / (total ** (1.0 - progress) * count**progress)


class SoftmaxToReLU(Homotopy):
    """Attention with weights on their way from softmax to ReLU.

    Args:
        heads: that features are divided among.
        scale: of the products of queries and keys.
    """

    def __init__(self, heads: int, scale: float) -> None:
        super().__init__()
        self.heads, self.scale = heads, scale

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """(batch, sequence, features) each, mask int64 (batch, sequence) -> (batch, sequence, features)."""
        q, k, v = (_split(x, self.heads) for x in (query, key, value))
        scores = (q @ k.transpose(-1, -2)).float() * self.scale
        keep = None if mask is None else mask.bool()[:, None, None, :]
        weights = torch.zeros((), device=scores.device)
        if self.progress > 0.0:
            weights = self.progress * relu_weights(scores, keep, self.progress)
        if not self.done:
            masked = scores if keep is None else scores.masked_fill(~keep, -torch.inf)
            weights = weights + (1.0 - self.progress) * torch.softmax(masked, -1)
        return (weights.to(value.dtype) @ v).transpose(1, 2).flatten(-2)


def _split(x: Tensor, heads: int) -> Tensor:
    """(batch, sequence, features) -> (batch, heads, sequence, width)."""
    return x.reshape(*x.shape[:2], heads, x.shape[-1] // heads).transpose(1, 2)


class SoftmaxConverter:
    """Attention of another form: "table" or "relu"; see the module's text."""

    source = Op.ATTENTION

    def __init__(self, form: str) -> None:
        self.form = form
        self.needs: tuple[Op, ...] = (Op.MATMUL, Op.TABLE_SOFTMAX if form == "table" else Op.MEAN_MATMUL)
        self.becomes = (
            "MatMul, Minimum, TableSoftmax, MatMul: softmax by a table and integer arithmetic"
            if form == "table"
            else "MatMul, ReLU, mean of values over valid keys"
        )

    def rejects(self, site: Site, network: Network) -> str | None:
        """Scores must not have a learned bias."""
        return position_bias(site)

    def build(self, site: Site, network: Network, statistics: TokenStatistics | None) -> Replacement:
        """The same site in another form; relu has a blend, the table form computes what softmax does."""
        new = replace(site, attributes={**site.attributes, "form": self.form})
        if self.form == "table":
            return Replacement((new,))
        module = SoftmaxToReLU(int(site.attributes["heads"]), float(site.attributes["scale"]))
        return Replacement((new,), {site.name: module})


def position_bias(site: Site) -> str | None:
    """Why the scores of an attention site have no integer form, or None."""
    if "bias" in site.parameters:
        return "its scores have a learned position bias, which has no integer form yet"
    return None
