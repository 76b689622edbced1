"""Unlabelled sentences from users' files: what is read, what is refused, and with which words."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest

from archnet.calibration.data import load_sentences
from archnet.errors import ArchNetError

SHARED = os.environ.get("ARCHNET_TEST_DATA")

SICK = (
    "pair_ID\tsentence_A\tsentence_B\trelatedness_score\tentailment_judgment\n"
    "1\tA dog runs\tA cat sits still\t4.5\tNEUTRAL\n"
    "2\tA dog runs\tNobody is here\t1.0\tNEUTRAL\n"
)
STS = (
    '4.400\tHe said "no.\tHe denied it.\n\tNo score here.\tNone at all.\n3\tTwo men talk.\tMen are talking.\n'
)


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.txt", "One two.\n\n  Three  four. \nOne two.\n", ["One two.", "Three four."]),
        ("a.txt", "\ufeffOne two.\r\nThree.\r\n", ["One two.", "Three."]),
        ("a.txt.gz", gzip.compress("Zwei drei.\nÜber uns.".encode()), ["Zwei drei.", "Über uns."]),
        ("train.en.gz", gzip.compress(b"A caption.\nAnother."), ["A caption.", "Another."]),
        ("misnamed.txt", gzip.compress(b"Still gzip."), ["Still gzip."]),
        ("SICK_train.txt", SICK, ["A dog runs", "A cat sits still", "Nobody is here"]),
        (
            "STS.tsv",
            STS,
            [
                'He said "no.',
                "He denied it.",
                "No score here.",
                "None at all.",
                "Two men talk.",
                "Men are talking.",
            ],
        ),
        ("label.tsv", "pos\tA fine film.\nneg\tA bad one.\n", ["A fine film.", "A bad one."]),
        ("one_column.tsv", "word\nother\n", ["word", "other"]),
        (
            "t.csv",
            'id,Text,label\n1,"Hello, ""you"" there",0\n2,Bye now,1\n',
            ['Hello, "you" there', "Bye now"],
        ),
        ("bare.csv", '0.5,"A man, eating","A man eats"\n', ["A man, eating", "A man eats"]),
        (
            "p.jsonl",
            '{"sentence1": "A b.", "sentence2": "C d.", "score": 3}\n\n{"text": ["E f.", "G."]}\n"H i."',
            None,
        ),
        ("p.json", '[{"text": "A b."}, "C d."]', ["A b.", "C d."]),
        ("prose.txt", "A line with one\ttab.\nOthers have none.\nNone at all.\n", None),
    ],
    ids=lambda value: value if isinstance(value, str) and "." in value and len(value) < 20 else "",
)
def test_formats(tmp_path: Path, name: str, content: str | bytes, expected: list[str] | None) -> None:
    if name == "p.jsonl":
        expected = ["A b.", "C d.", "E f.", "G.", "H i."]
    elif name == "prose.txt":
        expected = ["A line with one tab.", "Others have none.", "None at all."]
    assert load_sentences(write(tmp_path, name, content)) == expected


def test_folder_mixes_formats_in_order_of_name(tmp_path: Path) -> None:
    write(tmp_path, "c.train.en.gz", gzip.compress(b"A caption.\nA dog runs\n"))
    write(tmp_path, "b.tsv", STS)
    write(tmp_path, "a_SICK.txt", SICK)
    for ignored in ("README.md", ".hidden.txt", "image.png", "script.py"):
        write(tmp_path, ignored, "Not this one.")
    found = load_sentences(tmp_path)
    assert found[:4] == ["A dog runs", "A cat sits still", "Nobody is here", 'He said "no.']
    assert found[-1] == "A caption."
    assert len(found) == len(set(found)) == 10


def test_several_paths(tmp_path: Path) -> None:
    first, second = write(tmp_path, "b.txt", "From b."), write(tmp_path, "a.txt", "From a.")
    assert load_sentences([first, str(second)]) == ["From b.", "From a."]


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("e.txt", b"", "e.txt is empty"),
        ("e.txt", b"\n \n", "e.txt is empty"),
        ("e.txt.gz", gzip.compress(b""), "e.txt.gz is empty"),
        ("b.txt", b"Fine.\nText\0with NUL", "b.txt is a binary file (byte 10 is NUL)"),
        (
            "l.txt",
            "Fine.\nAlso fine.\nCafé".encode("latin1"),
            "l.txt is no UTF-8 text: line 3 has the byte 0xe9",
        ),
        ("d.gz", gzip.compress(bytes(range(97, 123)) * 3)[:25], "d.gz is a damaged gzip file"),
        ("n.tsv", "1\t2\n3\t4\n", "n.tsv has 2 columns and none of sentences (first line: '1 | 2')"),
        ("j.jsonl", '{"text": "A b."}\n{"text": \n', "j.jsonl is no JSON at line 2"),
        ("k.jsonl", '{"text": "A b."}\n{"label": 3}\n', "k.jsonl: record 2 has no sentence (the keys label)"),
        ("k.json", '{"text": "A b."}', "k.json holds no list"),
        ("k.json", "[1,\n2", "k.json is no JSON: line 2"),
        ("h.csv", "text,label\n", "there is no sentence in"),
    ],
    ids=lambda value: value.split()[0] if isinstance(value, str) else "",
)
def test_refused_files(tmp_path: Path, name: str, content: bytes | str, problem: str) -> None:
    with pytest.raises(ArchNetError) as caught:
        load_sentences(write(tmp_path, name, content))
    assert problem in caught.value.problem
    assert str(tmp_path) in caught.value.problem
    assert caught.value.fix


def test_refused_paths(tmp_path: Path) -> None:
    write(tmp_path, "train.txt", "Words here.")
    with pytest.raises(ArchNetError, match=r"no file or folder of sentences at .*trian\.txt") as caught:
        load_sentences(tmp_path / "trian.txt")
    assert caught.value.fix == f"did you mean {tmp_path / 'train.txt'}?"
    (tmp_path / "outer" / "inner").mkdir(parents=True)
    write(tmp_path / "outer", "picture.png", "x")
    with pytest.raises(ArchNetError, match=r"outer holds no file of sentences; it holds the folders inner"):
        load_sentences(tmp_path / "outer")
    with pytest.raises(ArchNetError, match=r"there is no sentence in no file"):
        load_sentences([])


def test_translation_folder_must_say_which_language(tmp_path: Path) -> None:
    write(tmp_path, "train.de.gz", gzip.compress(b"Ein Hund."))
    write(tmp_path, "train.en.gz", gzip.compress(b"A dog."))
    with pytest.raises(ArchNetError, match=r"holds train in several languages \(de, en\)"):
        load_sentences(tmp_path)
    assert load_sentences(tmp_path / "train.en.gz") == ["A dog."]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_unreadable_file(tmp_path: Path) -> None:
    path = write(tmp_path, "a.txt", "Words.")
    path.chmod(0)
    with pytest.raises(ArchNetError, match=r"a\.txt cannot be read: Permission denied"):
        load_sentences(path)


@pytest.mark.skipif(SHARED is None, reason="ARCHNET_TEST_DATA names no folder with sts/ and multi30k/")
def test_benchmark_folders() -> None:
    assert SHARED is not None
    captions = load_sentences(Path(SHARED) / "multi30k" / "train.en.gz")
    assert 28_000 < len(captions) <= 29_000
    pairs = load_sentences(Path(SHARED) / "sts")
    assert len(pairs) > 10_000
    assert not any(pair.replace(".", "").isdigit() or "\t" in pair for pair in pairs)
