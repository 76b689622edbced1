"""The quickstart without its training: which text it takes, and what it does after the conversion."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from archnet import ArchNetError, api, bench, quickstart, report, validate
from archnet.events import Note, StageStarted
from tests.archnet.fake_job import Recorder

Calls = list[tuple[str, object]]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """What was called in the place of the real work; the installation has other text each time."""
    made: Calls = []

    def convert(model: Path, data: Sequence[str], *, out: Path, events: Any, **settings: object) -> Path:
        events(StageStarted("prepare", 0, 2))
        assert not (out / quickstart.TEXT).exists()  # or the folder is refused as another one
        out.mkdir(exist_ok=True)
        events(StageStarted("distil", 1, 2))
        made.append(("convert", list(data)))
        return out

    installed = iter(range(9))
    monkeypatch.setattr(quickstart, "model_folder", lambda: Path("minilm"))
    monkeypatch.setattr(quickstart, "quickstart_sentences", lambda n, seed: [f"text {next(installed)}", "é"])
    monkeypatch.setattr(api, "convert", convert)
    monkeypatch.setattr(validate, "validate", lambda build, **_: made.append(("validate", build)))
    monkeypatch.setattr(bench, "bench", lambda build, **_: made.append(("bench", build)))
    monkeypatch.setattr(report, "write_report", lambda build: made.append(("report", build)))
    return made


def test_it_converts_compares_times_and_reports(calls: Calls, tmp_path: Path) -> None:
    out = tmp_path / "build"
    told = Recorder()
    assert quickstart.quickstart(out, told) == out
    assert [name for name, _ in calls] == ["convert", "validate", "bench", "report"]
    assert "collecting sentences" in str([event.text for event in told.events if isinstance(event, Note)])


def test_a_run_that_goes_on_takes_the_text_of_the_first(
    calls: Calls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "build"
    quickstart.quickstart(out)

    def resumed(model: Path, data: Sequence[str], **settings: object) -> Path:
        calls.append(("convert", list(data)))
        return out

    monkeypatch.setattr(api, "convert", resumed)
    quickstart.quickstart(out)
    assert [value for name, value in calls if name == "convert"] == [["text 0", "é"]] * 2


def test_a_damaged_text_is_told(calls: Calls, tmp_path: Path) -> None:
    path = tmp_path / quickstart.TEXT
    path.write_bytes(b"\x1f\x8b no gzip")
    with pytest.raises(ArchNetError) as caught:
        quickstart.quickstart(tmp_path)
    assert caught.value.problem.startswith(f"{path} is damaged: ")
    assert "delete the folder" in caught.value.fix
    assert calls == []
