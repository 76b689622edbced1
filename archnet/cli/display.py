"""How a running job looks: a live panel on a terminal, sparse plain lines everywhere else."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from archnet.cli.progress_state import (
    JobState,
    StageLine,
    human_seconds,
    human_summary,
    memory_figures,
    progress_figures,
)
from archnet.events import Event, Note, Progress, StageFinished, StageStarted

PLAIN_SECONDS = 10.0
"""Plain lines tell the progress this often."""

_MARKS = {"waiting": ("·", "dim"), "working": ("▸", "cyan"), "done": ("✓", "green"), "loaded": ("✓", "dim")}
_ASCII_MARKS = {"waiting": ".", "working": ">", "done": "+", "loaded": "="}


class Display(AbstractContextManager["Display"], Protocol):
    """A sink of events that draws; a context manager, as the terminal must be put back."""

    def __call__(self, event: Event) -> None: ...


def choose_display(console: Console, title: str) -> Display:
    """The live panel where it works; plain lines in pipes, files, dumb terminals and CI."""
    # rich believes CI services and Jupyter to be terminals; a log there needs lines.
    live = console.is_terminal and not console.is_dumb_terminal and not os.environ.get("CI")
    return LiveDisplay(console, title) if live else PlainDisplay(console, title)


class PlainDisplay:
    """One line when a stage begins and ends, and one every `PLAIN_SECONDS` in between."""

    def __init__(self, console: Console, title: str, state: JobState | None = None) -> None:
        self._console = console
        self._title = title
        self._state = state or JobState()
        self._told_at: float | None = None

    def __call__(self, event: Event) -> None:
        self._state.update(event)
        match event:
            case StageStarted():
                self._told_at = None
                again = ", going on from an earlier run" if event.resumed else ""
                self._line(f"[{event.index + 1}/{event.total}] {event.stage}{again}")
            case StageFinished():
                took = "done before" if event.loaded else f"done in {human_seconds(event.seconds)}"
                summary = human_summary(event.summary)
                self._line(f"{event.stage}: {took}{': ' + summary if summary else ''}")
            case Note():
                self._line(event.text)
            case Progress():
                self._progress(event)

    def _progress(self, event: Progress) -> None:
        now = self._state.clock()
        last = event.step == event.steps
        if self._told_at is not None and now - self._told_at < PLAIN_SECONDS and not last:
            return
        self._told_at = now
        steps = f"{event.step}/{event.steps}" if event.steps else f"step {event.step}"
        parts = [steps, *progress_figures(event)]
        if event.seconds_left is not None:
            parts.append(f"{human_seconds(event.seconds_left)} left")
        if event.total_seconds_left is not None:
            parts.append(f"{human_seconds(event.total_seconds_left)} in all")
        parts.append(memory_figures(event))
        self._line(f"{event.stage}: {', '.join(part for part in parts if part)}")

    def _line(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def __enter__(self) -> Self:
        self._line(self._title)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


class LiveDisplay:
    """A panel that is drawn anew four times a second: stages, bar, figures, notes."""

    def __init__(self, console: Console, title: str, state: JobState | None = None) -> None:
        self._title = title
        self._state = state or JobState()
        self._live = Live(self, console=console, refresh_per_second=4, transient=False)

    def __call__(self, event: Event) -> None:
        self._state.update(event)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield job_panel(self._state, self._title, ascii_only=options.ascii_only)

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.__exit__(kind, error, trace)


def job_panel(state: JobState, title: str, *, ascii_only: bool = False) -> Panel:
    """The whole panel of a job, as it is now."""
    rows: list[RenderableType] = [_stage_list(state, ascii_only)]
    if state.progress is not None:
        rows += [Text(), *_progress_rows(state, state.progress)]
    rows += [Text(note, style="yellow") for note in state.notes]
    hint = f"{human_seconds(state.elapsed)} · Ctrl-C stops safely, the same command goes on"
    return Panel(Group(*rows), title=Text(title), subtitle=Text(hint, style="dim"), title_align="left")


def _stage_list(state: JobState, ascii_only: bool) -> Table:
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="ellipsis", no_wrap=True)
    for line in state.stages.values():
        mark, style = _MARKS[line.state]
        mark = _ASCII_MARKS[line.state] if ascii_only else mark
        table.add_row(Text(mark, style), Text(line.name, style), _took(line), Text(_remark(line), "dim"))
    return table


def _took(line: StageLine) -> Text:
    return Text("" if line.seconds is None else human_seconds(line.seconds), "dim")


def _remark(line: StageLine) -> str:
    summary = human_summary(line.summary)
    return ", ".join(part for part in ("done before" if line.state == "loaded" else "", summary) if part)


def _progress_rows(state: JobState, progress: Progress) -> list[RenderableType]:
    bar = Table.grid(padding=(0, 1), expand=True)
    bar.add_column(ratio=1)
    bar.add_column(no_wrap=True)
    if progress.steps:
        gauge = ProgressBar(total=progress.steps, completed=progress.step)
        bar.add_row(gauge, f"{progress.step}/{progress.steps}")
    else:
        bar.add_row(ProgressBar(total=None, pulse=True), f"step {progress.step}")
    stage_left, total_left = state.left()
    times = []
    if stage_left is not None:
        times.append(f"{state.current} {human_seconds(stage_left)} left")
    if total_left is not None:
        times.append(f"in all {human_seconds(total_left)} left")
    figures = progress_figures(progress)
    machine = [part for part in (*times, memory_figures(progress)) if part]
    return [bar, *(Text(" · ".join(line)) for line in (figures, machine) if line)]
