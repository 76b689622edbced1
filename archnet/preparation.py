"""The first stage of a conversion: it is short and writes nothing, so it has no checkpoints and no log."""

from __future__ import annotations

import time
from collections.abc import Sequence

from archnet.engine import memory_bytes
from archnet.events import EventSink, Progress, StageFinished, StageStarted, Summary

PREPARE = "prepare"

STEPS = ("reading the data", "opening the model", "capturing the model", "planning", "preparing the data")


class Preparation:
    """Tells a sink how far this stage is, so that a conversion is silent at no time.

    Args:
        events: the sink.
        later: names of the stages that follow.
    """

    def __init__(self, events: EventSink, later: Sequence[str]) -> None:
        self._events, self._begun, self._step = events, time.monotonic(), 0
        stages = (PREPARE, *later)
        events(StageStarted(PREPARE, 0, len(stages), stages=stages))

    def step(self) -> None:
        """The next of `STEPS` begins."""
        now, peak = memory_bytes()
        detail = STEPS[self._step]
        steps = len(STEPS)
        self._events(
            Progress(PREPARE, "", self._step, steps, memory_bytes=now, peak_bytes=peak, detail=detail)
        )
        self._step += 1

    def finish(self, summary: Summary) -> None:
        """All of them are done."""
        self._events(StageFinished(PREPARE, time.monotonic() - self._begun, summary))
