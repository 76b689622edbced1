"""A vendor's program may do what it likes: the result is its text or one clear error."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from archnet.errors import ArchNetError
from archnet.targets.process import last_line, run_tool


def run(tmp_path: Path, code: str, seconds: float = 30) -> str:
    return run_tool(
        [sys.executable, "-c", code], log=tmp_path / "log", seconds=seconds, title="The tool", fix="try again"
    )


def test_what_it_prints_is_returned_and_kept(tmp_path: Path) -> None:
    assert run(tmp_path, "import sys; print('one'); print('two', file=sys.stderr)").count("o") == 2
    assert "two" in (tmp_path / "log").read_text()


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("print('reading'); print('no such operator: Foo'); print('----'); raise SystemExit(3)",
         "failed with exit code 3; its last words: no such operator: Foo"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "crashed (SIGSEGV)"),
        ("import os; os.write(1, b'\\xff\\xfe garbage\\x00\\n'); raise SystemExit(1)", "garbage"),
        ("print('a' * 5000); raise SystemExit(1)", "aaa ..."),
    ],
    ids=["error", "crash", "garbage", "long"],
)  # fmt: skip
def test_failures_are_one_error_with_the_last_words(tmp_path: Path, code: str, words: str) -> None:
    with pytest.raises(ArchNetError) as caught:
        run(tmp_path, code)
    assert words in caught.value.problem
    assert str(tmp_path / "log") in caught.value.problem
    assert len(caught.value.problem) < 500


def test_a_hanging_program_is_killed_with_its_children(tmp_path: Path) -> None:
    mark = tmp_path / "alive"
    child = f"import time; time.sleep(2); open({str(mark)!r}, 'w')"
    code = (
        f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(60)"
    )
    began = time.monotonic()
    with pytest.raises(ArchNetError, match=r"took longer than 1 s"):
        run(tmp_path, code, seconds=1)
    assert time.monotonic() - began < 20
    time.sleep(2.5)
    assert not mark.exists()


def test_a_program_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ArchNetError, match="cannot be started: no such file"):
        run_tool([str(tmp_path / "absent")], log=tmp_path / "log", seconds=1, title="It", fix="install it")


def test_what_a_dotnet_program_died_of_stands_before_its_stack() -> None:
    died = "Unhandled exception. System.NotSupportedException: Not support reshape attribute: allowzero"
    assert last_line(f"compiling\n{died}\n   at Nncase.Importer.Visit(NodeProto op)\n") == died


def test_lines_without_letters_say_nothing() -> None:
    assert last_line("it broke\n-----\n  42\n\n") == "it broke"
    assert last_line("1\n2\n") == ""
