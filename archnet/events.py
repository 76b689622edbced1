"""What a running job tells: frozen events, and the sinks that take them.

A job writes every event to DIR/log.jsonl and hands it to one sink: the terminal's display, a JSON log, or
a user's own function.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from archnet.atomic import disk_errors, disk_full

Summary = Mapping[str, str | int | float | None]


@dataclass(frozen=True, slots=True)
class StageStarted:
    """A stage begins.

    Attributes:
        stage: its name.
        index: its place in the job, from 0.
        total: number of stages in the job.
        resumed: whether it goes on from an earlier run.
        stages: the names of all stages in order, as far as they are known.
    """

    stage: str
    index: int
    total: int
    resumed: bool = False
    stages: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Progress:
    """One step of a stage is done.

    Attributes:
        stage: the stage's name.
        block: the part of the model at work, or "".
        step: steps done, from 1 (or 0 before the first).
        steps: all steps of the stage; 0 when not known.
        loss: the training loss, or None.
        speed: `unit` a second, or None.
        unit: of the speed, such as "tokens".
        seconds_left: of this stage, or None when not known yet.
        memory_bytes: resident memory of the process now.
        detail: one further line, such as the phase of the homotopy.
        total_seconds_left: of the whole job, or None when not known yet.
        peak_bytes: most resident memory so far.
    """

    stage: str
    block: str
    step: int
    steps: int
    loss: float | None = None
    speed: float | None = None
    unit: str = "tokens"
    seconds_left: float | None = None
    memory_bytes: int = 0
    detail: str = ""
    total_seconds_left: float | None = None
    peak_bytes: int = 0


@dataclass(frozen=True, slots=True)
class StageFinished:
    """A stage ended after `seconds`; `loaded` says that it was read from an earlier run's result."""

    stage: str
    seconds: float
    summary: Summary = field(default_factory=dict)
    loaded: bool = False


@dataclass(frozen=True, slots=True)
class Note:
    """A sentence for the user."""

    text: str


Event = StageStarted | Progress | StageFinished | Note
EventSink = Callable[[Event], None]

_KINDS: Mapping[type[Event], str] = {
    StageStarted: "stage_started",
    Progress: "progress",
    StageFinished: "stage_finished",
    Note: "note",
}


def ignore(event: Event) -> None:
    """The sink of a caller who wants to hear nothing."""


def to_json(event: Event) -> dict[str, object]:
    """As a JSON object, its kind under "event"; infinities and NaN become null, as JSON has none."""
    record = {"event": _KINDS[type(event)], **asdict(event)}
    return {key: _finite(value) for key, value in record.items()}


def _finite(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def fan_out(*sinks: EventSink) -> EventSink:
    """One sink that hands each event to all of `sinks`, in order."""

    def send(event: Event) -> None:
        for sink in sinks:
            sink(event)

    return send


class JsonLog:
    """A sink that appends one JSON object an event to a file, with the time in seconds since 1970.

    A last line torn by a killed process is removed when the file is opened again.

    Raises:
        ArchNetError: the file cannot be written, or the disk is full.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with disk_errors(path):
            if not path.parent.exists():
                path.parent.mkdir(parents=True)
            _drop_torn_line(path)
            self._file = path.open("ab", buffering=0)

    def __call__(self, event: Event) -> None:
        line = json.dumps({"time": round(time.time(), 3), **to_json(event)}, allow_nan=False)
        content = line.encode() + b"\n"
        with disk_errors(self.path):
            if self._file.write(content) != len(content):
                raise disk_full(self.path, len(content))

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _drop_torn_line(path: Path) -> None:
    if not path.is_file() or path.stat().st_size == 0:
        return
    with path.open("r+b") as file:
        content = file.read()
        if not content.endswith(b"\n"):
            file.truncate(content.rfind(b"\n") + 1)


def read_log(path: Path) -> Iterator[dict[str, object]]:
    """The records of a log in order, without torn lines.

    A job that was killed and went on repeats the steps after its last checkpoint: of the progress
    records with the same stage, block and step only the last is given.
    """
    records: dict[object, dict[str, object]] = {}
    for number, line in enumerate(path.read_bytes().splitlines()):
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if not isinstance(record, dict):
            continue
        key: object = number
        if record.get("event") == "progress":
            key = (record.get("stage"), record.get("block"), record.get("step"))
            records.pop(key, None)
        records[key] = record
    yield from records.values()
