"""Files that are whole or not there: write beside, fsync, rename; and clear errors for a disk's refusals."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from pathlib import Path

from archnet.errors import ArchNetError

TEMPORARY_MARK = ".archnet-tmp"
"""Names of unfinished files and folders end with this; whoever holds the folder's lock may delete them."""

_FULL = {errno.ENOSPC, errno.EDQUOT}
_FULL_TEXTS = ("No space left on device", "Disk quota exceeded")
_TOO_LARGE_TEXT = "File too large"
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG}


def human_bytes(count: float) -> str:
    """1536 -> "1.5 KiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def free_bytes(path: Path) -> int:
    """Free space, in bytes, of the disk that holds `path` (or its nearest existing parent)."""
    place = path.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    return shutil.disk_usage(place).free


def _was_refused(error: BaseException | None, numbers: Set[int], texts: Sequence[str]) -> bool:
    """Whether `error`, or what caused it, is one of these; native libraries tell it only by their text."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in numbers:
            return True
        if not isinstance(error, ArchNetError) and any(text in str(error) for text in texts):
            return True
        error = error.__cause__ or error.__context__
    return False


def disk_full(path: Path, needed: int | None = None) -> ArchNetError:
    """The error for a full disk at `path`; `needed` is the size in bytes of what did not fit, if known."""
    needs = f", needs {human_bytes(needed)}" if needed else ""
    return ArchNetError(
        f"the disk is full: {path} cannot be written{needs} ({human_bytes(free_bytes(path))} free)",
        fix="free some space or raise the quota, then run the same command: it goes on where it stopped",
    )


@contextmanager
def full_disk_errors(path: Path, needed: int | None = None) -> Iterator[None]:
    """Turn a full disk into one clear `ArchNetError`, whatever library says it.

    Args:
        path: what is being written, for the message.
        needed: its size in bytes, if known.
    """
    try:
        yield
    except ArchNetError:
        raise
    except Exception as error:
        if _was_refused(error, _FULL, _FULL_TEXTS):
            raise disk_full(path, needed) from error
        if _was_refused(error, {errno.EFBIG}, [_TOO_LARGE_TEXT]):
            size = f" ({human_bytes(needed)})" if needed else ""
            raise ArchNetError(
                f"{path} cannot be written: it is larger{size} than files may be here",
                fix="raise the limit (ulimit -f) or take another disk, then run the same command",
            ) from error
        raise


@contextmanager
def disk_errors(path: Path, needed: int | None = None) -> Iterator[None]:
    """Turn a full disk or a missing permission under `path` into one clear `ArchNetError`.

    For code that only writes: a file that cannot be read would be told as one that cannot be written.

    Args:
        path: what is being written, for the message.
        needed: its size in bytes, if known.
    """
    try:
        with full_disk_errors(path, needed):
            yield
    except OSError as error:
        if error.errno not in _DENIED:
            raise
        named = str(error.filename or path)
        if named.endswith(TEMPORARY_MARK):
            named = str(path)
        raise ArchNetError(
            f"{named} cannot be written: {(error.strerror or 'no permission').lower()}",
            fix="give a place that you may write to",
        ) from error


def sync_folder(path: Path) -> None:
    """Make renames inside a folder last through a power cut."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_file(path: Path) -> None:
    """Force a file's content to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def replacing(path: Path, needed: int | None = None) -> Iterator[Path]:
    """Give a temporary name beside `path`; when the block ends well, that file becomes `path`.

    Args:
        path: the file to make or replace; missing parent folders are made.
        needed: its size in bytes, if known, for the message when the disk is full.

    Raises:
        ArchNetError: the disk is full or the folder cannot be written; `path` is as it was before.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY_MARK}")
    try:
        with disk_errors(path, needed):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            sync_file(temporary)
            os.replace(temporary, path)
            sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all (see `replacing`)."""
    with replacing(path, len(content)) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, value: object) -> None:
    """Write a JSON file whole or not at all (see `replacing`)."""
    write_bytes(path, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> dict[str, object]:
    """Read a JSON object.

    Raises:
        ArchNetError: the file is missing, is no JSON, or holds something else than an object.
    """
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise ArchNetError(
            f"{path} cannot be read: {(error.strerror or str(error)).lower()}",
            fix="give the folder of a finished conversion",
        ) from error
    except ValueError as error:
        raise ArchNetError(f"{path} is damaged: {error}", fix="convert again into a new folder") from error
    if not isinstance(value, dict):
        raise ArchNetError(f"{path} is damaged: no JSON object", fix="convert again into a new folder")
    return value


def sha256_file(path: Path) -> str:
    """The SHA-256 of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove_tree(path: Path) -> None:
    """Delete a folder, if it is there, such that a kill in between leaves no half of it under its name."""
    doomed = path.with_name(f".{path.name}.{os.getpid()}.old{TEMPORARY_MARK}")
    try:
        os.rename(path, doomed)
    except FileNotFoundError:
        return
    shutil.rmtree(doomed, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Delete what processes left in a folder that were killed in the middle, or this one before."""
    for path in folder.glob(f".*{TEMPORARY_MARK}"):
        owner = next((part for part in path.name.split(".") if part.isdigit()), "")
        if not Path(f"/proc/{owner}").exists() or owner == str(os.getpid()):
            shutil.rmtree(path, ignore_errors=True)
