"""One folder a row, keyed by everything that decides it, so that a killed comparison goes on.

CACHE/rows/TOOL-BITS-KEY/made.json          what making it cost, or why there is nothing
                        /network/GRAPH/...  the tool's files
                        /score-DATA.json    the score on one set of data
                        /latency.json
                        /log.txt            what the tool said
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from archnet.atomic import write_json


def key_of(**parts: object) -> str:
    """A short name of everything that decides a result."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class RowFolder:
    """The folder of one row."""

    path: Path

    @classmethod
    def of(cls, cache: Path, tool: str, bits: str, **parts: object) -> RowFolder:
        """The folder for a tool at a width; `parts` is what else decides its result."""
        slug = re.sub(r"[^a-z0-9]+", "-", tool.lower()).strip("-")
        return cls(cache / "rows" / f"{slug}-{bits}-{key_of(tool=tool, bits=bits, **parts)}")

    @property
    def log(self) -> Path:
        return self.path / "log.txt"

    @property
    def network(self) -> Path:
        return self.path / "network"

    def begin(self) -> None:
        """Empty it for a new try."""
        shutil.rmtree(self.path, ignore_errors=True)
        self.network.mkdir(parents=True)

    def read(self, name: str) -> dict[str, Any] | None:
        """A record of this row; None when it is not there."""
        file = self.path / f"{name}.json"
        if not file.is_file():
            return None
        record: dict[str, Any] = json.loads(file.read_text())
        return record

    def write(self, name: str, record: Mapping[str, Any]) -> None:
        """Keep a record, whole or not at all."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.path / f"{name}.json", dict(record))
