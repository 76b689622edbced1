"""Token batches: shapes, determinism, coverage and what is refused."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from archnet.calibration.token_batches import TokenBatches, find_pad_id
from archnet.errors import ArchNetError
from tests.hf_models import SENTENCES, WORDS, make_bpe_tokenizer, make_wordpiece_tokenizer

TOKENIZER = make_wordpiece_tokenizer()


def sentences_of(lengths: list[int]) -> list[str]:
    """Sentences of so many words, each told apart by its number, spelt in single digits."""
    words = [w for w in WORDS if len(w) > 1]
    return [
        " ".join([*str(i), *(words[(i + j) % len(words)] for j in range(n))]) for i, n in enumerate(lengths)
    ]


def make(
    lengths: list[int], *, batch_size: int = 4, seed: int = 0, max_length: int = 24, **more: object
) -> TokenBatches:
    return TokenBatches(
        TOKENIZER,
        sentences_of(lengths),
        max_length=max_length,
        batch_size=batch_size,
        seed=seed,
        buckets=(8, 16, 64),
        **more,  # type: ignore[arg-type]
    )


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=40), st.integers(1, 9))
def test_every_epoch_shows_every_sentence_in_full_batches(lengths: list[int], batch_size: int) -> None:
    batches = make(lengths, batch_size=batch_size)
    expected = {tuple(TOKENIZER.encode(s).ids[:23]) for s in sentences_of(lengths)}
    for epoch in range(2):
        seen = set()
        for index in range(batches.batches_per_epoch):
            ids, mask = batches.batch(epoch * batches.batches_per_epoch + index).values()
            assert ids.dtype == mask.dtype == torch.int64
            assert ids.shape == mask.shape == (batch_size, ids.shape[1])
            assert ids.shape[1] in batches.shapes
            assert set(batches.shapes) <= {8, 16, 24}
            assert torch.equal(ids == 0, mask == 0)
            seen |= {tuple(row[m.bool()].tolist()[:23]) for row, m in zip(ids, mask, strict=True)}
        # Truncation keeps the closing token, so rows of 24 tokens are compared by what is before it.
        assert seen == expected


def test_a_step_is_the_same_whenever_it_is_asked_for() -> None:
    lengths = [3, 5, 9, 12, 20, 30, 2, 7, 8, 15, 4]
    first, second = make(lengths, seed=7), make(lengths, seed=7)
    forward = [first.batch(step) for step in range(20)]
    for step in reversed(range(20)):
        for a, b in zip(forward[step].values(), second.batch(step).values(), strict=True):
            assert torch.equal(a, b)
    other = make(lengths, seed=8)
    assert any(
        not torch.equal(a["input_ids"], b["input_ids"])
        for a, b in zip(forward, map(other.batch, range(20)), strict=True)
    )


def test_order_differs_between_epochs() -> None:
    batches = make([3] * 12)
    n = batches.batches_per_epoch
    assert not torch.equal(
        torch.cat([batches.batch(i)["input_ids"] for i in range(n)]),
        torch.cat([batches.batch(n + i)["input_ids"] for i in range(n)]),
    )


def test_calibration_is_fixed_and_apart_from_training() -> None:
    batches = make([5, 12, 20] * 9)
    chosen = batches.calibration(5)
    batches.batch(3)
    for one, other in zip(chosen, make([5, 12, 20] * 9).calibration(5), strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert len(batches.calibration(50)) == 50
    assert Counter(batch["input_ids"].shape[1] for batch in chosen).keys() <= set(batches.shapes)


def test_three_sentences_fill_a_batch() -> None:
    batches = make([3, 4, 5], batch_size=16)
    ids, mask = batches.batch(1000).values()
    assert ids.shape == (16, 8)
    assert len({tuple(row.tolist()) for row in ids}) == 3
    assert int(mask.sum(1).min()) > 2


def test_longer_buckets_get_smaller_batches_under_a_token_bound() -> None:
    batches = make([3, 10, 19] * 8, batch_size=8, max_tokens=64)
    assert (batches.shapes, batches.batch_sizes) == ((8, 16, 24), (8, 4, 2))
    shapes = {tuple(batches.batch(i)["input_ids"].shape) for i in range(batches.batches_per_epoch)}
    assert shapes == {(8, 8), (4, 16), (2, 24)}


def test_sentences_without_a_token_are_dropped() -> None:
    batches = TokenBatches(TOKENIZER, ["a man", "\u200b", "two dogs"], max_length=16, batch_size=2, seed=0)
    assert len(batches) == 2
    with pytest.raises(ArchNetError, match="none of the 1 sentences"):
        TokenBatches(TOKENIZER, ["\u200b"], max_length=16, batch_size=2, seed=0)


def test_too_short_a_sequence_is_refused() -> None:
    with pytest.raises(ArchNetError, match="length of 2 leaves no room for words beside 2 special tokens"):
        TokenBatches(TOKENIZER, ["a man"], max_length=2, batch_size=2, seed=0)


def test_text_in_another_script_works_with_a_warning() -> None:
    batches = TokenBatches(
        TOKENIZER, ["これ は 本", "Это книга", "a man"], max_length=10, batch_size=4, seed=0
    )
    assert batches.unknown_share() == pytest.approx(5 / 7)
    (warning,) = batches.warnings()
    assert warning.startswith("71% of the words are unknown")
    assert batches.batch(0)["input_ids"].shape == (4, 10)
    known = TokenBatches(TOKENIZER, SENTENCES, max_length=16, batch_size=4, seed=0)
    assert (known.unknown_share(), known.warnings()) == (0.0, [])


def test_sentences_much_shorter_than_they_may_be_are_told() -> None:
    texts = ["a man", "a man a man"] * 200 + ["a man " * 12]  # 4 and 6 tokens, and one of 26 in 401
    short = TokenBatches(TOKENIZER, texts, max_length=13, batch_size=4, seed=0)
    assert short.warnings() == [
        "99% of the sentences have at most 6 tokens, and the network takes 13: on longer text it will follow "
        "the original less closely; data as long as what is to be read is the remedy"
    ]
    assert TokenBatches(TOKENIZER, texts, max_length=12, batch_size=4, seed=0).warnings() == []


def test_padding_token_is_the_tokenizers_own() -> None:
    assert find_pad_id(TOKENIZER) == 0
    bpe = make_bpe_tokenizer()
    assert find_pad_id(bpe) == 1
    ids, mask = TokenBatches(bpe, SENTENCES, max_length=64, batch_size=8, seed=0).batch(0).values()
    assert set(ids[mask == 0].tolist()) == {1}
