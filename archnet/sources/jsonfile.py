"""Reading the JSON files of a model folder with errors that name the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from archnet.errors import ArchNetError


def read_json(file: Path) -> Any:
    """The content of a JSON file; ArchNetError with file, line and column when it cannot be read."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ArchNetError(
            f"{file} cannot be read: {error.strerror or error}",
            fix="check that it exists and its permissions",
        ) from error
    except UnicodeDecodeError as error:
        raise ArchNetError(f"{file} is no JSON: it is not text", fix="download or copy it again") from error
    except json.JSONDecodeError as error:
        raise ArchNetError(
            f"{file} is no JSON: line {error.lineno}, column {error.colno}: {error.msg}",
            fix="mend that line, or download or copy the file again",
        ) from error


def read_json_object(file: Path) -> dict[str, Any]:
    """The object in a JSON file; ArchNetError when it holds anything else."""
    content = read_json(file)
    if not isinstance(content, dict):
        raise ArchNetError(f"{file} holds no JSON object", fix="download or copy the file again")
    return content
