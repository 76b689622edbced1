"""Batches of tokenized sentences for training and calibration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from archnet.calibration.bucketed_batches import DEFAULT_BUCKETS, BucketedBatches
from archnet.errors import ArchNetError

Batch = tuple[torch.Tensor, torch.Tensor]
"""ids and attention mask, both int64 (batch, sequence)."""

_PAD_TOKENS = ("[PAD]", "<pad>", "<|pad|>", "<|padding|>", "<PAD>", "[pad]", "<unk>")
_ENCODE_CHUNK = 4096
_UNKNOWN_WARNING = 0.3

LONGEST_SHARE, SHORT = 0.99, 2
"""Sentences are short where so many have less than 1 / SHORT of the tokens that there may be."""

_UNKNOWN = (
    "{share:.0%} of the words are unknown to the model's tokenizer: the text seems to be of another language "
    "or script than the model, and what is learned from it will be poor"
)
_SHORT = (
    "{share:.0%} of the sentences have at most {length} tokens, and the network takes {longest}: on longer "
    "text it will follow the original less closely; data as long as what is to be read is the remedy"
)


class TokenBatches(BucketedBatches):
    """Sentences as token ids, served in full batches of a few static shapes.

    Args:
        tokenizer: without padding; special tokens are added by it.
        sentences: at least one that has a token.
        max_length: longer sentences are cut to this many tokens, special ones included.
        batch_size, seed, buckets, max_tokens: see `BucketedBatches`.
        pad_id: of the padding token; found in the tokenizer by default.
        of_decoder: for a language model: the inputs have a decoder's names, and what a sentence has beyond
            `max_length` are rows of their own.

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
        of_decoder: bool = False,
    ) -> None:
        special = tokenizer.num_special_tokens_to_add(False)
        if max_length <= special:
            raise ArchNetError(
                f"a sequence length of {max_length} leaves no room for words beside {special} special tokens",
                fix="choose a longer --seq-len, such as 64 or 128",
            )
        self.pad_id = find_pad_id(tokenizer) if pad_id is None else pad_id
        self._side = "decoder_" if of_decoder else ""
        self._ids, self._starts = _tokenize(tokenizer, sentences, max_length, special, whole=of_decoder)
        self._max_length = max_length
        lengths = np.diff(self._starts)
        self._unknown_share = _unknown_share(tokenizer, self._ids, special * len(lengths))
        super().__init__(
            lengths,
            max_length=max_length,
            batch_size=batch_size,
            seed=seed,
            buckets=buckets,
            max_tokens=max_tokens,
        )

    def rows(self) -> list[NDArray[np.int32]]:
        """The ids of every sentence that has a token."""
        return [self._ids[a:b] for a, b in pairwise(self._starts)]

    def unknown_share(self) -> float:
        """The share of tokens, special ones apart, that the tokenizer does not know (0 to 1)."""
        return self._unknown_share

    def warnings(self) -> list[str]:
        """What to tell the user: text that does not suit the tokenizer, or is short for the asked length."""
        found = []
        if self._unknown_share > _UNKNOWN_WARNING:
            found.append(_UNKNOWN.format(share=self._unknown_share))
        length = math.ceil(np.quantile(np.diff(self._starts), LONGEST_SHARE))
        if length * SHORT < self._max_length:
            found.append(_SHORT.format(share=LONGEST_SHARE, length=length, longest=self._max_length))
        return found

    def _padded(self, bucket: int, numbers: NDArray[np.int64]) -> dict[str, torch.Tensor]:
        rows = [self._ids[self._starts[n] : self._starts[n + 1]] for n in numbers]
        ids, mask = pad_rows(rows, self.shapes[bucket], self.pad_id)
        return {f"{self._side}input_ids": ids, f"{self._side}attention_mask": mask}


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
    tokenizer: Tokenizer, sentences: Sequence[str], max_length: int, special: int, *, whole: bool
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """All ids in one array and where each sentence starts (one more entry: the end).

    Sentences of which nothing but special tokens is left are dropped.

    Args:
        whole: what is cut off is kept, as sentences of its own.
    """
    cutting = Tokenizer.from_str(tokenizer.to_str())
    cutting.no_padding()
    cutting.enable_truncation(max_length)
    parts: list[NDArray[np.int32]] = []
    for start in range(0, len(sentences), _ENCODE_CHUNK):
        chunk = list(sentences[start : start + _ENCODE_CHUNK])
        found = cutting.encode_batch_fast(chunk)
        pieces = (piece for e in found for piece in (e, *(e.overflowing if whole else ())))
        rows = (np.asarray(piece.ids, dtype=np.int32) for piece in pieces)
        parts += [row for row in rows if len(row) > special]
    if not parts:
        raise ArchNetError(
            f"none of the {len(sentences)} sentences of the data gives a token",
            fix="bring data with words in it",
        )
    starts = np.concatenate([[0], np.cumsum([len(part) for part in parts])])
    return np.concatenate(parts), starts.astype(np.int64)


def _unknown_share(tokenizer: Tokenizer, ids: NDArray[np.int32], specials: int) -> float:
    token = getattr(tokenizer.model, "unk_token", None)
    unknown = tokenizer.token_to_id(token) if isinstance(token, str) else None
    if unknown is None:
        return 0.0
    return float(np.count_nonzero(ids == unknown)) / max(1, len(ids) - specials)
