"""Semantic textual similarity: Spearman correlation of cosine similarities with people's scores.

Every file is a set; the score is the mean over the sets. Read are SICK files (columns sentence_A,
sentence_B, relatedness_score), SemEval STS files (`score<TAB>A<TAB>B` without header; pairs without a
score are skipped), and .csv, .tsv, .jsonl with the columns sentence1, sentence2, score.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from archnet.calibration.text_files import (
    JSON_SUFFIXES,
    column_indices,
    files_of,
    normal_name,
    read_records,
    read_rows,
)
from archnet.errors import ArchNetError
from archnet.tasks.score import Encode, Examples, TaskScore

METRIC = "Spearman x100"

FIRST_COLUMNS = ("sentence1", "sentencea", "s1", "text1", "texta", "premise", "question1")
SECOND_COLUMNS = ("sentence2", "sentenceb", "s2", "text2", "textb", "hypothesis", "question2")
SCORE_COLUMNS = (
    "score",
    "relatednessscore",
    "similarity",
    "similarityscore",
    "label",
    "goldscore",
    "goldlabel",
)

_FORMAT_FIX = "bring SICK or STS files, or .csv, .tsv, .jsonl with the columns sentence1, sentence2, score"
_BATCH = 1024


@dataclass(frozen=True, slots=True)
class PairSet:
    """Sentence pairs with their gold scores, (n,) float64, on any scale."""

    name: str
    first: tuple[str, ...]
    second: tuple[str, ...]
    scores: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.first)


Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


def load_pair_sets(path: Paths) -> list[PairSet]:
    """The sets of a file, of every recognised file in a folder, or of several of them.

    In a folder, text files that hold no pairs are passed over; a file that is named itself must hold some.

    Raises:
        ArchNetError: nothing there, no pairs, fewer than 3 scored pairs, or scores that are all equal.
    """
    sets: list[PairSet] = []
    for one in [path] if isinstance(path, (str, os.PathLike)) else path:
        root = Path(one).expanduser()
        files = files_of(root, "sentence pairs")
        found = [s for s in (read_pairs(file) for file in files) if s is not None]
        if not found:
            raise ArchNetError(f"{root} holds no sentence pairs with scores", fix=_FORMAT_FIX)
        sets += found
    for pairs in sets:
        if len(pairs) < 3 or len(np.unique(pairs.scores)) < 2:
            raise ArchNetError(
                f"the set {pairs.name} is too small for a rank correlation: {len(pairs)} scored pairs, "
                f"{len(np.unique(pairs.scores))} different scores",
                fix="bring at least 3 pairs whose scores differ",
            )
    return _with_distinct_names(sets)


def read_pairs(file: Path) -> PairSet | None:
    """The pairs of one file; None when it is no file of pairs."""
    if any(file.name.lower().removesuffix(".gz").endswith(suffix) for suffix in JSON_SUFFIXES):
        cells = _record_cells(file)
    else:
        cells = _table_cells(file)
    if cells is None:
        return None
    first, second, scores = [], [], []
    for line, (a, b, score) in cells:
        if not score.strip():
            continue  # STS files leave pairs unscored that the organisers did not judge
        try:
            value = float(score)
        except ValueError:
            value = np.nan
        if not np.isfinite(value):
            raise ArchNetError(f"{file}, line {line}: the score {score!r} is no number", fix=_FORMAT_FIX)
        first.append(a.strip())
        second.append(b.strip())
        scores.append(value)
    return PairSet(_set_name(file), tuple(first), tuple(second), np.asarray(scores, dtype=np.float64))


def evaluate_sts(encode: Encode, sets: Sequence[PairSet]) -> TaskScore:
    """Score an encoder: mean over the sets of 100 x Spearman's rank correlation.

    Args:
        encode: sentences to embeddings (n, width); called once for each distinct sentence.

    Raises:
        ArchNetError: the embeddings are NaN or infinite.
    """
    distinct = list(dict.fromkeys(s for pairs in sets for s in (*pairs.first, *pairs.second)))
    row = {sentence: i for i, sentence in enumerate(distinct)}
    rows = [encode(distinct[i : i + _BATCH]) for i in range(0, len(distinct), _BATCH)]
    embeddings = np.concatenate(rows).astype(np.float64)
    if not np.isfinite(embeddings).all():
        bad = distinct[int(np.flatnonzero(~np.isfinite(embeddings).all(axis=1))[0])]
        raise ArchNetError(
            f"the embedding of {bad[:60]!r} is NaN or infinite, so it cannot be scored",
            fix="check the model on this sentence",
        )
    embeddings /= np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
    judged = {}
    for pairs in sets:
        a = embeddings[[row[s] for s in pairs.first]]
        b = embeddings[[row[s] for s in pairs.second]]
        judged[pairs.name] = np.stack([(a * b).sum(axis=1), pairs.scores], axis=1)
    return TaskScore.of(METRIC, judged, _correlation)


def _correlation(rows: Examples) -> float:
    """Of similarities with people's scores, (n, 2), x100."""
    return 100.0 * spearman(rows[:, 0], rows[:, 1])


def spearman(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Spearman's rank correlation of two (n,) arrays, ties at their mean rank; 0 when one is constant."""
    a, b = (r - r.mean() for r in (_ranks(x), _ranks(y)))
    norm = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / norm if norm > 0 else 0.0


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2.0)[inverse]


_Cells = list[tuple[int, tuple[str, str, str]]]


def _table_cells(file: Path) -> _Cells | None:
    """Line number, A, B and score of each row; None for a file without such columns."""
    rows = read_rows(file)
    if rows is None:
        return None
    found = [column_indices(rows[0], names) for names in (FIRST_COLUMNS, SECOND_COLUMNS, SCORE_COLUMNS)]
    if all(found):
        columns, start = [f[0] for f in found], 1
    elif len(rows[0]) >= 3 and _is_score(rows[0][0]) and not _is_score(rows[0][1]):
        columns, start = [1, 2, 0], 0
    else:
        return None
    cells: _Cells = []
    for line, row in enumerate(rows[start:], start + 1):
        if len(row) <= max(columns):
            raise ArchNetError(
                f"{file}, line {line}: {len(row)} columns, expected {len(rows[0])}", fix=_FORMAT_FIX
            )
        cells.append((line, (row[columns[0]], row[columns[1]], row[columns[2]])))
    return cells


def _record_cells(file: Path) -> _Cells | None:
    cells: _Cells = []
    for number, record in enumerate(read_records(file), 1):
        if not isinstance(record, dict):
            return None
        values = {normal_name(str(key)): value for key, value in record.items()}
        picked = [_pick(values, names) for names in (FIRST_COLUMNS, SECOND_COLUMNS, SCORE_COLUMNS)]
        if any(value is None for value in picked[:2]):
            return None
        cells.append((number, (str(picked[0]), str(picked[1]), "" if picked[2] is None else str(picked[2]))))
    return cells


def _pick(values: Mapping[str, object], names: Sequence[str]) -> object | None:
    return next((values[name] for name in names if name in values), None)


def _is_score(cell: str) -> bool:
    if not cell.strip():
        return True
    try:
        return bool(np.isfinite(float(cell)))
    except ValueError:
        return False


def _set_name(file: Path) -> str:
    name = file.name.removesuffix(".gz")
    for suffix in (".txt", ".tsv", ".csv", ".jsonl", ".json"):
        name = name.removesuffix(suffix)
    return name


def _with_distinct_names(sets: list[PairSet]) -> list[PairSet]:
    """Number sets that share a name, so that none hides another in a table."""
    taken: dict[str, int] = {}
    result = []
    for pairs in sets:
        taken[pairs.name] = taken.get(pairs.name, 0) + 1
        count = taken[pairs.name]
        name = pairs.name if count == 1 else f"{pairs.name} ({count})"
        result.append(PairSet(name, pairs.first, pairs.second, pairs.scores))
    return result
