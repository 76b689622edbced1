"""What a chip's compiler makes of the float original: ONNX Runtime, and one that dies."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
import tvm
from rich.console import Console
from tvm import relax

from archnet import routes
from archnet.api import original_on_chip
from archnet.atomic import write_json
from archnet.cli.tables import original_table
from archnet.errors import ArchNetError
from archnet.original import OriginalSummary, ask_about, askable, compile_original_of
from archnet.results import read_metrics
from archnet.routes import OriginalJob
from archnet.sources import open_model
from archnet.targets.chips import CHIPS
from archnet.targets.toolchain import RECORD, find_toolchain
from tests.archnet.integer_build import MAX_SEQUENCE, make_integer_build
from tests.hf_models import make_image_folder, make_model_folder
from tests.hf_writers import make_translation_folder


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def build(tmp_path: Path) -> Path:
    make_integer_build(tmp_path / "build")
    return tmp_path / "build"


def test_the_answer_is_kept_beside_that_about_the_converted_network(build: Path) -> None:
    left = build / "compiled" / ".onnxruntime-original.999999999.archnet-tmp"  # of a process that was killed
    left.mkdir(parents=True)
    answer = compile_original_of(build, "onnxruntime", sequence=7, seconds=60)
    assert not left.exists()
    made = answer.compiled
    assert made is not None
    assert (answer.refused, made.fallback_operators, made.sequence) == ("", 0, 7)
    assert made.float_operators
    assert (build / "compiled" / "onnxruntime-original" / made.binary).stat().st_size == made.binary_bytes
    assert read_metrics(build / "metrics.json")["originals"] == {
        "onnxruntime": json.loads(json.dumps(answer.to_json()))
    }
    longest = compile_original_of(build, "onnxruntime", seconds=60).compiled
    assert longest is not None
    assert longest.sequence == MAX_SEQUENCE


def test_tvm_compiles_the_original_and_it_computes_what_the_onnx_file_does(build: Path) -> None:
    made = compile_original_of(build, "tvm-x86-64", sequence=6, seconds=120).compiled
    assert made is not None
    assert made.native_operators > 0
    assert made.float_operators
    ids = np.arange(3, 9, dtype=np.int64)[None]
    mask = np.array([[1, 1, 1, 1, 0, 0]], np.int64)
    session = ort.InferenceSession(build / "onnx" / "float.onnx")
    wanted = session.run(None, {"input_ids": ids, "attention_mask": mask})
    library = tvm.runtime.load_module(str(build / "compiled" / "tvm-x86-64-original" / made.binary))
    machine = relax.VirtualMachine(library, tvm.cpu())
    found = machine["main"](tvm.runtime.tensor(ids), tvm.runtime.tensor(mask))
    for want, have in zip(wanted, [found] if hasattr(found, "numpy") else found, strict=True):
        np.testing.assert_allclose(have.numpy(), want, atol=1e-4)


def test_a_compiler_that_refuses_is_an_answer(build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compile_original_of(build, "onnxruntime", seconds=60)

    def refuse(job: OriginalJob) -> None:
        raise ArchNetError("the compiler crashed (SIGABRT)", fix="no")

    monkeypatch.setattr("archnet.routes.onnxruntime.compile_original", refuse)
    answer = compile_original_of(build, "onnxruntime", seconds=60)
    assert (answer.refused, answer.compiled) == ("the compiler crashed (SIGABRT)", None)
    assert [path.name for path in (build / "compiled").iterdir()] == ["onnxruntime-original.log"]
    stored = read_metrics(build / "metrics.json")["originals"]["onnxruntime"]
    assert stored["refused"] == answer.refused


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("k23", "--target 'k23' cannot be compiled for"),
        ("bm1684x", "there is no route that gives its compiler the original"),
        ("ethos-u55-128", "the toolchain ethos-u (Vela"),
        ("openvino", "the toolchain openvino (OpenVINO"),
    ],
)
def test_what_cannot_be_asked_is_an_error(target: str, words: str, build: Path) -> None:
    with pytest.raises(ArchNetError) as caught:
        compile_original_of(build, target, seconds=60)
    assert words in caught.value.problem
    assert not (build / "compiled").exists()


def test_a_toolchain_that_only_originals_need_is_asked_for(build: Path) -> None:
    vela = find_toolchain("ethos-u")
    vela.python.parent.mkdir(parents=True)
    vela.python.touch()
    write_json(vela.folder / RECORD, {"packages": list(vela.packages)})
    with pytest.raises(ArchNetError, match=r"the toolchain onnx2tf .* is not installed") as caught:
        compile_original_of(build, "ethos-u55-128", seconds=60)
    assert caught.value.fix == "archnet targets install onnx2tf"


def test_a_missing_package_is_an_error_and_no_answer(build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ArchNetError, match="TVM is not installed here"):
        compile_original_of(build, "tvm-x86-64", seconds=60)
    assert not (build / "compiled").exists()


@pytest.mark.parametrize("sequence", [0, MAX_SEQUENCE + 1])
def test_a_length_that_the_network_does_not_take(sequence: int, build: Path) -> None:
    with pytest.raises(ArchNetError, match=f"--seq-len {sequence} is not in 1 .. {MAX_SEQUENCE}"):
        compile_original_of(build, "onnxruntime", sequence=sequence, seconds=60)


@pytest.mark.parametrize("content", [None, b"", b"no model"])
def test_a_missing_or_damaged_original(content: bytes | None, build: Path) -> None:
    file = build / "onnx" / "float.onnx"
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ArchNetError, match=r"float\.onnx"):
        compile_original_of(build, "onnxruntime", seconds=60)


def test_every_chip_that_can_be_asked_is_told_in_the_refusal() -> None:
    able = [chip.name for chip in CHIPS if routes.takes_originals(chip)]
    assert {"k230", "onnxruntime", "openvino", "iree", "tvm-riscv64", "ethos-u85-256"} <= set(able)
    assert "tvm-c" not in able
    with pytest.raises(ArchNetError) as caught:
        askable("rk3588")
    assert all(name in caught.value.fix for name in able)


def test_a_model_is_asked_about_before_any_conversion(tmp_path: Path) -> None:
    bert = make_model_folder(tmp_path / "bert", "bert", layers=1)
    made = original_on_chip(str(bert), "onnxruntime", seq_len=9).compiled
    assert made is not None
    assert made.sequence == 9
    assert any("LayerNormalization" in words for words in made.float_operators)
    pictures = original_on_chip(str(make_image_folder(tmp_path / "vit", "vit")), "onnxruntime").compiled
    assert pictures is not None
    assert pictures.sequence is None


def test_of_two_networks_the_encoder_is_asked_about(tmp_path: Path) -> None:
    answer = original_on_chip(str(make_translation_folder(tmp_path / "marian")), "onnxruntime", seq_len=7)
    assert answer.part == "encoder"
    assert answer.compiled is not None
    assert answer.compiled.sequence == 7
    kinds = dict(words.split(" ", 1)[::-1] for words in answer.compiled.float_operators)
    assert kinds["Softmax"] == "2"  # one a layer; two of the decoder would have four more
    assert "the original's encoder, unchanged, on onnxruntime, 7 tokens" in shown(answer)


def test_a_module_that_does_not_show_its_encoder_is_refused(tmp_path: Path) -> None:
    source = open_model(str(make_translation_folder(tmp_path / "marian")), tokenizer_required=False)
    hidden = replace(source, module=torch.nn.Identity())
    with pytest.raises(ArchNetError, match="does not say which part of it is the encoder"):
        ask_about(hidden, askable("onnxruntime"), sequence=7, seconds=60)


def shown(answer: OriginalSummary) -> str:
    console = Console(record=True, width=200, file=io.StringIO())
    console.print(original_table(answer))
    return console.export_text()
