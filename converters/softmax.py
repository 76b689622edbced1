"""Attention's softmax -> other arithmetic for it, or ReLU divided by the number of keys.

Scores s = scale * q k, over the n keys that a query sees: those of a sentence that are no padding (of the
source's, in cross-attention), and in causal attention those up to its own place, t + 1 at place t:

    softmax   p = exp(s) / sum(exp(s))
    table     the same numbers; the exponentials come from a table, the rest is integer arithmetic
    logsum    p = exp(s - max(s) - log(sum(exp(s - max(s))))), from tables of 256 entries, without division
    relu      p = max(s, 0) / n                        (arXiv 2309.08586, with n counted and not constant)

Softmax becomes relu by a blend in which the new part is at first divided by its own sum, as softmax is,
and in the end by the number of keys, which is known before any score is:

    p = (1 - g) softmax(s) + g max(s, 0) / (n**g * (sum(max(s, 0)) + eps)**(1 - g))

Softmax does not change when all scores of a query rise by the same number; max(s, 0) does, and the key
layer's bias, of which softmax sees nothing, learns it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from archnet.config import SOFTMAX_FORMS
from archnet.converters.base import Replacement, Statistics
from archnet.converters.homotopy import Homotopy
from archnet.network import Network, Site
from archnet.operators import Op

HIDDEN = -60.0
"""Bias of a key that a window hides: nothing of it is left behind a softmax."""

RELATIVE = ("relative_keys", "relative_queries")
"""Roles of an attention site's tables of distances: what queries and what keys are multiplied with."""

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
        causal: whether keys behind a query's own place are hidden.
    """

    def __init__(self, heads: int, scale: float, *, causal: bool = False) -> None:
        super().__init__()
        self.heads, self.scale, self.causal = heads, scale, causal

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """(batch, queries or keys, features) each, mask int64 (batch, keys) -> (batch, queries, features)."""
        scores, keep = _scores(query, key, mask, self.heads, self.scale, causal=self.causal)
        if self.progress == 0.0:
            return _attend(_softmax(scores, keep), value)
        weights = relu_weights(scores, keep, self.progress)
        if not self.done:
            weights = torch.lerp(_softmax(scores, keep), weights, self.progress)
        return _attend(weights, value)


def later_keys(length: int, device: torch.device) -> Tensor:
    """bool (length, length): which keys stand behind a query's own place."""
    return torch.ones(length, length, dtype=torch.bool, device=device).triu(1)


def seen_keys(scores: Tensor, mask: Tensor | None, *, causal: bool) -> Tensor | None:
    """Which keys each query sees: bool, broadcast against the scores; None where it is all of them.

    Args:
        scores: (batch, heads, queries, keys); for causal attention as many queries as keys.
        mask: int64 (batch, keys), 0 for padding.
        causal: whether keys behind a query's own place are hidden.
    """
    keep = None if mask is None else mask.bool()[:, None, None, :]
    if not causal:
        return keep
    earlier = ~later_keys(scores.shape[-1], scores.device)[None, None]
    return earlier if keep is None else keep & earlier


def softmax_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *, heads: int, scale: float
) -> Tensor:
    """Attention as it is, over all valid keys: (batch, sequence, features), mask int64 (batch, sequence)."""
    return _attend(_softmax(*_scores(query, key, mask, heads, scale)), value)


def _scores(
    query: Tensor, key: Tensor, mask: Tensor | None, heads: int, scale: float, *, causal: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Scores (batch, heads, queries, keys), and which keys are seen, broadcast against them."""
    scores = (_split(query, heads) @ _split(key, heads).transpose(-1, -2)).float() * scale
    return scores, seen_keys(scores, mask, causal=causal)


def _softmax(scores: Tensor, keep: Tensor | None) -> Tensor:
    return torch.softmax(
        scores if keep is None else scores.masked_fill(~keep, torch.finfo(scores.dtype).min), -1
    )


def _attend(weights: Tensor, value: Tensor) -> Tensor:
    """(batch, heads, queries, keys) weights of values -> (batch, queries, features)."""
    return (weights.to(value.dtype) @ _split(value, weights.shape[1])).transpose(1, 2).flatten(-2)


def _split(x: Tensor, heads: int) -> Tensor:
    """(batch, sequence, features) -> (batch, heads, sequence, width)."""
    return x.reshape(*x.shape[:2], heads, x.shape[-1] // heads).transpose(1, 2)


OTHER_ARITHMETIC: Mapping[str, tuple[Op, str]] = {
    "table": (Op.TABLE_SOFTMAX, "softmax by a table and integer arithmetic"),
    "logsum": (Op.LOG_SUM_SOFTMAX, "softmax by tables of 256 entries, without division"),
}
"""Forms that are softmax in other arithmetic, and take whatever scores it takes: operator, and in words."""


def with_softmax_form(network: Network, form: str) -> Network:
    """The network with this form of softmax, whichever it was distilled with; others have no part in it."""
    if form not in SOFTMAX_FORMS:
        return network
    sites = (
        replace(site, attributes={**site.attributes, "form": form})
        if site.op is Op.ATTENTION and site.attributes.get("form", "softmax") in SOFTMAX_FORMS
        else site
        for site in network.sites
    )
    return replace(network, sites=tuple(sites))


class SoftmaxConverter:
    """Attention of another form: "relu", or one of OTHER_ARITHMETIC; see the module's text."""

    source = Op.ATTENTION

    def __init__(self, form: str) -> None:
        op, words = OTHER_ARITHMETIC.get(
            form, (Op.MEAN_MATMUL, "MatMul, ReLU, mean of values over valid keys")
        )
        self.form, self.becomes = form, words
        self.needs: tuple[Op, ...] = (Op.MATMUL, op)

    def rejects(self, site: Site, network: Network) -> str | None:
        """Only what has the same scores as softmax takes those with a learned bias."""
        return None if self.form in OTHER_ARITHMETIC else unbiased_only(site, self.form)

    def build(self, site: Site, network: Network, statistics: Statistics | None) -> Replacement:
        """The same site in another form; relu has a blend, the others need none."""
        new = replace(site, attributes={**site.attributes, "form": self.form})
        if self.form in OTHER_ARITHMETIC:
            return Replacement((new,))
        heads, scale = int(site.attributes["heads"]), float(site.attributes["scale"])
        module = SoftmaxToReLU(heads, scale, causal=bool(site.attributes.get("causal", False)))
        return Replacement((new,), {site.name: module})


def cap_of(site: Site) -> float:
    """What the scores of attention, or of words, are bounded to (see `bounded`); 0 where they are not."""
    return float(site.attributes.get("cap", 0.0))


def bounded(scores: Tensor, cap: float) -> Tensor:
    """cap * tanh(scores / cap) (arXiv 2408.00118, section 2); the scores themselves where it is 0."""
    return cap * torch.tanh(scores / cap) if cap else scores


def hides(bias: Tensor) -> bool:
    """Whether a bias of pairs of positions hides keys, as a window does."""
    return bool((bias <= HIDDEN / 2).any())


def window_of(site: Site) -> int:
    """The tokens of each window that attention stays within (Swin); 0 where all tokens see each other."""
    return int(site.attributes.get("window", 0))


def of_windows(bias: Tensor, rows: int) -> Tensor:
    """A bias (heads or 1, ...) with a row for each window of every head.

    One that has so many rows already, or a single one for all, is as it was.
    """
    return bias if len(bias) in (1, rows) else bias.repeat_interleave(rows // len(bias), 0)


def biased(site: Site) -> bool:
    """Whether the scores of an attention site have a bias for each pair of positions, learned or a window."""
    return "bias" in site.parameters


def relative(site: Site) -> int:
    """How many terms of distances the scores of an attention site have (arXiv 2006.03654, eq. 4)."""
    return sum(role in site.parameters for role in RELATIVE)


def unbiased_only(site: Site, form: str) -> str | None:
    """Why a form of attention that knows no such bias, terms or bound cannot stand for a site, or None."""
    if relative(site):
        return f"its scores have terms of distances (DeBERTa), which {form} does not take"
    if cap_of(site):
        return f"its scores are bounded by a tanh, which {form} does not take"
    if window_of(site):
        return f"it stays within windows of an image, which {form} does not take"
    reason = f"its scores have a bias of positions or a window, which {form} does not take"
    return reason if biased(site) else None
