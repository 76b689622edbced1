"""benchmarks/ablation.py: rows, the shared distillation, going on, refusals, on a tiny sentence encoder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ablation
import pytest

from archnet.errors import ArchNetError
from archnet.events import read_log
from archnet.method import Method
from archnet.presets import PRESETS_OF
from tests.hf_models import SENTENCES, make_model_folder
from tests.integration.tiny import short_presets, write_target, write_text


@pytest.fixture(scope="module")
def common(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A model, its data, pairs with made-up scores, and a target without TVM."""
    place = tmp_path_factory.mktemp("ablation")
    model = make_model_folder(place / "tiny", layers=1, pooling="mean")
    pairs = place / "pairs.tsv"
    pairs.write_text("".join(f"{i % 5}\t{SENTENCES[0]}\t{text}\n" for i, text in enumerate(SENTENCES)))
    options = {"model": model, "data": write_text(place), "task-data": pairs, "target": write_target(place)}
    arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    return [*arguments, "--bits", "w4a8", "--seq-len", "24", "--threads", "1", "--steps", "8"]


def run(*arguments: object) -> int:
    with short_presets(16, 6):
        return ablation.main([str(argument) for argument in arguments])


def rows_of(file: Path) -> dict[str, dict[str, Any]]:
    return {row["variant"]: row for row in json.loads(file.read_text())["rows"]}


def test_variants_are_made_scored_and_kept(
    common: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache, file = tmp_path / "cache", tmp_path / "rows.json"
    arguments = [*common, "--cache", cache, "--json", file]
    assert run(*arguments, "--variants", "dorefa", "baseline") == 0
    rows = rows_of(file)
    assert list(rows) == ["float", "baseline", "dorefa"]
    for name in ("baseline", "dorefa"):
        row = rows[name]
        assert row["reason"] is None
        assert -100 <= row["score"] <= 100
        assert row["drop"] == pytest.approx(rows["float"]["score"] - row["score"])
        assert row["loss"] > 0
        assert row["seconds"] > 0
        assert row["unit"] == "tokens"
    assert rows["baseline"]["seen"] == rows["dorefa"]["seen"] > 1000
    assert rows["dorefa"]["method"] == Method(quantizer="dorefa").to_json()
    shown = capsys.readouterr().out
    assert "tokens seen" in shown
    assert "DoReFa" in shown

    record = json.loads(file.read_text())
    assert record["settings"]["steps"] == 8
    ends: dict[str, list[bool]] = {}
    builds = sorted((cache / "builds").iterdir(), key=lambda b: (b / "manifest.json").stat().st_mtime_ns)
    steps: dict[str, int] = {}
    for build in builds:
        for entry in read_log(build / "log.jsonl"):
            if entry["event"] == "stage_finished":
                ends.setdefault(str(entry["stage"]), []).append(bool(entry["loaded"]))
            elif entry["event"] == "progress":
                steps[str(entry["stage"])] = int(str(entry["steps"]))
    assert ends["distil"] == [False, True]  # one distillation for both
    assert ends["quantize-w4a8"] == [False, False]
    assert steps["distil"] == 8
    assert steps["quantize-w4a8"] == round(
        1.5 * 3
    )  # half as many of distillation, and w4 takes 1.5 times as long

    # A second run makes nothing anew and adds what is asked for.
    stamps = {path: path.stat().st_mtime_ns for path in cache.rglob("*.json")}
    assert run(*arguments, "--variants", "baseline", "dorefa", "paper") == 0
    again = rows_of(file)
    assert {name: again[name] for name in rows} == rows
    assert again["paper"]["reason"] is None
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())


def test_a_variant_that_cannot_be_made_is_a_row_that_says_why(
    common: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **options: object) -> Path:
        raise ArchNetError(f"{options['quantizer']} cannot be had", fix="take another")

    monkeypatch.setattr(ablation, "convert", refuse)
    file = tmp_path / "rows.json"
    arguments = [*common, "--cache", tmp_path / "cache", "--json", file, "--variants", "baseline", "dorefa"]
    assert run(*arguments) == 0
    rows = rows_of(file)
    assert rows["float"]["score"] is not None
    assert [rows[name]["reason"] for name in ("baseline", "dorefa")] == [
        "lsq cannot be had",
        "dorefa cannot be had",
    ]
    assert "failed" in capsys.readouterr().out


def test_variants_are_each_another_method() -> None:
    methods = [variant.method for variant in ablation.VARIANTS]
    assert methods[0] == Method()
    assert len(set(methods)) == len(methods)
    alone = [
        sum(v != d for v, d in zip(m.to_json().values(), Method().to_json().values(), strict=True))
        for m in methods
    ]
    assert alone == [0, 1, 1, 1, 1, 1, 1, 4]


def test_a_preset_is_shortened_in_proportion_and_put_back() -> None:
    for table in PRESETS_OF.values():
        before = table["balanced"]
        with ablation.preset_of("balanced", 100):
            short = table["balanced"]
            assert short.distil.steps == 100
            assert short.quantize.steps == round(before.quantize.steps * 100 / before.distil.steps)
            assert short.distil.rate == before.distil.rate
        assert table["balanced"] is before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--variants", "block"], "there is no variant 'block'"),
        (["--bits", "w5a5"], "--bits 'w5a5' is no bit width that Arch-Net knows"),
        (["--model", "no/where/at/all"], "there is no model folder at"),
        (["--task", "images"], "preprocessor_config.json"),
    ],
    ids=["variant", "bits", "model", "task"],
)
def test_bad_input_is_refused_in_a_line(
    arguments: list[str],
    message: str,
    common: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(*common, "--cache", tmp_path / "cache", *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "fix:" in error


def test_arguments_are_checked(common: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        ablation.parse_arguments([*common, "--steps", "0"])
    assert "--steps must be 1 or more" in capsys.readouterr().err
