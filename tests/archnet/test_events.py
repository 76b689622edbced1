"""Events as JSON, and the log that survives a kill."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from archnet.errors import ArchNetError
from archnet.events import (
    JsonLog,
    Note,
    Progress,
    StageFinished,
    StageStarted,
    fan_out,
    read_log,
    to_json,
)


def test_each_kind_has_its_name_and_fields() -> None:
    assert to_json(Note("hello")) == {"event": "note", "text": "hello"}
    assert to_json(StageStarted("distil", 2, 5))["event"] == "stage_started"
    finished = to_json(StageFinished("distil", 1.5, {"cosine": math.nan, "steps": 3}))
    assert finished == {
        "event": "stage_finished",
        "stage": "distil",
        "seconds": 1.5,
        "summary": {"cosine": None, "steps": 3},
        "loaded": False,
    }


def test_infinite_numbers_become_null_in_the_log(tmp_path: Path) -> None:
    with JsonLog(tmp_path / "log") as log:
        log(Progress("distil", "block 0", 1, 10, loss=math.inf))
    line = json.loads((tmp_path / "log").read_text())
    assert line["loss"] is None
    assert line["step"] == 1
    assert line["time"] > 1.7e9


def test_a_torn_last_line_is_removed_and_the_log_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with JsonLog(path) as log:
        log(Note("one"))
    with path.open("ab") as file:
        file.write(b'{"event": "no')
    with JsonLog(path) as log:
        log(Note("two"))
    assert [r["text"] for r in read_log(path)] == ["one", "two"]
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_a_log_of_one_torn_line_becomes_empty(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b'{"event"')
    JsonLog(path).close()
    assert path.read_bytes() == b""


def test_steps_that_were_repeated_are_read_once(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with JsonLog(path) as log:
        for step, loss in [(1, 0.5), (2, 0.4), (3, 0.3), (2, 0.41), (3, 0.31)]:
            log(Progress("distil", "", step, 3, loss=loss))
        log(Note("end"))
        log(Note("end"))
    records = list(read_log(path))
    assert [r.get("loss") for r in records] == [0.5, 0.41, 0.31, None, None]


def test_lines_that_are_no_objects_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b'[1]\nnonsense\n{"event": "note", "text": "x"}\n\xff\n')
    assert [r["text"] for r in read_log(path)] == ["x"]


def test_all_sinks_hear_every_event_in_order() -> None:
    heard: list[str] = []
    sink = fan_out(lambda e: heard.append("a"), lambda e: heard.append("b"))
    sink(Note("x"))
    sink(Note("y"))
    assert heard == ["a", "b", "a", "b"]


def test_a_log_below_a_file_is_refused_and_missing_folders_are_made(tmp_path: Path) -> None:
    JsonLog(tmp_path / "a" / "b").close()
    with pytest.raises(ArchNetError, match="cannot be written: not a directory"):
        JsonLog(tmp_path / "a" / "b" / "c")


def test_a_full_device_is_told() -> None:
    log = JsonLog(Path("/dev/full"))
    with pytest.raises(ArchNetError, match="the disk is full: /dev/full"):
        log(Note("x"))
