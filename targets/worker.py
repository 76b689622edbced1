"""A driver in a process of its own: whatever the vendor's library does, crash, hang or exit, is one error.

It is started once and answers many requests, because a simulator may take longer to build than to run.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from archnet.errors import ArchNetError
from archnet.targets.process import end_group, last_line, outcome
from archnet.targets.toolchain import Toolchain

DRIVERS = Path(__file__).with_name("drivers")
_READ = 1 << 16


class Worker:
    """A running driver.

    Args:
        toolchain: in whose environment it runs.
        driver: name of a module of `archnet.targets.drivers`.
        log: gets all that it prints; the folder exists.
        fix: what the user can do when it fails.

    Raises:
        ArchNetError: the toolchain is not installed, or its Python cannot be started.
    """

    def __init__(self, toolchain: Toolchain, driver: str, *, log: Path, fix: str) -> None:
        python = toolchain.require()
        self.title, self.log, self.fix = toolchain.tool, log, fix
        self._replies, sent = os.pipe()
        try:
            with log.open("wb") as file:
                self._process = subprocess.Popen(
                    [str(python), str(DRIVERS / "runner.py"), str(DRIVERS / f"{driver}.py"), str(sent)],
                    stdin=subprocess.PIPE,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    pass_fds=[sent],
                    start_new_session=True,
                    cwd=log.parent,
                    env={**os.environ, **toolchain.environment},
                )
        except OSError as error:
            os.close(self._replies)
            raise ArchNetError(
                f"{self.title} cannot be started: {(error.strerror or str(error)).lower()}", fix=fix
            ) from error
        finally:
            os.close(sent)

    def call(self, do: str, request: Mapping[str, object], *, seconds: float) -> dict[str, Any]:
        """What a function of the driver returns.

        Args:
            do: its name.
            request: JSON; paths are absolute.
            seconds: time limit; then the process is killed, and the worker is of no use any more.

        Raises:
            ArchNetError: it raised, died, or took too long. The last line that says something is shown, and
                the log is named.
        """
        assert self._process.stdin is not None
        line = json.dumps({"do": do, **request}).encode() + b"\n"
        with suppress(BrokenPipeError):  # it died; the empty reply tells
            self._process.stdin.write(line)
            self._process.stdin.flush()
        reply = self._read(time.monotonic() + seconds)
        if reply is None:
            self.close()
            raise self._failed(f"took longer than {seconds:g} s")
        if not reply:
            raise self._failed(outcome(self._process.wait()))
        answer = json.loads(reply)
        if "error" in answer:
            said = last_line(str(answer["error"]).partition("\n")[0])
            raise ArchNetError(f"{self.title} failed: {said} (its log: {self.log})", fix=self.fix)
        result: dict[str, Any] = answer["result"]
        return result

    def _read(self, until: float) -> bytes | None:
        """One line; b"" when the process has ended, None when it is too late."""
        line = b""
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([self._replies], [], [], max(0.0, until - time.monotonic()))
            if not ready:
                return None
            part = os.read(self._replies, _READ)
            if not part:
                return b""
            line += part
        return line

    def _failed(self, how: str) -> ArchNetError:
        said = last_line(self.log.read_text(encoding="utf-8", errors="replace"))
        words = f"; its last words: {said}" if said else ""
        return ArchNetError(f"{self.title} {how}{words} (all of them: {self.log})", fix=self.fix)

    def close(self) -> None:
        """End the process and its children."""
        end_group(self._process)
        if self._process.stdin is not None:
            with suppress(BrokenPipeError):
                self._process.stdin.close()
        if self._replies >= 0:
            os.close(self._replies)
            self._replies = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
