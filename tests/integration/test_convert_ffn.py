"""Whole conversions with narrower feed-forward parts, and the commands that ask for them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from archnet.build import BuildDir
from archnet.operators import Op
from archnet.storage import load_graph
from tests.hf_models import make_image_folder, make_model_folder, write_pictures
from tests.hf_writers import make_translation_folder
from tests.integration.conftest import Archnet, check_all_equal
from tests.integration.test_convert_refusals import check_refusal
from tests.integration.tiny import SEQUENCE, short_presets


def widths(folder: Path) -> set[int]:
    """Features of every fully connected layer's results."""
    graph = load_graph(folder)
    return {int(graph.tensors[node.output].shape[-1]) for node in graph.nodes if node.op is Op.LINEAR}


@pytest.mark.parametrize(
    ("family", "target", "bits"), [("bert", "tvm", "w4a4"), ("llama", "onnxruntime", "w8a8")]
)
def test_convert(
    family: str, target: str, bits: str, archnet: Archnet, sentences: Path, tmp_path: Path
) -> None:
    """A plain part and a gated one, of 64 features each."""
    model, out = make_model_folder(tmp_path / "model", family), tmp_path / "build"
    with short_presets(12, 4):
        done = archnet(
            *("convert", model, "--data", sentences, "--target", target, "--bits", bits, "--seq-len", 24),
            *("--attention", "logsum", "--ffn-width", 24, "--out", out),
        )
    assert done.exit_code == 0, done.output
    assert "feed-forward kept" in done.output
    build = BuildDir.open_finished(out)
    assert build.settings.ffn_width == 24
    assert 24 in widths(build.graph_dir)
    assert 64 not in widths(build.graph_dir)
    check_all_equal(archnet, out, "onnxruntime")
    assert "reads 24 instead of 64 features" in (out / "report.html").read_text()


def test_with_narrower_heads_for_the_strict_family(
    archnet: Archnet, model: Path, sentences: Path, tmp_path: Path
) -> None:
    out = tmp_path / "build"
    with short_presets(12, 4):
        done = archnet(
            *("convert", model, "--data", sentences, "--target", "archnet5", "--seq-len", 24),
            *("--head-width", "2,3", "--ffn-width", "16", "--out", out),
        )
    assert done.exit_code == 0, done.output
    for part in ("scores kept", "results kept", "feed-forward kept"):
        assert part in done.output
    assert 64 not in widths(out / "graph")
    check_all_equal(archnet, out, "onnxruntime")


def test_convert_a_translation_model(archnet: Archnet, sentences: Path, target: Path, tmp_path: Path) -> None:
    model, out = make_translation_folder(tmp_path / "model", layers=1, end_bias=3.0), tmp_path / "build"
    with short_presets(12, 4):
        done = archnet(
            *("convert", model, "--data", sentences, "--target", target, "--bits", "w8a8"),
            *("--seq-len", SEQUENCE, "--ffn-width", 20, "--out", out),
        )
    assert done.exit_code == 0, done.output
    for part in ("encoder", "decoder"):
        assert 20 in widths(out / part / "graph")
    check_all_equal(archnet, out, "onnxruntime")


def test_convert_a_classifier_of_pictures(archnet: Archnet, target: Path, tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    model, out = make_image_folder(tmp_path / "model", "swin"), tmp_path / "build"
    pictures = write_pictures(tmp_path / "pictures")
    with short_presets(12, 4):
        done = archnet(
            *("convert", model, "--data", pictures, "--target", target, "--ffn-width", 40, "--out", out)
        )
    assert done.exit_code == 0, done.output
    assert 40 in widths(out / "graph")
    check_all_equal(archnet, out, "onnxruntime")


def test_parts_that_are_no_wider(archnet: Archnet, model: Path, sentences: Path, tmp_path: Path) -> None:
    problem = (
        "--ffn-width 64 leaves the feed-forward parts of tiny as they are (the first: it has 64 features)"
    )
    fix = "give fewer features, or leave --ffn-width out"
    check_refusal(archnet("inspect", model, "--target", "tvm", "--ffn-width", 64), problem, fix)
    command = ("convert", model, "--data", sentences, "--target", "tvm", "--out", tmp_path / "build")
    check_refusal(archnet(*command, "--ffn-width", 64), problem, fix)
    assert not (tmp_path / "build").exists()


@pytest.mark.parametrize("width", [0, -3])
def test_a_width_that_no_part_has(
    width: int, archnet: Archnet, model: Path, sentences: Path, tmp_path: Path
) -> None:
    command = ("convert", model, "--data", sentences, "--target", "tvm", "--out", tmp_path / "out")
    problem, fix = f"--ffn-width {width} is no number of features", "such as 1024"
    check_refusal(archnet(*command, "--ffn-width", width), problem, fix)
    check_refusal(archnet("inspect", model, "--target", "tvm", "--ffn-width", width), problem, fix)


def test_a_model_without_them(archnet: Archnet, tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    model = make_image_folder(tmp_path / "resnet")
    shown = archnet("inspect", model, "--target", "tvm", "--ffn-width", 4)
    check_refusal(
        shown,
        "--ffn-width 4 is of fully connected layers with nothing but activations between them, and resnet "
        "has none",
        "leave --ffn-width out",
    )


def test_inspect_says_what_becomes_of_them(archnet: Archnet, model: Path) -> None:
    shown = archnet("inspect", model, "--target", "tvm", "--ffn-width", 10, "--json")
    assert shown.exit_code == 0, shown.output
    texts = [d["becomes"] for d in json.loads(shown.stdout)["decisions"]]
    assert sum(text.endswith("; reads 10 instead of 64 features") for text in texts) == 1
