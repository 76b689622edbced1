"""Builds beside each other: the picture and its table, and what cannot be compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from archnet.errors import ArchNetError
from archnet.report import write_report
from archnet.report.comparison import compare
from archnet.report.contents import read_contents
from archnet.results import BackendScore, ValidationResult
from tests.report import fixture_build
from tests.report.fixture_build import make_build
from tests.report.test_report import Page


def build(folder: Path, bits: str, **replaced: Any) -> Path:
    """A made-up build of other widths."""
    make_build(folder, **replaced)
    record = json.loads((folder / "settings.json").read_text())
    record["settings"]["bits"] = bits
    (folder / "settings.json").write_text(json.dumps(record))
    return folder


def agreement(cosine: float) -> ValidationResult:
    return ValidationResult(
        None, "", "", 0, 8, BackendScore("float"), (BackendScore("onnxruntime", cosine=cosine),)
    )


@pytest.fixture
def main(tmp_path: Path) -> Path:
    return build(tmp_path / "wide", "w8a8")


@pytest.fixture
def other(tmp_path: Path) -> Path:
    smaller = {**fixture_build.SIZES, "onnx/model.onnx": 11_600_000}
    return build(
        tmp_path / "narrow", "w4a8", sizes=smaller, validation=fixture_build.validation(drop=0.4), latency=[]
    )


def test_scores_sizes_and_times_are_beside_each_other(main: Path, other: Path) -> None:
    found = compare(read_contents(main), [read_contents(other)])
    assert (found.by_task, found.shape) == (True, "batch 1 × 32 tokens")
    assert found.metric == "Spearman × 100 on sick, sts12"
    float_row, this, narrow = found.rows
    assert (float_row.score, float_row.size, float_row.ms) == (79.59, 90_405_214, 9.4)
    assert (this.name, this.bits, this.backend, this.ms, this.this) == (
        "wide", "w8a8", "onnxruntime", 3.1, True,
    )  # fmt: skip
    assert this.score == pytest.approx(80.11)
    assert (narrow.name, narrow.bits, narrow.size, narrow.ms) == ("narrow", "w4a8", 11_600_000, None)


def test_the_page_has_the_picture_and_the_table(main: Path, other: Path) -> None:
    html = write_report(main, [other]).read_text()
    page = Page(html)
    assert "frontier" in [attributes.get("id") for _, attributes in page.tags]
    assert html.count("Accuracy against size</figcaption>") == 1
    assert html.count("Accuracy against time</figcaption>") == 1
    assert "narrow, w4a8: 79.19, 11.6" in page.text
    assert "wide (this one)w8a8ONNX Runtime80.11+0.5222.9\u202fMB3.10\u202fms" in page.text
    assert "narroww4a8ONNX Runtime79.19−0.4011.6\u202fMB–" in page.text
    assert "frontier" not in write_report(main).read_text()


def test_without_a_task_cosines_are_compared(tmp_path: Path) -> None:
    folders = [
        build(tmp_path / bits, bits, validation=agreement(cosine), latency=[])
        for bits, cosine in (("w8a8", 0.99), ("w2a4", 0.91))
    ]
    found = compare(*((read_contents(folders[0]), [read_contents(folders[1])])))
    assert (found.by_task, found.shape, found.original.score) == (False, "", 1.0)
    assert [row.score for row in found.builds] == [0.99, 0.91]
    page = Page(write_report(folders[0], folders[1:]).read_text())
    assert "cosine with the float model's output" in page.text
    assert "Accuracy against time" not in page.text


def test_chosen_widths_are_named_in_short(main: Path, other: Path) -> None:
    record = json.loads((other / "settings.json").read_text())
    record["settings"]["max_drop"] = 0.5
    (other / "settings.json").write_text(json.dumps(record))
    assert compare(read_contents(main), [read_contents(other)]).builds[1].bits == "auto (0.5)"


def _other_model(folder: Path) -> None:
    record = json.loads((folder / "settings.json").read_text())
    (folder / "settings.json").write_text(json.dumps({**record, "source_sha256": "ef" * 32}))


def _no_score(folder: Path) -> None:
    metrics = json.loads((folder / "metrics.json").read_text())
    del metrics["validation"]
    (folder / "metrics.json").write_text(json.dumps(metrics))


def _other_data(folder: Path) -> None:
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["validation"]["samples"] = 7
    (folder / "metrics.json").write_text(json.dumps(metrics))


@pytest.mark.parametrize(
    ("change", "problem", "fix"),
    [
        (_other_model, "is of another model (test-encoder (made-up figures)) than", "builds of one model"),
        (_no_score, "narrow has no score that could be compared", "archnet validate"),
        (_other_data, "narrow was scored on sts (sick, sts12, 7 samples),", "the same --task and --data"),
        (lambda folder: (folder / "manifest.json").unlink(), "is not finished", "again"),
    ],
    ids=["model", "score", "data", "unfinished"],
)
def test_what_cannot_be_compared_leaves_the_old_page(
    main: Path, other: Path, change: Any, problem: str, fix: str
) -> None:
    before = write_report(main).read_bytes()
    change(other)
    with pytest.raises(ArchNetError) as caught:
        write_report(main, [other])
    assert problem in caught.value.problem
    assert fix in caught.value.fix
    assert (main / "report.html").read_bytes() == before


def test_a_build_is_not_compared_with_itself(main: Path, other: Path) -> None:
    with pytest.raises(ArchNetError, match="wide is given twice"):
        write_report(main, [main])
    with pytest.raises(ArchNetError, match="narrow is given twice"):
        write_report(main, [other, other.parent / "." / "narrow"])
