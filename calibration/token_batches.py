"""Token batches for training and calibration: few padded shapes, and any step's batch on its own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from archnet.errors import ArchNetError

Batch = tuple[torch.Tensor, torch.Tensor]
"""ids and attention mask, both int64 (batch, sequence)."""

DEFAULT_BUCKETS = (16, 32, 64, 128)
_PAD_TOKENS = ("[PAD]", "<pad>", "<|pad|>", "<|padding|>", "<PAD>", "[pad]", "<unk>")
_ENCODE_CHUNK = 4096
_CALIBRATION_EPOCH = 2**31
_UNKNOWN_WARNING = 0.3


class TokenBatches:
    """Sentences as token ids, served in full batches of a few static shapes.

    Every new padded shape costs a runtime memory and time, so sentences are sorted into buckets by
    length. What is left over in a bucket after whole batches moves on to the next longer one, and the
    last batch of an epoch is filled up with sentences drawn again; so every sentence is seen in every
    epoch, all batches are full, and a set smaller than a batch works too.

    Args:
        tokenizer: without padding; special tokens are added by it.
        sentences: at least one that has a token.
        max_length: longer sentences are cut to this many tokens, special ones included.
        batch_size: sentences in a batch.
        seed: order of sentences and batches.
        buckets: padded lengths; those above `max_length` become one of `max_length`, and those longer
            than the longest sentence needs are dropped.
        max_tokens: upper bound of batch x sequence: longer buckets get smaller batches. None: no bound.
        pad_id: of the padding token; found in the tokenizer by default.

    Raises:
        ArchNetError: no sentence has a token.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        sentences: Sequence[str],
        *,
        max_length: int,
        batch_size: int,
        seed: int,
        buckets: Sequence[int] = DEFAULT_BUCKETS,
        max_tokens: int | None = None,
        pad_id: int | None = None,
    ) -> None:
        special = tokenizer.num_special_tokens_to_add(False)
        if max_length <= special:
            raise ArchNetError(
                f"a sequence length of {max_length} leaves no room for words beside {special} special tokens",
                fix="choose a longer --seq-len, such as 64 or 128",
            )
        self.pad_id = find_pad_id(tokenizer) if pad_id is None else pad_id
        self.seed = seed
        self._ids, self._starts = _tokenize(tokenizer, sentences, max_length, special)
        lengths = np.diff(self._starts)
        self._unknown_share = _unknown_share(tokenizer, self._ids, special * len(lengths))
        self.shapes = _shapes(buckets, max_length, int(lengths.max()))
        """The padded lengths in use, ascending."""
        self.batch_sizes = tuple(
            batch_size if max_tokens is None else max(1, min(batch_size, max_tokens // s))
            for s in self.shapes
        )
        """Sentences in a batch of each of `shapes`."""
        self._bucket = np.searchsorted(np.asarray(self.shapes), lengths)
        self._cached: tuple[int, list[tuple[int, NDArray[np.int64]]]] = (-1, [])
        self.batches_per_epoch = len(self._plan(0))

    def __len__(self) -> int:
        """The number of sentences that have a token."""
        return len(self._starts) - 1

    def batch(self, step: int) -> dict[str, torch.Tensor]:
        """The batch of a training step, the same whenever it is asked for.

        Returns:
            input_ids and attention_mask, int64, (batch, one of `shapes`).
        """
        epoch, index = divmod(step, self.batches_per_epoch)
        return self._padded(*self._plan(epoch)[index])

    def calibration(self, n: int) -> list[dict[str, torch.Tensor]]:
        """`n` batches for observers, drawn from all sentences and independent of training."""
        per_epoch = self.batches_per_epoch
        return [
            self._padded(*self._plan(_CALIBRATION_EPOCH + i // per_epoch)[i % per_epoch]) for i in range(n)
        ]

    def unknown_share(self) -> float:
        """The share of tokens, special ones apart, that the tokenizer does not know (0 to 1)."""
        return self._unknown_share

    def warning(self) -> str | None:
        """What to tell the user when the text does not suit the tokenizer; None when it does."""
        if self._unknown_share <= _UNKNOWN_WARNING:
            return None
        return (
            f"{self._unknown_share:.0%} of the words are unknown to the model's tokenizer: the text seems "
            "to be of another language or script than the model, and what is learned from it will be poor"
        )

    def _plan(self, epoch: int) -> list[tuple[int, NDArray[np.int64]]]:
        """The batches of an epoch as (bucket, sentence numbers), in order. The last epoch is kept."""
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
            # The shape that the longest of them needs; drawn again are sentences that fit into it.
            bucket = int(self._bucket[left].max())
            fitting = np.flatnonzero(self._bucket <= bucket)
            again = rng.choice(fitting, size=max(0, self.batch_sizes[bucket] - len(left)))
            plan.append((bucket, np.concatenate([left, again])))
        return [plan[i] for i in rng.permutation(len(plan))]

    def _padded(self, bucket: int, numbers: NDArray[np.int64]) -> dict[str, torch.Tensor]:
        rows = [self._ids[self._starts[n] : self._starts[n + 1]] for n in numbers]
        ids, mask = pad_rows(rows, self.shapes[bucket], self.pad_id)
        return {"input_ids": ids, "attention_mask": mask}


def pad_rows(rows: Sequence[Sequence[int] | NDArray[np.int32]], length: int, pad_id: int) -> Batch:
    """Rows of token ids, padded on the right.

    Returns:
        ids and attention mask, int64, (len(rows), length).
    """
    ids = np.full((len(rows), length), pad_id, dtype=np.int64)
    mask = np.zeros((len(rows), length), dtype=np.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
        mask[i, : len(row)] = 1
    return torch.from_numpy(ids), torch.from_numpy(mask)


def find_pad_id(tokenizer: Tokenizer) -> int:
    """The id of the padding token, by its usual names; 0 when there is none (the mask hides it anyway)."""
    settings = tokenizer.padding
    if settings is not None:
        return int(settings["pad_id"])
    found = (tokenizer.token_to_id(token) for token in _PAD_TOKENS)
    return next((i for i in found if i is not None), 0)


def _tokenize(
    tokenizer: Tokenizer, sentences: Sequence[str], max_length: int, special: int
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """All ids in one array and where each sentence starts (one more entry: the end).

    Sentences of which nothing but special tokens is left are dropped.
    """
    cutting = Tokenizer.from_str(tokenizer.to_str())
    cutting.no_padding()
    cutting.enable_truncation(max_length)
    parts: list[NDArray[np.int32]] = []
    for start in range(0, len(sentences), _ENCODE_CHUNK):
        chunk = list(sentences[start : start + _ENCODE_CHUNK])
        rows = (np.asarray(e.ids, dtype=np.int32) for e in cutting.encode_batch_fast(chunk))
        parts += [row for row in rows if len(row) > special]
    if not parts:
        raise ArchNetError(
            f"none of the {len(sentences)} sentences of the data gives a token",
            fix="bring data with words in it",
        )
    starts = np.concatenate([[0], np.cumsum([len(part) for part in parts])])
    return np.concatenate(parts), starts.astype(np.int64)


def _shapes(buckets: Sequence[int], max_length: int, longest: int) -> tuple[int, ...]:
    shapes = sorted({min(b, max_length) for b in buckets if b > 0} | {max_length})
    last = next(i for i, shape in enumerate(shapes) if shape >= longest)
    return tuple(shapes[: last + 1])


def _unknown_share(tokenizer: Tokenizer, ids: NDArray[np.int32], specials: int) -> float:
    token = getattr(tokenizer.model, "unk_token", None)
    unknown = tokenizer.token_to_id(token) if isinstance(token, str) else None
    if unknown is None:
        return 0.0
    return float(np.count_nonzero(ids == unknown)) / max(1, len(ids) - specials)
