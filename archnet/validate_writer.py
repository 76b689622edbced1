"""A finished build of a model that writes against its float original: the logits, every integer, the task."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from archnet.agreement import IntegerComparison, OutputComparison, emulated_places
from archnet.backends import ENCODERS_ALONE, SIMULATORS
from archnet.backends.base import Backend
from archnet.build import BuildDir
from archnet.integer_decoder import along, open_reference, source_of
from archnet.language import LanguageRun, decoder_backend
from archnet.parts import DECODER, ENCODER, is_language, part_names
from archnet.results import BackendScore, EmulatedPlace, TensorAgreement, ValidationResult
from archnet.search import Stepper
from archnet.storage import load_graph
from archnet.tasks.language import TextSet, language_score
from archnet.tasks.score import TaskScore, drop_interval
from archnet.tasks.translation import ParallelSet, evaluate_translation, require_sacrebleu
from archnet.translation import Search, Translation, host_of, open_pair

SENTENCES = 16
"""Of those that the conversion left, for the comparison of logits."""

SIMULATED = 2
"""Of those, where a chip is simulated: that takes from seconds to minutes a token."""

COMPARED_STEPS = 3
"""Tokens of which every integer is compared."""

REFERENCE = "reference"
Report = Any


@dataclass(frozen=True)
class Opened:
    """The networks of a build in one backend; the decoder may be in one of the host's instead.

    Attributes:
        encoder: None for a language model.
    """

    name: str
    encoder: Backend | None
    decoder: Backend
    run: Translation | LanguageRun


def open_writer(build: BuildDir, name: str) -> Opened:
    """Open the networks of a build in a backend, by its name."""
    if is_language(build.path):
        decoder = decoder_backend(build.path, name)
        return Opened(name, None, decoder, LanguageRun.open(build, None, decoder))
    encoder, decoder = open_pair(build.path, name)
    return Opened(name, encoder, decoder, Translation.open(build, encoder, decoder))


def open_original(build: BuildDir) -> Translation | LanguageRun:
    """The float original of a build in PyTorch."""
    return LanguageRun.open_float(build) if is_language(build.path) else Translation.open_float(build)


def agreement(
    build: BuildDir, opened: Sequence[Opened], inputs: Mapping[str, NDArray[np.int64]], report: Report
) -> ValidationResult:
    """Compare logits with the float original's and integers with the reference's.

    Args:
        inputs: what the decoder reads, of a translation model the sources too, padded, with their masks.
        report: told (backend, step, steps).
    """
    simulated = any(one.name in SIMULATORS for one in opened)
    count = SIMULATED if simulated else SENTENCES
    chosen = {name: torch.from_numpy(value[:count]) for name, value in inputs.items()}
    wanted = _logits(open_original(build).stepper, chosen)
    parts = {part: load_graph(build.path / part / "graph") for part in part_names(build.path)}
    scores: list[BackendScore] = []
    tensors: list[TensorAgreement] = []
    for one in opened:
        compared = OutputComparison("logits")
        found = _logits(one.run.stepper, chosen)
        compared.add(wanted, found, chosen["decoder_attention_mask"].numpy())
        report(one.name, 1, 2)
        similarity, noise = compared.agreement()
        scores.append(
            BackendScore(one.name, cosine=similarity, sqnr_db=noise if np.isfinite(noise) else None)
        )
        if one.name != REFERENCE:
            tensors += _integers(build, one, chosen)
        report(one.name, 2, 2)
    names = [one.name for one in opened]
    ran = {ENCODER: names, DECODER: [name for name in names if name not in ENCODERS_ALONE]}
    emulated = [place for part, graph in parts.items() for place in emulated_places(graph, ran[part])]
    emulated += [
        EmulatedPlace(
            one.name, DECODER, "decoder", f"it stays on the host and runs in {host_of(build.path, one.name)}"
        )
        for one in opened
        if one.name in ENCODERS_ALONE
    ]
    return ValidationResult(
        task=None,
        metric="",
        data="",
        samples=0,
        agreement_samples=len(chosen["decoder_attention_mask"]),
        float_score=BackendScore("float"),
        scores=tuple(scores),
        blocks=(),
        tensors=tuple(tensors),
        emulated=tuple(emulated),
        max_drop=None,
    )


def _logits(stepper: Stepper, inputs: Mapping[str, torch.Tensor]) -> NDArray[np.float32]:
    """Logits behind every given token, (batch, tokens, vocabulary)."""
    tokens = inputs["decoder_input_ids"]
    longest = tokens.shape[1]
    stepper.start(*source_of(inputs), beams=1, max_length=longest + 1)
    return torch.stack([stepper.step(tokens[:, i]) for i in range(longest)], 1).numpy()


def _integers(
    build: BuildDir, one: Opened, inputs: Mapping[str, torch.Tensor]
) -> tuple[TensorAgreement, ...]:
    """Every integer of the encoder, and of the decoder at the first tokens on the reference's caches.

    A decoder that stays on the host is that backend's, and compared where that one is asked for.
    """
    agreed: tuple[TensorAgreement, ...] = ()
    ids, mask = source_of(inputs)
    if one.encoder is not None:
        encoder = IntegerComparison(load_graph(build.path / ENCODER / "graph"), one.encoder)
        encoder.add({"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
        agreed = encoder.agreement()
    if one.name in ENCODERS_ALONE:
        return agreed
    stepper = open_reference(build.path)
    decoder = IntegerComparison(stepper.graph, one.decoder)
    for fed in along(stepper, inputs, COMPARED_STEPS):
        decoder.add(fed)
    return (*agreed, *decoder.agreement())


def score_of(run: Translation | LanguageRun, data: ParallelSet | TextSet, tell: Report) -> TaskScore:
    """sacreBLEU of a model's translations; or how well it foresees the next token of texts.

    Args:
        tell: told (done, of how many).

    Raises:
        ArchNetError: sacreBLEU is needed and not installed.
    """
    if isinstance(run, LanguageRun):
        assert isinstance(data, TextSet)
        return language_score(run.log_likelihoods(data.rows, lambda n: tell(n, len(data))))
    assert isinstance(data, ParallelSet)
    require_sacrebleu()

    def translate(sentences: Sequence[str], beams: int) -> Sequence[str]:
        search = Search(num_beams=beams)
        return run.write(sentences, search, progress=lambda n: tell(n, len(sentences)))

    return evaluate_translation(translate, data)


def with_scores(
    result: ValidationResult,
    build: BuildDir,
    opened: Sequence[Opened],
    data: ParallelSet | TextSet,
    report: Report,
) -> ValidationResult:
    """Score the float original and every backend, and add that to the agreement."""

    def scored(run: Translation | LanguageRun, before: BackendScore) -> tuple[TaskScore, BackendScore]:
        began = time.perf_counter()
        found = score_of(run, data, partial(report, before.backend))
        seconds = time.perf_counter() - began
        return found, replace(before, score=found.score, parts=found.parts, seconds=seconds)

    best, float_score = scored(open_original(build), result.float_score)
    scores = []
    for one, before in zip(opened, result.scores, strict=True):
        found, after = scored(one.run, before)
        low_high = drop_interval(best, found)
        scores.append(replace(after, drop=best.score - found.score, drop_range=low_high))
    return replace(
        result,
        task="language" if isinstance(data, TextSet) else "translation",
        metric=best.metric,
        data=data.name,
        samples=len(data),
        float_score=replace(float_score, drop=0.0),
        scores=tuple(scores),
    )
