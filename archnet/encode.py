"""Sentences -> token ids -> vectors, through anything that runs a text network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from archnet.atomic import read_json
from archnet.errors import ArchNetError

Inputs = dict[str, NDArray[Any]]
Run = Callable[[Mapping[str, NDArray[Any]]], Mapping[str, NDArray[np.float32]]]
"""Runs a network: input_ids and attention_mask, int64 (batch, sequence) -> float outputs by name."""

SENTENCE_OUTPUT = "sentence_embedding"
TOKEN_OUTPUT = "last_hidden_state"

Pick = Callable[[Mapping[str, NDArray[np.float32]], NDArray[np.int64]], NDArray[np.float32]]
"""Takes the outputs by name and the mask; gives one vector a sentence."""

LENGTH_STEP = 8
"""Batches are padded to a multiple of this, so that few shapes occur."""


def open_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a build folder, without padding and truncation.

    Args:
        folder: DIR/tokenizer.

    Raises:
        ArchNetError: there is none, or it is damaged.
    """
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise ArchNetError(
            f"{folder} has no tokenizer.json, so text cannot be fed to this network",
            fix="feed token ids (archnet run DIR --inputs X.npz), or convert a model that has a tokenizer",
        )
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises bare Exception
        raise ArchNetError(f"{file} is damaged: {error}", fix="convert again into a new folder") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def padding_id(folder: Path, tokenizer: Tokenizer) -> int:
    """The token id of padding that the tokenizer's configuration names; 0 when it names none.

    Padding is masked, so this decides no result; some models count positions by it.
    """
    config = folder / "tokenizer_config.json"
    named: Any = read_json(config).get("pad_token") if config.is_file() else None
    token = named.get("content") if isinstance(named, Mapping) else named
    found = tokenizer.token_to_id(token) if isinstance(token, str) else None
    return 0 if found is None else found


def token_batches(
    tokenizer: Tokenizer,
    sentences: Sequence[str],
    *,
    max_length: int,
    batch_size: int = 32,
    padding: int = 0,
) -> Iterator[tuple[NDArray[np.int64], Inputs]]:
    """Batches of sentences of similar length, the longest first.

    Args:
        max_length: tokens, special ones included; longer sentences are cut.

    Yields:
        Which sentences these are (indices), and their inputs, padded on the right.
    """
    tokenizer = Tokenizer.from_str(tokenizer.to_str())
    tokenizer.enable_truncation(max_length)
    rows = [encoding.ids for encoding in tokenizer.encode_batch(list(sentences))]
    order = np.array(sorted(range(len(rows)), key=lambda i: (-len(rows[i]), i)), dtype=np.int64)
    for start in range(0, len(rows), batch_size):
        chosen = order[start : start + batch_size]
        longest = max(len(rows[chosen[0]]), 1)
        width = min(max_length, -(-longest // LENGTH_STEP) * LENGTH_STEP)
        ids = np.full((len(chosen), width), padding, dtype=np.int64)
        mask = np.zeros((len(chosen), width), dtype=np.int64)
        for i, row in enumerate(chosen):
            ids[i, : len(rows[row])] = rows[row]
            mask[i, : len(rows[row])] = 1
        yield chosen, {"input_ids": ids, "attention_mask": mask}


def sentence_vectors(
    outputs: Mapping[str, NDArray[np.float32]], mask: NDArray[np.int64]
) -> NDArray[np.float32]:
    """The sentence output if the network has one, else the mean of the tokens' output over the mask.

    Raises:
        ArchNetError: the network has neither.
    """
    if SENTENCE_OUTPUT in outputs:
        return outputs[SENTENCE_OUTPUT]
    tokens = outputs.get(TOKEN_OUTPUT)
    if tokens is None and len(outputs) == 1:
        (only,) = outputs.values()
        if only.ndim == 2:
            return only
        tokens = only
    if tokens is None or tokens.ndim != 3:
        raise ArchNetError(
            f"the outputs {', '.join(outputs)} hold no vector of a sentence",
            fix="convert a sentence encoder, or take the output that you need from archnet run",
        )
    weights = mask[:, :, None].astype(np.float32)
    mean: NDArray[np.float32] = (tokens * weights).sum(axis=1) / np.maximum(weights.sum(axis=1), 1)
    return mean


def encode(
    run: Run,
    tokenizer: Tokenizer,
    sentences: Sequence[str],
    *,
    max_length: int,
    batch_size: int = 32,
    padding: int = 0,
    pick: Pick = sentence_vectors,
    progress: Callable[[int], None] | None = None,
) -> NDArray[np.float32]:
    """One vector a sentence, in the order given: (sentences, width) float32.

    Args:
        pick: what is taken from the outputs.
        progress: called with the number of sentences done, after each batch.
    """
    vectors: NDArray[np.float32] | None = None
    done = 0
    batches = token_batches(
        tokenizer, sentences, max_length=max_length, batch_size=batch_size, padding=padding
    )
    for chosen, inputs in batches:
        values = pick(run(inputs), inputs["attention_mask"])
        if vectors is None:
            vectors = np.empty((len(sentences), values.shape[-1]), dtype=np.float32)
        vectors[chosen] = values
        done += len(chosen)
        if progress is not None:
            progress(done)
    return np.empty((0, 0), dtype=np.float32) if vectors is None else vectors
