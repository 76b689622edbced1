"""Sentence encoders, scored by Spearman's correlation on sets of sentence pairs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from archnet.build import BuildDir
from archnet.calibration.data import load_sentences
from archnet.export.float_onnx import export_float_onnx
from archnet.scoring import Scorer
from archnet.sources import open_model
from archnet.storage import load_graph
from archnet.tasks import load_task
from side_by_side.network_folder import Calibration
from side_by_side.store import key_of
from side_by_side.subject import EXAMPLES, Question, Subject, digest_of, network_folder, sample
from side_by_side.token_examples import padding_of, tokenized

MAX_LENGTH = 128
LATENCY_TOKENS = 32


def sts(question: Question) -> Subject:
    """See `archnet.tasks.sts` for the files.

    Raises:
        ArchNetError: the model or the data cannot be used.
    """
    source = open_model(str(question.model))
    length = min(MAX_LENGTH, source.max_length)
    sentences = sample(load_sentences(question.calibration), min(question.limit or EXAMPLES, EXAMPLES))
    examples = tokenized(source, sentences, length)
    graphs = {"model": examples}

    def make(place: Path) -> dict[str, Calibration]:
        export_float_onnx(source, place / "model.onnx")
        return graphs

    folder = network_folder(question.cache, source.name, digest_of(source, graphs), make)
    task = load_task("sts", list(question.data))
    if question.limit is not None:
        n = question.limit
        cut = (replace(p, first=p.first[:n], second=p.second[:n], scores=p.scores[:n]) for p in task.pairs)
        task = replace(task, pairs=tuple(cut))
    scorer = Scorer(task, source.require_tokenizer(), padding_of(source), length, {})
    pairs = [(p.name, p.first, p.second, p.scores.tolist()) for p in task.pairs]
    ids = np.resize(examples.arrays["input_ids"][examples.arrays["attention_mask"] != 0], (1, LATENCY_TOKENS))
    return Subject(
        folder=folder,
        source_sha256=source.sha256,
        metric=task.metric,
        data=task.data,
        data_key=key_of(task="sts", pairs=pairs, length=length),
        score=lambda runs: scorer.score(runs["model"], lambda done, total: None),
        score_ours=lambda build, runs: _short_enough(scorer, build).score(
            runs["model"], lambda done, total: None
        ),
        timed={"model": {"input_ids": ids, "attention_mask": np.ones_like(ids)}},
        shape=f"1 x {LATENCY_TOKENS} tokens",
    )


def _short_enough(scorer: Scorer, build: BuildDir) -> Scorer:
    """A build may take shorter sentences only."""
    longest = load_graph(build.graph_dir).max_sequence
    return replace(scorer, max_length=min(scorer.max_length, longest))
