"""Layers whose weights or results are fake-quantized, as a quantized student is built of them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from archnet.calibration.log_sum import log_sum_shares
from archnet.calibration.lsq import ActivationQuantizer, WeightQuantizer
from archnet.calibration.observers import sample_of
from archnet.calibration.widths import STORED_BITS
from archnet.converters.softmax import HIDDEN, bounded, hides, of_windows, seen_keys
from archnet.executor import MASKED, merge_heads, split_heads

MASK_DISTANCE = 10.0
"""Scores span at least this many nats below 0, so that a padded key keeps at most e**-10 of the weight."""


class QuantizedLinear(nn.Module):
    """Fully connected layer on fake-quantized weights; holds its own float weight and bias.

    Args:
        cap: that its result is bounded to (`archnet.converters.softmax.bounded`); 0 for none.
    """

    def __init__(self, weight: Tensor, bias: Tensor, bits: int, cap: float = 0.0) -> None:
        super().__init__()
        self.cap = cap
        self.weight, self.bias = nn.Parameter(weight.clone()), nn.Parameter(bias.clone())
        self.quantizer = WeightQuantizer(weight, bits)

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) -> (..., channels)."""
        return bounded(F.linear(x, self.quantizer(self.weight), self.bias), self.cap)

    def fixed(self) -> QuantizedLinear:
        """The same layer, its weights integers as they are and never trained."""
        self.quantizer.step.data.fill_(1.0)
        return self.requires_grad_(False)


class QuantizedConv(QuantizedLinear):
    """Convolution on fake-quantized weights, one step an output channel.

    Args:
        weight: (channels, inputs / groups, height, width).
        stride, pad: along height and width.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor,
        bits: int,
        window: tuple[tuple[int, int], tuple[int, int]],
        groups: int,
    ) -> None:
        nn.Module.__init__(self)
        self.weight, self.bias = nn.Parameter(weight.clone()), nn.Parameter(bias.clone())
        self.quantizer = WeightQuantizer(weight.flatten(1), bits)
        self.window, self.groups = window, groups

    def forward(self, x: Tensor) -> Tensor:
        """(batch, inputs, height, width) -> (batch, channels, height, width)."""
        weight = self.quantizer(self.weight.flatten(1)).view_as(self.weight)
        return F.conv2d(x, weight, self.bias, *self.window, groups=self.groups)


class QuantizedAttention(nn.Module):
    """Attention whose scores and probabilities are fake-quantized.

    Queries arrive scaled. Scores are integers in units of their scale; a padded key's score is the
    least integer; probabilities are unsigned with scale 1 / levels. With a bias scores are a sum of two
    integers, the products' and the bias's. Scores that are bounded come from a table of their products.

    Args:
        bits: of the scores, and of the probabilities.
        bias: of pairs of positions, (heads, positions, positions), or None.
        share_levels: units that make 1 in probabilities of 8 bits (see `Profile.softmax_levels`); those of
            fewer bits have as many times fewer.
        cap: that products are bounded to (`archnet.converters.softmax.bounded`); 0 for none.
        window: tokens of each window that attention stays within; 0 where all tokens see each other.
        log_sum: whether probabilities are those of `archnet.calibration.log_sum`.
    """

    def __init__(
        self,
        heads: int,
        scale: float,
        bits: tuple[int, int],
        bias: Tensor | None,
        *,
        causal: bool = False,
        share_levels: int = 2**STORED_BITS - 1,
        cap: float = 0.0,
        window: int = 0,
        log_sum: bool = False,
    ) -> None:
        super().__init__()
        self.heads, self.scale, self.causal, self.cap = heads, scale, causal, cap
        self.window, self.log_sum = window, log_sum
        scores, self.share_bits = bits
        self.scores = ActivationQuantizer(scores, signed=True, least=MASK_DISTANCE / 2 ** (scores - 1))
        self.levels = share_levels >> (STORED_BITS - self.share_bits)
        self.bias = None if bias is None else nn.Parameter(bias.clone(), requires_grad=not hides(bias))
        self.products: ActivationQuantizer | None = None
        if bias is not None:
            self.products = ActivationQuantizer(STORED_BITS, signed=True)
            self.pairs = ActivationQuantizer(STORED_BITS, signed=True)
            self.pairs.calibrate(sample_of(bias))
        if cap:
            self.unbounded = ActivationQuantizer(STORED_BITS, signed=True)
        self.calibrating = False
        self.sample: list[Tensor] = []
        self.unbounded_sample: list[Tensor] = []
        self.product_sample: list[Tensor] = []

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """(batch, sequence, features) each, mask int64 (batch, sequence) -> (batch, sequence, features)."""
        query, key, value = (split_heads(x, self.heads, self.window) for x in (query, key, value))
        products = (query @ key.transpose(-1, -2)).float() * self.scale
        keep = seen_keys(products, mask, causal=self.causal)
        if self.cap:
            products = self._bounded(products, keep)
        scores = self.summed(products, query, key, keep)
        if self.calibrating:
            self.sample.append(sample_of(scores[self._weighty(scores, keep)]))
            if keep is not None:
                scores = scores.masked_fill(~keep, MASKED)
            probabilities = torch.softmax(scores, -1)
        else:
            scores = self.scores(scores)
            if keep is not None:
                scores = torch.where(keep, scores, self.scores.low * self.scores.scale)
            probabilities = torch.softmax(scores, -1)
            rounded = self._rounded(scores, probabilities)
            probabilities = probabilities + (rounded - probabilities).detach()
        return merge_heads(probabilities.to(value.dtype) @ value, self.heads)

    def _rounded(self, scores: Tensor, probabilities: Tensor) -> Tensor:
        """The probabilities that the integer network has."""
        greatest = 2**self.share_bits - 1
        if self.log_sum:
            return log_sum_shares(scores, self.scores.scale, self.levels, greatest)
        return (probabilities * self.levels).round_().clamp_(max=greatest).div_(self.levels)

    def _bounded(self, products: Tensor, keep: Tensor | None) -> Tensor:
        """What a table makes of products."""
        if self.calibrating:
            self.unbounded_sample.append(sample_of(products[self.counts(products, keep)]))
            return bounded(products, self.cap)
        return bounded(self.unbounded(products), self.cap)

    def summed(self, products: Tensor, query: Tensor, key: Tensor, keep: Tensor | None) -> Tensor:
        """Products (batch, heads, queries, keys) and what is added to them, here for pairs of positions.

        Args:
            query, key: (batch, heads, tokens, width), for what is made of them.
            keep: which keys are seen, broadcast against the products.
        """
        if self.bias is None or self.products is None:
            return products
        pairs = of_windows(self.bias, products.shape[1])[:, : products.shape[-2], : products.shape[-1]]
        if self.calibrating:
            self.product_sample.append(sample_of(products[self.counts(products, keep)]))
            return products + pairs
        quantized: Tensor = self.products(products) + self.pairs(pairs)
        return quantized

    def _weighty(self, scores: Tensor, keep: Tensor | None) -> Tensor:
        """Of those that count: which keep a weight; a bias of distances takes it from most keys."""
        counts = self.counts(scores, keep)
        if self.bias is None:
            return counts
        greatest = scores.masked_fill(~counts, MASKED).amax(-1, keepdim=True)
        return counts & (scores > greatest - MASK_DISTANCE)

    def counts(self, scores: Tensor, keep: Tensor | None) -> Tensor:
        """Which scores count in a calibration: of keys that are no padding and that no window hides."""
        counts = torch.ones_like(scores, dtype=torch.bool) if keep is None else keep.expand_as(scores)
        if self.bias is None:
            return counts
        seen = of_windows(self.bias > HIDDEN / 2, scores.shape[1])
        return counts & seen[:, : scores.shape[-2], : scores.shape[-1]]

    def calibrate(self, largest_factor: float) -> None:
        """Set the steps from what was sampled while `calibrating` was set, and forget it.

        Args:
            largest_factor: of the step of a bias against that of the scores. What it does not reach then is
                cut off, where the sum with any product saturates.
        """
        self.calibrating = False
        self.scores.calibrate(torch.cat(self.sample))
        if self.cap:
            self.unbounded.calibrate(torch.cat(self.unbounded_sample))
        if self.products is not None:
            self.products.calibrate(torch.cat(self.product_sample))
        if self.bias is not None:
            with torch.no_grad():
                self.pairs.step.clamp_(max=largest_factor * self.scores.scale)
        self.sample, self.product_sample, self.unbounded_sample = [], [], []


class QuantizedTableAdd(nn.Module):
    """Adds a constant table (positions) that is fake-quantized with one scale."""

    def __init__(self, table: Tensor, bits: int) -> None:
        super().__init__()
        self.table = nn.Parameter(table.clone())
        self.quantizer = ActivationQuantizer(bits, signed=True)
        self.quantizer.calibrate(sample_of(table))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, sequence, features) -> the same."""
        rows: Tensor = self.quantizer(self.table[: x.shape[1]])
        return x + rows


class QuantizedTableMul(nn.Module):
    """Multiplies by a constant table of positions that is fake-quantized with one scale, and not trained."""

    def __init__(self, table: Tensor, bits: int) -> None:
        super().__init__()
        self.table = nn.Parameter(table.clone(), requires_grad=False)
        self.quantizer = ActivationQuantizer(bits, signed=True)
        self.quantizer.calibrate(sample_of(table))
        self.quantizer.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, sequence, features) -> the same."""
        rows: Tensor = self.quantizer(self.table[: x.shape[1]])
        return x * rows


class QuantizedCodes(nn.Module):
    """Code embedding: the sum of one row from each of a few books, named by the token's codes.

    Args:
        codes: int64 (vocabulary, digits), each in [0, depth).
        books: float32 (digits, depth, features).
        bits: width of the books' integers.
    """

    def __init__(self, codes: Tensor, books: Tensor, bits: int) -> None:
        super().__init__()
        self.codes: Tensor
        self.register_buffer("codes", codes)
        self.books = nn.Parameter(books.clone())
        self.quantizer = WeightQuantizer(self.matrix(), bits)

    def matrix(self) -> Tensor:
        """The books as one layer over concatenated one-hot codes: (features, digits * depth)."""
        return self.books.flatten(0, 1).T

    def forward(self, ids: Tensor) -> Tensor:
        """int64 (batch, sequence) -> (batch, sequence, features)."""
        depth = self.books.shape[1]
        rows = self.codes[ids] + torch.arange(self.codes.shape[1], device=ids.device) * depth
        return F.embedding(rows, self.quantizer(self.matrix()).T).sum(-2)
