from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from archnet.errors import ArchNetError
from archnet.results import (
    BackendScore,
    BlockAgreement,
    CensusRow,
    EmulatedPlace,
    LatencyRow,
    Record,
    TensorAgreement,
    TrainingPoint,
    ValidationResult,
    merge_metrics,
    read_metrics,
)

RESULT = ValidationResult(
    task="sts",
    metric="Spearman x 100",
    data="sts12",
    samples=3,
    agreement_samples=2,
    float_score=BackendScore("float", score=79.5),
    scores=(BackendScore("reference", 79.0, 0.5, {"a": 78.0, "b": 80.0}, 0.99, 20.0, 1.5, (-0.2, 1.1)),),
    blocks=(BlockAgreement("0", 0.999, None),),
    tensors=(TensorAgreement("tvm", "t", "MatMul", "0", "layer", 10, 1, 1),),
    emulated=(EmulatedPlace("onnxruntime", "n", "Softmax", "no integer kernel"),),
    max_drop=0.5,
)
RECORDS: list[Record] = [
    RESULT,
    CensusRow("GELU", 6, 0),
    TrainingPoint("distil", "0", 1, 0.5, None),
    TrainingPoint("distil", "0", 1, 0.5, 0.25),
    LatencyRow("tvm", 1, 32, 2, 50, 10.0, 4.0, 2.5),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda r: type(r).__name__)
def test_a_record_survives_json(record: Record) -> None:
    text = json.dumps(record.to_json(), allow_nan=False)
    assert type(record).from_json(json.loads(text)) == record


def test_what_is_not_finite_becomes_null() -> None:
    assert TrainingPoint("distil", "", 0, math.nan).to_json()["loss"] is None
    assert BackendScore("float", sqnr_db=math.inf).to_json()["sqnr_db"] is None


def test_unknown_keys_are_ignored_and_missing_ones_named() -> None:
    assert CensusRow.from_json({"op": "GELU", "before": 6, "after": 0, "later": 1}) == CensusRow("GELU", 6, 0)
    with pytest.raises(ArchNetError, match=r"CensusRow\.before cannot be read: it is missing"):
        CensusRow.from_json({"op": "GELU"})


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("samples", "3", r"ValidationResult\.samples .* expected int, found str"),
        ("samples", True, r"ValidationResult\.samples .* expected int, found bool"),
        ("scores", {}, r"ValidationResult\.scores .* expected a list, found dict"),
        ("blocks", [3], r"BlockAgreement cannot be read: expected an object, found int"),
    ],
)
def test_a_value_of_another_type_is_named(key: str, value: object, words: str) -> None:
    with pytest.raises(ArchNetError, match=words):
        ValidationResult.from_json({**RESULT.to_json(), key: value})


def test_a_scope_that_does_not_exist_is_named() -> None:
    with pytest.raises(ArchNetError, match=r"TensorAgreement\.scope .* 'network', 'layer'"):
        TensorAgreement.from_json({**RESULT.tensors[0].to_json(), "scope": "tensor"})


@pytest.mark.parametrize(("max_drop", "passed"), [(None, True), (0.5, True), (0.49, False)])
def test_passed_compares_the_worst_drop(max_drop: float | None, passed: bool) -> None:
    value = {**RESULT.to_json(), "max_drop": max_drop}
    assert ValidationResult.from_json(value).passed is passed


def test_a_demand_without_a_score_is_not_passed() -> None:
    value = {**RESULT.to_json(), "scores": [BackendScore("reference", cosine=1.0).to_json()]}
    assert not ValidationResult.from_json(value).passed


def test_share_of_an_empty_tensor_is_zero() -> None:
    assert TensorAgreement("tvm", "t", "Add", "", "network", 0, 0, 0).share == 0.0
    assert RESULT.tensors[0].share == 0.1


def test_merge_keeps_what_others_wrote(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    path.write_text('{"sizes": {"float": 5}, "latency": []}')
    merge_metrics(path, latency=[LatencyRow("tvm", 1, 32, 2, 50, 10.0, 4.0, 2.5)], validation=RESULT)
    merged = read_metrics(path)
    assert merged["sizes"] == {"float": 5}
    assert merged["latency"][0]["ratio"] == 2.5
    assert ValidationResult.from_json(merged["validation"]) == RESULT
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.json"]


def test_a_broken_metrics_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    assert read_metrics(path) == {}
    path.write_text("[1]")
    with pytest.raises(ArchNetError, match=r"metrics\.json cannot be read: expected an object, found list"):
        read_metrics(path)
    path.write_text('{"sizes": ')
    with pytest.raises(ArchNetError, match=r"metrics\.json cannot be read"):
        merge_metrics(path, sizes={})
    assert path.read_text() == '{"sizes": '
