"""A made-up build folder for the report's tests: figures of a plausible size that nobody measured."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Literal

import numpy as np

from archnet.config import Bits, ConvertSettings
from archnet.results import (
    BackendScore,
    BlockAgreement,
    EmulatedPlace,
    LatencyRow,
    TensorAgreement,
    TrainingPoint,
    ValidationResult,
    merge_metrics,
)

BLOCKS = ("embedding", *(f"layer.{i}" for i in range(6)), "pooling")
SETTINGS = ConvertSettings("archnet", Bits(8, 8), "balanced", 128, 0, "one-hot")
MEASURED = ("census", "plan", "blocks", "training", "validation", "latency", "sizes", "cost")


def make_build(folder: Path, *, parts: tuple[str, ...] = MEASURED, **replaced: Any) -> Path:
    """Write a finished build folder that holds these parts; `replaced` overwrites keys of metrics.json."""
    folder.mkdir(parents=True, exist_ok=True)
    _write(
        folder / "settings.json",
        {
            "format": "archnet-build",
            "version": 1,
            "settings": SETTINGS.to_json(),
            "source_sha256": "ab" * 32,
            "data_sha256": "cd" * 32,
        },
    )
    metrics: dict[str, Any] = {}
    if "census" in parts:
        metrics |= {"census_before": CENSUS_BEFORE, "census_after": CENSUS_AFTER}
    if "blocks" in parts:
        metrics["blocks"] = blocks()
    if "training" in parts:
        metrics["training"] = training()
    if "validation" in parts:
        metrics["validation"] = validation()
    if "latency" in parts:
        metrics["latency"] = latency()
    if "sizes" in parts:
        metrics["sizes"] = SIZES
    if "cost" in parts:
        metrics["seconds"] = {"capture": 6.2, "distil": 611.0, "polish": 174.5, "freeze": 4.0, "export": 22.4}
        metrics["peak_memory_bytes"] = 2_870_000_000
    if "plan" in parts:
        decisions = plan()
        _write(folder / "plan.json", {"model": "test-encoder", "target": "archnet", "decisions": decisions})
    merge_metrics(folder / "metrics.json", **{**metrics, **replaced})
    _write(folder / "manifest.json", MANIFEST)
    return folder


CENSUS_BEFORE = {
    "FullyConnected": 36,
    "LayerNorm": 13,
    "Add": 13,
    "MatMul": 12,
    "Gather": 3,
    "GELU": 6,
    "Softmax": 6,
}
CENSUS_AFTER = {
    "FullyConnected": 37, "Add": 13, "MatMul": 12, "Softmax": 6, "OneHot": 1, "Minimum": 6, "Slice": 1,
    "Reshape": 24, "Transpose": 18, "MeanPool": 1,
}  # fmt: skip
SIZES = {
    "onnx/float.onnx": 90_405_214,
    "onnx/model.onnx": 22_913_400,
    "tvm/x86_64/model.so": 23_544_832,
    "tvm/aarch64/model.so": 23_480_116,
    "graph/graph.safetensors": 22_760_960,
}
MANIFEST = {
    "model": "test-encoder (made-up figures)",
    "source": {
        "name": "test-encoder (made-up figures)",
        "kind": "sentence-transformers",
        "sha256": "ab" * 32,
    },
    "inputs": [
        {"name": "input_ids", "dtype": "int64", "shape": ["batch", "sequence"]},
        {"name": "attention_mask", "dtype": "int64", "shape": ["batch", "sequence"]},
    ],
    "outputs": [{"name": "sentence_embedding", "dtype": "float32", "shape": ["batch", 384]}],
    "versions": {"archnet": "0.1.0", "torch": "2.13.0", "onnxruntime": "1.31.0", "tvm": "0.27.0"},
    "files": {"onnx/model.onnx": "12" * 32, "graph/graph.safetensors": "34" * 32},
}


def plan() -> list[dict[str, Any]]:
    """One decision a site."""

    def site(name: str, op: str, action: str, becomes: str, reason: str, block: str = "") -> dict[str, Any]:
        keys = ("site", "op", "action", "becomes", "reason", "block", "count")
        return dict(zip(keys, (name, op, action, becomes, reason, block, 1), strict=True))

    decisions = [
        site(
            "embeddings.word_embeddings", "Gather", "replace", "OneHot + FullyConnected",
            "archnet has no Gather; a one-hot row times the table is the same integers", "embedding",
        ),
        site("embeddings.position", "Gather", "fold", "Slice of a constant", "always 0, 1, 2, ..."),
        site("embeddings.token_type", "Gather", "fold", "", "always type 0: added to the position table"),
    ]  # fmt: skip
    folded = "archnet has no LayerNorm; static statistics after distillation, folded into the next layer"
    for i in range(6):
        block = f"layer.{i}"
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            decisions += [site(f"{block}.{name}", "LayerNorm", "replace", "BatchNorm, folded", folded, block)]
        decisions += [
            site(
                f"{block}.act",
                "GELU",
                "replace",
                "ReLU",
                "archnet has no GELU; ReLU is free in the clamp",
                block,
            ),
            site(
                f"{block}.softmax", "Softmax", "keep", "Softmax", "archnet has it: uint8 out, int8 in", block
            ),
        ]
        for name in ("query", "key", "value", "dense", "up", "down"):
            decisions.append(
                site(f"{block}.{name}", "FullyConnected", "keep", "FullyConnected", "8 bits", block)
            )
    return decisions


def blocks() -> list[BlockAgreement]:
    cosines = (0.9991, 0.9969, 0.9948, 0.9921, 0.9907, 0.9886, 0.9842, 0.9913)
    noise = (27.4, 22.0, 19.8, 18.0, 17.3, 16.4, 15.0, 17.6)
    return [BlockAgreement(b, c, n) for b, c, n in zip(BLOCKS, cosines, noise, strict=True)]


def training() -> list[TrainingPoint]:
    random = np.random.default_rng(0)
    points = []
    for i, block in enumerate(BLOCKS[1:7]):
        for step in range(0, 400, 5):
            g = min(1.0, step / 200)
            bump = 0.4 * math.sin(math.pi * min(1.0, step / 230)) ** 2
            loss = (
                (0.02 + 0.008 * i)
                * (1 + 6 * bump + 2 * math.exp(-step / 40))
                * math.exp(random.normal() * 0.12)
            )
            points.append(TrainingPoint("distil", block, step, loss, g))
    for step in range(0, 900, 5):
        loss = (0.03 + 0.05 * math.exp(-step / 180)) * math.exp(random.normal() * 0.1)
        points.append(TrainingPoint("polish", "", step, loss))
    return points


def latency() -> list[LatencyRow]:
    figures = {
        (1, 32): (9.4, 3.1, 5.2),
        (1, 128): (34.0, 11.9, 16.8),
        (32, 32): (268.0, 92.4, 141.0),
        (32, 128): (1180.0, 448.0, 690.0),
    }
    rows = []
    for (batch, sequence), (original, ort, tvm) in figures.items():
        for backend, ms in (("onnxruntime", ort), ("tvm", tvm)):
            rows.append(LatencyRow(backend, batch, sequence, 2, 31, original, ms, original / ms))
    return rows


def validation(*, max_drop: float | None = 0.3, drop: float = -0.52) -> ValidationResult:
    """Scores with this drop (negative: a gain) on ONNX Runtime; a few LSB off there, none on TVM."""

    def backend(name: str, lost: float) -> BackendScore:
        parts = {"SICK trial": 79.31 - lost - 0.1, "STS 2012 test": 79.87 - lost + 0.1}
        return BackendScore(name, 79.59 - lost, lost, parts, 0.9913, 17.6, 41.0, (lost - 0.61, lost + 0.44))

    original = BackendScore(
        "float", 79.59, 0.0, {"SICK trial": 79.31, "STS 2012 test": 79.87}, None, None, 88.0
    )
    return ValidationResult(
        task="sts",
        metric="Spearman × 100",
        data="sick, sts12",
        samples=3608,
        agreement_samples=64,
        float_score=original,
        scores=(backend("reference", drop + 0.01), backend("onnxruntime", drop), backend("tvm", drop + 0.01)),
        blocks=tuple(blocks()),
        tensors=(
            *tensors("onnxruntime", "network", 2),
            *tensors("onnxruntime", "layer", 1),
            *tensors("tvm", "network", 0),
        ),
        emulated=tuple(
            EmulatedPlace("onnxruntime", f"layer.{i}.softmax", "Softmax", "it has no integer softmax")
            for i in range(6)
        ),
        max_drop=max_drop,
    )  # fmt: skip


def tensors(backend: str, scope: Literal["network", "layer"], worst: int) -> list[TensorAgreement]:
    """Four operators a layer; given the same inputs only the softmax differs."""
    made = []
    for block in BLOCKS[1:7]:
        for op, name in (
            ("FullyConnected", "query"),
            ("MatMul", "scores"),
            ("Softmax", "softmax"),
            ("Add", "residual"),
        ):
            differs = worst if op == "Softmax" or scope == "network" else 0
            count = 0 if not differs else 412 if op == "Softmax" else 95
            tensor = f"{block}.{name}"
            made.append(TensorAgreement(backend, tensor, op, block, scope, 1_572_864, count, differs))
    return made


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1), encoding="utf-8")
