"""The command as users start it: a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


def archnet(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "archnet", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=ENVIRONMENT, check=False)


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["targets"], ["completion", "bash"]])
def test_light_commands_load_nothing_heavy(arguments: list[str]) -> None:
    script = f"""
        import sys
        from archnet.cli import app
        try:
            app.main({arguments!r})
        finally:
            heavy = {{"torch", "transformers", "onnx", "onnxruntime", "tvm", "numpy", "tokenizers"}}
            print("heavy:", sorted(heavy & set(sys.modules)), file=sys.stderr)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=ENVIRONMENT,
        check=False,
    )
    assert done.returncode == 0
    assert done.stderr.strip() == "heavy: []"


def test_a_module_run_prints_errors_on_stderr_only() -> None:
    done = archnet("run", "/nowhere", "--inputs", "/nowhere.npz", "--outputs", "y.npz")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: /nowhere.npz cannot be read: no such file or directory\n  fix: ")


def test_a_reader_that_goes_away_is_no_error() -> None:
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m archnet targets --json | head -c 1; exit ${{PIPESTATUS[0]}}"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=ENVIRONMENT,
        check=False,
    )
    assert done.stdout == "{"
    assert done.stderr == ""
    assert done.returncode in (0, 141)  # 0 when all was written before the reader went


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_convert_leaves_a_folder_to_go_on_with(tmp_path: Path, number: signal.Signals) -> None:
    """The real command line, engine and signals; only the conversion itself is a fake one."""
    script = """
        import sys, time
        from types import ModuleType
        from archnet.cli import main
        from tests.archnet.fake_job import run_job

        def convert(model, data, *, out, events, **settings):
            def wait(step):
                while step == 2 and not out.with_name("go").exists():
                    time.sleep(0.01)

            run_job(out, events=events, after_step=wait)
            return out

        api = ModuleType("archnet.api")
        api.convert = convert
        sys.modules["archnet.api"] = api
        main()
    """
    out = tmp_path / "build"
    command = ["convert", "tiny", "--data", "x", "--target", "archnet", "--out", str(out)]
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=ENVIRONMENT,
    )
    _wait_for(out / "log.jsonl", '"step": 3')
    process.send_signal(number)
    (tmp_path / "go").touch()
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopping after this step (once more: at once)" in stdout
    assert stderr.splitlines()[-3:] == [
        "stopped at a checkpoint of stage train",
        f"{out} keeps what is done; the same command goes on:",
        f"  archnet {' '.join(command)}",
    ]
    assert list((out / "checkpoints/train/work").glob("step-*/seal.json"))


def _wait_for(path: Path, text: str) -> None:
    for _ in range(6000):
        if path.exists() and text in path.read_text():
            return
        time.sleep(0.01)
    raise AssertionError(f"{text} never came")
