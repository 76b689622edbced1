"""Conversions below 8 bits and with chosen widths: packed files, equal integers, and what is listed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest

import archnet
from archnet.api import convert
from archnet.storage import load_graph
from archnet.targets import load_profile
from archnet.validate import validate
from tests.hf_models import make_model_folder
from tests.integration.tiny import SEQUENCE, short_presets, text, write_target

pytestmark = pytest.mark.usefixtures("presets")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model_folder(tmp_path_factory.mktemp("few") / "model", layers=1, pooling="mean")


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A target without TVM, whose compiler takes most of a tiny conversion."""
    return str(write_target(tmp_path_factory.mktemp("target")))


def build_of(model: Path, target: str, out: Path, **options: Any) -> Path:
    with short_presets(12, 4):
        return convert(model, text(), target=target, out=out, preset="fast", seq_len=SEQUENCE, **options)


def weight_bits(build: Path) -> dict[str, int]:
    """Layer -> bits of its weights, embeddings included."""
    nodes = load_graph(build / "graph").nodes
    return {n.name: int(str(n.attributes["weight_bits"])) for n in nodes if "weight_bits" in n.attributes}


def test_few_bits_are_packed_equal_and_listed(model: Path, target: str, tmp_path: Path) -> None:
    build = build_of(model, target, tmp_path / "build", bits="w2a4")
    bits = weight_bits(build)
    assert set(bits.values()) == {2, 4, 8}
    assert [name.endswith("/outward") for name, width in bits.items() if width == 8] == [True]
    file, constants = build / "onnx" / "model.onnx", build / "graph" / "graph.safetensors"
    assert onnx.load(file).opset_import[0].version == 25
    unpacked = sum(value.nbytes for value in load_graph(build / "graph").constants.values())
    assert constants.stat().st_size < unpacked
    result = validate(build, backends=["reference", "onnxruntime"])
    rows = [t for t in result.tensors if t.backend == "onnxruntime"]
    alone = [t for t in rows if t.scope == "layer"] or rows  # without differences there is one scope
    assert alone
    assert all(t.differing == 0 for t in alone if t.op != "Softmax")
    plan = json.loads((build / "plan.json").read_text())
    assert plan["asked_bits"] == "w2a4"
    named = {wider["what"] for wider in plan["wider"]}
    assert {"residual stream", "attention scores", "layers from the stream to an output"} <= named
    assert "What has more bits than was asked for" in (build / "report.html").read_text()


def test_widths_are_chosen_shown_and_recorded(model: Path, target: str, tmp_path: Path) -> None:
    notes: list[str] = []
    build = build_of(
        model,
        target,
        tmp_path / "build",
        bits="auto",
        max_drop=0.3,
        events=lambda event: notes.append(getattr(event, "text", "")),
    )
    assert any(note.startswith("bits chosen: ") for note in notes)
    manifest = json.loads((build / "manifest.json").read_text())
    assert manifest["settings"]["max_drop"] == 0.3
    widths = manifest["bits"]
    assert len(set(widths.values())) > 1
    assert set(widths.values()) <= set(load_profile(target).weight_bits)
    plan = json.loads((build / "plan.json").read_text())
    assert {entry["site"]: entry["bits"] for entry in plan["bits"]["layers"]} == widths
    assert plan["bits"]["predicted"] <= plan["bits"]["budget"]
    stored = weight_bits(build)
    assert all(stored.get(name, 8) == bits for name, bits in widths.items())
    assert "Chosen without labels for at most 0.3 points" in (build / "report.html").read_text()
    assert archnet.load(build).encode(["one sentence"]).shape[0] == 1
    again = build_of(model, target, tmp_path / "again", bits="auto", max_drop=0.3)
    first, second = (b / "graph" / "graph.safetensors" for b in (build, again))
    assert first.read_bytes() == second.read_bytes()
