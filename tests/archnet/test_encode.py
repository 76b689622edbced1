from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from archnet.encode import encode, open_tokenizer, padding_id, sentence_vectors, token_batches
from archnet.errors import ArchNetError
from tests.hf_models import SENTENCES, make_wordpiece_tokenizer

TOKENIZER = make_wordpiece_tokenizer()


def run(inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
    """Vectors that tell the sentence: the sum of its ids, and its length."""
    real = inputs["input_ids"] * inputs["attention_mask"]
    vectors = np.stack([real.sum(1), inputs["attention_mask"].sum(1)], axis=1)
    return {"sentence_embedding": vectors.astype(np.float32)}


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_vectors_come_in_the_order_of_the_sentences(batch_size: int) -> None:
    done: list[int] = []
    vectors = encode(run, TOKENIZER, SENTENCES, max_length=64, batch_size=batch_size, progress=done.append)
    expected = [[sum(e.ids), len(e.ids)] for e in TOKENIZER.encode_batch(list(SENTENCES))]
    assert vectors.dtype == np.float32
    assert vectors.tolist() == expected
    assert done[-1] == len(SENTENCES)


def test_long_sentences_are_cut_and_keep_their_special_tokens() -> None:
    (_, inputs), *rest = token_batches(TOKENIZER, ["red " * 50], max_length=10)
    assert not rest
    assert inputs["input_ids"].shape == (1, 10)
    whole = TOKENIZER.encode("red " * 50).ids
    assert inputs["input_ids"][0].tolist() == [*whole[:9], whole[-1]]


def test_batches_are_padded_to_few_lengths_and_never_beyond_the_longest() -> None:
    batches = list(token_batches(TOKENIZER, SENTENCES, max_length=13, batch_size=2, padding=3))
    assert sorted(i for chosen, _ in batches for i in chosen) == list(range(len(SENTENCES)))
    for _, inputs in batches:
        width = inputs["input_ids"].shape[1]
        assert width % 8 == 0 or width == 13
        assert (inputs["input_ids"][inputs["attention_mask"] == 0] == 3).all()


def test_the_tokenizer_given_is_not_changed() -> None:
    before = TOKENIZER.to_str()
    list(token_batches(TOKENIZER, SENTENCES, max_length=5))
    assert TOKENIZER.to_str() == before


def test_no_sentences() -> None:
    assert encode(run, TOKENIZER, [], max_length=8).shape == (0, 0)


def test_tokens_are_averaged_over_the_mask() -> None:
    tokens = np.arange(12, dtype=np.float32).reshape(1, 3, 4)
    mask = np.array([[1, 1, 0]])
    expected = [[2.0, 3.0, 4.0, 5.0]]
    assert (
        sentence_vectors({"last_hidden_state": tokens, "pooler_output": tokens[:, 0]}, mask).tolist()
        == expected
    )
    assert sentence_vectors({"output": tokens}, mask).tolist() == expected
    assert sentence_vectors({"output": tokens[:, 0]}, mask).tolist() == tokens[:, 0].tolist()


def test_outputs_without_a_sentence_are_refused() -> None:
    one = np.ones((1, 2), dtype=np.float32)
    with pytest.raises(ArchNetError, match="the outputs start, end hold no vector of a sentence"):
        sentence_vectors({"start": one, "end": one}, np.ones((1, 2), dtype=np.int64))


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"pad_token": "[UNK]"}, 1),
        ({"pad_token": {"content": "[SEP]"}}, 3),
        ({"pad_token": None}, 0),
        ({"pad_token": "[none of ours]"}, 0),
        (None, 0),
    ],
    ids=str,
)
def test_padding_is_what_the_configuration_names(
    tmp_path: Path, config: dict[str, Any] | None, expected: int
) -> None:
    if config is not None:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert padding_id(tmp_path, TOKENIZER) == expected


def test_tokenizers_that_cannot_be_opened_are_named(tmp_path: Path) -> None:
    with pytest.raises(ArchNetError, match=r"has no tokenizer\.json"):
        open_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"model": ')
    with pytest.raises(ArchNetError, match=r"tokenizer\.json is damaged"):
        open_tokenizer(tmp_path)


def test_a_stored_truncation_is_ignored(tmp_path: Path) -> None:
    tokenizer = make_wordpiece_tokenizer()
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    found = open_tokenizer(tmp_path).encode("red " * 9)
    assert len(found.ids) == 11
