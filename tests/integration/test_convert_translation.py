"""A translation model from its folder to translated lines: conversion, search, BLEU, commands, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from archnet import ArchNetError, load
from archnet.backends.onnxruntime import OnnxRuntimeBackend
from archnet.bench import bench
from archnet.build import BuildDir
from archnet.report import write_report
from archnet.translations import load_translations
from archnet.validate import agreement_inputs
from archnet.validate_writer import agreement, open_writer
from tests.hf_writers import END, PAD, make_translation_folder
from tests.integration.conftest import Archnet, check_all_equal
from tests.integration.tiny import SEQUENCE, short_presets, text


@pytest.fixture(scope="module")
def build(target: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished conversion, without TVM."""
    from archnet.api import convert

    place = tmp_path_factory.mktemp("translator")
    model = make_translation_folder(place / "model", layers=1, end_bias=3.0)
    with short_presets(20, 5):
        return convert(model, text(), target=str(target), out=place / "build", seq_len=SEQUENCE)


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """Six sentences and an empty line."""
    path = tmp_path / "lines.en"
    path.write_text("\n".join([*text()[:3], "", *text()[3:6]]) + "\n")
    return path


def tokens() -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(5, 90, (4, 8), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    ids[mask == 0] = PAD
    return ids, mask


def test_a_build_has_two_networks_the_float_original_and_its_data(build: Path) -> None:
    for part in ("encoder", "decoder"):
        for file in ("graph/graph.json", "graph/graph.safetensors", "onnx/model.onnx"):
            assert (build / part / file).is_file()
    assert (build / "float" / "network.json").is_file()
    assert not (build / "checkpoints").exists()
    rows = load_translations(build)
    assert len(rows) == len(text())
    assert {int(row[0]) for row in rows} == {PAD}
    assert not any(END in row for row in rows)
    manifest = json.loads((build / "manifest.json").read_text())
    assert (manifest["kind"], manifest["generation"]["ends"]) == ("translation", [END])
    stages = json.loads((build / "metrics.json").read_text())["seconds"]
    assert list(stages)[-4:] == ["distil", "quantize-w8a8", "freeze", "export"]
    assert "translate" in (build / "report.html").read_text()


@pytest.mark.parametrize("beams", [1, 4])
def test_backends_generate_the_same_tokens(build: Path, beams: int) -> None:
    ids, mask = tokens()
    found = {
        name: load(build, backend=name).generate(ids, mask, num_beams=beams, max_length=10)
        for name in ("reference", "onnxruntime")
    }
    assert torch.equal(found["reference"], found["onnxruntime"])
    assert found["reference"].shape[1] <= 10
    assert (found["reference"][:, 0] == PAD).all()


def test_numpy_in_numpy_out_and_all_tokens_count_by_default(build: Path) -> None:
    network, (ids, _) = load(build), tokens()
    first = network.generate(ids[:1].numpy(), max_length=8)
    assert isinstance(first, np.ndarray)
    assert np.array_equal(first, network.generate(ids[:1], torch.ones_like(ids[:1]), max_length=8).numpy())


def test_sentences_are_translated_in_order_and_alone(build: Path) -> None:
    network = load(build)
    sentences = text()[:4]
    together = network.translate(sentences, num_beams=2)
    assert together == [network.translate([sentence], num_beams=2)[0] for sentence in sentences]
    assert network.translate(["", " "]) == ["", ""]


def test_what_a_translation_model_cannot_do_is_refused(build: Path) -> None:
    network, (ids, mask) = load(build), tokens()
    with pytest.raises(ArchNetError, match="translates and cannot be called") as raised:
        network(input_ids=ids, attention_mask=mask)
    assert raised.value.fix == "use generate(input_ids, attention_mask) or translate(sentences)"
    with pytest.raises(ArchNetError, match="translates and cannot be used to encode"):
        network.encode(["a"])
    with pytest.raises(ArchNetError, match="0 beams cannot be searched"):
        network.generate(ids, mask, num_beams=0)
    with pytest.raises(ArchNetError, match="max_length 99 is out of range") as raised:
        network.generate(ids, mask, max_length=99)
    assert "2 to 32 tokens" in raised.value.fix


def test_validate_scores_greedy_and_beam_search(archnet: Archnet, build: Path, sources: Path) -> None:
    pytest.importorskip("sacrebleu")
    references = sources.with_suffix(".de")
    references.write_text(sources.read_text())
    command = ["validate", build, "--task", "translation", "--data", sources, "--references", references]
    result = archnet(*command, "--backend", "reference,onnxruntime", "--json", "--max-drop", "100")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["metric"].startswith("sacreBLEU (nrefs:1|case:mixed|")
    assert (found["task"], found["samples"]) == ("translation", 7)
    rows = [found["float_score"], *found["scores"]]
    assert [row["backend"] for row in rows] == ["float", "reference", "onnxruntime"]
    assert all(list(row["parts"]) == ["greedy", "4 beams"] for row in rows)
    assert all(row["score"] == row["parts"]["4 beams"] for row in rows)
    off = [t for t in found["tensors"] if t["differing"]]
    # Over the whole network a share that rounds otherwise is carried on; this one does on some processors.
    assert [t for t in off if t["op"] != "Softmax" and t["scope"] == "layer"] == []
    assert all(row["cosine"] is not None for row in found["scores"])


def test_validate_without_a_task_compares_logits(archnet: Archnet, build: Path) -> None:
    result = archnet("validate", build, "--backend", "reference")
    assert result.exit_code == 0, result.output
    assert "agreement with the float original" in result.stdout


def test_run_translates_a_text(archnet: Archnet, build: Path, sources: Path, tmp_path: Path) -> None:
    out = tmp_path / "lines.de"
    result = archnet("run", build, "--inputs", sources, "--outputs", out, "--beams", "2")
    assert result.exit_code == 0, result.output
    assert result.stdout.strip().endswith("lines.de: 7 lines")
    lines = out.read_text().split("\n")
    assert (len(lines), lines[3], lines[7]) == (8, "", "")
    assert lines[:3] == load(build).translate(text()[:3], num_beams=2)


def test_bench_times_whole_translations(build: Path) -> None:
    rows = bench(build, batches=(2,), sequences=(4, 99), threads=1, seconds=0)
    assert [(r.backend, r.batch, r.sequence) for r in rows] == [
        ("onnxruntime", 2, 4), ("onnxruntime", 2, SEQUENCE - 1),
    ]  # fmt: skip
    assert all(min(r.float_ms, r.int8_ms, r.ratio) > 0 for r in rows)
    page = write_report(build).read_text()
    assert "Times as fast as the float model in PyTorch" in page
    assert "One translation, greedy, into as many tokens as the source has" in page


def test_export_writes_both_networks(archnet: Archnet, build: Path, tmp_path: Path) -> None:
    result = archnet("export", build, "--format", "onnx")
    assert result.exit_code == 0, result.output
    assert [line.split("/")[-3] for line in result.stdout.split() if ".onnx" in line] == [
        "encoder",
        "decoder",
    ]
    refused = archnet("export", build, "--format", "onnx", "--out", tmp_path / "x.onnx")
    assert refused.exit_code == 2
    assert "holds 2 networks (encoder, decoder), which one --out cannot name" in refused.output


def wrapped(text: str) -> str:
    """Output without its line breaks."""
    return " ".join(text.split())


@pytest.mark.parametrize(
    ("arguments", "problem", "fix"),
    [
        (["--task", "translation", "--data", "{en}"], "needs references", "give --references FILE"),
        (
            ["--task", "translation", "--data", "{en}", "--references", "{short}"],
            "lines.en has 7 lines and", "with the translation of each line",
        ),
        (
            ["--task", "translation", "--data", "{empty}", "--references", "{en}"],
            "empty.en is empty", "one a line",
        ),
        (
            ["--task", "translation", "--data", "{en}", "--references", "missing.de"],
            "missing.de does not exist", "one sentence a line",
        ),
        (
            ["--task", "translation", "--data", "{en}", "--data", "{short}", "--references", "{en}"],
            "takes one file of sources, not 2", "give --data once",
        ),
        (["--task", "sts", "--data", "{en}"], "which the task sts does not score", "--task translation"),
        (
            ["--task", "sts", "--data", "{en}", "--references", "{en}"],
            "--references are of --task translation only", "leave them out",
        ),
    ],
)  # fmt: skip
def test_refusals_of_validate(
    archnet: Archnet, build: Path, sources: Path, tmp_path: Path, arguments: list[str], problem: str, fix: str
) -> None:
    (tmp_path / "short.de").write_text("eins\n")
    (tmp_path / "empty.en").write_text("\n\n")
    files = {"en": sources, "short": tmp_path / "short.de", "empty": tmp_path / "empty.en"}
    result = archnet("validate", build, *(a.format(**files) for a in arguments))
    assert result.exit_code == 2
    assert problem in wrapped(result.output)
    assert fix in wrapped(result.output)


@pytest.mark.parametrize("content", [b"", b"\x08\0\0\0\0\0\0\0{}", None], ids=["empty", "short", "gone"])
def test_a_damaged_float_original_is_named(archnet: Archnet, build: Path, content: bytes | None) -> None:
    file = build / "float" / "network.safetensors"
    whole = file.read_bytes()
    try:
        file.unlink() if content is None else file.write_bytes(content)
        result = archnet("validate", build, "--backend", "reference")
    finally:
        file.write_bytes(whole)
    assert result.exit_code == 2
    assert "float holds no float original that can be read" in wrapped(result.output)
    assert "convert again into a new folder" in wrapped(result.output)


def test_other_refusals(archnet: Archnet, build: Path, sources: Path, tmp_path: Path) -> None:
    missing = archnet("run", build, "--inputs", tmp_path / "no.en", "--outputs", tmp_path / "o")
    assert (missing.exit_code, "no.en is no file" in wrapped(missing.output)) == (2, True)
    np.savez(tmp_path / "ids.npz", input_ids=np.zeros((1, 3), np.int64))
    arrays = archnet("run", build, "--inputs", tmp_path / "ids.npz", "--outputs", tmp_path / "o")
    assert (arrays.exit_code, "ids.npz is a binary file" in wrapped(arrays.output)) == (2, True)
    folder = archnet("run", build, "--inputs", tmp_path, "--outputs", tmp_path / "o")
    assert (folder.exit_code, "name a text with one sentence a line" in wrapped(folder.output)) == (2, True)
    assert not (tmp_path / "o").exists()
    hidden = (build / "tokenizer").rename(build / "hidden")
    try:
        validate = ["validate", build, "--task", "translation", "--data", sources, "--references", sources]
        result = archnet(*validate)
        assert result.exit_code == 2
        assert "has no tokenizer.json, so text cannot be fed" in wrapped(result.output)
    finally:
        hidden.rename(build / "tokenizer")


def test_files_for_chips_are_of_encoder_and_decoder(archnet: Archnet, build: Path, tmp_path: Path) -> None:
    from archnet.api import convert

    pytest.importorskip("ai_edge_litert", reason="needs archnet[ethos]")
    with short_presets(20, 5):
        build = convert(
            build.parent / "model", text(), target="onnxruntime", out=tmp_path / "build", seq_len=SEQUENCE,
            reuse=build,
        )  # fmt: skip
    result = archnet("export", build, "--format", "tflite", "--seq-len", str(SEQUENCE))
    assert result.exit_code == 0, result.output
    network, (ids, mask) = load(build, backend="litert"), tokens()
    assert network.backend.name == "litert"
    found = network.generate(ids, mask, num_beams=2, max_length=10)
    assert found.shape == load(build).generate(ids, mask, num_beams=2, max_length=10).shape
    result = archnet("validate", build, "--backend", "litert", "--json")
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    parts = {(row["backend"], row["op"]) for row in said["tensors"] if row["scope"] == "layer"}
    assert ("litert", "Softmax") in parts
    assert {row["backend"] for row in said["tensors"]} == {"litert"}
    emulated = {place["op"]: place["reason"] for place in said["emulated"]}
    assert "logits are int16" in emulated["FullyConnected"]
    assert {row["tensor"].partition(".")[0] for row in said["tensors"]} == {"model"}
    assert any("decoder" in row["tensor"] for row in said["tensors"])


def test_a_chip_that_was_not_asked_gets_the_encoder_alone(
    build: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The compiler behind it is not installed here: the reference executor takes its place."""
    from archnet import backends

    monkeypatch.setitem(backends.BACKENDS, "rk3588", backends.BACKENDS["reference"])
    network = load(build, backend="rk3588")
    assert isinstance(network.backend, OnnxRuntimeBackend)
    result = open_writer(BuildDir.open_finished(build), "rk3588")
    found = agreement(BuildDir.open_finished(build), [result], texts_of(build), lambda *_: None)
    emulated = {place.op: place.reason for place in found.emulated}
    assert emulated["decoder"] == "it stays on the host and runs in onnxruntime"


def texts_of(build: Path) -> dict[str, np.ndarray]:
    """The pairs that a conversion leaves in its build."""
    return dict(agreement_inputs(BuildDir.open_finished(build)))


def test_a_model_of_many_languages_writes_the_one_that_its_folder_names(
    archnet: Archnet, tmp_path: Path
) -> None:
    from archnet.api import convert

    language = 17
    model = make_translation_folder(tmp_path / "m2m", "m2m_100", layers=1)
    settings = model / "generation_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "forced_bos_token_id": language}))
    with short_presets(12, 4):
        build = convert(model, text(), target="onnxruntime", out=tmp_path / "b", seq_len=SEQUENCE)
    check_all_equal(archnet, build, "tvm")
    ids, mask = tokens()
    for beams in (1, 3):
        found = load(build, backend="onnxruntime").generate(ids, mask, num_beams=beams, max_length=8)
        assert (found[:, 1] == language).all()


def test_a_decoder_with_biases_of_positions_and_gated_layers(archnet: Archnet, tmp_path: Path) -> None:
    from archnet.api import convert

    model = make_translation_folder(tmp_path / "t5", "t5", layers=1)
    with short_presets(12, 4):
        target, out = "onnxruntime", tmp_path / "b"
        build = convert(model, text(), target=target, bits="w4a8", out=out, seq_len=SEQUENCE)
    check_all_equal(archnet, build, "tvm")
    assert len(load(build, backend="onnxruntime").translate(text()[:2])) == 2
