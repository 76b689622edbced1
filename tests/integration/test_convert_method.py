"""Whole conversions with the parts of the paper's method: integers, records, reuse, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from archnet.build import BuildDir
from archnet.events import read_log
from archnet.method import Method
from archnet.results import read_metrics
from tests.hf_models import make_image_folder, make_model_folder, write_pictures
from tests.hf_writers import make_translation_folder
from tests.integration.conftest import Archnet
from tests.integration.test_convert_killed import DISTIL, RESULTS, Command
from tests.integration.tiny import short_presets, write_text

PAPER = ("--quantizer", "dorefa", "--periods", "blocks", "--block-decay", "0.8")
ATTENTION = ("--adaptation", "teacher-attention")


@pytest.fixture(scope="module", autouse=True)
def presets() -> Iterator[None]:
    """A second or two a stage."""
    with short_presets(12, 4):
        yield


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentence encoder of two layers."""
    return make_model_folder(tmp_path_factory.mktemp("deep") / "model", layers=2, pooling="mean")


def equal_integers(archnet: Archnet, out: Path) -> None:
    checked = archnet("validate", out, "--backend", "reference,onnxruntime")
    assert checked.exit_code == 0, checked.output
    tensors = read_metrics(BuildDir.open_finished(out).metrics)["validation"]["tensors"]
    alone = [t for t in tensors if t["scope"] == "layer" and t["op"] != "Softmax"] or tensors
    assert [t for t in alone if t["max_lsb"]] == []


def test_everything_at_once_is_recorded_and_gives_the_same_integers(
    archnet: Archnet, deep: Path, sentences: Path, target: Path, tmp_path: Path
) -> None:
    out = tmp_path / "build"
    common = ("convert", deep, "--data", sentences, "--target", target, "--seq-len", 24)
    done = archnet(*common, *PAPER, *ATTENTION, "--bits", "w2a4", "--out", out)
    assert done.exit_code == 0, done.output
    build = BuildDir.open_finished(out)
    assert build.settings.method == Method("dorefa", "blocks", 0.8, "teacher-attention")
    manifest = build.read_json(build.manifest)
    recorded = json.loads((out / "settings.json").read_text())["settings"]
    assert recorded == manifest["settings"]
    assert (recorded["block_decay"], recorded["adaptation"]) == (0.8, "teacher-attention")
    points = [e for e in read_log(build.log) if e.get("event") == "progress" and "block" in e]
    blocks = {stage: [] for stage in ("distil", "quantize-w4a4", "quantize-w2a4")}
    for entry in points:
        stage, block = str(entry["stage"]), str(entry["block"])
        if stage in blocks and block not in blocks[stage]:
            blocks[stage].append(block)
    assert blocks["distil"] == blocks["quantize-w2a4"] == ["head", "block 0", "block 1", ""]
    assert (out / "stages" / "distil" / "adaptation.safetensors").is_file()
    report = (out / "report.html").read_text()
    assert "Adaptation of states" in report
    equal_integers(archnet, out)


class MethodCommand(Command):
    """`archnet convert` with all parts of the method, as a process of its own."""

    @property
    def arguments(self) -> list[str]:
        return [*super().arguments, "--bits", "w4a4", *PAPER, *ATTENTION]


def test_killed_in_a_period_gives_the_same_bytes(
    tmp_path: Path, deep: Path, sentences: Path, target: Path, archnet: Archnet
) -> None:
    whole = MethodCommand(deep, sentences, target, tmp_path / "undisturbed")
    killed = MethodCommand(deep, sentences, target, tmp_path / "killed")
    whole.undisturbed(archnet)
    killed.kill("distil", DISTIL // 2)  # in the last block's period
    killed.kill("quantize-w4a4", 5)
    killed.finish()
    for name in RESULTS:
        assert (killed.out / name).read_bytes() == (whole.out / name).read_bytes(), name
    assert (killed.out / "log.jsonl").read_text().count('"resumed": true') >= 2


def test_the_distillation_serves_other_quantizers_only(
    archnet: Archnet, deep: Path, sentences: Path, target: Path, tmp_path: Path
) -> None:
    common = ("convert", deep, "--data", sentences, "--target", target, "--seq-len", 24)
    first, second = tmp_path / "first", tmp_path / "second"
    assert archnet(*common, "--out", first).exit_code == 0
    taken = archnet(*common, "--quantizer", "dorefa", "--reuse", first, "--out", second)
    assert taken.exit_code == 0, taken.output
    stages = [e for e in read_log(second / "log.jsonl") if e["event"] == "stage_finished"]
    assert {str(e["stage"]): e["loaded"] for e in stages}["distil"] is True
    refused = archnet(
        *common, "--periods", "blocks", "--block-decay", "0.8", "--reuse", first, "--out", tmp_path / "third"
    )
    assert refused.exit_code == 2
    assert "something else: periods: all -> blocks; block_decay: 1.0 -> 0.8" in refused.stderr
    assert not (tmp_path / "third").exists()
    begun = archnet(*common, "--quantizer", "dorefa", "--out", first)
    assert begun.exit_code == 2
    assert "was begun with other settings: quantizer: lsq -> dorefa" in begun.stderr


def test_pictures(archnet: Archnet, target: Path, tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    model, pictures = make_image_folder(tmp_path / "resnet"), write_pictures(tmp_path / "pictures")
    out = tmp_path / "build"
    done = archnet(
        *("convert", model, "--data", pictures, "--target", target, "--bits", "w2a4", "--out", out),
        *(*PAPER, *ATTENTION),
    )
    assert done.exit_code == 0, done.output
    equal_integers(archnet, out)


def test_translation(archnet: Archnet, target: Path, tmp_path: Path) -> None:
    model, out = make_translation_folder(tmp_path / "marian"), tmp_path / "build"
    done = archnet(
        *("convert", model, "--data", write_text(tmp_path), "--target", target, "--bits", "w4a4"),
        *("--out", out, "--seq-len", 12, *PAPER, "--adaptation", "residual"),
    )
    assert done.exit_code == 0, done.output
    entries = [e for e in read_log(out / "log.jsonl") if e.get("stage") == "distil" and e.get("block")]
    blocks = list(dict.fromkeys(str(e["block"]) for e in entries))
    assert blocks[0].startswith("encoder")
    assert blocks[-1].startswith("decoder")
    equal_integers(archnet, out)


@pytest.mark.parametrize(
    ("option", "value", "problem"),
    [
        ("--quantizer", "lsq+", "--quantizer 'lsq+' does not exist"),
        ("--periods", "block", "--periods 'block' does not exist"),
        ("--block-decay", "1.5", "--block-decay 1.5 is out of range"),
        ("--adaptation", "rfa", "--adaptation 'rfa' does not exist"),
    ],
)
def test_what_does_not_exist_is_refused_at_once(
    archnet: Archnet, option: str, value: str, problem: str, tmp_path: Path
) -> None:
    refused = archnet(
        "convert", "m", "--data", "d", "--target", "archnet", "--out", tmp_path / "build", option, value
    )
    assert refused.exit_code == 2
    assert f"error: {problem}" in refused.stderr
    assert not (tmp_path / "build").exists()
