"""Pythons of other versions: found where pyenv, uv and the PATH have them, or one clear error."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from archnet.errors import ArchNetError
from archnet.targets.interpreters import find_python


@pytest.fixture(autouse=True)
def empty(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No Python anywhere."""
    for name in ("PATH", "PYENV_ROOT", "UV_PYTHON_INSTALL_DIR", "HOME"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    return tmp_path


def stand_in(path: Path, script: str) -> Path:
    """A program that answers as this script does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def test_the_running_python_is_taken_where_no_other_is_wanted() -> None:
    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert find_python("", "a tool") == find_python(running, "a tool") == Path(sys.executable)


@pytest.mark.parametrize(
    "place", ["path/python3.7", "pyenv_root/versions/3.7.9/bin/python3.7",
              "uv_python_install_dir/cpython-3.7.9-linux-x86_64-gnu/bin/python3.7"],
)  # fmt: skip
def test_it_is_found_where_its_installers_put_it(empty: Path, place: str) -> None:
    made = stand_in(empty / place, "echo 3.7")
    assert find_python("3.7", "a tool") == made


def test_stand_ins_and_other_versions_are_passed_over(empty: Path) -> None:
    stand_in(empty / "path" / "python3.7", "echo 'python3.7: command not found'; exit 127")
    stand_in(empty / "pyenv_root/versions/3.7.10/bin/python3.7", "echo 3.6")
    right = stand_in(empty / "pyenv_root/versions/3.7.1/bin/python3.7", "echo 3.7")
    assert find_python("3.7", "a tool") == right


def test_without_one_it_says_how_to_get_one() -> None:
    with pytest.raises(ArchNetError) as missing:
        find_python("3.7", "TPU-MLIR")
    assert missing.value.problem == "TPU-MLIR: its packages are for Python 3.7, and none was found here"
    assert missing.value.fix is not None
    assert missing.value.fix.startswith("install one (uv python install 3.7, or pyenv install 3.7)")
