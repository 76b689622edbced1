"""Whole conversions with narrower heads of attention, and the commands that ask for them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from archnet.build import BuildDir
from archnet.config import HeadWidth
from archnet.operators import Op
from archnet.storage import load_graph
from tests.hf_models import make_image_folder, make_model_folder, write_pictures
from tests.hf_writers import make_language_folder, make_translation_folder
from tests.integration.conftest import Archnet, check_all_equal
from tests.integration.test_convert_refusals import check_refusal
from tests.integration.tiny import SEQUENCE, short_presets, text


def head_widths(folder: Path) -> set[int]:
    """Features of each head in the products of a network's queries and keys, and in what heads give."""
    graph = load_graph(folder)
    products = [node for node in graph.nodes if node.op in (Op.MATMUL, Op.MEAN_MATMUL)]
    of_keys = [node for node in products if node.attributes.get("transpose_b")]
    read = {int(graph.tensors[node.inputs[0]].shape[-1]) for node in of_keys}
    given = {int(graph.tensors[node.output].shape[-1]) for node in products if node not in of_keys}
    assert read
    assert given
    return read | given


@pytest.mark.parametrize(("form", "bits"), [("softmax", "w8a8"), ("logsum", "w4a4"), ("relu", "w8a8")])
def test_convert(
    form: str, bits: str, archnet: Archnet, model: Path, sentences: Path, target: Path, tmp_path: Path
) -> None:
    out = tmp_path / "build"
    with short_presets(12, 4):
        done = archnet(
            *("convert", model, "--data", sentences, "--target", target, "--bits", bits, "--seq-len", 24),
            *("--attention", form, "--head-width", "2,3", "--out", out),
        )
    assert done.exit_code == 0, done.output
    assert "scores kept" in done.output
    build = BuildDir.open_finished(out)
    assert build.settings.head_width == HeadWidth(2, 3)
    assert head_widths(build.graph_dir) == {2, 3}
    check_all_equal(archnet, out, "onnxruntime")
    page = (out / "report.html").read_text()
    assert "Features of each head of attention" in page
    assert "queries and keys of 2 instead of 8 features a head, values of 3 instead of 8" in page
    refused = archnet(
        *("convert", model, "--data", sentences, "--target", target, "--bits", bits, "--seq-len", 24),
        *("--attention", form, "--reuse", out, "--out", tmp_path / "other"),
    )
    check_refusal(refused, "head_width: 2,3 -> unchanged", "leave --reuse out")


def test_mixing_reads_narrower_queries_and_values(
    archnet: Archnet, model: Path, sentences: Path, tmp_path: Path
) -> None:
    out = tmp_path / "build"
    with short_presets(12, 4):
        done = archnet(
            *("convert", model, "--data", sentences, "--target", "archnet5", "--seq-len", 24),
            *("--head-width", "2,3", "--out", out),
        )
    assert done.exit_code == 0, done.output
    graph = load_graph(out / "graph")
    joined = [graph.tensors[node.output] for node in graph.nodes if node.name.endswith(".joined")]
    assert [spec.shape[-1] for spec in joined] == [4 * (2 + 3)]
    check_all_equal(archnet, out, "onnxruntime")


def test_convert_a_translation_model(archnet: Archnet, sentences: Path, target: Path, tmp_path: Path) -> None:
    model, out = make_translation_folder(tmp_path / "model", layers=1, end_bias=3.0), tmp_path / "build"
    with short_presets(12, 4):
        done = archnet(
            *("convert", model, "--data", sentences, "--target", target, "--bits", "w8a8"),
            *("--attention", "logsum", "--seq-len", SEQUENCE, "--head-width", 2, "--out", out),
        )
    assert done.exit_code == 0, done.output
    assert head_widths(out / "encoder" / "graph") == {2}
    assert head_widths(out / "decoder" / "graph") == {2}
    check_all_equal(archnet, out, "onnxruntime")


def test_convert_a_classifier_of_pictures(archnet: Archnet, target: Path, tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    model, out = make_image_folder(tmp_path / "model", "beit"), tmp_path / "build"
    pictures = write_pictures(tmp_path / "pictures")
    with short_presets(12, 4):
        done = archnet(
            *("convert", model, "--data", pictures, "--target", target, "--head-width", 4, "--out", out)
        )
    assert done.exit_code == 0, done.output
    assert head_widths(out / "graph") == {4}
    check_all_equal(archnet, out, "onnxruntime")


@pytest.mark.parametrize(("family", "kept"), [("llama", "queries"), ("deberta", "tables of distances")])
def test_values_alone(family: str, kept: str, archnet: Archnet, sentences: Path, tmp_path: Path) -> None:
    """Rotary positions and distances keep what queries and keys are."""
    model, out = make_model_folder(tmp_path / "model", family, layers=1), tmp_path / "build"
    with short_presets(12, 4):
        done = archnet(
            *("convert", model, "--data", sentences, "--target", "onnxruntime", "--attention", "logsum"),
            *("--seq-len", 24, "--head-width", 4, "--out", out),
        )
    assert done.exit_code == 0, done.output
    assert head_widths(out / "graph") == {4, 8}
    decisions = json.loads((out / "plan.json").read_text())["decisions"]
    texts = [d["becomes"] for d in decisions if d["op"] == "Attention"]
    assert texts
    assert all(f"; values of 4 instead of 8 features a head; {kept} " in text for text in texts)
    check_all_equal(archnet, out, "onnxruntime")


def test_a_language_model_keeps_narrower_values(archnet: Archnet, target: Path, tmp_path: Path) -> None:
    model, out = make_language_folder(tmp_path / "model", "gpt2"), tmp_path / "build"
    (tmp_path / "text").write_text("\n".join(text()))
    with short_presets(12, 4):
        done = archnet(
            *("convert", model, "--data", tmp_path / "text", "--target", target, "--attention", "logsum"),
            *("--seq-len", 24, "--head-width", 4, "--out", out),
        )
    assert done.exit_code == 0, done.output
    caches = {spec.shape[-1] for spec in load_graph(out / "decoder" / "graph").inputs if len(spec.shape) == 4}
    assert caches == {4}
    check_all_equal(archnet, out, "onnxruntime")


def test_heads_that_are_no_wider(archnet: Archnet, model: Path, sentences: Path, tmp_path: Path) -> None:
    problem = (
        "--head-width 8 leaves the heads of tiny as they are: queries and keys have 8, and values have 8"
    )
    fix = "give fewer features, or leave --head-width out"
    check_refusal(archnet("inspect", model, "--target", "tvm", "--head-width", 8), problem, fix)
    command = ("convert", model, "--data", sentences, "--target", "tvm", "--out", tmp_path / "build")
    check_refusal(archnet(*command, "--head-width", 8), problem, fix)
    assert not (tmp_path / "build").exists()


def test_a_width_that_no_head_has(archnet: Archnet, model: Path, sentences: Path, tmp_path: Path) -> None:
    command = ("convert", model, "--data", sentences, "--target", "tvm", "--out", tmp_path / "out")
    fix = "write how many each head is to have, such as 16"
    check_refusal(archnet(*command, "--head-width", 0), "--head-width '0' is no number of features", fix)
    check_refusal(
        archnet("inspect", model, "--target", "tvm", "--head-width", "a"), "--head-width 'a' is", fix
    )


def test_a_model_without_attention(archnet: Archnet, tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    model = make_image_folder(tmp_path / "resnet")
    shown = archnet("inspect", model, "--target", "tvm", "--head-width", 4)
    check_refusal(shown, "--head-width 4 is of attention, and resnet has none", "leave --head-width out")
