"""GELU and SiLU -> ReLU, by a blend that moves from the one to the other.

y = (1 - g) f(x) + g max(x, 0), elementwise, any shape. ReLU is what an integer network gets for
nothing: the clamp at 0 of the layer before it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from archnet.converters.homotopy import Homotopy


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
