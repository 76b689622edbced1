"""Which rows go into which batch: few padded shapes, and any step's batch on its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

DEFAULT_BUCKETS = (16, 32, 64, 128)
_CALIBRATION_EPOCH = 2**31


class BucketedBatches(ABC):
    """Rows of different lengths, served in full batches of a few static shapes.

    Every new padded shape costs a runtime memory and time, so rows are sorted into buckets by
    length. What is left over in a bucket after whole batches moves on to the next longer one, and the
    last batch of an epoch is filled up with rows drawn again; so every row is seen in every
    epoch, all batches are full, and a set smaller than a batch works too.

    Args:
        lengths: of the rows, at least one.
        max_length: of the longest row that there may be.
        batch_size: rows in a batch.
        seed: order of rows and batches.
        buckets: padded lengths; those above `max_length` become one of `max_length`, and those longer
            than the longest row needs are dropped.
        max_tokens: upper bound of batch x length: longer buckets get smaller batches. None: no bound.
    """

    def __init__(
        self,
        lengths: NDArray[np.int64],
        *,
        max_length: int,
        batch_size: int,
        seed: int,
        buckets: Sequence[int] = DEFAULT_BUCKETS,
        max_tokens: int | None = None,
    ) -> None:
        self.seed = seed
        self.shapes = _shapes(buckets, max_length, int(lengths.max()))
        """The padded lengths in use, ascending."""
        self.batch_sizes = tuple(
            batch_size if max_tokens is None else max(1, min(batch_size, max_tokens // s))
            for s in self.shapes
        )
        """Rows in a batch of each of `shapes`."""
        self._bucket = np.searchsorted(np.asarray(self.shapes), lengths)
        self._cached: tuple[int, list[tuple[int, NDArray[np.int64]]]] = (-1, [])
        self.batches_per_epoch = len(self._plan(0))

    def __len__(self) -> int:
        """The number of rows."""
        return len(self._bucket)

    def batch(self, step: int) -> dict[str, torch.Tensor]:
        """The batch of a training step, the same whenever it is asked for.

        Returns:
            inputs by name, int64, (batch, one of `shapes`).
        """
        epoch, index = divmod(step, self.batches_per_epoch)
        return self._padded(*self._plan(epoch)[index])

    def calibration(self, n: int) -> list[dict[str, torch.Tensor]]:
        """`n` batches for observers, drawn from all rows and independent of training."""
        per_epoch = self.batches_per_epoch
        return [
            self._padded(*self._plan(_CALIBRATION_EPOCH + i // per_epoch)[i % per_epoch]) for i in range(n)
        ]

    def _plan(self, epoch: int) -> list[tuple[int, NDArray[np.int64]]]:
        """The batches of an epoch as (bucket, row numbers), in order. The last epoch is kept."""
        if self._cached[0] != epoch:
            self._cached = (epoch, self._make_plan(np.random.default_rng([self.seed, epoch])))
        return self._cached[1]

    def _make_plan(self, rng: np.random.Generator) -> list[tuple[int, NDArray[np.int64]]]:
        plan: list[tuple[int, NDArray[np.int64]]] = []
        left = np.empty(0, dtype=np.int64)
        for bucket, size in enumerate(self.batch_sizes):
            members = np.concatenate([left, np.flatnonzero(self._bucket == bucket)])
            members = rng.permutation(members)
            whole = len(members) // size * size
            plan += [(bucket, members[i : i + size]) for i in range(0, whole, size)]
            left = members[whole:]
        if len(left):
            # The shape that the longest of them needs; drawn again are rows that fit into it.
            bucket = int(self._bucket[left].max())
            fitting = np.flatnonzero(self._bucket <= bucket)
            again = rng.choice(fitting, size=max(0, self.batch_sizes[bucket] - len(left)))
            plan.append((bucket, np.concatenate([left, again])))
        return [plan[i] for i in rng.permutation(len(plan))]

    def warnings(self) -> list[str]:
        """What to tell the user of the data."""
        return []

    @abstractmethod
    def _padded(self, bucket: int, numbers: NDArray[np.int64]) -> dict[str, torch.Tensor]:
        """The batch of these rows at the length of this bucket."""


def _shapes(buckets: Sequence[int], max_length: int, longest: int) -> tuple[int, ...]:
    shapes = sorted({min(b, max_length) for b in buckets if b > 0} | {max_length})
    last = next(i for i, shape in enumerate(shapes) if shape >= longest)
    return tuple(shapes[: last + 1])
