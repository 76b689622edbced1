"""Environments of vendor compilers: whole or not there, and one clear error where they are missing."""

from __future__ import annotations

import os
import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from archnet.atomic import sweep, write_json
from archnet.errors import ArchNetError
from archnet.targets.toolchain import (
    RECORD,
    TOOLCHAINS,
    Toolchain,
    cache_folder,
    find_toolchain,
    install,
    remove,
)


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "archnet" / "toolchains"


@pytest.fixture
def small(tmp_path: Path) -> Toolchain:
    """A toolchain of one package, a wheel with one module."""
    wheel = tmp_path / "tiny_tool-1.0-py3-none-any.whl"
    info = "tiny_tool-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("tiny_tool/__main__.py", "print('hello from the tool')\n")
        file.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-tool\nVersion: 1.0\n")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "")
    return Toolchain("tiny", "A tool", (str(wheel),), "MIT", 1000, ())


def test_an_environment_runs_from_its_final_place_and_is_removed_whole(small: Toolchain, cache: Path) -> None:
    said: list[str] = []
    left = cache / ".tiny.999999999.archnet-tmp"  # of a process that was killed
    left.mkdir(parents=True)
    assert install(small, said.append) == cache / "tiny"
    assert not left.exists()
    assert said[0] == "making an environment"
    command = [str(small.require()), "-m", "tiny_tool"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "hello from the tool\n"
    install(small, said.append)
    assert len(said) == 2  # nothing to do
    assert sorted(p.name for p in cache.iterdir()) == ["tiny", "tiny.log"]
    assert remove(small)
    assert list(cache.iterdir()) == []
    assert not remove(small)


def test_a_failed_install_leaves_its_log_and_nothing_else(small: Toolchain, cache: Path) -> None:
    broken = replace(small, packages=("/no/such/wheel-1.0-py3-none-any.whl",))
    with pytest.raises(ArchNetError, match="pip failed with exit code 1") as caught:
        install(broken)
    assert "tiny.log" in caught.value.problem
    assert [p.name for p in cache.iterdir()] == ["tiny.log"]
    with pytest.raises(ArchNetError, match="is not installed") as missing:
        broken.require()
    assert missing.value.fix == "archnet targets install tiny"


def test_half_an_environment_does_not_count(small: Toolchain, cache: Path) -> None:
    (cache / "tiny" / "bin").mkdir(parents=True)
    (cache / "tiny" / "bin" / "python").touch()
    assert small.installed() is None


def test_another_version_is_told(small: Toolchain, cache: Path) -> None:
    (cache / "tiny" / "bin").mkdir(parents=True)
    (cache / "tiny" / "bin" / "python").touch()
    write_json(cache / "tiny" / RECORD, {"packages": ["tiny-tool==0.9"]})
    with pytest.raises(ArchNetError, match=r"installed as tiny-tool==0\.9"):
        small.require()


def test_a_living_process_keeps_its_unfinished_environment(cache: Path) -> None:
    mine = cache / f".tiny.{os.getppid()}.archnet-tmp"
    mine.mkdir(parents=True)
    sweep(cache)
    assert mine.exists()


def test_what_is_unwanted_of_a_package_is_deleted(small: Toolchain) -> None:
    script = "tiny_tool/__main__.py"
    wanting = replace(small, unwanted=(script,))
    folder = install(wanting)
    assert wanting.site_packages(folder).joinpath("tiny_tool").is_dir()
    assert not wanting.site_packages(folder).joinpath(script).exists()


def test_packages_for_a_python_that_is_not_there_are_not_installed(
    small: Toolchain, cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("PATH", "PYENV_ROOT", "UV_PYTHON_INSTALL_DIR", "HOME"):
        monkeypatch.setenv(name, str(tmp_path / "nothing"))
    with pytest.raises(ArchNetError, match=r"A tool: its packages are for Python 3\.7, and none was found"):
        install(replace(small, python_version="3.7"))
    assert list(cache.iterdir()) == []


def test_every_package_is_pinned() -> None:
    for toolchain in TOOLCHAINS:
        assert all(package.count("==") == 1 for package in toolchain.packages)
        assert toolchain.licence
        assert toolchain.bytes > 0
        assert find_toolchain(toolchain.name) is toolchain
    assert cache_folder().name == "toolchains"


def test_an_unknown_toolchain_is_refused() -> None:
    with pytest.raises(ArchNetError, match="no toolchain 'ethos'") as caught:
        find_toolchain("ethos")
    assert "ethos-u" in caught.value.fix
