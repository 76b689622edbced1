"""What every task gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Encode = Callable[[Sequence[str]], NDArray[np.float32]]
"""Sentences to embeddings, (n, width)."""

Classify = Callable[[Sequence[str]], NDArray[np.float32]]
"""Sentences to logits, (n, labels)."""


@dataclass(frozen=True, slots=True)
class TaskScore:
    """A task's result.

    Attributes:
        metric: what `score` is, such as "Spearman x100".
        score: the mean over the sets; higher is better.
        per_set: score and number of examples of each set.
    """

    metric: str
    score: float
    per_set: Mapping[str, tuple[float, int]]

    @property
    def parts(self) -> dict[str, float]:
        """The score of each set."""
        return {name: score for name, (score, _) in self.per_set.items()}

    @property
    def samples(self) -> int:
        """Examples in all sets together."""
        return sum(n for _, n in self.per_set.values())

    def to_json(self) -> dict[str, Any]:
        """Plain data: {"metric", "score", "sets": {name: {"score", "examples"}}}."""
        sets = {name: {"score": score, "examples": n} for name, (score, n) in self.per_set.items()}
        return {"metric": self.metric, "score": self.score, "sets": sets}
