"""Nothing is lost: real processes, killed at every file operation, interrupted, out of disk, side by side."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from archnet.build import BuildDir
from archnet.config import Bits, ConvertSettings
from archnet.engine import Interrupted
from archnet.errors import ArchNetError
from archnet.events import Note, Progress, StageFinished, read_log
from tests.archnet.fake_job import OUTPUT, SETTINGS, STEPS, Child, Recorder, run_job

FILE_EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What an undisturbed run makes."""
    return run_job(tmp_path_factory.mktemp("undisturbed") / "build")


def job_killed_at(folder: Path, moment: int) -> None:
    """Run the job, and kill this process just before its `moment`-th file operation in the folder."""
    count = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event not in FILE_EVENTS or str(folder) not in str(arguments[0]):
            return
        count += 1
        if count == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    run_job(folder)


def test_killed_at_any_file_operation_gives_the_same_result(
    tmp_path: Path, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A killed process loses nothing that it wrote; only a power cut needs fsync, and it is slow.
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    moment, killed = 0, 0
    while True:
        moment += 1
        folder = tmp_path / f"at-{moment}"
        status = Child.start(lambda folder=folder, at=moment: job_killed_at(folder, at)).wait()
        if status == 0:  # there were fewer file operations
            break
        assert status == -signal.SIGKILL, moment
        killed += 1
        assert run_job(folder) == expected, f"killed before file operation {moment}"
        assert not list(folder.rglob("*.archnet-tmp")), moment
        assert not (folder / "checkpoints").exists(), moment
    assert killed > 50


def test_killed_again_and_again_comes_to_its_end(tmp_path: Path, expected: str) -> None:
    folder = tmp_path / "build"
    for moment in (60, 45, 30, 45, 60, 75):
        Child.start(lambda at=moment: job_killed_at(folder, at)).wait()
    assert run_job(folder) == expected


def test_a_separate_process_killed_from_outside_goes_on(tmp_path: Path, expected: str) -> None:
    folder = tmp_path / "build"

    def slow(step: int) -> None:
        time.sleep(60 if step == 3 else 0)

    child = Child.start(lambda: run_job(folder, after_step=slow))
    _wait_for_step(folder, 4)
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    again = subprocess.run(
        [sys.executable, "-m", "tests.archnet.fake_job", str(folder)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert again.stdout.strip() == expected
    steps = [r["step"] for r in read_log(folder / "log.jsonl") if r["event"] == "progress"]
    assert steps == list(range(1, STEPS + 1))


def _wait_for_step(folder: Path, step: int) -> None:
    for _ in range(3000):
        log = folder / "log.jsonl"
        if log.exists() and any(r.get("step") == step for r in read_log(log)):
            return
        time.sleep(0.01)
    raise AssertionError(f"step {step} was not reached")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_a_stop_request_saves_a_checkpoint_and_the_job_goes_on_from_it(
    tmp_path: Path, expected: str, number: signal.Signals
) -> None:
    folder = tmp_path / "build"
    child = Child.start(
        lambda: run_job(folder, after_step=lambda s: os.kill(os.getpid(), number) if s == 1 else None)
    )
    assert child.wait() == 130
    notes = [r["text"] for r in read_log(folder / "log.jsonl") if r["event"] == "note"]
    assert notes == ["stopping after this step (once more: at once)"]
    recorder = Recorder()
    assert run_job(folder, events=recorder) == expected
    assert [e.step for e in recorder.events if isinstance(e, Progress)] == [3, 4, 5]
    assert [(e.stage, e.loaded) for e in recorder.events if isinstance(e, StageFinished)] == [
        ("start", True),
        ("train", False),
        ("end", False),
    ]


def test_a_second_signal_stops_at_once(tmp_path: Path, expected: str) -> None:
    before = signal.getsignal(signal.SIGINT)  # the default, or ignored where the tests run in the background
    folder = tmp_path / "build"

    def twice(step: int) -> None:
        if step == 1:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted, match="at once"):
        run_job(folder, after_step=twice)
    assert signal.getsignal(signal.SIGINT) is before
    recorder = Recorder()
    assert run_job(folder, events=recorder) == expected
    # Step 1 was kept by its checkpoint, step 2 was not.
    assert [e.step for e in recorder.events if isinstance(e, Progress)] == [2, 3, 4, 5]


def test_a_torn_checkpoint_is_never_loaded(tmp_path: Path, expected: str) -> None:
    folder = tmp_path / "build"
    status = Child.start(
        lambda: run_job(folder, after_step=lambda s: os.kill(os.getpid(), signal.SIGKILL) if s == 3 else None)
    ).wait()
    assert status == -signal.SIGKILL
    (file,) = (folder / "checkpoints/train/work").glob("step-*/state.safetensors")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    recorder = Recorder()
    assert run_job(folder, events=recorder) == expected
    assert "is damaged" in next(e.text for e in recorder.events if isinstance(e, Note))
    assert [e.step for e in recorder.events if isinstance(e, Progress)] == [1, 2, 3, 4, 5]


def test_a_damaged_result_of_a_stage_is_made_again(tmp_path: Path, expected: str) -> None:
    folder = tmp_path / "build"
    Child.start(
        lambda: run_job(folder, after_step=lambda s: os.kill(os.getpid(), signal.SIGKILL) if s == 3 else None)
    ).wait()
    file = folder / "checkpoints/start/result/x.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    assert run_job(folder) == expected


def test_a_folder_in_use_names_the_process(tmp_path: Path, expected: str) -> None:
    folder = tmp_path / "build"
    child = Child.start(lambda: run_job(folder, after_step=lambda s: time.sleep(60)))
    _wait_for_step(folder, 1)
    with pytest.raises(ArchNetError) as caught:
        run_job(folder)
    assert str(caught.value) == (
        f"{folder} is in use by process {child.pid}\n"
        "  fix: wait until it has finished, stop it, or give another folder"
    )
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert (folder / ".lock").read_text().strip() == str(child.pid)  # stale, and no obstacle
    assert run_job(folder) == expected


def test_a_worker_that_outlives_its_killed_parent_does_not_keep_the_lock(tmp_path: Path) -> None:
    folder = tmp_path / "build"
    told, tell = os.pipe()

    def parent() -> None:
        BuildDir.open_for_convert(folder, SETTINGS, "abc")
        worker = os.fork()
        if worker == 0:
            time.sleep(60)
            os._exit(0)
        os.write(tell, str(worker).encode())
        time.sleep(60)

    child = Child.start(parent)
    worker = int(os.read(told, 20))
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    try:
        BuildDir.open_for_convert(folder, SETTINGS, "abc").close()
    finally:
        os.kill(worker, signal.SIGKILL)


def test_other_settings_are_refused_with_each_difference(tmp_path: Path) -> None:
    folder = tmp_path / "build"
    run_job(folder)
    before = sorted((p.name, p.stat().st_mtime_ns) for p in folder.rglob("*") if p.name != ".lock")
    with pytest.raises(ArchNetError) as caught:
        run_job(folder, settings=ConvertSettings("tvm", Bits(8, 8), seed=1))
    assert (
        caught.value.problem
        == f"{folder} was begun with other settings: target: archnet -> tvm; seed: 0 -> 1"
    )
    assert before == sorted((p.name, p.stat().st_mtime_ns) for p in folder.rglob("*") if p.name != ".lock")


def test_a_file_size_limit_is_told_and_the_job_goes_on_later(tmp_path: Path) -> None:
    width = 20_000
    undisturbed = run_job(tmp_path / "undisturbed", width=width)
    folder = tmp_path / "build"
    message = tmp_path / "message"

    def limited() -> None:
        # A stage's result (80 KB) fits, a checkpoint (two tensors) does not.
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
        try:
            run_job(folder, width=width)
        except ArchNetError as error:
            message.write_text(error.problem)
            raise

    assert Child.start(limited).wait() == 2
    place = folder / "checkpoints" / "train" / "work" / "step-000001"
    expected = f"{place} cannot be written: it is larger (166.1 KiB) than files may be here"
    assert message.read_text() == expected
    assert run_job(folder, width=width) == undisturbed


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB, mounted by root."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("mounting a small file system needs root")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_disk_that_fills_up_leaves_a_folder_that_goes_on(tiny_disk: Path, tmp_path: Path) -> None:
    undisturbed = run_job(tmp_path / "undisturbed", width=20_000)
    folder = tiny_disk / "build"
    ballast = tiny_disk / "ballast"
    with pytest.raises(ArchNetError, match=r"has too little space: the conversion needs about 32\.0 MiB"):
        run_job(folder, width=20_000)
    assert not folder.exists()
    # Begun when there was space (as far as the estimate knows), then something else filled the disk.
    BuildDir.open_for_convert(folder, SETTINGS, "abc", data_sha256="def", needed_bytes=0).close()
    ballast.write_bytes(bytes(850_000))
    with pytest.raises(ArchNetError) as caught:
        run_job(folder, width=20_000)
    assert caught.value.problem.startswith("the disk is full: ")
    assert "KiB free" in caught.value.problem
    assert (
        caught.value.fix
        == "free some space or raise the quota, then run the same command: it goes on where it stopped"
    )
    assert not (folder / OUTPUT).exists()
    ballast.unlink()
    assert run_job(folder, width=20_000) == undisturbed


def test_a_disk_without_a_byte_left_is_told_as_such(tiny_disk: Path) -> None:
    folder = tiny_disk / "build"
    BuildDir.open_for_convert(folder, SETTINGS, "abc", data_sha256="def", needed_bytes=0).close()
    with (tiny_disk / "ballast").open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(1024))
    assert shutil.disk_usage(tiny_disk).free == 0
    with pytest.raises(ArchNetError, match="the disk is full"):
        run_job(folder)
