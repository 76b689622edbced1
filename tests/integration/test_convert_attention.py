"""Whole conversions with the other forms of attention, and the commands that choose them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from archnet import load
from archnet.build import BuildDir
from archnet.operators import Op
from archnet.storage import load_graph
from archnet.targets import load_profile
from tests.hf_models import make_model_folder
from tests.hf_writers import make_translation_folder
from tests.integration.conftest import Archnet, check_all_equal
from tests.integration.tiny import short_presets

GONE = {
    "table": {Op.SOFTMAX},
    "logsum": {Op.SOFTMAX, Op.TABLE_SOFTMAX},
    "relu": {Op.SOFTMAX, Op.TABLE_SOFTMAX, Op.MASK},
    "mixing": {Op.SOFTMAX, Op.TABLE_SOFTMAX, Op.MASK, Op.MATMUL, Op.MEAN_MATMUL},
}


@pytest.mark.parametrize("form", GONE)
def test_convert(
    form: str, archnet: Archnet, model: Path, sentences: Path, target: Path, tmp_path: Path
) -> None:
    out = tmp_path / "build"
    with short_presets(12, 4):
        done = archnet(
            *("convert", model, "--data", sentences, "--target", target, "--bits", "w8a8"),
            *("--attention", form, "--out", out, "--seq-len", 24),
        )
    assert done.exit_code == 0, done.output
    build = BuildDir.open_finished(out)
    assert build.settings.attention == form
    graph = load_graph(build.graph_dir)
    assert GONE[form].isdisjoint({node.op for node in graph.nodes})
    check_all_equal(archnet, out, "onnxruntime")
    assert "Form of attention" in (out / "report.html").read_text()


def test_convert_for_the_strict_family(
    archnet: Archnet, model: Path, sentences: Path, tmp_path: Path
) -> None:
    out = tmp_path / "build"
    with short_presets(12, 4):
        done = archnet(
            *("convert", model, "--data", sentences, "--target", "archnet5", "--bits", "w4a8"),
            *("--out", out, "--seq-len", 24),
        )
    assert done.exit_code == 0, done.output
    graph = load_graph(BuildDir.open_finished(out).graph_dir)
    assert {node.op for node in graph.nodes} <= set(load_profile("archnet5").operators)
    assert Op.CONCAT in {node.op for node in graph.nodes}
    check_all_equal(archnet, out, "onnxruntime,tvm")


def test_inspect_shows_the_form_and_refuses_what_the_target_lacks(
    archnet: Archnet, model: Path, target: Path, tmp_path: Path
) -> None:
    shown = archnet("inspect", model, "--target", "archnet", "--attention", "mixing")
    assert shown.exit_code == 0, shown.output
    assert "fully connected over tokens" in shown.output
    bare = tmp_path / "bare.toml"
    lines = target.read_text().splitlines()
    bare.write_text("\n".join(line for line in lines if not line.startswith("attention_forms")))
    refused = archnet("inspect", model, "--target", bare, "--attention", "mixing")
    assert refused.exit_code == 2
    assert "target 'my_chip' cannot run --attention 'mixing'" in refused.stderr


@pytest.fixture(scope="module")
def translator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A translation model's folder, of one layer on either side."""
    return make_translation_folder(tmp_path_factory.mktemp("translator") / "model", layers=1, end_bias=3.0)


@pytest.mark.parametrize("form", GONE)
def test_convert_a_translation_model(
    form: str, archnet: Archnet, translator: Path, sentences: Path, target: Path, tmp_path: Path
) -> None:
    out = tmp_path / "build"
    with short_presets(6, 3):
        done = archnet(
            *("convert", translator, "--data", sentences, "--target", target, "--bits", "w8a8"),
            *("--attention", form, "--out", out, "--seq-len", 24),
        )
    assert done.exit_code == 0, done.output
    in_decoder = "relu" if form == "mixing" else form
    for part, gone in (("encoder", GONE[form]), ("decoder", GONE[in_decoder])):
        assert gone.isdisjoint({node.op for node in load_graph(out / part / "graph").nodes})
    check_all_equal(archnet, out, "onnxruntime")
    ids = torch.randint(5, 90, (3, 8), generator=torch.Generator().manual_seed(0))
    exact, onnx = (
        load(out, backend=name).generate(ids, num_beams=2, max_length=9)
        for name in ("reference", "onnxruntime")
    )
    assert torch.equal(exact, onnx)
    page = (out / "report.html").read_text()
    assert "decoder to the source: MatMul" in page
    assert ("no mixing: no position tells" in page) is (form == "mixing")


def test_inspect_shows_what_becomes_of_each_attention_of_a_translation_model(
    archnet: Archnet, translator: Path
) -> None:
    shown = archnet("inspect", translator, "--target", "archnet", "--attention", "mixing")
    assert shown.exit_code == 0, shown.output
    text = " ".join(shown.output.split())
    for words in ("encoder: fully connected", "decoder to itself: MatMul", "decoder to the source: MatMul"):
        assert words in text
    assert "runs on the host" not in text
    refused = archnet("inspect", translator, "--target", "archnet5")
    assert "no mixing: no position tells which source word" in " ".join(refused.output.split())


@pytest.mark.parametrize(("target", "host"), [("qualcomm-htp", True), ("ethos-u55", False)])
def test_inspect_tells_whether_a_chip_leaves_the_decoder_to_the_host(
    target: str, host: bool, archnet: Archnet, translator: Path
) -> None:
    shown = archnet("inspect", translator, "--target", target)
    assert shown.exit_code == 0, shown.output
    said = "decoder 1 on the host the chip gets the encoder; the decoder runs on the host"
    assert (said in " ".join(shown.output.split())) is host


@pytest.mark.parametrize("form", ["softmax", "table"])
def test_a_bias_of_pairs_of_positions_is_added_in_integers(
    form: str, archnet: Archnet, sentences: Path, tmp_path: Path
) -> None:
    mpnet, out = make_model_folder(tmp_path / "mpnet", "mpnet", layers=1, pooling="mean"), tmp_path / "build"
    with short_presets(12, 4):
        done = archnet(
            *("convert", mpnet, "--data", sentences, "--target", "archnet", "--bits", "w4a8"),
            *("--attention", form, "--out", out, "--seq-len", 24),
        )
    assert done.exit_code == 0, done.output
    graph = load_graph(BuildDir.open_finished(out).graph_dir)
    (bias,) = (n for n in graph.nodes if n.op is Op.SLICE and n.output.endswith("/bias"))
    assert graph.constants[bias.inputs[0]].shape == (4, 24, 24)
    check_all_equal(archnet, out, "tvm,onnxruntime" if form == "table" else "tvm")


@pytest.mark.parametrize(("form", "bits"), [("softmax", "w8a8"), ("table", "w4a4")])
def test_terms_of_distances_are_products_in_integers(
    form: str, bits: str, archnet: Archnet, sentences: Path, tmp_path: Path
) -> None:
    deberta = make_model_folder(tmp_path / "deberta", "deberta-v2", layers=1, pooling="mean")
    out = tmp_path / "build"
    with short_presets(12, 4):
        done = archnet(
            *("convert", deberta, "--data", sentences, "--target", "archnet", "--bits", bits),
            *("--attention", form, "--out", out, "--seq-len", 24),
        )
    assert done.exit_code == 0, done.output
    graph = load_graph(BuildDir.open_finished(out).graph_dir)
    tables = [graph.constants[n.inputs[1]].shape for n in graph.nodes if n.op is Op.RELATIVE_MATMUL]
    assert tables == [(4, 47, 8), (4, 47, 8)]
    check_all_equal(archnet, out, "tvm,onnxruntime" if form == "table" else "tvm")


@pytest.mark.parametrize(
    ("family", "bits"),
    [
        ("nomic_bert", "w4a4"),
        ("modernbert", "w8a8"),
        ("llama", "w4a8"),
        ("qwen3", "w8a8"),
        ("gemma3_text", "w8a8"),
        ("arcee", "w4a4"),
    ],
)
def test_rotary_positions_and_gated_layers_are_products_in_integers(
    family: str, bits: str, archnet: Archnet, sentences: Path, tmp_path: Path
) -> None:
    model, out = make_model_folder(tmp_path / family, family, layers=1, pooling="mean"), tmp_path / "build"
    with short_presets(12, 4):
        done = archnet(
            *("convert", model, "--data", sentences, "--target", "tvm", "--bits", bits),
            *("--out", out, "--seq-len", 24),
        )
    assert done.exit_code == 0, done.output
    graph = load_graph(BuildDir.open_finished(out).graph_dir)
    assert [node.op for node in graph.nodes].count(Op.MUL) == 5
    check_all_equal(archnet, out, "tvm")


@pytest.mark.parametrize("family", ["gpt2", "gpt_neo"])
def test_a_decoder_alone_reads_whole_texts(
    family: str, archnet: Archnet, sentences: Path, tmp_path: Path
) -> None:
    model, out = make_model_folder(tmp_path / family, family, layers=1), tmp_path / "build"
    with short_presets(12, 4):
        done = archnet(
            *("convert", model, "--data", sentences, "--target", "tvm", "--bits", "w4a8"),
            *("--out", out, "--seq-len", 24),
        )
    assert done.exit_code == 0, done.output
    check_all_equal(archnet, out, "tvm")
    network, ids = load(out, backend="tvm"), np.arange(5, 17)[None]
    mask = np.ones_like(ids)
    whole = network(input_ids=ids, attention_mask=mask).last_hidden_state
    changed = ids.copy()
    changed[:, 8:] += 1
    other = network(input_ids=changed, attention_mask=mask).last_hidden_state
    np.testing.assert_array_equal(whole[:, :8], other[:, :8])
    assert (whole[:, 8:] != other[:, 8:]).any()


def test_a_chip_without_products_of_elements_refuses_gated_layers(
    archnet: Archnet, sentences: Path, tmp_path: Path
) -> None:
    model = make_model_folder(tmp_path / "nomic", "nomic_bert", layers=1, pooling="mean")
    done = archnet("convert", model, "--data", sentences, "--target", "archnet", "--out", tmp_path / "build")
    assert done.exit_code == 2
    assert "(Mul): multiplies two activations element by element" in " ".join(done.output.split())
    assert not (tmp_path / "build").exists()
