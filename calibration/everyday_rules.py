"""How the rules of everyday.py are written down: alternatives between commas, or one a line."""

from __future__ import annotations

import re


def words(text: str) -> tuple[str, ...]:
    """Alternatives between commas or line ends."""
    return tuple(w.strip() for w in re.split(r"[,\n]", text) if w.strip())


def lines(text: str) -> tuple[str, ...]:
    """Alternatives of a line each."""
    return tuple(line.strip() for line in text.splitlines() if line.strip())
