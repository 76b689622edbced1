"""What every trainable replacement shares: a progress g from the old operator (0) to the new one (1)."""

from __future__ import annotations

from torch import nn


class Homotopy(nn.Module):
    """A module that computes the old operator at progress 0 and the new one at progress 1."""

    progress: float = 0.0

    @property
    def done(self) -> bool:
        """Whether only the new operator is left."""
        return self.progress >= 1.0


def set_progress(module: nn.Module, progress: float) -> None:
    """Move every Homotopy inside `module` to this progress in [0, 1]."""
    for child in module.modules():
        if isinstance(child, Homotopy):
            child.progress = progress
