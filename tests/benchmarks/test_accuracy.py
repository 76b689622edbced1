"""benchmarks/accuracy.py: rows, failures, resuming and refusals, on a tiny sentence encoder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import accuracy
import pytest
from side_by_side.recipes import RECIPES

from archnet.errors import ArchNetError
from archnet.sources import open_model
from tests.archnet.integer_build import make_integer_build
from tests.hf_models import SENTENCES, make_model_folder
from tests.integration.tiny import write_text


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model_folder(tmp_path_factory.mktemp("model") / "tiny", layers=1, pooling="mean")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentence with every other one, and a made-up score."""
    file = tmp_path_factory.mktemp("data") / "pairs.tsv"
    rows = [f"{i % 5}\t{SENTENCES[0]}\t{text}" for i, text in enumerate(SENTENCES)]
    file.write_text("\n".join(rows) + "\n")
    return file


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text(tmp_path_factory.mktemp("text"))


def run(*arguments: object) -> int:
    return accuracy.main([str(argument) for argument in arguments])


def rows_of(file: Path) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["tool"], row["bits"]): row for row in json.loads(file.read_text())["rows"]}


def test_rows_are_made_kept_and_drawn(
    model: Path, data: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--model", model, "--calibration", text, "--data", data, "--threads", 1]
    arguments += ["--cache", tmp_path / "cache", "--json", tmp_path / "rows.json", "--latency"]
    arguments += ["--tools", "static, layers, MinMax", "--bits", "w8a8", "w2a4"]
    assert run(*arguments, "--svg", tmp_path / "frontier.svg") == 0
    shown = capsys.readouterr().out
    rows = rows_of(tmp_path / "rows.json")
    static = "ONNX Runtime static, layers, MinMax"
    assert set(rows) == {
        ("float original", "w32a32"),
        (static, "w8a8"),
        (static, "w2a4"),
    }
    original, made, refused = rows["float original", "w32a32"], rows[static, "w8a8"], rows[static, "w2a4"]
    assert original["score"] is not None
    assert made["score"] is not None
    assert made["ms"] > 0
    assert 0 < made["size"] < original["size"]
    assert made["peak_bytes"] > 10_000_000
    assert set(made["versions"]) == {"onnx", "onnxruntime"}
    assert refused["cannot"]
    assert refused["reason"].startswith("quantize_static has no QInt2")
    assert "cannot" in shown
    assert "quantize_static has no QInt2" in shown
    assert (tmp_path / "frontier.svg").read_text().startswith("<svg")

    # A second run makes nothing: its rows are the first one's, to the last digit.
    stamps = {file: file.stat().st_mtime_ns for file in (tmp_path / "cache").rglob("*.json")}
    assert run(*arguments) == 0
    assert rows_of(tmp_path / "rows.json") == rows
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "cache").rglob("*.json")} == stamps


def test_a_tool_over_its_time_is_a_row_and_can_be_tried_again(
    model: Path, data: Path, text: Path, tmp_path: Path
) -> None:
    arguments = ["--model", model, "--calibration", text, "--data", data, "--threads", 1]
    arguments += ["--cache", tmp_path / "cache", "--json", tmp_path / "rows.json", "--tools", "dynamic"]
    assert run(*arguments, "--make-seconds", 0.05) == 0
    reasons = {row["reason"] for row in rows_of(tmp_path / "rows.json").values()}
    assert reasons == {"stopped after its time limit of 0.05 s"}
    assert run(*arguments) == 0
    assert [row["reason"] for row in rows_of(tmp_path / "rows.json").values()] == [None, None]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ours", "nowhere"], "nowhere does not exist"),
        (["--model", "no/where/at/all"], "there is no model folder at"),
        (["--data", "nowhere"], "nowhere"),
    ],
    ids=["ours", "model", "data"],
)
def test_bad_input_is_refused_in_a_line(
    arguments: list[str],
    message: str,
    model: Path,
    data: Path,
    text: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    common = ["--model", model, "--calibration", text, "--data", data, "--cache", tmp_path / "cache"]
    assert run(*common, *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "fix:" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [([], "--calibration and --data are needed"), (["--limit", "2"], "--limit must be 3 or more")],
    ids=["data", "limit"],
)
def test_arguments_are_checked(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ["--calibration", "a.txt", "--data", "b.tsv"] if arguments else []
    with pytest.raises(SystemExit, match="2"):
        run(*files, *arguments)
    assert message in capsys.readouterr().err


def test_filters_keep_the_float_original() -> None:
    kept = accuracy.chosen(RECIPES, ["NNCF quantize,", "onnxruntimedynamic"], ["w4a4", "w8a8"])
    assert [(recipe.name, bits) for recipe, bits in kept] == [
        ("float original", "w32a32"),
        ("ONNX Runtime dynamic", "w8a8"),
        ("NNCF quantize, fast bias correction", "w8a8"),
        ("NNCF quantize, fast bias correction", "w4a4"),
        ("NNCF quantize, accurate bias correction", "w8a8"),
        ("NNCF quantize, accurate bias correction", "w4a4"),
    ]
    with pytest.raises(ArchNetError, match="no tool's name has 'nothing' in it"):
        accuracy.chosen(RECIPES, ["nothing"], [])
    with pytest.raises(ArchNetError, match="no tool is asked for 'w5a5'"):
        accuracy.chosen(RECIPES, [], ["w5a5"])


def test_tools_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--list") == 0
    assert "NNCF quantize_with_accuracy_control" in capsys.readouterr().out


def test_our_build_is_a_row_beside_the_float_original(
    model: Path,
    data: Path,
    text: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    build = tmp_path / "build"
    make_integer_build(build)
    arguments = ["--model", model, "--calibration", text, "--data", data, "--threads", 1, "--ours", build]
    arguments += ["--cache", tmp_path / "cache", "--json", tmp_path / "rows.json", "--bits", "w2a32"]
    arguments += ["--tools", "onnxsim int4, AdaRound", "--latency"]
    assert run(*arguments) == 2
    assert "was converted from another model" in capsys.readouterr().err

    settings = json.loads((build / "settings.json").read_text())
    settings["source_sha256"] = open_model(str(model)).sha256
    (build / "settings.json").write_text(json.dumps(settings))
    assert run(*arguments) == 0
    rows = rows_of(tmp_path / "rows.json")
    ours = rows["Arch-Net (onnxruntime)", "w8a8"]
    assert ours["reason"] is None
    assert ours["ours"]
    assert -100 <= ours["score"] <= 100
    assert ours["ms"] is None  # this build takes 24 tokens, 32 are timed
    assert ours["size"] == (build / "onnx" / "model.onnx").stat().st_size
    assert rows["onnxsim int4, AdaRound", "w2a32"]["cannot"]
