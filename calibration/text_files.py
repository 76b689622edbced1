"""Reading users' text files: lines, tables and JSON lines, gzip or not, with errors that name the line."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from archnet.errors import ArchNetError

TEXT_SUFFIXES = (".txt", ".text")
TABLE_SUFFIXES = (".tsv", ".csv")
JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
_LANGUAGE_CODES = (
    "ar bg cs da de el en es et fa fi fr he hi hu id it ja ko lt lv nl no pl pt ro ru sk sl sv tr uk vi zh"
)
LANGUAGES = frozenset(_LANGUAGE_CODES.split())
"""Suffixes of plain text in translation corpora, such as train.en.gz."""

_SAMPLE_ROWS = 200


def suffix_of(path: Path) -> str:
    """The suffix that tells the format: lower case, without a final .gz."""
    name = path.name.lower().removesuffix(".gz")
    return Path(name).suffix


def is_recognised(path: Path) -> bool:
    """Whether a file of a folder is read as text: by its suffix, or a language code such as train.en.gz."""
    suffix = suffix_of(path)
    known = suffix in TEXT_SUFFIXES + TABLE_SUFFIXES + JSON_SUFFIXES
    return not path.name.startswith(".") and (known or suffix[1:] in LANGUAGES)


def files_of(path: Path, what: str) -> list[Path]:
    """The text files that a path stands for, sorted by name: itself, or the recognised files of a folder.

    Raises:
        ArchNetError: nothing there, or a folder without such a file.
    """
    try:
        if path.is_file():
            return [path]
        if not path.is_dir():
            raise missing(path, what)
        entries = sorted(path.iterdir())
    except PermissionError as error:
        raise ArchNetError(
            f"{path} cannot be read: {error.strerror}",
            fix="check the permissions of the file and its folders",
        ) from error
    files = [entry for entry in entries if entry.is_file() and is_recognised(entry)]
    if files:
        return files
    folders = [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    holds = f"; it holds the folders {', '.join(folders[:5])}" if folders else ""
    fix = "name a folder with .txt, .tsv, .csv or .jsonl files (each may be gzipped), or one such file"
    if "pictures" in what:
        fix += "; for an image classifier a folder or a .zip of pictures"
    raise ArchNetError(f"the folder {path} holds no file of {what}{holds}", fix=fix)


def missing(path: Path, what: str) -> ArchNetError:
    """The error for a path that does not exist, with names in its folder that are nearly it."""
    from difflib import get_close_matches

    names = sorted(entry.name for entry in path.parent.iterdir()) if path.parent.is_dir() else []
    near = get_close_matches(path.name, names, n=2, cutoff=0.6)
    if near:
        fix = f"did you mean {' or '.join(str(path.parent / n) for n in near)}?"
    elif names:
        fix = "check the spelling of the path"
    else:
        fix = f"check the path: there is no folder {path.parent} either"
    return ArchNetError(f"there is no file or folder of {what} at {path}", fix=fix)


def read_text(path: Path) -> str:
    """The whole UTF-8 text of a file, unpacked when it is gzip whatever its name.

    Raises:
        ArchNetError: unreadable, empty, damaged gzip, binary, or not UTF-8 (with the line).
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ArchNetError(
            f"{path} cannot be read: {error.strerror or error}", fix="check its permissions"
        ) from error
    if data[:2] == b"\x1f\x8b":
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise ArchNetError(
                f"{path} is a damaged gzip file: {error}", fix="download or copy the file again"
            ) from error
    if not data.strip():
        raise ArchNetError(f"{path} is empty", fix="name a file with at least one sentence, one a line")
    nul = data.find(b"\0")
    if nul >= 0:
        raise ArchNetError(
            f"{path} is a binary file (byte {nul} is NUL), not text",
            fix="name a UTF-8 text file, one sentence a line",
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ArchNetError(
            f"{path} is no UTF-8 text: line {line} has the byte 0x{data[error.start]:02x}",
            fix=f"if it is text, convert it with 'iconv -f latin1 -t utf-8 {path.name}'",
        ) from error


def text_lines(path: Path) -> list[str]:
    """The lines of a text (see `read_text`): what newlines separate, and nothing else that looks like one."""
    return read_text(path).removesuffix("\n").replace("\r\n", "\n").split("\n")


def read_rows(path: Path) -> list[list[str]] | None:
    """The rows of a table, split at commas (.csv, with quotes) or tabs (any other); None when it is no table.

    A .tsv or .csv file always is a table; a text file is one when it has tabs, the same number in
    nine of ten of its first lines.
    """
    text = read_text(path)
    if suffix_of(path) == ".csv":
        try:
            return [row for row in csv.reader(io.StringIO(text, newline="")) if any(row)]
        except csv.Error as error:
            raise ArchNetError(
                f"{path} is no CSV table: {error}", fix="save it as UTF-8 CSV again"
            ) from error
    lines = [line for line in text.splitlines() if line.strip()]
    if suffix_of(path) != ".tsv":
        tabs = [line.count("\t") for line in lines[:_SAMPLE_ROWS]]
        usual = max(set(tabs), key=tabs.count)
        if usual == 0 or tabs.count(usual) < 0.9 * len(tabs):
            return None
    # No quoting: quotation marks in tab-separated corpora are the sentences' own.
    return [line.split("\t") for line in lines]


def read_records(path: Path) -> list[Any]:
    """The values of a JSON-lines file, or the members of the list in a .json file.

    Raises:
        ArchNetError: with the line of the first value that is no JSON.
    """
    text = read_text(path)
    fix = "write one JSON value a line"
    if suffix_of(path) == ".json":
        try:
            content = json.loads(text)
        except json.JSONDecodeError as error:
            raise ArchNetError(f"{path} is no JSON: line {error.lineno}: {error.msg}", fix=fix) from error
        if not isinstance(content, list):
            raise ArchNetError(
                f"{path} holds no list", fix="write a list of records, or one record a line as .jsonl"
            )
        return content
    records = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                records.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise ArchNetError(f"{path} is no JSON at line {number}: {error.msg}", fix=fix) from error
    return records


def column_indices(header: Sequence[str], names: Sequence[str]) -> list[int]:
    """Positions of the header cells that are one of `names`, whatever their case and word separators."""
    cells = [normal_name(cell) for cell in header]
    return [index for index, cell in enumerate(cells) if cell in names]


def normal_name(cell: str) -> str:
    """A column's name in lower case without spaces, dashes and underscores: "Sentence_A" is "sentencea"."""
    return re.sub(r"[\s_\-]+", "", cell.strip().strip('"').lower())
