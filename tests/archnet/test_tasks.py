"""Tasks: formats, scores against scipy, refusals."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import spearmanr

from archnet.errors import ArchNetError
from archnet.tasks import load_task
from archnet.tasks.sts import spearman

SHARED = os.environ.get("ARCHNET_TEST_DATA")

SICK = (
    "pair_ID\tsentence_A\tsentence_B\trelatedness_score\tentailment_judgment\n"
    "1\tA dog runs\tA cat sits\t4.5\tNEUTRAL\n"
    "2\tA dog runs\tNobody is here\t1.0\tNEUTRAL\n"
    "3\tA man eats\tA man is eating\t5\tNEUTRAL\n"
    "4\tTwo birds\tA man is eating\t2\tNEUTRAL\n"
)


def letters(sentences: Sequence[str]) -> NDArray[np.float32]:
    """An embedding that is easy to compute twice: counts of letters."""
    counts = [[s.lower().count(c) for c in "abcdefghijklmnopqrstuvwxyz"] for s in sentences]
    return np.asarray(counts, dtype=np.float32)


def expected(pairs: list[tuple[str, str, float]]) -> float:
    similarities = []
    for a, b, _ in pairs:
        x, y = letters([a, b]).astype(np.float64)
        similarities.append(x @ y / np.linalg.norm(x) / np.linalg.norm(y))
    return 100 * float(spearmanr(similarities, [score for *_, score in pairs]).statistic)


PAIRS = [
    ("A dog runs", "A cat sits", 4.5),
    ("A dog runs", "Nobody is here", 1.0),
    ("A man eats", "A man is eating", 5.0),
    ("Two birds", "A man is eating", 2.0),
]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("SICK_trial.txt", SICK),
        ("x.test.tsv", "".join(f"{s}\t{a}\t{b}\n" for a, b, s in PAIRS) + "\tNo score\tfor this pair\n"),
        ("x.test.tsv.gz", "".join(f"{s}\t{a}\t{b}\n" for a, b, s in PAIRS)),
        ("x.csv", "sentence1,sentence2,score\n" + "".join(f"{a},{b},{s}\n" for a, b, s in PAIRS)),
        ("x.csv", "Score,Sentence 2,Sentence 1\n" + "".join(f"{s},{b},{a}\n" for a, b, s in PAIRS)),
        ("x.jsonl", "\n".join(json.dumps({"sentence1": a, "sentence2": b, "score": s}) for a, b, s in PAIRS)),
    ],
)
def test_sts_formats_score_as_scipy(tmp_path: Path, name: str, content: str) -> None:
    data = content.encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    task = load_task("sts", tmp_path / name)
    score = task.evaluate(letters)
    assert score.metric == task.metric == "Spearman x100"
    assert score.score == pytest.approx(expected(PAIRS), abs=1e-9)
    assert score.samples == 4
    assert list(score.parts) == [task.data] == [name.split(".gz")[0].rsplit(".", 1)[0]]


def test_mean_over_the_sets_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "SICK_trial.txt").write_text(SICK)
    other = [(a, b, s) for (a, b, _), s in zip(PAIRS, (1.0, 2.0, 2.0, 4.0), strict=True)]
    (tmp_path / "MSRpar.test.tsv").write_text("".join(f"{s}\t{a}\t{b}\n" for a, b, s in other))
    (tmp_path / "notes.txt").write_text("No pairs in here.\n")
    score = load_task("sts", tmp_path).evaluate(letters)
    assert score.parts == {
        "MSRpar.test": pytest.approx(expected(other)),
        "SICK_trial": pytest.approx(expected(PAIRS)),
    }
    assert score.score == pytest.approx((expected(other) + expected(PAIRS)) / 2)
    assert score.to_json()["sets"]["SICK_trial"]["examples"] == 4
    several = load_task("sts", [tmp_path / "SICK_trial.txt", tmp_path / "MSRpar.test.tsv"])
    assert several.evaluate(letters).score == pytest.approx(score.score)


def test_sets_of_the_same_name_stay_apart(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "s.txt").write_text(SICK)
    task = load_task("sts", [tmp_path / "a" / "s.txt", tmp_path / "b" / "s.txt"])
    assert list(task.evaluate(letters).parts) == ["s", "s (2)"]


def test_spearman_agrees_with_scipy_on_ties() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        x, y = rng.integers(0, 6, (2, 30)).astype(np.float64)
        assert spearman(x, y) == pytest.approx(spearmanr(x, y).statistic, abs=1e-12)
    assert spearman(np.ones(5), np.arange(5.0)) == 0.0


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("Just\nsome\ntext\n", "holds no sentence pairs with scores"),
        ("4.0\tA b\tC d\nhigh\tE f\tG h\n", "line 2: the score 'high' is no number"),
        ("4.0\tA b\tC d\n3.0\tE f\n", "line 2: 2 columns, expected 3"),
        ("4.0\tA b\tC d\n3.0\tE f\tG h\n", "x is too small for a rank correlation: 2 scored pairs"),
        ("4\tA b\tC d\n4\tE f\tG h\n4\tI\tJ\n", "3 scored pairs, 1 different scores"),
        ("nan\tA b\tC d\n", "holds no sentence pairs"),
    ],
)
def test_sts_refusals(tmp_path: Path, content: str, problem: str) -> None:
    (tmp_path / "x.tsv").write_text(content)
    with pytest.raises(ArchNetError) as caught:
        load_task("sts", tmp_path / "x.tsv")
    assert problem in caught.value.problem
    assert caught.value.fix


def test_nan_embeddings_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text(SICK)
    with pytest.raises(ArchNetError, match="the embedding of 'A dog runs' is NaN"):
        load_task("sts", tmp_path / "x.txt").evaluate(lambda s: letters(s) * np.float32("nan"))


def first_letter_logits(texts: Sequence[str]) -> NDArray[np.float32]:
    """Class 0 for texts that start with "b", class 1 for others."""
    return np.asarray([[1.0, 0.0] if t.startswith("b") else [0.0, 1.0] for t in texts], dtype=np.float32)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.tsv", "0\tbad film\n1\tgood film\n0\tgood start, poor end\n"),
        ("x.csv", 'text,label\nbad film,0\ngood film,1\n"good start, poor end",0\n'),
        ("x.tsv", "NEG\tbad film\nPos\tgood film\nneg\tgood start, poor end\n"),
        (
            "x.jsonl",
            '{"text": "bad", "label": 0}\n{"text": "good", "label": "pos"}\n{"text": "goo", "label": 0}',
        ),
    ],
)
def test_classification(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    task = load_task("classification", tmp_path)
    task.check_outputs(["logits"], "tiny")
    score = task.evaluate(first_letter_logits, label_names={0: "neg", 1: "pos"})
    assert (score.metric, score.samples, score.parts) == ("Accuracy x100", 3, {"x": pytest.approx(200 / 3)})


def test_classification_refusals(tmp_path: Path) -> None:
    (tmp_path / "x.tsv").write_text("negative\tbad film\npos\tgood film\n")
    task = load_task("classification", tmp_path / "x.tsv")
    with pytest.raises(ArchNetError, match="tiny has no logits, only last_hidden_state: it is an encoder"):
        task.check_outputs(["last_hidden_state"], "tiny")
    with pytest.raises(ArchNetError, match="has the label 'negative', which none of the model's 2 labels is"):
        task.evaluate(first_letter_logits, label_names={0: "neg", 1: "pos"})
    (tmp_path / "y.txt").write_text("no labels\n")
    with pytest.raises(ArchNetError, match=r"y\.txt holds no labelled texts"):
        load_task("classification", tmp_path / "y.txt")


def test_task_names(tmp_path: Path) -> None:
    with pytest.raises(ArchNetError, match="there is no task 'stss'") as caught:
        load_task("stss", tmp_path)
    assert caught.value.fix == "did you mean 'sts'? known: classification, images, language, sts, translation"
    with pytest.raises(ArchNetError, match="translation needs the build of an encoder-decoder"):
        load_task("translation", tmp_path)


@pytest.mark.skipif(SHARED is None, reason="ARCHNET_TEST_DATA names no folder with sts/")
def test_benchmark_sets() -> None:
    assert SHARED is not None
    task = load_task("sts", Path(SHARED) / "sts")
    sizes = {pairs.name: len(pairs) for pairs in task.pairs}
    assert sizes["SICK_trial"] == 500
    assert sizes["MSRpar.test"] == 750
