from __future__ import annotations

import time
from collections.abc import Callable
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest

from archnet.bench import LEAST_PAIRS, bench, full_batch, paired_times
from archnet.encode import Inputs
from archnet.errors import ArchNetError
from archnet.events import Event, Progress
from archnet.float_model import FloatModel
from archnet.results import LatencyRow, read_metrics
from tests.archnet.integer_build import MAX_SEQUENCE, make_integer_build


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bench") / "build"
    make_integer_build(path)
    return path


def test_rows_are_measured_and_recorded(folder: Path) -> None:
    events: list[Event] = []
    rows = bench(folder, batches=(1, 2), sequences=(8, 32, 128), threads=1, seconds=0, events=events.append)
    assert [(r.backend, r.batch, r.sequence) for r in rows] == [
        ("onnxruntime", batch, length) for batch in (1, 2) for length in (8, MAX_SEQUENCE)
    ]
    assert all(
        r.runs == LEAST_PAIRS and r.threads == 1 and min(r.float_ms, r.int8_ms, r.ratio) > 0 for r in rows
    )
    metrics = read_metrics(folder / "metrics.json")
    assert [LatencyRow.from_json(r) for r in metrics["latency"]] == rows
    assert "sizes" in metrics
    assert sum(isinstance(e, Progress) for e in events) == 4


def test_the_reference_is_timed_only_when_named(folder: Path) -> None:
    rows = bench(folder, backends=["reference"], batches=(1,), sequences=(8,), seconds=0)
    assert [r.backend for r in rows] == ["reference"]


def test_nothing_to_time_is_said(folder: Path) -> None:
    exported = folder / "onnx" / "model.onnx"
    content = exported.read_bytes()
    exported.unlink()
    try:
        with pytest.raises(ArchNetError, match="no exported network to time"):
            bench(folder)
    finally:
        exported.write_bytes(content)


def test_runs_are_paired_and_each_is_warmed() -> None:
    calls: list[str] = []

    def runner(name: str) -> Callable[[Inputs], dict[str, object]]:
        def run(inputs: Inputs) -> dict[str, object]:
            calls.append(name)
            time.sleep(0.01)
            return {}

        return run

    pairs = paired_times(runner("float"), runner("int8"), {}, seconds=0)
    assert len(pairs) == LEAST_PAIRS
    turns = [(name, len(list(run))) for name, run in groupby(calls)]
    assert [name for name, _ in turns] == ["float", "int8"] * LEAST_PAIRS
    assert all(count > 1 for _, count in turns)


def test_a_batch_is_full_of_real_tokens() -> None:
    samples: Inputs = {
        "input_ids": np.array([[5, 6, 0], [7, 0, 0]]),
        "attention_mask": np.array([[1, 1, 0], [1, 0, 0]]),
    }
    inputs = full_batch(samples, 2, 4)
    assert inputs["input_ids"].tolist() == [[5, 6, 7, 5], [6, 7, 5, 6]]
    assert inputs["attention_mask"].all()


def test_the_float_original_names_a_missing_input(folder: Path) -> None:
    with pytest.raises(ArchNetError, match="needs the input attention_mask"):
        FloatModel.open(folder).run({"input_ids": np.ones((1, 2), dtype=np.int64)})
