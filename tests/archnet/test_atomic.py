"""Files are whole or not there, and a disk's refusals are clear errors."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest

from archnet.atomic import (
    disk_errors,
    free_bytes,
    human_bytes,
    read_json,
    remove_tree,
    replacing,
    sha256_file,
    write_bytes,
    write_json,
)
from archnet.errors import ArchNetError


def test_a_file_is_replaced_and_its_folders_are_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.json"
    write_json(path, {"ä": 1})
    write_json(path, {"ä": 2})
    assert read_json(path) == {"ä": 2}
    assert os.listdir(path.parent) == ["b.json"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "x"
    write_bytes(path, b"old")

    def write_half() -> None:
        with replacing(path) as temporary:
            temporary.write_bytes(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_half()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("SafetensorError: I/O error: No space left on device (os error 28)"),
    ],
    ids=["enospc", "quota", "native-library"],
)
def test_every_way_to_say_that_the_disk_is_full(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(ArchNetError) as caught, disk_errors(tmp_path / "x", 3 * 2**20):
        raise error
    assert caught.value.problem.startswith(
        f"the disk is full: {tmp_path / 'x'} cannot be written, needs 3.0 MiB"
    )


def test_a_cause_is_looked_at(tmp_path: Path) -> None:
    error = RuntimeError("export failed")
    error.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(ArchNetError, match="the disk is full"), disk_errors(tmp_path):
        raise error


def test_other_errors_pass(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="other"), disk_errors(tmp_path):
        raise ValueError("other")


def test_a_read_only_place_is_told(tmp_path: Path) -> None:
    with pytest.raises(ArchNetError) as caught, disk_errors(tmp_path):
        raise OSError(errno.EROFS, "Read-only file system", str(tmp_path))
    assert caught.value.problem == f"{tmp_path} cannot be written: read-only file system"


def test_a_folder_in_the_place_of_a_file_is_named_as_the_user_named_it(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(ArchNetError) as caught:
        write_bytes(tmp_path / "out", b"x")
    assert caught.value.problem == f"{tmp_path / 'out'} cannot be written: is a directory"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "cannot be read: no such file"),
        (b"{", "is damaged: "),
        (b"[1]", "no JSON object"),
        (b"\xff", "is damaged"),
    ],
)
def test_json_that_cannot_be_read(tmp_path: Path, content: bytes | None, problem: str) -> None:
    path = tmp_path / "x.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ArchNetError, match=problem):
        read_json(path)


def test_hash_and_sizes(tmp_path: Path) -> None:
    write_bytes(tmp_path / "x", b"abc")
    assert sha256_file(tmp_path / "x") == hashlib.sha256(b"abc").hexdigest()
    assert [human_bytes(n) for n in (0, 1023, 1536, 2**30, 2**50)] == [
        "0 B",
        "1023 B",
        "1.5 KiB",
        "1.0 GiB",
        "1024.0 TiB",
    ]


def test_free_space_of_a_folder_that_does_not_exist_yet(tmp_path: Path) -> None:
    assert free_bytes(tmp_path / "a" / "b") > 0


def test_a_folder_is_removed_whole(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a" / "b" / "c", b"x")
    remove_tree(tmp_path / "a")
    remove_tree(tmp_path / "a")
    assert os.listdir(tmp_path) == []
