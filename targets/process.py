"""Runs a vendor's program such that whatever it does, crash, hang or talk nonsense, is one clear error."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from archnet.errors import ArchNetError

_DIED = "Unhandled exception"
_KEPT = 200
"""Characters of a line that an error shows."""


def run_tool(command: Sequence[str], *, log: Path, seconds: float, title: str, fix: str) -> str:
    """Run a program, with all that it prints in a log file.

    Args:
        command: program and arguments; no shell is involved.
        log: the file that is written; its folder exists.
        seconds: time limit; then the program and its children are killed.
        title: what to call the program in an error.
        fix: what the user can do when it fails.

    Returns:
        What it printed.

    Raises:
        ArchNetError: it cannot be started, takes too long, is killed, or ends with an error. The last line
            that says something is shown, and the log is named.
    """
    with log.open("wb") as file:
        try:
            process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=log.parent,
            )
        except OSError as error:
            raise ArchNetError(
                f"{title} cannot be started: {(error.strerror or str(error)).lower()}", fix=fix
            ) from error
        try:
            code: int | None = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            end_group(process)
    text = log.read_text(encoding="utf-8", errors="replace")
    if code == 0:
        return text
    how = f"took longer than {seconds:g} s" if code is None else outcome(code)
    said = last_line(text)
    raise ArchNetError(
        f"{title} {how}{f'; its last words: {said}' if said else ''} (all of them: {log})", fix=fix
    )


def last_line(text: str) -> str:
    """The last line with letters in it, shortened; "" when there is none.

    Where a .NET program died, what it died of stands before its stack.
    """
    lines = text.splitlines()
    died = [line for line in lines if line.startswith(_DIED)]
    for line in (*reversed(died), *reversed(lines)):
        clean = "".join(c for c in line.strip() if c.isprintable())
        if any(c.isalpha() for c in clean):
            return clean if len(clean) <= _KEPT else f"{clean[:_KEPT]} ..."
    return ""


def outcome(code: int) -> str:
    """How a program ended that did not end well, in words."""
    if code >= 0:
        return f"failed with exit code {code}"
    try:
        return f"crashed ({signal.Signals(-code).name})"
    except ValueError:
        return f"was ended by signal {-code}"


def end_group(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of the program's process group, and wait for it."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
