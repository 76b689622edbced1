"""A language model from its folder to written texts: conversion, perplexity, commands, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from archnet import ArchNetError, load
from archnet.bench import bench
from archnet.report import write_report
from tests.hf_writers import PAD, make_language_folder
from tests.integration.conftest import Archnet, check_all_equal
from tests.integration.tiny import SEQUENCE, short_presets, text


@pytest.fixture(scope="module")
def build(target: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished conversion, without TVM."""
    from archnet.api import convert

    place = tmp_path_factory.mktemp("writer")
    model = make_language_folder(place / "model", layers=1)
    with short_presets(20, 5):
        return convert(model, text(), target=str(target), out=place / "build", seq_len=SEQUENCE)


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Five beginnings and an empty line."""
    path = tmp_path / "beginnings.txt"
    path.write_text("\n".join(["the man", "a dog runs", "", *[line[:12] for line in text()[:3]]]) + "\n")
    return path


def wrapped(said: str) -> str:
    """Output without its line breaks."""
    return " ".join(said.split())


def test_a_build_has_one_network_that_takes_a_token_a_step(build: Path) -> None:
    for file in ("graph/graph.json", "graph/graph.safetensors", "onnx/model.onnx"):
        assert (build / "decoder" / file).is_file()
    assert not (build / "encoder").exists()
    assert (build / "float" / "network.json").is_file()
    manifest = json.loads((build / "manifest.json").read_text())
    assert (manifest["kind"], manifest["generation"]["start"]) == ("language", 0)
    assert [entry["name"] for entry in manifest["inputs"]][:3] == [
        "decoder_input_ids", "position", "cache_mask",
    ]  # fmt: skip
    stages = json.loads((build / "metrics.json").read_text())["seconds"]
    assert list(stages)[-4:] == ["distil", "quantize-w8a8", "freeze", "export"]
    assert "translate" not in stages


@pytest.mark.parametrize("beams", [1, 3])
def test_backends_write_the_same_tokens(build: Path, beams: int) -> None:
    ids = torch.randint(5, 90, (4, 8), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    found = {
        name: load(build, backend=name).generate(ids, mask, num_beams=beams, max_length=14)
        for name in ("reference", "onnxruntime")
    }
    assert torch.equal(found["reference"], found["onnxruntime"])
    assert torch.equal(found["reference"][0, :8], ids[0])
    assert set(found["reference"][1, 14:].tolist()) <= {PAD}
    as_numpy = load(build).generate(ids[:1].numpy(), num_beams=beams, max_length=14)
    assert isinstance(as_numpy, np.ndarray)
    assert as_numpy[0].tolist() == found["reference"][0][: as_numpy.shape[1]].tolist()


def test_texts_go_on_in_order_and_alone(build: Path) -> None:
    network = load(build)
    beginnings = ["the man", "a dog runs over", "two"]
    together = network.complete(beginnings, num_beams=2)
    assert together == [network.complete([one], num_beams=2)[0] for one in beginnings]
    assert all(whole.startswith(begun) for whole, begun in zip(together, beginnings, strict=True))
    assert network.complete(["", " "]) == ["", ""]


def test_what_a_language_model_cannot_do_is_refused(build: Path) -> None:
    network = load(build)
    with pytest.raises(ArchNetError, match="writes and cannot be called") as raised:
        network(input_ids=np.zeros((1, 3), np.int64))
    assert raised.value.fix == "use generate(input_ids, attention_mask) or complete(texts)"
    with pytest.raises(ArchNetError, match="writes and cannot be used to encode"):
        network.encode(["a"])
    with pytest.raises(ArchNetError, match="is no translation model, so it cannot translate") as raised:
        network.translate(["a"])
    assert raised.value.fix == "use complete(texts)"
    with pytest.raises(ArchNetError, match="a text has 32 tokens, and 32 are all"):
        network.complete(["the man and the dog " * 9])


def test_validate_measures_how_well_the_next_token_is_foreseen(archnet: Archnet, build: Path) -> None:
    data = build.parent / "held-out.txt"
    data.write_text("\n".join(text()[:9]))
    command = ["validate", build, "--task", "language", "--data", data, "--backend", "reference,onnxruntime"]
    result = archnet(*command, "--json", "--max-drop", "100")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["task"], found["metric"]) == ("language", "next token right x100")
    rows = [found["float_score"], *found["scores"]]
    assert [row["backend"] for row in rows] == ["float", "reference", "onnxruntime"]
    assert all(list(row["parts"]) == ["next token right x100", "perplexity"] for row in rows)
    assert rows[1]["parts"] == pytest.approx(rows[2]["parts"], rel=0.01)
    assert [
        t for t in found["tensors"] if t["differing"] and t["op"] != "Softmax" and t["scope"] == "layer"
    ] == []
    shown = archnet(*command)
    assert "perplexity" in wrapped(shown.stdout)
    page = write_report(build).read_text()
    assert "perplexity" in page
    assert "decoder to itself" in page


def test_run_goes_on_with_a_text(archnet: Archnet, build: Path, texts: Path, tmp_path: Path) -> None:
    out = tmp_path / "texts.txt"
    result = archnet("run", build, "--inputs", texts, "--outputs", out, "--max-length", "12")
    assert result.exit_code == 0, result.output
    assert result.stdout.strip().endswith("texts.txt: 6 lines")
    lines = out.read_text().split("\n")
    assert (len(lines), lines[2], lines[6]) == (7, "", "")
    assert lines[0].startswith("the man")


def test_bench_times_whole_texts(build: Path) -> None:
    rows = bench(build, batches=(2,), sequences=(4, 99), threads=1, seconds=0)
    assert [(r.backend, r.batch, r.sequence) for r in rows] == [
        ("onnxruntime", 2, 4), ("onnxruntime", 2, SEQUENCE - 1),
    ]  # fmt: skip
    assert "One text, greedy, token by token" in write_report(build).read_text()


@pytest.mark.parametrize(
    ("arguments", "problem", "fix"),
    [
        (["validate", "{build}", "--task", "sts", "--data", "x"], "which the task sts does not", "language"),
        (["validate", "{build}", "--task", "language", "--data", "x.txt"], "x.txt does not exist", "a line"),
        (["validate", "{build}", "--backend", "rk3588"], "the backend rk3588 runs encoders", "onnxruntime"),
        (["validate", "{build}", "--backend", "litert"], "model.tflite cannot be read", "--format tflite"),
        (["compile", "{build}", "--target", "rk3588"], "is a language model: a decoder", "--backend"),
        (["compile", "{build}", "--target", "tvm-c", "--seq-len", "8"], "takes a token at a time", "leave"),
        (["compile", "{build}", "--target", "tvm-x86-64", "--original"], "writes, and the build", "inspect"),
        (["export", "{build}", "--format", "tflite", "--seq-len", "8"], "takes a token at a time", "leave"),
        (["run", "{build}", "--inputs", "x.txt", "--outputs", "y"], "x.txt is no file", "a line"),
    ],
)
def test_refusals(archnet: Archnet, build: Path, arguments: list[str], problem: str, fix: str) -> None:
    result = archnet(*(argument.format(build=build) for argument in arguments))
    assert result.exit_code == 2, result.output
    assert problem in wrapped(result.output)
    assert fix in wrapped(result.output)


def test_chips_that_were_not_asked_are_refused_before_anything_is_trained(
    archnet: Archnet, build: Path, tmp_path: Path
) -> None:
    data = tmp_path / "text.txt"
    data.write_text("\n".join(text()))
    model, out = build.parent / "model", tmp_path / "out"
    result = archnet("convert", model, "--data", data, "--target", "rockchip", "--out", out)
    assert result.exit_code == 2
    assert "the compiler behind this target was not asked about such steps" in wrapped(result.output)
    assert not out.exists()
    shown = archnet("inspect", model, "--target", "rockchip")
    assert shown.exit_code == 2
    assert "take another, such as onnxruntime" in wrapped(shown.output)


def test_a_chip_gets_the_step(archnet: Archnet, build: Path, texts: Path, tmp_path: Path) -> None:
    """Rows of words and positions are the host's; the file has the cache, and a limit a place."""
    pytest.importorskip("ai_edge_litert", reason="needs archnet[ethos]")
    from archnet.api import convert

    with short_presets(20, 5):
        made = convert(
            build.parent / "model", text(), target="ethos-u85", out=tmp_path / "build", seq_len=SEQUENCE
        )
    assert (made / "decoder" / "tflite" / "model.tflite").is_file()
    result = archnet("validate", made, "--backend", "litert", "--json")
    assert result.exit_code == 0, result.output
    away = {t["op"] for t in json.loads(result.stdout)["tensors"] if t["differing"]}
    assert away <= {"Add", "Softmax", "FullyConnected"}  # the last one is of the logits
    out = tmp_path / "texts.txt"
    result = archnet("run", made, "--inputs", texts, "--outputs", out, "--backend", "litert")
    assert result.exit_code == 0, result.output
    assert out.read_text().startswith("the man")


def test_gated_layers_rotary_positions_and_few_bits(archnet: Archnet, tmp_path: Path) -> None:
    from archnet.api import convert

    model = make_language_folder(tmp_path / "llama", "llama", layers=2)
    with short_presets(12, 4):
        target, out = "onnxruntime", tmp_path / "b"
        build = convert(model, text(), target=target, bits="w4a8", out=out, seq_len=SEQUENCE)
    check_all_equal(archnet, build, "tvm")
    assert load(build, backend="onnxruntime").complete(["the man"])[0].startswith("the man")


@pytest.mark.parametrize("family", ["gpt_neo", "gemma2"])  # Gemma 2 bounds the scores of words, too
def test_windows_are_kept_by_the_cache(family: str, archnet: Archnet, tmp_path: Path) -> None:
    from archnet.api import convert

    model = make_language_folder(tmp_path / family, family, layers=2)
    with short_presets(12, 4):
        build = convert(model, text(), target="onnxruntime", out=tmp_path / "b", seq_len=SEQUENCE)
    check_all_equal(archnet, build, "tvm")


def test_a_mean_of_a_language_model_is_an_encoder(tmp_path: Path) -> None:
    """What sentence-transformers pools is one, whatever its weights were saved as."""
    from archnet.sources import open_model
    from tests.hf_models import add_sentence_transformer

    model = make_language_folder(tmp_path / "llama", "llama", layers=1)
    assert open_model(str(model)).kind == "language"
    add_sentence_transformer(model)
    source = open_model(str(model))
    assert (source.kind, source.pooling) == ("text", "mean")
