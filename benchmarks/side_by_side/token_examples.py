"""Sentences as calibration examples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from archnet.encode import padding_id
from archnet.sources.source import Source
from side_by_side.network_folder import Calibration


def padding_of(source: Source) -> int:
    """The token id that pads."""
    for file in source.tokenizer_files:
        if file.name == "tokenizer_config.json":
            return padding_id(file.parent, source.require_tokenizer())
    return 0


def tokenized(source: Source, sentences: Sequence[str], length: int) -> Calibration:
    """Token ids and mask of sentences, cut to so many tokens."""
    rows = [encoding.ids[:length] for encoding in source.require_tokenizer().encode_batch(list(sentences))]
    ids, mask = padded(rows, padding_of(source))
    trim = {"input_ids": "attention_mask", "attention_mask": "attention_mask"}
    return Calibration({"input_ids": ids, "attention_mask": mask}, trim, {})


def padded(rows: Sequence[Sequence[int]], padding: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows as one array, and which of its places count."""
    width = max(len(row) for row in rows)
    ids = np.full((len(rows), width), padding, dtype=np.int64)
    mask = np.zeros((len(rows), width), dtype=np.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
        mask[i, : len(row)] = 1
    return ids, mask
