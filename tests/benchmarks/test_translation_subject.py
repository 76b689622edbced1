"""An encoder-decoder's float graphs for other tools: they translate as the original does."""

from __future__ import annotations

import gzip
from pathlib import Path

import accuracy
import numpy as np
import onnxruntime as ort
import pytest
import torch
from side_by_side.prefix_decoder import PrefixDecoder
from side_by_side.subject import Question
from side_by_side.subject_translation import _runner, translation

from archnet.search import generate
from archnet.sources import open_model
from tests.hf_models import SENTENCES
from tests.hf_writers import make_translation_folder

pytest.importorskip("sacrebleu", reason="needs sacreBLEU")


@pytest.fixture(scope="module")
def question(tmp_path_factory: pytest.TempPathFactory) -> Question:
    folder = tmp_path_factory.mktemp("translation")
    text = folder / "text.en.gz"
    text.write_bytes(gzip.compress("\n".join(SENTENCES).encode()))
    model = make_translation_folder(folder / "tiny")
    return Question(model, text, (text,), text, folder / "cache", 4)


def test_the_graphs_translate_as_the_original(question: Question) -> None:
    subject = translation(question)
    encoder, decoder = subject.folder.graphs
    assert (encoder.name, decoder.name) == ("encoder", "decoder")
    runs = {graph.name: _runner(graph.onnx) for graph in (encoder, decoder)}
    source = open_model(str(question.model))
    assert source.generation is not None
    sentences = encoder.calibration.singles(4)
    for inputs, example in zip(sentences, decoder.calibration.singles(4), strict=True):
        ids, mask = (torch.from_numpy(inputs[name]) for name in ("input_ids", "attention_mask"))
        stepper = PrefixDecoder(runs["encoder"], runs["decoder"])
        found = generate(stepper, ids, mask, source.generation, max_length=20, num_beams=3)
        model = source.module.get_submodule("model")
        wanted = model.generate(input_ids=ids, attention_mask=mask, max_length=20, num_beams=3)  # type: ignore[operator]
        assert found.tolist() == wanted.tolist()
        # What the decoder is calibrated on: the states of this very sentence, and a greedy translation.
        states = ort.InferenceSession(str(encoder.onnx)).run(None, dict(inputs))[0]
        np.testing.assert_allclose(example["states"], states, atol=1e-4)
        assert example["decoder_input_ids"][0, 0] == source.generation.start


def test_a_second_look_makes_nothing_new(question: Question) -> None:
    first = translation(question).folder
    stamp = (first.path / "decoder.onnx").stat().st_mtime_ns
    assert translation(question).folder.sha256 == first.sha256
    assert (first.path / "decoder.onnx").stat().st_mtime_ns == stamp


def test_refusals(question: Question, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    command = ["--task", "translation", "--calibration", str(question.calibration)]
    command += ["--data", str(question.data[0]), "--cache", str(tmp_path)]
    assert accuracy.main(command) == 2
    assert "the task translation has no model of its own" in capsys.readouterr().err
    assert accuracy.main([*command, "--model", str(question.model)]) == 2
    assert "the task translation needs references" in capsys.readouterr().err
