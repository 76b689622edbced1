"""Stands in for what the commands call, so that the command line is tested on its own and in no time."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from click.testing import CliRunner, Result

from archnet.build import BuildDir
from archnet.cli import app
from archnet.config import Bits, ConvertSettings

Replace = Callable[..., None]


@pytest.fixture
def replace_module(monkeypatch: pytest.MonkeyPatch) -> Replace:
    """Put a module with these names in the place of a real one."""

    def replace(name: str, **content: Any) -> None:
        module = ModuleType(name)
        for key, value in content.items():
            setattr(module, key, value)
        monkeypatch.setitem(sys.modules, name, module)
        parent, _, child = name.rpartition(".")
        monkeypatch.setattr(import_module(parent), child, module, raising=False)

    return replace


@pytest.fixture
def archnet(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run a command line in this process."""
    monkeypatch.setenv("COLUMNS", "100")

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, list(arguments))

    return run


@pytest.fixture
def build(tmp_path: Path) -> Path:
    """A finished build folder that has nothing in it."""
    path = tmp_path / "build"
    settings = ConvertSettings("archnet", Bits(8, 8))
    with BuildDir.open_for_convert(path, settings, "abc") as folder:
        folder.finish({})
    return path
