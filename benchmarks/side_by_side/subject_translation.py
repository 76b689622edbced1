"""Encoder-decoders, scored by sacreBLEU of greedy search and of 4 beams.

Other tools get two float graphs: the encoder, and a decoder that reads the whole prefix (`PrefixDecoder`),
the form that every tool can take. Its calibration examples are the float model's own greedy translations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray

from archnet.build import BuildDir
from archnet.calibration.data import load_sentences
from archnet.generation import GenerationSettings
from archnet.search import generate
from archnet.sources import open_model
from archnet.sources.source import Source
from archnet.tasks import TaskScore
from archnet.tasks.translation import ParallelSet, evaluate_translation, load_parallel_set, require_sacrebleu
from archnet.translation import Search, Translation
from side_by_side.float_translation import STATES, export_translation
from side_by_side.network_folder import Calibration
from side_by_side.prefix_decoder import PrefixDecoder
from side_by_side.store import key_of
from side_by_side.subject import Question, Run, Runs, Subject, digest_of, network_folder, sample
from side_by_side.token_examples import padded, padding_of, tokenized

EXAMPLES = 256
MAX_LENGTH = 64
BATCH = 32


def translation(question: Question) -> Subject:
    """See `archnet.tasks.translation` for the files.

    Raises:
        ArchNetError: the model or the data cannot be used, or sacreBLEU is not installed.
    """
    require_sacrebleu()
    source = open_model(str(question.model))
    data = load_parallel_set(question.data, question.references)
    if question.limit is not None:
        data = ParallelSet(data.name, data.sources[: question.limit], data.references[: question.limit])
    length = min(MAX_LENGTH, source.max_length)
    sentences = sample(load_sentences(question.calibration), min(question.limit or EXAMPLES, EXAMPLES))
    sources = tokenized(source, sentences, length)

    def make(place: Path) -> dict[str, Calibration]:
        export_translation(source, place)
        return _examples(source, place, sources, length)

    digest = digest_of(source, {"translation": sources})
    folder = network_folder(question.cache, source.name, digest, make)
    tokenizer_dir = folder.path / "tokenizer"
    source.save_tokenizer(tokenizer_dir)
    settings = _settings(source)

    def score(runs: Runs) -> TaskScore:
        stepper = PrefixDecoder(runs["encoder"], runs["decoder"])
        return _scored(Translation(stepper, settings, length, tokenizer_dir), data)

    def score_ours(build: BuildDir, runs: Runs) -> TaskScore:
        encoder, decoder = (_Served(name, runs[name]) for name in ("encoder", "decoder"))
        return _scored(Translation.open(build, encoder, decoder), data)

    return Subject(
        folder=folder,
        source_sha256=source.sha256,
        metric="sacreBLEU, 4 beams",
        data=data.name,
        data_key=key_of(task="translation", data=[data.sources, data.references], length=length),
        score=score,
        score_ours=score_ours,
        timed={},
        shape="",
    )


class _Served:
    """A network in its own process, as a backend."""

    def __init__(self, name: str, run: Run) -> None:
        self.name, self._run = name, run

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """See `archnet.backends.base.Backend`."""
        return dict(self._run(inputs))

    def tensors(self, inputs: Any, names: Any = None) -> dict[str, NDArray[Any]]:
        """Not asked for here."""
        raise AssertionError("a score needs no integers")


def _scored(translator: Translation, data: ParallelSet) -> TaskScore:
    def translate(sentences: Sequence[str], beams: int) -> Sequence[str]:
        return translator.write(sentences, Search(num_beams=beams))

    return evaluate_translation(translate, data)


def _settings(source: Source) -> GenerationSettings:
    assert source.generation is not None, "open_model gives every encoder-decoder its search settings"
    return source.generation


def _examples(source: Source, place: Path, sources: Calibration, length: int) -> dict[str, Calibration]:
    """The encoder's examples, and the decoder's: states, mask and the float model's own translation."""
    encoder, decoder = (_runner(place / f"{name}.onnx") for name in ("encoder", "decoder"))
    ids, mask = sources.arrays["input_ids"], sources.arrays["attention_mask"]
    states, rows = [], []
    settings = _settings(source)
    for start in range(0, len(ids), BATCH):
        some = slice(start, start + BATCH)
        states.append(encoder({"input_ids": ids[some], "attention_mask": mask[some]})[STATES])
        found = generate(
            PrefixDecoder(encoder, decoder),
            torch.from_numpy(ids[some]),
            torch.from_numpy(mask[some]),
            settings,
            max_length=length,
        )
        rows += [_until_end(row, settings) for row in found.tolist()]
    targets, target_mask = padded(rows, padding_of(source))
    arrays = {STATES: np.concatenate(states), "attention_mask": mask, "decoder_input_ids": targets}
    trim = {STATES: "attention_mask", "attention_mask": "attention_mask", "decoder_input_ids": "target_mask"}
    return {"encoder": sources, "decoder": Calibration(arrays, trim, {"target_mask": target_mask})}


def _until_end(row: Sequence[int], settings: GenerationSettings) -> list[int]:
    """What the decoder reads: all before the end token."""
    end = next((i for i, token in enumerate(row) if i and token in settings.ends), len(row))
    return list(row[: max(end, 1)])


def _runner(file: Path) -> Run:
    session = ort.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    outputs = [value.name for value in session.get_outputs()]

    def run(inputs: Any) -> dict[str, NDArray[Any]]:
        return dict(zip(outputs, session.run(outputs, dict(inputs)), strict=True))

    return run
