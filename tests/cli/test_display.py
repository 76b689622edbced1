"""What a running job looks like on a terminal, and in a pipe."""

from __future__ import annotations

import io
import time
from pathlib import Path

import pytest
from rich.console import Console

from archnet.cli.display import LiveDisplay, PlainDisplay, choose_display, job_panel
from archnet.cli.progress_state import JobState, human_seconds, human_summary
from archnet.cli.tables import end_table
from archnet.events import Event, Note, Progress, StageFinished, StageStarted

STAGES = ("capture", "distil", "freeze")


class Clock:
    """Time that the test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def console(*, terminal: bool = False, width: int = 80) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=width, highlight=False)


def written(of: Console) -> str:
    assert isinstance(of.file, io.StringIO)
    return of.file.getvalue()


def step(number: int, **more: object) -> Progress:
    return Progress("distil", "block 3", number, 1000, loss=0.0213, speed=3120.4, **more)  # type: ignore[arg-type]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def state(clock: Clock) -> JobState:
    job = JobState(clock)
    for event in (
        StageStarted("capture", 0, 3, stages=STAGES),
        StageFinished("capture", 2.0, {"operators": 103}),
        StageStarted("distil", 1, 3, stages=STAGES),
        step(
            312,
            seconds_left=75.0,
            total_seconds_left=200.0,
            memory_bytes=2 * 2**30,
            peak_bytes=3 * 2**30,
            detail="g 0.45",
        ),
        Note("a note"),
    ):
        job.update(event)
    return job


def drawn(state: JobState, **options: bool) -> list[str]:
    target = console()
    target.print(job_panel(state, "a title", **options))
    return [line.strip("│ ").rstrip() for line in written(target).splitlines()]


def test_the_panel_has_stages_bar_figures_times_memory_and_notes(state: JobState, clock: Clock) -> None:
    clock.now = 15.0
    lines = drawn(state)
    assert "a title" in lines[0]
    assert lines[1].split() == ["✓", "capture", "2", "s", "operators", "103"]
    assert lines[2] == "▸ distil"
    assert lines[3] == "· freeze"
    assert lines[5].endswith("312/1000")
    assert lines[6] == "block 3 · loss 0.0213 · 3,120 tokens/s · g 0.45"
    assert lines[7] == "distil 1:00 left · in all 3:05 left · memory 2.0 GiB (peak 3.0 GiB)"
    assert lines[8] == "a note"
    assert "Ctrl-C stops safely" in lines[9]


def test_the_bar_grows_with_the_steps(state: JobState) -> None:
    def filled(number: int) -> int:
        state.update(step(number))
        target = Console(file=io.StringIO(), force_terminal=True, width=80, color_system="truecolor")
        target.print(job_panel(state, "x"))
        bar = next(line for line in written(target).splitlines() if f"{number}/1000" in line)
        done = "\x1b[38;2;249;38;114m"  # rich's colour of what is done
        return bar.partition(done)[2].partition("\x1b")[0].count("━")

    assert filled(0) == 0
    assert filled(500) == pytest.approx(filled(250) * 2, abs=1)
    assert filled(750) > filled(500) > 25


def test_without_a_known_number_of_steps_only_the_step_is_told(state: JobState) -> None:
    state.update(Progress("distil", "", 7, 0))
    assert drawn(state)[5].endswith("step 7")
    assert plain([(0, Progress("distil", "", 7, 0))])[1] == "distil: step 7"


def test_a_stage_of_an_earlier_run_is_marked(state: JobState) -> None:
    state.update(StageFinished("freeze", 3.0, loaded=True))
    assert drawn(state)[3].split() == ["✓", "freeze", "3", "s", "done", "before"]


def test_a_terminal_without_unicode_gets_plain_marks(state: JobState) -> None:
    lines = drawn(state, ascii_only=True)
    assert lines[1].startswith("+ capture")
    assert lines[2].startswith("> distil")


def test_a_narrow_terminal_loses_no_line(state: JobState) -> None:
    target = console(width=30)
    target.print(job_panel(state, "a title that is longer than the terminal is wide"))
    assert max(len(line) for line in written(target).splitlines()) == 30
    assert "312/1000" in written(target)


def test_only_the_newest_notes_are_shown(state: JobState) -> None:
    for number in range(5):
        state.update(Note(f"note {number}"))
    assert state.notes == ["note 2", "note 3", "note 4"]


def plain(events: list[tuple[float, Event]]) -> list[str]:
    clock, target = Clock(), console()
    with PlainDisplay(target, "a title", JobState(clock)) as display:
        for when, event in events:
            clock.now = when
            display(event)
    return written(target).splitlines()


def test_plain_lines_come_at_most_every_ten_seconds_and_at_the_end() -> None:
    lines = plain(
        [
            (0, StageStarted("distil", 1, 3, resumed=True)),
            *[(0.5 * n, step(n)) for n in range(1, 50)],
            (25, step(1000)),
            (25, StageFinished("distil", 25.0, {"cosine": 0.987654})),
        ]
    )
    assert lines[:2] == ["a title", "[2/3] distil, going on from an earlier run"]
    assert [line.split()[1] for line in lines[2:-1]] == ["1/1000,", "21/1000,", "41/1000,", "1000/1000,"]
    assert lines[-1] == "distil: done in 25 s: cosine 0.9877"


def test_plain_lines_are_never_wrapped_or_read_as_markup() -> None:
    text = "[red]" + "x" * 300
    assert plain([(0, Note(text))])[1] == text


@pytest.mark.parametrize(
    ("terminal", "environment", "kind"),
    [
        (True, {}, LiveDisplay),
        (True, {"NO_COLOR": "1"}, LiveDisplay),
        (True, {"TERM": "dumb"}, PlainDisplay),
        (True, {"CI": "true"}, PlainDisplay),
        (False, {}, PlainDisplay),
    ],
    ids=["terminal", "no-color", "dumb", "ci", "pipe"],
)
def test_the_live_panel_is_for_real_terminals(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, environment: dict[str, str], kind: type
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("CI", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert type(choose_display(console(terminal=terminal), "x")) is kind


def test_the_live_panel_draws_and_puts_the_cursor_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    target = console(terminal=True)

    def fail() -> None:
        with LiveDisplay(target, "a title") as display:
            display(StageStarted("distil", 0, 1))
            display(step(1))
            time.sleep(0.3)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    text = written(target)
    assert "1/1000" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0 s"), (59.4, "59 s"), (59.6, "1:00"), (75, "1:15"), (4000, "1:06:40")]
)
def test_human_seconds(seconds: float, text: str) -> None:
    assert human_seconds(seconds) == text


def test_human_summary() -> None:
    assert human_summary({"max_error": 0.0123456, "blocks": 6, "form": "host", "x": None}) == (
        "max error 0.01235, blocks 6, form host, x None"
    )


@pytest.mark.parametrize(
    ("target", "chip"),
    [("sophgo", "bm1684x"), ("ethos-u85", "ethos-u85-256"), ("tvm", ""), ("mine.toml", "")],
)
def test_a_network_for_a_chips_profile_is_compiled_next(tmp_path: Path, target: str, chip: str) -> None:
    of = console(width=200)
    of.print(end_table(tmp_path, {"settings": {"target": target}}))
    first = written(of).partition("next:\n")[2].splitlines()[0].strip()
    wanted = f"archnet compile {tmp_path} --target {chip}" if chip else f"archnet validate {tmp_path}"
    assert first == wanted
