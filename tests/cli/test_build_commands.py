"""The commands that work on a finished build: what they hand on, what they print, and how they end."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result

from archnet.events import EventSink
from archnet.results import (
    BackendScore,
    EmulatedPlace,
    LatencyRow,
    TensorAgreement,
    ValidationResult,
)
from tests.cli.conftest import Replace

Archnet = Callable[..., Result]

SCORE = ValidationResult(
    task="sts",
    metric="Spearman x 100",
    data="pairs.tsv",
    samples=4,
    agreement_samples=2,
    float_score=BackendScore("float", score=80.0),
    scores=(BackendScore("reference", score=79.5, drop=0.5, cosine=0.99, sqnr_db=None),),
    tensors=(
        TensorAgreement("onnxruntime", "x", "Add", "", "layer", elements=100, differing=1, max_lsb=1),
        TensorAgreement("onnxruntime", "y", "Add", "", "layer", elements=100, differing=0, max_lsb=0),
    ),
    emulated=(EmulatedPlace("onnxruntime", "softmax 0", "Softmax", "it has no integer kernel"),),
    max_drop=0.3,
)


def fake_validate(replace_module: Replace, result: ValidationResult) -> list[dict[str, Any]]:
    calls: list[dict[str, Any]] = []

    def validate(folder: Path, *, events: EventSink, **settings: Any) -> ValidationResult:
        calls.append(settings)
        return result

    replace_module("archnet.validate", validate=validate)
    replace_module("archnet.report", write_report=lambda folder: folder / "report.html")
    return calls


def test_validate_fails_when_the_drop_is_too_great(archnet: Archnet, replace_module: Replace) -> None:
    calls = fake_validate(replace_module, SCORE)
    result = archnet(
        *("validate", "b", "--task", "sts", "--data", "x", "--data", "y"),
        *("--max-drop", "0.3", "--backend", "reference, onnxruntime"),
    )
    assert result.exit_code == 1
    assert calls[0]["backends"] == ["reference", "onnxruntime"]
    assert [str(path) for path in calls[0]["data"]] == ["x", "y"]
    assert calls[0]["max_drop"] == 0.3
    assert "FAILED: the worst backend drops 0.50 points, 0.3 allowed" in result.output
    assert "onnxruntime computes 1 Softmax in its own way: it has no integer kernel" in result.output
    row = next(line for line in result.output.splitlines() if "1 of 200" in line)
    assert row.split() == ["onnxruntime", "layer", "2", "1", "1", "of", "200", "1"]


def test_validate_passes_within_the_drop_and_prints_json(archnet: Archnet, replace_module: Replace) -> None:
    passed = ValidationResult.from_json({**SCORE.to_json(), "max_drop": 0.5})
    fake_validate(replace_module, passed)
    result = archnet("validate", "b", "--task", "sts", "--data", "x", "--max-drop", "0.5", "--json")
    assert result.exit_code == 0
    assert ValidationResult.from_json(json.loads(result.stdout)) == passed
    assert archnet("validate", "b").exit_code == 0


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--max-drop", "1"], "--max-drop needs a score"),
        (["--task", "sts"], "--task and --data need each other"),
        (["--data", "x"], "--task and --data need each other"),
    ],
)
def test_validate_refuses_options_that_do_not_fit(archnet: Archnet, options: list[str], problem: str) -> None:
    result = archnet("validate", "b", *options)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {problem}\n  fix: ")


def test_bench(archnet: Archnet, replace_module: Replace) -> None:
    row = LatencyRow("onnxruntime", 1, 32, 2, 10, 20.0, 5.0, 4.0)
    replace_module("archnet.bench", bench=lambda folder, events: [row])
    replace_module("archnet.report", write_report=lambda folder: folder)
    table = archnet("bench", "b").stdout
    assert "4.00x" in table
    assert "tokens" in table
    slow = LatencyRow("tvm", 1, 32, 2, 10, 0.08, 28.0, 0.0028)
    replace_module("archnet.bench", bench=lambda folder, events: [slow])
    assert "0.0028x" in archnet("bench", "b").stdout
    replace_module("archnet.bench", bench=lambda folder, events: [row])
    assert json.loads(archnet("bench", "b", "--json").stdout) == [row.to_json()]


@pytest.mark.parametrize(
    ("options", "opened"), [([], False), (["--open", "no"], False), (["--open", "yes"], True)]
)
def test_report_opens_a_browser_only_when_wanted(
    archnet: Archnet,
    replace_module: Replace,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    opened: bool,
) -> None:
    launched: list[str] = []
    monkeypatch.setattr("click.launch", launched.append)
    monkeypatch.setenv("DISPLAY", ":0")  # there is a desktop, but no terminal
    replace_module("archnet.report", write_report=lambda folder, others: folder / "report.html")
    result = archnet("report", "b", *options)
    assert result.stdout == "b/report.html\n"
    assert launched == (["b/report.html"] if opened else [])


def test_report_takes_builds_to_compare(archnet: Archnet, replace_module: Replace) -> None:
    calls: list[tuple[Path, tuple[Path, ...]]] = []

    def write_report(folder: Path, others: tuple[Path, ...]) -> Path:
        calls.append((folder, others))
        return folder

    replace_module("archnet.report", write_report=write_report)
    assert archnet("report", "a", "--compare", "b", "--compare", "c", "--open", "no").exit_code == 0
    assert calls == [(Path("a"), (Path("b"), Path("c")))]


def test_export_to_the_places_of_the_build(archnet: Archnet, replace_module: Replace, build: Path) -> None:
    def compile_tvm(graph: str, folder: Path, *, target: str) -> Path:
        assert (graph, target) == ("the graph", "aarch64")
        folder.mkdir(parents=True)
        (folder / "model.so").write_bytes(bytes(1024))
        return folder / "model.so"

    def export_onnx(graph: str, path: Path, *, linear: str) -> None:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(2048 if linear == "convolution" else 3072))

    replace_module("archnet.storage", load_graph=lambda folder: "the graph")
    replace_module("archnet.export.tvm", compile_tvm=compile_tvm, folder_name=lambda target: target)
    replace_module("archnet.export.onnx", export_onnx=export_onnx)
    tvm = archnet("export", str(build), "--format", "tvm", "--target-arch", "aarch64")
    assert tvm.stdout == f"{build / 'tvm/aarch64/model.so'} (1.0 KiB)\n"
    onnx = archnet("export", str(build), "--format", "onnx")
    assert onnx.stdout == f"{build / 'onnx/model.onnx'} (2.0 KiB)\n"
    other = build.parent / "x.onnx"
    gemm = archnet("export", str(build), "--format", "onnx", "--linear", "gemm", "--out", str(other))
    assert gemm.stdout == f"{other} (3.0 KiB)\n"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--format", "onxx"], "did you mean 'onnx'"),
        (["--format", "onnx", "--target-arch", "aarch64"], "--target-arch is of --format tvm only"),
        (["--format", "tvm", "--linear", "gemm"], "--linear is of --format onnx only"),
        (["--format", "onnx", "--seq-len", "8"], "--seq-len is of --format tflite only"),
        (["--format", "onnx", "--linear", "gem"], "did you mean 'gemm'"),
    ],
)
def test_export_refuses(archnet: Archnet, build: Path, options: list[str], words: str) -> None:
    result = archnet("export", str(build), *options)
    assert result.exit_code == 2
    assert words in result.stderr


def test_run_reads_and_writes_arrays(
    archnet: Archnet, replace_module: Replace, build: Path, tmp_path: Path
) -> None:
    class Doubling:
        def run(self, inputs: dict[str, Any]) -> dict[str, Any]:
            return {"y": inputs["x"].astype(np.float32) * 2}

    def open_backend(name: str, folder: Path) -> Doubling:
        assert (name, folder) == ("reference", build)
        return Doubling()

    replace_module("archnet.backends", open_backend=open_backend)
    np.savez(tmp_path / "x.npz", x=np.array([[1, 2]]))
    out = tmp_path / "new" / "y.npz"
    result = archnet("run", str(build), "--inputs", str(tmp_path / "x.npz"), "--outputs", str(out))
    assert result.exit_code == 0, result.stderr
    assert result.stdout == "y 1x2 float32\n"
    assert np.load(out)["y"].tolist() == [[2.0, 4.0]]
    assert [p.name for p in out.parent.iterdir()] == ["y.npz"]


@pytest.mark.parametrize(
    "content",
    [None, b"", b"no archive", b"PK\x03\x04torn", "npy", "object"],
    ids=["missing", "empty", "text", "torn", "one-array", "pickled"],
)
def test_run_refuses_what_is_no_npz(
    archnet: Archnet, build: Path, tmp_path: Path, content: bytes | str | None
) -> None:
    path = tmp_path / "x.npz"
    if content == "npy":
        with path.open("wb") as file:
            np.save(file, np.zeros(2))
    elif content == "object":
        np.savez(path, x=np.array([{}], dtype=object))
    elif isinstance(content, bytes):
        path.write_bytes(content)
    result = archnet("run", str(build), "--inputs", str(path), "--outputs", str(tmp_path / "y.npz"))
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {path} ")
    assert "numpy.savez" in result.stderr
    assert not (tmp_path / "y.npz").exists()
