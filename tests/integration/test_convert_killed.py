"""Real processes that are stopped and killed: the same command goes on to the same bytes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.hf_writers import make_translation_folder
from tests.integration.conftest import Archnet
from tests.integration.tiny import ROOT, SEQUENCE, many_checkpoints, short_presets, write_target

DISTIL, QUANTIZE = 150, 30
SHORT = (10, 6)
"""Steps of the tests whose kills hit other stages than those."""

RESULTS = ("graph/graph.json", "graph/graph.safetensors")


@dataclass
class Command:
    """`archnet convert` as a process of its own, with short presets and a checkpoint after every step."""

    model: Path
    sentences: Path
    target: Path
    out: Path
    options: tuple[str, ...] = ()
    steps: tuple[int, int] = (DISTIL, QUANTIZE)
    logged: int = 0
    """Bytes of log.jsonl that earlier processes have written."""

    @property
    def arguments(self) -> list[str]:
        return [
            *("convert", str(self.model), "--data", str(self.sentences), "--target", str(self.target)),
            *("--out", str(self.out), "--preset", "fast", "--seq-len", str(SEQUENCE), *self.options),
        ]

    def start(self) -> subprocess.Popen[str]:
        log = self.out / "log.jsonl"
        self.logged = log.stat().st_size if log.exists() else 0
        steps = map(str, self.steps)
        return subprocess.Popen(
            [sys.executable, "-m", "tests.integration.tiny", *steps, *self.arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    def undisturbed(self, archnet: Archnet) -> None:
        """The same in this process, which has as many threads, and which nothing stops."""
        with short_presets(*self.steps), many_checkpoints():
            done = archnet(*self.arguments)
        assert done.exit_code == 0, done.output

    def reach(self, process: subprocess.Popen[str], stage: str, step: int) -> None:
        """Wait until the process has done a step of a stage."""
        while process.poll() is None:
            if self.steps_done(stage) >= step:
                return
            time.sleep(0.005)
        raise AssertionError(f"it ended before step {step} of {stage}: {process.communicate()[1]}")

    def steps_done(self, stage: str) -> int:
        """The last step of a stage since the start; 0 when the stage has begun, -1 before."""
        log = self.out / "log.jsonl"
        content = log.read_bytes()[self.logged :] if log.exists() else b""
        done = -1
        for line in content.splitlines():
            with suppress(ValueError):  # a line may be half written
                record = json.loads(line)
                if record["event"] != "note" and record["stage"] == stage:
                    done = int(record.get("step", 0))
        return done

    def kill(self, stage: str, step: int) -> None:
        """Start it, and kill it without warning once it has reached a step."""
        process = self.start()
        self.reach(process, stage, step)
        process.kill()
        process.communicate()

    def finish(self) -> None:
        """Go on to the end."""
        process = self.start()
        message = process.communicate(timeout=300)[1]
        assert process.returncode == 0, message


def test_stopped_and_killed_at_any_stage_gives_the_same_bytes(
    tmp_path: Path, model: Path, sentences: Path, target: Path, archnet: Archnet
) -> None:
    whole = Command(model, sentences, target, tmp_path / "undisturbed")
    command = Command(model, sentences, target, tmp_path / "build")
    whole.undisturbed(archnet)

    command.kill("distil", 7)
    assert not (command.out / "manifest.json").exists()

    process = command.start()
    command.reach(process, "distil", 20)
    process.send_signal(signal.SIGSTOP)  # alive, and holds the folder
    refused = archnet(*command.arguments)
    assert refused.exit_code == 2
    assert f"{command.out} is in use by process {process.pid}" in refused.stderr
    process.send_signal(signal.SIGCONT)
    process.send_signal(signal.SIGINT)
    message = process.communicate(timeout=300)[1]
    assert process.returncode == 130, message
    assert "stopped at a checkpoint of stage distil" in message
    assert "the same command goes on:\n  archnet convert " in message

    command.kill("quantize-w8a8", 5)
    command.kill("export", 0)
    command.finish()

    _equal(command, whole, RESULTS)
    log = (command.out / "log.jsonl").read_text()
    assert log.count('"resumed": true') >= 4  # or nothing was gone on with
    assert not (command.out / "checkpoints").exists()
    _other_settings_are_refused(archnet, command, tmp_path)


def test_killed_while_widths_are_chosen_and_on_the_way_to_them(
    tmp_path: Path, model: Path, sentences: Path, target: Path, archnet: Archnet
) -> None:
    options = ("--bits", "auto", "--max-drop", "20")  # so much that layers get fewer than 4 bits
    whole = Command(model, sentences, target, tmp_path / "undisturbed", options, SHORT)
    command = Command(model, sentences, target, tmp_path / "build", options, SHORT)
    whole.undisturbed(archnet)
    command.kill("bits", 2)
    command.kill("quantize-auto-w4a8", 3)
    command.finish()
    widths = [json.loads((c.out / "manifest.json").read_text())["bits"] for c in (command, whole)]
    assert widths[0] == widths[1]
    assert 2 in widths[0].values()
    _equal(command, whole, RESULTS)
    assert (command.out / "plan.json").read_bytes() == (whole.out / "plan.json").read_bytes()
    assert (command.out / "log.jsonl").read_text().count('"resumed": true') >= 3


def test_killed_while_it_translates_and_at_four_bits(
    tmp_path: Path, sentences: Path, target: Path, archnet: Archnet
) -> None:
    model = make_translation_folder(tmp_path / "model", layers=1, end_bias=3.0)
    options = ("--bits", "w2a8")
    whole = Command(model, sentences, target, tmp_path / "undisturbed", options, SHORT)
    command = Command(model, sentences, target, tmp_path / "build", options, SHORT)
    whole.undisturbed(archnet)
    command.kill("translate", 16)
    command.kill("quantize-w4a8", 3)
    command.finish()
    parts = [f"{part}/{name}" for part in ("encoder", "decoder") for name in RESULTS]
    _equal(command, whole, ("translations.safetensors", *parts))
    assert (command.out / "log.jsonl").read_text().count('"resumed": true') >= 3


def _equal(one: Command, other: Command, names: Sequence[str]) -> None:
    for name in names:
        assert (one.out / name).read_bytes() == (other.out / name).read_bytes(), name


def _other_settings_are_refused(archnet: Archnet, command: Command, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in command.out.rglob("*") if path.name != ".lock"}
    other = archnet(*command.arguments, "--seed", "7", "--preset", "best")
    assert other.exit_code == 2
    assert f"{command.out} was begun with other settings: " in other.stderr
    assert "preset: fast -> best; seed: 0 -> 7" in other.stderr

    text = tmp_path / "other.txt"
    text.write_text("Something else.\nA second sentence.\n")
    changed = archnet(*command.arguments, "--data", text)
    assert changed.exit_code == 2
    assert "was begun with other settings: data: sha256" in changed.stderr

    (tmp_path / "target").mkdir()
    profile = archnet(*command.arguments, "--target", write_target(tmp_path / "target", title="changed"))
    assert profile.exit_code == 2
    assert "other settings: the content of target my_chip's profile" in profile.stderr

    again = archnet(*command.arguments)
    assert again.exit_code == 0, again.output
    after = {path: path.stat().st_mtime_ns for path in command.out.rglob("*") if path.name != ".lock"}
    assert after == before
