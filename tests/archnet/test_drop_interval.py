"""The interval of a drop: against the normal approximation, and scores from examples against sacreBLEU."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archnet.tasks.score import Examples, TaskScore, drop_interval, percentage
from archnet.tasks.translation import bleu, sentence_counts, signature


def accuracy(rows: Examples, **others: Examples) -> TaskScore:
    return TaskScore.of("accuracy", {"a": rows, **others}, percentage)


def answers(seed: int, n: int, share: float) -> Examples:
    return (np.random.default_rng(seed).random((n, 1)) < share).astype(np.float64)


def test_width_is_that_of_paired_differences() -> None:
    before, other = answers(0, 2000, 0.9), answers(1, 2000, 0.95)
    after = before * other  # every twentieth answer becomes wrong, none right
    low, high = drop_interval(accuracy(before), accuracy(after))
    lost = 100 * (before - after)[:, 0]
    error = lost.std() / np.sqrt(len(lost))
    assert low == pytest.approx(lost.mean() - 1.96 * error, abs=0.25 * error)
    assert high == pytest.approx(lost.mean() + 1.96 * error, abs=0.25 * error)


def test_pairing_makes_it_narrower_than_independent_scores() -> None:
    before = answers(0, 1000, 0.7)
    after = before.copy()
    after[:5] = 1 - after[:5]
    low, high = drop_interval(accuracy(before), accuracy(after))
    independent = 100 * np.sqrt(2 * 0.7 * 0.3 / 1000)
    assert high - low < independent / 2
    assert low <= 100 * float((before - after).mean()) <= high


def test_sets_count_alike_whatever_their_size() -> None:
    large, small = answers(0, 3000, 0.8), np.ones((30, 1))
    low, high = drop_interval(accuracy(large, b=small), accuracy(large, b=0 * small))
    assert (low, high) == (50.0, 50.0)


def test_only_the_sets_that_count_are_resampled() -> None:
    right, wrong = np.ones((9, 1)), np.zeros((9, 1))
    before = TaskScore.of("x", {"greedy": right, "beams": right}, percentage, counts=["beams"])
    after = TaskScore.of("x", {"greedy": wrong, "beams": right}, percentage, counts=["beams"])
    assert (after.score, after.parts) == (100.0, {"greedy": 0.0, "beams": 100.0})
    assert drop_interval(before, after) == (0.0, 0.0)


def test_scores_of_other_examples_are_refused() -> None:
    with pytest.raises(ValueError, match="different examples"):
        drop_interval(accuracy(np.ones((3, 1))), accuracy(np.ones((4, 1))))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=40), st.integers(0, 2**32 - 1))
def test_equal_scores_have_no_interval(right: list[bool], seed: int) -> None:
    rows = np.asarray(right, dtype=np.float64)[:, None]
    assert drop_interval(accuracy(rows), accuracy(rows), seed=seed) == (0.0, 0.0)


LINES = ["Ein Hund rennt .", "Zwei Männer sitzen auf einer Bank .", "", "Ja", "Die Frau, die lacht, geht."]
FOUND = ["Ein Hund läuft .", "Zwei Männer sitzen auf der Bank .", "etwas", "", "Die Frau lacht und geht."]


@pytest.mark.parametrize("rows", [[0], [0, 1], [0, 1, 2, 3, 4], [1, 1, 4, 0, 1], [2], [3]])
def test_bleu_from_counts_is_that_of_the_corpus(rows: list[int]) -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    counts = sentence_counts(FOUND, LINES)
    expected = sacrebleu.corpus_bleu([FOUND[i] for i in rows], [[LINES[i] for i in rows]])
    assert counts.shape == (5, 10)
    assert bleu(counts[rows]) == expected.score


def test_signature_is_that_of_the_corpus() -> None:
    metrics = pytest.importorskip("sacrebleu.metrics")
    metric = metrics.BLEU()
    metric.corpus_score(FOUND, [LINES])
    assert signature() == str(metric.get_signature())
