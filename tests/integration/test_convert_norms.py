"""Whole conversions whose norms are corrected by small layers, and the commands that choose the form."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from archnet.build import BuildDir
from archnet.operators import Op
from archnet.storage import load_graph
from tests.hf_models import make_model_folder
from tests.integration.conftest import Archnet, check_all_equal
from tests.integration.tiny import short_presets


@pytest.mark.parametrize(("target", "bits"), [("onnxruntime", "w8a8"), ("archnet5", "w4a4")])
def test_convert(
    target: str, bits: str, archnet: Archnet, model: Path, sentences: Path, tmp_path: Path
) -> None:
    out = tmp_path / "build"
    with short_presets(12, 4):
        done = archnet(
            *("convert", model, "--data", sentences, "--target", target, "--bits", bits),
            *("--norms", "corrected", "--out", out, "--seq-len", 24),
        )
    assert done.exit_code == 0, done.output
    build = BuildDir.open_finished(out)
    assert build.settings.norms == "corrected"
    layers = [node.name for node in load_graph(build.graph_dir).nodes if node.op is Op.LINEAR]
    hidden = [name for name in layers if name.endswith(".correct.hidden")]
    assert hidden
    assert [name for name in layers if name.endswith(".correct.back")] == [
        name.replace("hidden", "back") for name in hidden
    ]
    check_all_equal(archnet, out, "onnxruntime,tvm")
    assert "Form of norms" in (out / "report.html").read_text()


def test_another_form_is_another_distillation(
    archnet: Archnet, model: Path, sentences: Path, tmp_path: Path
) -> None:
    out = tmp_path / "build"
    command = ("convert", model, "--data", sentences, "--target", "onnxruntime", "--seq-len", 24)
    with short_presets(2, 2):
        assert archnet(*command, "--out", out).exit_code == 0
    refused = archnet(*command, "--norms", "corrected", "--reuse", out, "--out", tmp_path / "other")
    assert refused.exit_code == 2
    assert "norms: static -> corrected" in refused.stderr
    assert not (tmp_path / "other").exists()


def test_inspect_shows_the_form(archnet: Archnet, model: Path) -> None:
    shown = archnet("inspect", model, "--target", "archnet", "--norms", "corrected")
    assert shown.exit_code == 0, shown.output
    assert "fully connected, ReLU, fully connected, added to it" in " ".join(shown.output.split())
    wrong = archnet("inspect", model, "--target", "archnet", "--norms", "correct")
    assert wrong.exit_code == 2
    assert "--norms 'correct' does not exist" in wrong.stderr
    assert "did you mean 'corrected'?" in wrong.stderr


def test_norms_within_heads_stay_static(archnet: Archnet, tmp_path: Path) -> None:
    model = make_model_folder(tmp_path / "qwen3", "qwen3", layers=1)
    shown = archnet("inspect", model, "--target", "tvm", "--norms", "corrected", "--json")
    assert shown.exit_code == 0, shown.output
    replaced = [d for d in json.loads(shown.stdout)["decisions"] if d["op"] == "RMSNorm"]
    assert {"added to it" in d["becomes"] for d in replaced if "self_attn" in d["site"]} == {False}
    assert {"added to it" in d["becomes"] for d in replaced if "self_attn" not in d["site"]} == {True}
