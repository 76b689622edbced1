"""Unlabelled sentences from a user's files. Scores and labels in the files are dropped, never used."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from archnet.calibration.text_files import (
    JSON_SUFFIXES,
    LANGUAGES,
    TABLE_SUFFIXES,
    TEXT_SUFFIXES,
    column_indices,
    files_of,
    normal_name,
    read_records,
    read_rows,
    read_text,
    suffix_of,
)
from archnet.calibration.token_batches import TokenBatches, find_pad_id, pad_rows
from archnet.errors import ArchNetError

__all__ = ["TokenBatches", "find_pad_id", "load_sentences", "pad_rows", "unique_sentences"]

SENTENCE_COLUMNS = (
    *("sentence", "sentences", "sentence1", "sentence2", "sentencea", "sentenceb", "s1", "s2"),
    *("text", "texts", "text1", "text2", "texta", "textb", "premise", "hypothesis"),
    *("question", "question1", "question2", "query", "passage", "answer", "anchor", "positive", "negative"),
    *("title", "body", "content", "caption", "captions", "description", "document", "review", "summary"),
)
"""Names of columns and JSON keys that hold sentences, as `normal_name` writes them."""

_SAMPLE_ROWS = 200

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


def load_sentences(path: Paths, *, wanted: str = "sentences") -> list[str]:
    """The distinct sentences of a file, a folder of files, or several, in order of name and line.

    Read are text (one sentence a line), .tsv and .csv tables (columns named as in `SENTENCE_COLUMNS`, or
    without a header those that hold words: SICK and STS files as they are), and .jsonl with such keys;
    each may be gzipped.

    Args:
        path: of it or of them.
        wanted: what may be there, for messages of what is not.

    Raises:
        ArchNetError: nothing there, nothing in it, a binary or damaged file: with its name and line.
    """
    paths = [path] if isinstance(path, (str, os.PathLike)) else list(path)
    sentences: list[str] = []
    for one in paths:
        files = files_of(Path(one).expanduser(), wanted)
        if len(files) > 1:
            _refuse_parallel_text(Path(one), files)
        for file in files:
            sentences += file_sentences(file)
    found = unique_sentences(sentences)
    if not found:
        names = ", ".join(str(p) for p in paths)
        raise ArchNetError(f"there is no sentence in {names or 'no file'}", fix="name a file with text")
    return found


def file_sentences(file: Path) -> list[str]:
    """The sentences of one file, with repetitions."""
    suffix = suffix_of(file)
    if suffix in JSON_SUFFIXES:
        return _record_sentences(file)
    rows = read_rows(file) if suffix in TABLE_SUFFIXES + TEXT_SUFFIXES else None
    if rows is None:
        return read_text(file).splitlines()
    columns, start = _sentence_columns(file, rows)
    return [row[c] for row in rows[start:] for c in columns if c < len(row)]


def unique_sentences(sentences: Iterable[str]) -> list[str]:
    """Distinct non-empty sentences in order, white space at the ends dropped and inside made single."""
    return list(dict.fromkeys(s for s in (" ".join(sentence.split()) for sentence in sentences) if s))


def _refuse_parallel_text(folder: Path, files: list[Path]) -> None:
    """A folder with train.de and train.en is a translation corpus: which language is meant must be said."""
    languages = defaultdict(set)
    for file in files:
        suffix = suffix_of(file)
        if suffix[1:] in LANGUAGES:
            languages[file.name.lower().removesuffix(".gz").removesuffix(suffix)].add(suffix[1:])
    for stem, codes in sorted(languages.items()):
        if len(codes) > 1:
            raise ArchNetError(
                f"the folder {folder} holds {stem} in several languages ({', '.join(sorted(codes))})",
                fix="name the files of the model's language instead of the folder",
            )


def _sentence_columns(file: Path, rows: list[list[str]]) -> tuple[list[int], int]:
    """Which columns hold sentences, and the first row of data (1 after a header)."""
    named = column_indices(rows[0], SENTENCE_COLUMNS)
    if named:
        return named, 1
    sample = rows[:_SAMPLE_ROWS]
    width = max(len(row) for row in sample)
    wordy = [c for c in range(width) if _holds_words([row[c] for row in sample if c < len(row)], len(sample))]
    if wordy:
        return wordy, 0
    if width == 1:
        return [0], 0
    raise ArchNetError(
        f"{file} has {width} columns and none of sentences (first line: {' | '.join(rows[0])[:80]!r})",
        fix="name the column in a first line: sentence, text, or sentence1 and sentence2",
    )


def _holds_words(cells: list[str], rows: int) -> bool:
    """Whether half of the rows have at least two words with letters here."""
    prose = sum(1 for cell in cells if len(re.findall(r"[^\W\d_]+", cell)) >= 2 and " " in cell.strip())
    return 2 * prose >= rows


def _record_sentences(file: Path) -> list[str]:
    found: list[str] = []
    for number, record in enumerate(read_records(file), 1):
        texts = _texts_of(record)
        if not texts:
            keys = (
                f"the keys {', '.join(map(str, record))}" if isinstance(record, dict) else f"{record!r:.60}"
            )
            raise ArchNetError(
                f"{file}: record {number} has no sentence ({keys})",
                fix='write {"text": "..."} or {"sentence1": "...", "sentence2": "..."} on each line',
            )
        found += texts
    return found


def _texts_of(record: Any) -> list[str]:
    if isinstance(record, str):
        return [record]
    if isinstance(record, list):
        return [text for text in record if isinstance(text, str)]
    if not isinstance(record, dict):
        return []
    values = [value for key, value in record.items() if normal_name(str(key)) in SENTENCE_COLUMNS]
    return [text for value in values for text in (_texts_of(value) if not isinstance(value, dict) else [])]
