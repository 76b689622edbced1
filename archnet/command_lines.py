"""Long command lines on several, as a shell takes them."""

from __future__ import annotations

import re
from collections.abc import Sequence


def wrapped(parts: Sequence[str], width: int) -> list[str]:
    """Parts of a command (its beginning, then options with their values), so many to a line as fit.

    Args:
        parts: at least one; a part that is longer than a line has one of its own.
        width: most characters of a line, the backslash at its end apart.

    Returns:
        The lines; all but the last end with a backslash, all but the first are indented.
    """
    lines = [parts[0]]
    for part in parts[1:]:
        if len(lines[-1]) + 1 + len(part) <= width:
            lines[-1] += f" {part}"
        else:
            lines.append(f"  {part}")
    return [f"{line} \\" for line in lines[:-1]] + lines[-1:]


def options_of(line: str) -> list[str]:
    """A command line, split before each of its options."""
    return re.split(r" (?=--)", line)
