"""A driver in a process of its own: real processes that answer, raise, crash, hang and talk."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from archnet.atomic import write_json
from archnet.errors import ArchNetError
from archnet.targets import worker as module
from archnet.targets.toolchain import RECORD, Toolchain
from archnet.targets.worker import Worker

DRIVER = """
import ctypes, os, subprocess, sys, time
calls = []
def double(request):
    print("a vendor's banner", flush=True)
    os.write(1, b"\\xff no text \\n")
    calls.append(request["number"])
    return {"twice": 2 * request["number"], "seen": len(calls), "variable": os.environ.get("TINY_SITE", "")}
def fail(request):
    raise RuntimeError("no kernel for Erf\\nat line 3")
def crash(request):
    print("reading the model", flush=True)
    ctypes.string_at(0)
def leave(request):
    print("licence expired", flush=True)
    os._exit(7)
def hang(request):
    subprocess.Popen([sys.executable, "-c", f"import time; time.sleep(2); open({request['mark']!r}, 'w')"])
    time.sleep(60)
"""

Start = Callable[[], Worker]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Start:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    drivers = tmp_path / "drivers"
    drivers.mkdir()
    (drivers / "tiny.py").write_text(DRIVER)
    (drivers / "runner.py").write_text((module.DRIVERS / "runner.py").read_text())
    monkeypatch.setattr(module, "DRIVERS", drivers)
    toolchain = Toolchain(
        "tiny", "A tool", ("tiny-tool==1.0",), "MIT", 1000, (), variables=(("TINY_SITE", "{site}/x"),)
    )
    toolchain.python.parent.mkdir(parents=True)
    toolchain.python.symlink_to(sys.executable)
    write_json(toolchain.folder / RECORD, {"packages": list(toolchain.packages)})
    return lambda: Worker(toolchain, "tiny", log=tmp_path / "log", fix="try again")


def test_it_answers_again_and_again_whatever_is_printed(start: Start, tmp_path: Path) -> None:
    with start() as worker:
        first = worker.call("double", {"number": 4}, seconds=30)
        assert (first["twice"], first["seen"]) == (8, 1)
        assert first["variable"].endswith("/site-packages/x")
        assert worker.call("double", {"number": 5}, seconds=30)["seen"] == 2
    assert b"a vendor's banner" in (tmp_path / "log").read_bytes()


def test_an_exception_is_an_error_and_the_worker_lives_on(start: Start, tmp_path: Path) -> None:
    with start() as worker:
        with pytest.raises(
            ArchNetError, match=r"1\.0 failed: RuntimeError: no kernel for Erf \(its log"
        ) as caught:
            worker.call("fail", {}, seconds=30)
        assert caught.value.fix == "try again"
        assert worker.call("double", {"number": 1}, seconds=30)["twice"] == 2
    assert "no kernel for Erf" in (tmp_path / "log").read_text(errors="replace")


@pytest.mark.parametrize(
    ("do", "words"),
    [
        ("crash", r"crashed \(SIGSEGV\); its last words: reading the model"),
        ("leave", "failed with exit code 7; its last words: licence expired"),
        ("unknown", "AttributeError"),
    ],
)
def test_a_process_that_dies_is_one_error(start: Start, do: str, words: str) -> None:
    with start() as worker, pytest.raises(ArchNetError, match=words):
        worker.call(do, {}, seconds=30)


def test_a_hanging_one_is_killed_with_its_children(start: Start, tmp_path: Path) -> None:
    mark = tmp_path / "alive"
    with start() as worker:
        worker.call("double", {"number": 1}, seconds=30)
        with pytest.raises(ArchNetError, match=r"took longer than 0\.5 s"):
            worker.call("hang", {"mark": str(mark)}, seconds=0.5)
    time.sleep(2.5)
    assert not mark.exists()


def test_a_dead_worker_says_so_on_the_next_call(start: Start) -> None:
    with start() as worker:
        with pytest.raises(ArchNetError):
            worker.call("leave", {}, seconds=30)
        with pytest.raises(ArchNetError, match="exit code 7"):
            worker.call("double", {"number": 1}, seconds=30)
