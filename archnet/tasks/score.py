"""What every task gives back, and how far the examples at hand can tell two scores apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Encode = Callable[[Sequence[str]], NDArray[np.float32]]
"""Sentences to embeddings, (n, width)."""

Classify = Callable[[Sequence[str]], NDArray[np.float32]]
"""Sentences to logits, (n, labels)."""

Examples = NDArray[np.float64]
"""What a score is computed from, (n, numbers): one row an example, such as 1 for a right answer."""

RESAMPLES = 1000
LEVEL = 0.95


@dataclass(frozen=True, slots=True, eq=False)
class TaskScore:
    """A task's result.

    Attributes:
        metric: what `score` is, such as "Spearman x100".
        score: the mean over the sets that count; higher is better.
        per_set: score and number of examples of each set.
        examples: the rows of each set that counts.
        score_of: the score of a set from its rows, in any order and any number of times each.
    """

    metric: str
    score: float
    per_set: Mapping[str, tuple[float, int]]
    examples: Mapping[str, Examples]
    score_of: Callable[[Examples], float]

    @classmethod
    def of(
        cls,
        metric: str,
        examples: Mapping[str, Examples],
        score_of: Callable[[Examples], float],
        *,
        counts: Sequence[str] = (),
    ) -> Self:
        """The score of a task's examples.

        Args:
            counts: the sets whose mean is the score; all when empty.
        """
        per_set = {name: (score_of(rows), len(rows)) for name, rows in examples.items()}
        counted = {name: rows for name, rows in examples.items() if not counts or name in counts}
        score = float(np.mean([per_set[name][0] for name in counted]))
        return cls(metric, score, per_set, counted, score_of)

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


def drop_interval(original: TaskScore, found: TaskScore, *, seed: int = 0) -> tuple[float, float]:
    """The 95% interval of `original.score - found.score`, by a paired bootstrap over the examples.

    Both are scored on the same `RESAMPLES` draws of as many examples of each set as there are, with
    replacement; the interval is that of the percentiles (Efron, Tibshirani: An Introduction to the
    Bootstrap, 1993, chapter 13; for BLEU: Koehn, EMNLP 2004, W04-3250). It tells what other examples of the
    same kind might have shown, not what another seed of the training would.

    Args:
        original, found: scores of the same task on the same examples.
        seed: of the draws.

    Raises:
        ValueError: the examples are not the same.
    """
    sizes = {name: len(rows) for name, rows in original.examples.items()}
    if sizes != {name: len(rows) for name, rows in found.examples.items()}:
        raise ValueError("two scores of different examples have no paired difference")
    draw = np.random.default_rng(seed)
    drops = np.zeros(RESAMPLES)
    for name, size in sizes.items():
        before, after = original.examples[name], found.examples[name]
        for i in range(RESAMPLES):
            chosen = draw.integers(0, size, size)
            drops[i] += original.score_of(before[chosen]) - found.score_of(after[chosen])
    low, high = np.quantile(drops / len(sizes), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def percentage(rows: Examples) -> float:
    """100 x the mean of (n, 1) rows of 0 and 1: an accuracy."""
    return 100.0 * float(rows.mean())
