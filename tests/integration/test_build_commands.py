"""The commands on a finished build, through the real command line: what they give, and how they end."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from archnet import load
from tests.integration.conftest import Archnet
from tests.integration.tiny import SEQUENCE, short_presets, text


@pytest.fixture(scope="module")
def build(model: Path, target: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished conversion, without TVM."""
    from archnet.api import convert

    out = tmp_path_factory.mktemp("converted") / "build"
    with short_presets():
        return convert(model, text(), target=str(target), out=out, preset="fast", seq_len=SEQUENCE)


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Sentence pairs with scores that follow nothing."""
    path = tmp_path / "pairs.tsv"
    rows = [(i % 5, a, b) for i, (a, b) in enumerate(zip(text()[:40], text()[20:60], strict=True))]
    path.write_text("".join(f"{score}\t{a}\t{b}\n" for score, a, b in rows))
    return path


def test_validate_without_a_task_measures_agreement(archnet: Archnet, build: Path) -> None:
    result = archnet("validate", build)
    assert result.exit_code == 0, result.output
    assert "agreement with the float original" in result.stdout
    assert "onnxruntime" in result.stdout
    assert "tvm" not in result.stdout  # nothing was exported for it


def test_validate_ends_with_1_exactly_when_the_drop_is_too_great(
    archnet: Archnet, build: Path, pairs: Path
) -> None:
    score = ["validate", build, "--task", "sts", "--data", pairs, "--json"]
    measured = archnet(*score)
    assert measured.exit_code == 0, measured.output
    worst = max(row["drop"] for row in json.loads(measured.stdout)["scores"])
    assert archnet(*score, "--max-drop", f"{worst + 0.01:.4f}").exit_code == 0
    failed = archnet(*score, "--max-drop", f"{worst - 0.01:.4f}")
    assert failed.exit_code == 1
    assert json.loads(failed.stdout)["max_drop"] == pytest.approx(worst - 0.01, abs=1e-4)


@pytest.mark.parametrize(
    ("arguments", "problem", "fix"),
    [
        (["--max-drop", "1"], "--max-drop needs a score", "--task"),
        (["--task", "sts"], "--task and --data need each other", "both"),
        (["--task", "stss", "--data", "PAIRS"], "'stss'", "did you mean 'sts'"),
        (["--task", "sts", "--data", "nowhere.tsv"], "nowhere.tsv", ""),
        (["--backend", "onnx"], "there is no backend 'onnx'", "did you mean 'onnxruntime'"),
        (["--backend", "tvm"], "tvm", "archnet export"),
    ],
)
def test_validate_refuses(
    archnet: Archnet, build: Path, pairs: Path, arguments: list[str], problem: str, fix: str
) -> None:
    result = archnet("validate", build, *[str(pairs) if a == "PAIRS" else a for a in arguments])
    assert result.exit_code == 2, result.output
    *_, first, last = result.stderr.splitlines()
    assert first.startswith("error: ")
    assert problem in first
    assert last.startswith("  fix: ")
    assert fix in last


@pytest.mark.parametrize("command", ["validate", "bench", "report"])
def test_a_folder_that_is_no_build_is_refused(archnet: Archnet, tmp_path: Path, command: str) -> None:
    (tmp_path / "empty").mkdir()
    for folder, problem in [
        (tmp_path / "empty", "is no Arch-Net build"),
        (tmp_path / "no", "does not exist"),
    ]:
        result = archnet(command, folder)
        assert result.exit_code == 2
        assert problem in result.stderr
    assert list(tmp_path.iterdir()) == [tmp_path / "empty"]


def test_run_gives_the_same_as_load(archnet: Archnet, build: Path, tmp_path: Path) -> None:
    inputs = {"input_ids": np.array([[2, 9, 20, 3]]), "attention_mask": np.ones((1, 4), np.int64)}
    np.savez(tmp_path / "x.npz", **inputs)
    result = archnet("run", build, "--inputs", tmp_path / "x.npz", "--outputs", tmp_path / "y.npz")
    assert result.exit_code == 0, result.output
    assert "sentence_embedding 1x32 float32" in result.stdout
    with np.load(tmp_path / "y.npz") as outputs:
        for name, value in load(build)(**inputs).items():
            np.testing.assert_array_equal(outputs[name], value)


def test_export_writes_the_onnx_file_again(archnet: Archnet, build: Path, tmp_path: Path) -> None:
    out = tmp_path / "again.onnx"
    result = archnet("export", build, "--format", "onnx", "--out", out)
    assert result.exit_code == 0, result.output
    assert str(out) in result.stdout
    assert out.read_bytes() == (build / "onnx" / "model.onnx").read_bytes()


def test_report_and_inspect(archnet: Archnet, build: Path, model: Path) -> None:
    (build / "report.html").unlink()
    assert archnet("report", build, "--open", "no").stdout.strip() == str(build / "report.html")
    assert "<html" in (build / "report.html").read_text()
    shown = archnet("inspect", model, "--target", "archnet", "--json")
    assert shown.exit_code == 0, shown.output
    planned = json.loads(shown.stdout)["decisions"]
    assert planned == json.loads((build / "plan.json").read_text())["decisions"]
    assert {d["op"] for d in planned if d["action"] == "replace"} >= {"LayerNorm", "Gather"}
