"""Other forms of attention on fake-quantized scores: with ReLU weights, and with tables of distances."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from archnet.calibration.lsq import ActivationQuantizer
from archnet.calibration.observers import sample_of
from archnet.calibration.widths import STORED_BITS
from archnet.converters.softmax import relu_weights, seen_keys
from archnet.executor import merge_heads, relative_products, split_heads
from archnet.quantized_layers import QuantizedAttention


class QuantizedReluAttention(QuantizedAttention):
    """Attention whose weights are max(scores, 0) / number of keys seen; the scores are fake-quantized.

    Scores are unsigned integers in units of their scale: the quantizer is the ReLU. The number of keys is
    divided out when values are summed, at the precision of an accumulator.
    """

    def __init__(self, heads: int, scale: float, bits: int, *, causal: bool = False) -> None:
        super().__init__(heads, scale, (bits, bits), None, causal=causal)
        self.scores = ActivationQuantizer(bits, signed=False)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """(batch, queries or keys, features) each, mask int64 (batch, keys) -> (batch, queries, features)."""
        scores = split_heads(query, self.heads) @ split_heads(key, self.heads).transpose(-1, -2)
        scores = scores.float() * self.scale
        keep = seen_keys(scores, mask, causal=self.causal)
        if self.calibrating:
            valid = scores if keep is None else scores[keep.expand_as(scores)]
            self.sample.append(sample_of(valid.relu()))
        else:
            scores = self.scores(scores)
        weights = relu_weights(scores, keep)
        return merge_heads(weights.to(value.dtype) @ split_heads(value, self.heads), self.heads)


class RelativeTerm(nn.Module):
    """Tokens times a fake-quantized table of distances, fake-quantized (see `relative_products`).

    Args:
        table: float32 (heads, 2 * positions - 1, width).
    """

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = ActivationQuantizer(STORED_BITS, signed=True)
        self.table.calibrate(sample_of(table))
        self.result = ActivationQuantizer(STORED_BITS, signed=True)
        self.sample: list[Tensor] = []


class QuantizedRelativeAttention(QuantizedAttention):
    """Attention whose scores have terms of distances (arXiv 2006.03654, eq. 4), integers each.

    Scores are the sum of two integers, the products' and that of the places; with tables for queries and
    for keys the places are a sum of two themselves. The scale of the scores is 1.

    Args:
        bits: of the scores, and of the probabilities.
        tables: "relative_keys", what queries are multiplied with, "relative_queries", what keys are, or
            both: float32 (heads, 2 * positions - 1, width).
        share_levels, log_sum: see `QuantizedAttention`.
    """

    def __init__(
        self,
        heads: int,
        bits: tuple[int, int],
        tables: Mapping[str, Tensor],
        *,
        share_levels: int,
        log_sum: bool = False,
    ) -> None:
        super().__init__(heads, 1.0, bits, None, share_levels=share_levels, log_sum=log_sum)
        self.products = ActivationQuantizer(STORED_BITS, signed=True)
        self.terms = nn.ModuleDict({role: RelativeTerm(table) for role, table in tables.items()})
        for role, table in tables.items():
            self.register_parameter(role, nn.Parameter(table.clone()))
        self.places = ActivationQuantizer(STORED_BITS, signed=True) if len(tables) > 1 else None
        self.place_sample: list[Tensor] = []

    def summed(self, products: Tensor, query: Tensor, key: Tensor, keep: Tensor | None) -> Tensor:
        """Products and terms of distances, (batch, heads, queries, keys)."""
        counts = self.counts(products, keep)
        total: Tensor | None = None
        for role, own in (("relative_keys", query), ("relative_queries", key)):
            if role in self.terms:
                term = self._term(role, own, counts)
                total = term if total is None else total + term
        assert total is not None
        assert self.products is not None
        if self.calibrating:
            self.product_sample.append(sample_of(products[counts]))
            self.place_sample.append(sample_of(total[counts]))
            return products + total
        quantized: Tensor = self.products(products)
        return quantized + (total if self.places is None else self.places(total))

    def _term(self, role: str, own: Tensor, counts: Tensor) -> Tensor:
        term, table = self.terms[role], self.get_parameter(role)
        assert isinstance(term, RelativeTerm)
        products = relative_products(own, table if self.calibrating else term.table(table)).float()
        if role == "relative_queries":
            products = products.transpose(-1, -2)
        if self.calibrating:
            term.sample.append(sample_of(products[counts]))
            return products
        quantized: Tensor = term.result(products)
        return quantized

    def calibrate(self, largest_factor: float) -> None:
        """Set the steps from what was sampled while `calibrating` was set, and forget it."""
        super().calibrate(largest_factor)
        for term in self.terms.values():
            assert isinstance(term, RelativeTerm)
            term.result.calibrate(torch.cat(term.sample))
            term.sample = []
        if self.places is not None:
            self.places.calibrate(torch.cat(self.place_sample))
        self.place_sample = []
