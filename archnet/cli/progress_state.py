"""What the displays show of a running job, kept up to date by its events; no drawing here."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from archnet.atomic import human_bytes
from archnet.events import Event, Note, Progress, StageFinished, StageStarted, Summary

NOTES_SHOWN = 3


@dataclass
class StageLine:
    """One stage in the list.

    Attributes:
        state: "waiting", "working", "done", or "loaded" (done by an earlier run).
        seconds: how long it took; None until it has ended.
    """

    name: str
    state: str = "waiting"
    seconds: float | None = None
    summary: Summary = field(default_factory=dict)


@dataclass
class JobState:
    """The stages of a job, its newest progress, and its newest notes."""

    clock: Callable[[], float] = time.monotonic
    stages: dict[str, StageLine] = field(default_factory=dict)
    current: str = ""
    progress: Progress | None = None
    notes: list[str] = field(default_factory=list)
    begun: float = 0.0
    progress_at: float = 0.0

    def __post_init__(self) -> None:
        self.begun = self.clock()

    def update(self, event: Event) -> None:
        """Take an event in."""
        match event:
            case StageStarted():
                for name in (*event.stages, event.stage):
                    self.stages.setdefault(name, StageLine(name))
                self.stages[event.stage].state = "working"
                self.current, self.progress = event.stage, None
            case Progress():
                self.progress, self.progress_at = event, self.clock()
            case StageFinished():
                state = "loaded" if event.loaded else "done"
                self.stages[event.stage] = StageLine(event.stage, state, event.seconds, event.summary)
                self.progress = None
            case Note():
                self.notes = [*self.notes, event.text][-NOTES_SHOWN:]

    @property
    def elapsed(self) -> float:
        """Seconds since the job began in this process."""
        return self.clock() - self.begun

    def left(self) -> tuple[float | None, float | None]:
        """Seconds left of the stage and in all, counted down since the last step."""
        if self.progress is None:
            return None, None
        since = self.clock() - self.progress_at
        return tuple(  # type: ignore[return-value]
            None if value is None else max(0.0, value - since)
            for value in (self.progress.seconds_left, self.progress.total_seconds_left)
        )


def human_seconds(seconds: float) -> str:
    """4.2 -> "4 s", 75 -> "1:15", 4000 -> "1:06:40"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def human_summary(summary: Summary) -> str:
    """{"blocks": 6, "loss": 0.01234} -> "blocks 6, loss 0.01234"."""
    parts = []
    for name, value in summary.items():
        text = f"{value:.4g}" if isinstance(value, float) else str(value)
        parts.append(f"{name.replace('_', ' ')} {text}")
    return ", ".join(parts)


def progress_figures(progress: Progress) -> list[str]:
    """Block, loss, speed and detail of a step, as far as there are any."""
    parts = [progress.block] if progress.block else []
    if progress.loss is not None:
        parts.append(f"loss {progress.loss:.4g}")
    if progress.speed is not None:
        parts.append(f"{progress.speed:,.0f} {progress.unit}/s")
    if progress.detail:
        parts.append(progress.detail)
    return parts


def memory_figures(progress: Progress) -> str:
    """Memory now and at its peak, or "" when it was not measured."""
    if not progress.memory_bytes:
        return ""
    return f"memory {human_bytes(progress.memory_bytes)} (peak {human_bytes(progress.peak_bytes)})"
