"""Batches of sources with their translations, for training an encoder-decoder on given targets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from archnet.calibration.bucketed_batches import DEFAULT_BUCKETS, BucketedBatches
from archnet.calibration.token_batches import pad_rows

NEXT_IDS = "decoder_next_ids"
"""Entry of a batch: the token that follows each one that the decoder reads, int64 (batch, sequence)."""

UNKNOWN = -100
"""In NEXT_IDS: there is none, or it is not known (the index that PyTorch's cross-entropy leaves out)."""


class PairBatches(BucketedBatches):
    """Sources and what the decoder reads: both sides padded to one length, of the longer one.

    Args:
        sources: ids of each source.
        targets: what the decoder reads for each: its first token, then the translation without its end.
        pad_ids: of the padding of sources and of targets.
        end: the token that ends a translation; with it, batches also have NEXT_IDS. None: they do not.
        max_length, batch_size, seed, buckets, max_tokens: see `BucketedBatches`.
    """

    def __init__(
        self,
        sources: Sequence[NDArray[np.int32]],
        targets: Sequence[NDArray[np.int32]],
        *,
        pad_ids: tuple[int, int],
        end: int | None = None,
        max_length: int,
        batch_size: int,
        seed: int,
        buckets: Sequence[int] = DEFAULT_BUCKETS,
        max_tokens: int | None = None,
    ) -> None:
        self._sources, self._targets, self._pad_ids = sources, targets, pad_ids
        self._next = None if end is None else [_next_ids(row, end, max_length) for row in targets]
        lengths = [max(len(s), len(t)) for s, t in zip(sources, targets, strict=True)]
        super().__init__(
            np.asarray(lengths),
            max_length=max_length,
            batch_size=batch_size,
            seed=seed,
            buckets=buckets,
            max_tokens=max_tokens,
        )

    def _padded(self, bucket: int, numbers: NDArray[np.int64]) -> dict[str, torch.Tensor]:
        length = self.shapes[bucket]
        values: dict[str, torch.Tensor] = {}
        for side, rows, pad in zip(
            ("", "decoder_"), (self._sources, self._targets), self._pad_ids, strict=True
        ):
            ids, mask = pad_rows([rows[n] for n in numbers], length, pad)
            values |= {f"{side}input_ids": ids, f"{side}attention_mask": mask}
        if self._next is not None:
            values[NEXT_IDS] = pad_rows([self._next[n] for n in numbers], length, UNKNOWN)[0]
        return values


def _next_ids(row: NDArray[np.int32], end: int, max_length: int) -> NDArray[np.int32]:
    """What follows each token of a row; what would follow one that was cut is not known."""
    last = end if len(row) < max_length else UNKNOWN
    return np.append(row[1:], np.int32(last))
