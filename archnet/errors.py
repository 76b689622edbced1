"""The one exception that users see, and the exit codes of the command line."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

EXIT_OK = 0
EXIT_CHECK_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130


class ArchNetError(Exception):
    """Input that Arch-Net cannot use: what is wrong and where, and how to fix it.

    Args:
        problem: one sentence that names the place (file, line, operator) and what is wrong with it.
        fix: what the user can do about it.
    """

    def __init__(self, problem: str, *, fix: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.problem}\n  fix: {self.fix}"


def nearest(name: str, known: Iterable[str]) -> str:
    """Word a suggestion for a misspelt name: "did you mean 'x'?" and the names there are."""
    names = sorted(known)
    close = get_close_matches(name, names, n=2, cutoff=0.5)
    hint = f"did you mean {' or '.join(repr(c) for c in close)}? " if close else ""
    return f"{hint}known: {', '.join(names)}"
