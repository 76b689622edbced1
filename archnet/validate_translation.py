"""A finished translation build against its float original: BLEU, the logits, integer by integer."""

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
from archnet.backends import open_backend
from archnet.backends.base import Backend
from archnet.build import BuildDir
from archnet.integer_decoder import IntegerDecoder
from archnet.parts import DECODER, ENCODER
from archnet.results import BackendScore, EmulatedPlace, TensorAgreement, ValidationResult
from archnet.search import Stepper
from archnet.storage import load_graph
from archnet.tasks.score import TaskScore, drop_interval
from archnet.tasks.translation import ParallelSet, evaluate_translation, require_sacrebleu
from archnet.translation import WHOLE, Search, Translation, host_of, open_pair

SENTENCES = 16
"""Of those that the conversion left, for the comparison of logits."""

COMPARED_STEPS = 3
"""Tokens of which every integer is compared."""

REFERENCE = "reference"
Report = Any


@dataclass(frozen=True)
class Opened:
    """The two networks of a build in one backend, or the encoder there and the decoder on the host."""

    name: str
    encoder: Backend
    decoder: Backend
    translation: Translation


def open_both(build: BuildDir, name: str) -> Opened:
    """Open the networks of a build in a backend, by its name."""
    encoder, decoder = open_pair(build.path, name)
    return Opened(name, encoder, decoder, Translation.open(build, encoder, decoder))


def agreement(
    build: BuildDir, opened: Sequence[Opened], inputs: Mapping[str, NDArray[np.int64]], report: Report
) -> ValidationResult:
    """Compare logits with the float original's and integers with the reference's.

    Args:
        inputs: sources and what the decoder reads, padded, with their masks.
        report: told (backend, step, steps).
    """
    chosen = {name: torch.from_numpy(value[:SENTENCES]) for name, value in inputs.items()}
    wanted = _logits(Translation.open_float(build).stepper, chosen)
    parts = {part: load_graph(build.path / part / "graph") for part in (ENCODER, DECODER)}
    scores: list[BackendScore] = []
    tensors: list[TensorAgreement] = []
    for one in opened:
        compared = OutputComparison("logits")
        found = _logits(one.translation.stepper, chosen)
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
    ran = {ENCODER: names, DECODER: [name for name in names if name in WHOLE]}
    emulated = [place for part, graph in parts.items() for place in emulated_places(graph, ran[part])]
    emulated += [
        EmulatedPlace(
            one.name, DECODER, "decoder", f"it stays on the host and runs in {host_of(build.path, one.name)}"
        )
        for one in opened
        if one.name not in WHOLE
    ]
    return ValidationResult(
        task=None,
        metric="",
        data="",
        samples=0,
        agreement_samples=len(chosen["attention_mask"]),
        float_score=BackendScore("float"),
        scores=tuple(scores),
        blocks=(),
        tensors=tuple(tensors),
        emulated=tuple(emulated),
        max_drop=None,
    )


def _logits(stepper: Stepper, inputs: Mapping[str, torch.Tensor]) -> NDArray[np.float32]:
    """Logits of every given target token, (batch, target tokens, vocabulary)."""
    targets = inputs["decoder_input_ids"]
    longest = targets.shape[1]
    stepper.start(inputs["input_ids"], inputs["attention_mask"], beams=1, max_length=longest + 1)
    return torch.stack([stepper.step(targets[:, i]) for i in range(longest)], 1).numpy()


def _integers(
    build: BuildDir, one: Opened, inputs: Mapping[str, torch.Tensor]
) -> tuple[TensorAgreement, ...]:
    """Every integer of the encoder, and of the decoder at the first tokens on the reference's caches.

    A decoder that stays on the host is that backend's, and compared where that one is asked for.
    """
    graphs = {part: load_graph(build.path / part / "graph") for part in (ENCODER, DECODER)}
    source = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    encoder = IntegerComparison(graphs[ENCODER], one.encoder)
    encoder.add({name: value.numpy() for name, value in source.items()})
    if one.name not in WHOLE:
        return encoder.agreement()
    decoder = IntegerComparison(graphs[DECODER], one.decoder)
    exact = [open_backend(REFERENCE, build.path / part) for part in (ENCODER, DECODER)]
    stepper = IntegerDecoder(exact[0], exact[1], graphs[DECODER])
    stepper.start(**source, beams=1, max_length=COMPARED_STEPS + 1)
    for i in range(min(COMPARED_STEPS, inputs["decoder_input_ids"].shape[1])):
        tokens = inputs["decoder_input_ids"][:, i]
        decoder.add(stepper.inputs(tokens))
        stepper.step(tokens)
    return (*encoder.agreement(), *decoder.agreement())


def with_scores(
    result: ValidationResult, build: BuildDir, opened: Sequence[Opened], data: ParallelSet, report: Report
) -> ValidationResult:
    """Score the float original and every backend, and add that to the agreement."""
    require_sacrebleu()

    def score(translation: Translation, before: BackendScore) -> tuple[TaskScore, BackendScore]:
        began = time.perf_counter()

        def translate(sentences: Sequence[str], beams: int) -> Sequence[str]:
            tell = partial(report, before.backend)
            search = Search(num_beams=beams)
            return translation.translate(sentences, search, progress=lambda n: tell(n, len(sentences)))

        found = evaluate_translation(translate, data)
        seconds = time.perf_counter() - began
        return found, replace(before, score=found.score, parts=found.parts, seconds=seconds)

    best, float_score = score(Translation.open_float(build), result.float_score)
    scores = []
    for one, before in zip(opened, result.scores, strict=True):
        found, after = score(one.translation, before)
        low_high = drop_interval(best, found)
        scores.append(replace(after, drop=best.score - found.score, drop_range=low_high))
    return replace(
        result,
        task="translation",
        metric=best.metric,
        data=data.name,
        samples=len(data),
        float_score=replace(float_score, drop=0.0),
        scores=tuple(scores),
    )
