"""One process at a time in a folder."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from pathlib import Path

from archnet import atomic
from archnet.errors import ArchNetError

LOCK_FILE = ".lock"


class FolderLock:
    """One process at a time: an flock on a file, which the kernel frees when the process dies.

    Raises:
        ArchNetError: a living process holds it (its id is named), or the file system has no locks.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOCK_FILE
        self._handle = -1
        with atomic.disk_errors(self._path):
            self._acquire(folder)
        # A forked worker must not keep the lock of a parent that was killed.
        os.register_at_fork(after_in_child=self._close)

    def _acquire(self, folder: Path) -> None:
        while True:
            handle = os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _same_file(handle, self._path):
                    os.truncate(handle, 0)
                    os.write(handle, f"{os.getpid()}\n".encode())
                    self._handle = handle
                    return
                os.close(handle)
            except OSError as error:
                os.close(handle)
                if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                    raise self._in_use(folder) from None
                if error.errno in (errno.ENOLCK, errno.ENOTSUP):
                    raise ArchNetError(
                        f"the file system of {folder} cannot lock files", fix="give a folder on a local disk"
                    ) from error
                raise

    def _in_use(self, folder: Path) -> ArchNetError:
        owner = ""
        for _ in range(20):  # the owner writes its id just after it got the lock
            owner = self._path.read_text(errors="replace").strip()
            if owner.isdigit() and Path(f"/proc/{owner}").exists():
                break
            time.sleep(0.01)
        who = f"process {owner}" if owner.isdigit() else "another process"
        return ArchNetError(
            f"{folder} is in use by {who}",
            fix="wait until it has finished, stop it, or give another folder",
        )

    def _close(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def release(self) -> None:
        """Give the lock up; the file stays."""
        self._close()


def _same_file(handle: int, path: Path) -> bool:
    """Whether `path` is still the file behind `handle`, and was not deleted in between."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
