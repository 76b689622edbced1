"""The engine's bookkeeping: what is done again, from which seed, and what it tells."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from archnet.build import BuildDir
from archnet.config import Bits, ConvertSettings
from archnet.engine import Engine, StageContext, memory_bytes
from archnet.events import Progress, StageFinished, StageStarted
from tests.archnet.fake_job import Recorder

SETTINGS = ConvertSettings("archnet", Bits(8, 8))


def save(value: object, folder: Path) -> None:
    (folder / "value.json").write_text(json.dumps(value))


def load(folder: Path) -> object:
    return json.loads((folder / "value.json").read_text())


def run(
    folder: Path, *stages: tuple[str, Callable[[StageContext], object]], seed: int = 0
) -> tuple[list[object], Recorder]:
    """Run these stages in a folder; returns their results and what was told."""
    recorder = Recorder()
    settings = ConvertSettings("archnet", Bits(8, 8), seed=seed)
    with BuildDir.open_for_convert(folder, settings, "abc") as build, Engine(build, recorder) as engine:
        return [engine.stage(name, compute, save, load) for name, compute in stages], recorder


def finished(recorder: Recorder) -> list[tuple[str, bool]]:
    return [(e.stage, e.loaded) for e in recorder.events if isinstance(e, StageFinished)]


def draw(context: StageContext) -> object:
    return random.random()


def test_a_result_is_what_load_reads_back_in_every_run(tmp_path: Path) -> None:
    stage = ("a", lambda context: (1, 2))  # JSON has no tuples
    assert run(tmp_path, stage)[0] == [[1, 2]]
    assert run(tmp_path, stage)[0] == [[1, 2]]


def test_a_stage_draws_the_same_whether_those_before_it_were_loaded_or_not(tmp_path: Path) -> None:
    together = run(tmp_path / "x", ("a", draw), ("b", draw))[0]
    run(tmp_path / "y", ("a", draw))
    random.seed(99)
    assert run(tmp_path / "y", ("a", draw), ("b", draw))[0] == together
    assert together[0] != together[1]
    assert run(tmp_path / "z", ("a", draw), seed=1)[0] != together[:1]


def test_a_stage_is_made_again_when_one_before_it_gave_something_else(tmp_path: Path) -> None:
    def count(context: StageContext) -> object:
        return len(made.append("x") or made)  # type: ignore[func-returns-value]

    made: list[str] = []
    assert run(tmp_path, ("a", lambda context: 1), ("b", count))[0] == [1, 1]
    assert run(tmp_path, ("a", lambda context: 1), ("b", count))[0] == [1, 1]
    (tmp_path / "checkpoints/a/result/value.json").write_text("damaged")
    results, recorder = run(tmp_path, ("a", lambda context: 2), ("b", count))
    assert results == [2, 2]
    assert finished(recorder) == [("a", False), ("b", False)]


def test_a_repaired_stage_leaves_the_later_ones_as_they_are(tmp_path: Path) -> None:
    run(tmp_path, ("a", lambda context: 1), ("b", lambda context: 2))
    (tmp_path / "checkpoints/a/result/value.json").write_text("damaged")
    _, recorder = run(tmp_path, ("a", lambda context: 1), ("b", lambda context: 2))
    assert finished(recorder) == [("a", False), ("b", True)]


def test_a_failed_stage_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail(context: StageContext) -> object:
        (context.checkpoint_dir / "notes").write_text("x")
        raise PermissionError(13, "Permission denied", "/data/of/the/user")

    with pytest.raises(PermissionError):  # not "cannot be written": it was read
        run(tmp_path, ("a", fail))
    assert not (tmp_path / "checkpoints/a/result").exists()
    assert run(tmp_path, ("a", lambda context: 1))[0] == [1]
    assert not (tmp_path / "checkpoints/a/work").exists()


def test_what_is_told_of_a_stage(tmp_path: Path) -> None:
    recorder = Recorder()

    def work(context: StageContext) -> object:
        for step in range(1, 4):
            context.progress(step, 3, block="block 0", loss=0.5)
        context.summary["cosine"] = 0.5
        return 0

    stages = {"a": 1.0, "b": 3.0}
    with (
        BuildDir.open_for_convert(tmp_path, SETTINGS, "abc") as build,
        Engine(build, recorder, stages) as engine,
    ):
        engine.stage("a", work, save, load)
    started, *steps, end = recorder.events
    assert started == StageStarted("a", 0, 2, stages=("a", "b"))
    assert isinstance(end, StageFinished)
    assert end.summary == {"cosine": 0.5}
    last = steps[-1]
    assert isinstance(last, Progress)
    assert last.seconds_left == 0.0
    assert last.total_seconds_left is not None
    assert 0 < last.memory_bytes <= last.peak_bytes


def test_time_left_in_all_follows_the_pace_of_the_stage_at_work(tmp_path: Path) -> None:
    stages = {"a": 1.0, "b": 3.0, "c": 0.5}
    with (
        BuildDir.open_for_convert(tmp_path, SETTINGS, "abc") as build,
        Engine(build, stages=stages) as engine,
    ):
        # Stage a takes 2 s + 1 s in place of 1: so do b and c, 3 times as long as expected.
        assert engine.total_left("a", spent=2.0, left=1.0) == 1.0 + 3 * 3.5
        assert engine.total_left("a", spent=2.0, left=None) is None
        assert engine.total_left("unknown", spent=2.0, left=1.0) is None
        engine.stage("a", lambda context: 1, save, load)
        assert engine.total_left("b", spent=3.0, left=3.0) == 3.0 + 2 * 0.5


def test_it_runs_outside_the_main_thread(tmp_path: Path) -> None:
    results: list[object] = []
    thread = threading.Thread(target=lambda: results.extend(run(tmp_path, ("a", lambda context: 1))[0]))
    thread.start()
    thread.join()
    assert results == [1]


def test_memory_is_measured_in_bytes() -> None:
    now, peak = memory_bytes()
    assert 10 * 2**20 < now <= peak < 2**40
