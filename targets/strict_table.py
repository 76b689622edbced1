"""Read a TOML table strictly: every key is asked for by name and type, and none is left over."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from archnet.errors import ArchNetError, nearest

DOCUMENTATION = "docs/add_a_target.md describes the format"


class StrictTable:
    """One table of a TOML file.

    Args:
        where: the file and the table's path in it, for messages.
        values: what tomllib read.
        allowed: the keys that the table may have.

    Raises:
        ArchNetError: the table has another key; the nearest known one is named.
    """

    def __init__(self, where: str, values: Mapping[str, object], allowed: tuple[str, ...]) -> None:
        for key in values:
            if key not in allowed:
                raise ArchNetError(
                    f"{where}: unknown key {key!r}",
                    fix=f"{nearest(key, allowed)}; {DOCUMENTATION}",
                )
        self.where = where
        self._values = values

    @classmethod
    def read(cls, path: Path, allowed: tuple[str, ...]) -> Self:
        """Read a whole file.

        Raises:
            ArchNetError: the file cannot be read, or is not TOML (its line is named).
        """
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
            raise ArchNetError(
                f"{path}: the target profile cannot be read: {reason}",
                fix="give the path of a TOML file, or a name that `archnet targets` lists",
            ) from error
        try:
            return cls(str(path), tomllib.loads(text), allowed)
        except tomllib.TOMLDecodeError as error:
            raise ArchNetError(
                f"{path}: the target profile is not valid TOML: {error}", fix=f"correct it; {DOCUMENTATION}"
            ) from error

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def text(self, key: str, default: str | None = None) -> str:
        """A string; not empty when it has no default."""
        value = self._values.get(key, default)
        if not isinstance(value, str) or (default is None and not value.strip()):
            raise self.wrong(key, "a string that is not empty")
        return value

    def integer(self, key: str, least: int, greatest: int) -> int:
        """A whole number in [least, greatest]."""
        value = self._values.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= greatest:
            raise self.wrong(key, f"a whole number from {least} to {greatest}")
        return value

    def strings(self, key: str, known: tuple[str, ...] | None = None) -> tuple[str, ...]:
        """A list of different strings, at least one; each among `known` where that is given."""
        value = self._values.get(key)
        texts = [v for v in value if isinstance(v, str)] if isinstance(value, list) else []
        if not texts or not isinstance(value, list) or len(set(texts)) != len(value):
            raise self.wrong(key, "a list of different strings, at least one")
        for text in texts:
            if known is not None and text not in known:
                raise ArchNetError(f"{self.where}: {key} has {text!r}", fix=nearest(text, known))
        return tuple(texts)

    def integers(self, key: str, known: tuple[int, ...]) -> tuple[int, ...]:
        """A list of different numbers among `known`, at least one."""
        value = self._values.get(key)
        numbers = (
            [v for v in value if v in known and not isinstance(v, bool)] if isinstance(value, list) else []
        )
        if not numbers or not isinstance(value, list) or len(set(numbers)) != len(value):
            raise self.wrong(key, f"a list of different numbers among {', '.join(map(str, known))}")
        return tuple(numbers)

    def tables(self, key: str, allowed: tuple[str, ...]) -> dict[str, StrictTable]:
        """The named sub-tables of a table; empty when there is no such table."""
        value = self._values.get(key, {})
        if not isinstance(value, dict):
            raise self.wrong(key, f"a table of tables, written [{key}.NAME]")
        found: dict[str, StrictTable] = {}
        for name, entry in value.items():
            where = f"{self.where}: [{key}.{name}]"
            if not isinstance(entry, dict):
                raise ArchNetError(f"{where} is not a table", fix=f"write [{key}.{name}]; {DOCUMENTATION}")
            found[name] = StrictTable(where, entry, allowed)
        return found

    def wrong(self, key: str, expected: str) -> ArchNetError:
        """The error for a value that is missing or has the wrong type."""
        state = f"{key} is {self._values[key]!r}" if key in self._values else f"{key} is missing"
        return ArchNetError(f"{self.where}: {state}", fix=f"it must be {expected}; {DOCUMENTATION}")
