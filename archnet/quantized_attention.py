"""Attention with ReLU weights on fake-quantized scores."""

from __future__ import annotations

from torch import Tensor

from archnet.calibration.lsq import ActivationQuantizer
from archnet.calibration.observers import sample_of
from archnet.converters.softmax import relu_weights, seen_keys
from archnet.executor import merge_heads, split_heads
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
        return merge_heads(weights.to(value.dtype) @ split_heads(value, self.heads))
