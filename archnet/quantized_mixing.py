"""Static token mixing on fake-quantized weights."""

from __future__ import annotations

from torch import Tensor, nn

from archnet.calibration.lsq import WeightQuantizer
from archnet.converters.attention import mix_tokens


class QuantizedTokenMix(nn.Module):
    """Fully connected layers over tokens, one a head; each position has a weight scale of its own.

    Args:
        weight: (heads, positions, positions).
        bias: (heads, positions).
        bits: width of the weights.
    """

    def __init__(self, weight: Tensor, bias: Tensor, bits: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight.clone()), nn.Parameter(bias.clone())
        self.quantizer = WeightQuantizer(weight.flatten(0, 1), bits)

    def forward(self, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """(batch, tokens, features), int64 (batch, tokens) -> (batch, tokens, features)."""
        weight = self.quantizer(self.weight.flatten(0, 1)).view_as(self.weight)
        return mix_tokens(value, weight, self.bias, mask)
