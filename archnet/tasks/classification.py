"""Text classification: accuracy x100 of the largest logit.

Read are `label<TAB>text` without header, and .csv, .tsv, .jsonl with the columns label and text (or
sentence). Labels are numbers, or the names of the model's `id2label`.
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
    suffix_of,
)
from archnet.errors import ArchNetError, nearest
from archnet.tasks.score import Classify, TaskScore, percentage

METRIC = "Accuracy x100"

TEXT_COLUMNS = ("text", "sentence", "review", "content", "title")
LABEL_COLUMNS = ("label", "labels", "class", "category", "target")

_FORMAT_FIX = "bring label<TAB>text, or .csv, .tsv, .jsonl with the columns label and text"
_BATCH = 256


@dataclass(frozen=True, slots=True)
class LabelledSet:
    """Texts with their labels as they stand in the file."""

    name: str
    texts: tuple[str, ...]
    labels: tuple[str, ...]


Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


def load_labelled_sets(path: Paths) -> list[LabelledSet]:
    """The sets of a file, of every recognised file in a folder, or of several of them.

    Raises:
        ArchNetError: nothing there, or no labelled texts.
    """
    sets: list[LabelledSet] = []
    for one in [path] if isinstance(path, (str, os.PathLike)) else path:
        root = Path(one).expanduser()
        found = [s for s in map(_read_labelled, files_of(root, "labelled texts")) if s is not None]
        if not found:
            raise ArchNetError(f"{root} holds no labelled texts", fix=_FORMAT_FIX)
        sets += found
    return sets


def evaluate_classification(
    classify: Classify, sets: Sequence[LabelledSet], *, label_names: Mapping[int, str] | None = None
) -> TaskScore:
    """Score a classifier: mean over the sets of 100 x the share of texts whose label has the largest logit.

    Args:
        classify: texts to logits (n, labels).
        label_names: the model's `id2label`, for files that hold names.

    Raises:
        ArchNetError: the model gives no logits, or the file has labels that the model does not know.
    """
    right = {}
    for labelled in sets:
        texts = list(labelled.texts)
        logits = np.concatenate([classify(texts[i : i + _BATCH]) for i in range(0, len(texts), _BATCH)])
        if logits.ndim != 2 or not np.isfinite(logits).all():
            raise ArchNetError(
                f"the model gives an array of shape {logits.shape} for {labelled.name}, not finite logits "
                "(texts, labels)",
                fix="classification needs a model with a classification head (logits)",
            )
        gold = _label_ids(labelled, logits.shape[1], label_names or {})
        right[labelled.name] = (logits.argmax(axis=1) == gold).astype(np.float64)[:, None]
    return TaskScore.of(METRIC, right, percentage)


def require_logits(output_names: Sequence[str], name: str) -> str:
    """The name of the output that holds logits; ArchNetError for an encoder without a head."""
    if "logits" in output_names:
        return "logits"
    raise ArchNetError(
        f"{name} has no logits, only {', '.join(output_names)}: it is an encoder without classifier",
        fix="convert a model with a head (...ForSequenceClassification), or use --task sts",
    )


def _label_ids(labelled: LabelledSet, count: int, names: Mapping[int, str]) -> NDArray[np.int64]:
    ids = {str(i): i for i in range(count)} | {name.lower(): i for i, name in names.items()}
    unknown = next((label for label in labelled.labels if label.strip().lower() not in ids), None)
    if unknown is not None:
        raise ArchNetError(
            f"the set {labelled.name} has the label {unknown!r}, which none of the model's {count} labels is",
            fix=nearest(unknown.lower(), ids),
        )
    return np.asarray([ids[label.strip().lower()] for label in labelled.labels], dtype=np.int64)


def _read_labelled(file: Path) -> LabelledSet | None:
    pairs = _record_pairs(file) if suffix_of(file) in JSON_SUFFIXES else _table_pairs(file)
    if not pairs:
        return None
    name = file.name.removesuffix(".gz").removesuffix(suffix_of(file))
    return LabelledSet(name, tuple(text for text, _ in pairs), tuple(label for _, label in pairs))


def _table_pairs(file: Path) -> list[tuple[str, str]] | None:
    rows = read_rows(file)
    if rows is None:
        return None
    texts, labels = (column_indices(rows[0], names) for names in (TEXT_COLUMNS, LABEL_COLUMNS))
    if texts and labels:
        text, label, start = texts[0], labels[0], 1
    elif len(rows[0]) == 2:
        label, text, start = 0, 1, 0
    else:
        return None
    for line, row in enumerate(rows[start:], start + 1):
        if len(row) <= max(text, label):
            raise ArchNetError(
                f"{file}, line {line}: {len(row)} columns, expected {len(rows[0])}", fix=_FORMAT_FIX
            )
    return [(row[text].strip(), row[label].strip()) for row in rows[start:]]


def _record_pairs(file: Path) -> list[tuple[str, str]] | None:
    pairs = []
    for record in read_records(file):
        values = {normal_name(str(k)): v for k, v in record.items()} if isinstance(record, dict) else {}
        text = next((values[name] for name in TEXT_COLUMNS if name in values), None)
        label = next((values[name] for name in LABEL_COLUMNS if name in values), None)
        if text is None or label is None:
            return None
        pairs.append((str(text).strip(), str(label).strip()))
    return pairs
