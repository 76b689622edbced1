"""Runs a driver: reads requests, one JSON object a line, from stdin, and writes a reply for each.

    python runner.py DRIVER.py FD

The key "do" of a request names the driver's function. Replies go to the file descriptor FD, because vendors'
libraries print to stdout what they like: {"result": ...}, or {"error": "..."} with the exception's text.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any


def load(path: Path) -> Any:
    """The driver's module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def reply_to(driver: Any, request: dict[str, Any]) -> dict[str, Any]:
    """What the driver answers; the traceback of an exception goes to the log."""
    try:
        return {"result": getattr(driver, request.pop("do"))(request)}
    except Exception as error:  # a vendor's library may raise anything
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}"}


def main() -> None:
    """Answer until stdin ends."""
    driver, replies = load(Path(sys.argv[1])), int(sys.argv[2])
    for line in sys.stdin:
        answer = json.dumps(reply_to(driver, json.loads(line)))
        sys.stdout.flush()
        os.write(replies, answer.encode() + b"\n")


if __name__ == "__main__":
    main()
