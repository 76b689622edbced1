"""What is compared: a trained model, its unlabelled calibration data and how its networks are scored.

A task is one function here that returns a `Subject`; nothing else of the comparison knows tasks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from archnet.calibration.data import load_sentences
from archnet.encode import padding_id
from archnet.errors import ArchNetError, nearest
from archnet.export.float_onnx import export_float_onnx
from archnet.scoring import Scorer
from archnet.sources import open_model
from archnet.sources.source import Source
from archnet.tasks import TaskScore, load_task
from side_by_side.network_folder import RECORD, Calibration, Inputs, NetworkFolder, write_record
from side_by_side.store import key_of

Run = Callable[[Mapping[str, NDArray[Any]]], Mapping[str, NDArray[Any]]]
Runs = Mapping[str, Run]
"""A network's graphs by name, ready to run."""

EXAMPLES = 1024
"""Of the calibration data, drawn at random; every tool takes from the front as many as it recommends."""

MAX_LENGTH = 128
LATENCY_TOKENS = 32


@dataclass(frozen=True)
class Subject:
    """A model with its data.

    Attributes:
        folder: the float graphs and the calibration data, as the tools get them.
        source_sha256: of the model's weights; builds of ours must be of the same model.
        metric: what `score` counts; higher is better.
        data: the names of the sets that are scored.
        data_key: decides, with the network, the score.
        score: scores a network.
        timed: inputs of each graph for the time of one pass.
        shape: what `timed` is, for people.
    """

    folder: NetworkFolder
    source_sha256: str
    metric: str
    data: str
    data_key: str
    score: Callable[[Runs], TaskScore]
    timed: Mapping[str, Inputs]
    shape: str


def sts(model: Path, calibration: Path, data: Sequence[Path], cache: Path, limit: int | None) -> Subject:
    """A sentence encoder, scored by Spearman's correlation on sets of sentence pairs.

    Args:
        model: as for `archnet convert`.
        calibration: unlabelled text.
        data: files of scored pairs.
        cache: where the float graph is kept.
        limit: so many pairs of each set and calibration sentences, for a try.

    Raises:
        ArchNetError: the model or the data cannot be used.
    """
    source = open_model(str(model))
    tokenizer = source.require_tokenizer()
    length = min(MAX_LENGTH, source.max_length)
    sentences = _sample(load_sentences(calibration), min(limit or EXAMPLES, EXAMPLES))
    examples = _tokenized(source, sentences, length)
    folder = _network_folder(cache, source, {"model": examples})
    task = load_task("sts", list(data))
    if limit is not None:
        cut = tuple(
            replace(p, first=p.first[:limit], second=p.second[:limit], scores=p.scores[:limit])
            for p in task.pairs
        )
        task = replace(task, pairs=cut)
    scorer = Scorer(task, tokenizer, _padding(source), length, {})
    pairs = [(p.name, p.first, p.second, p.scores.tolist()) for p in task.pairs]
    ids = np.resize(examples.arrays["input_ids"][examples.arrays["attention_mask"] != 0], (1, LATENCY_TOKENS))
    return Subject(
        folder=folder,
        source_sha256=source.sha256,
        metric=task.metric,
        data=task.data,
        data_key=key_of(task="sts", pairs=pairs, length=length),
        score=lambda runs: scorer.score(runs["model"], lambda done, total: None),
        timed={"model": {"input_ids": ids, "attention_mask": np.ones_like(ids)}},
        shape=f"1 x {LATENCY_TOKENS} tokens",
    )


SUBJECTS = {"sts": sts}


def open_subject(
    task: str, model: Path, calibration: Path, data: Sequence[Path], cache: Path, limit: int | None
) -> Subject:
    """The subject of a task by its name.

    Raises:
        ArchNetError: there is no such task, or the model or the data cannot be used.
    """
    if task not in SUBJECTS:
        raise ArchNetError(f"there is no task {task!r} here", fix=nearest(task, SUBJECTS))
    return SUBJECTS[task](model, calibration, data, cache, limit)


def _sample(sentences: Sequence[str], count: int) -> list[str]:
    order = np.random.default_rng(0).permutation(len(sentences))[:count]
    return [sentences[int(i)] for i in order]


def _padding(source: Source) -> int:
    for file in source.tokenizer_files:
        if file.name == "tokenizer_config.json":
            return padding_id(file.parent, source.require_tokenizer())
    return 0


def _tokenized(source: Source, sentences: Sequence[str], length: int) -> Calibration:
    rows = [encoding.ids[:length] for encoding in source.require_tokenizer().encode_batch(list(sentences))]
    width = max(len(row) for row in rows)
    ids = np.full((len(rows), width), _padding(source), dtype=np.int64)
    mask = np.zeros((len(rows), width), dtype=np.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
        mask[i, : len(row)] = 1
    trim = {"input_ids": "attention_mask", "attention_mask": "attention_mask"}
    return Calibration({"input_ids": ids, "attention_mask": mask}, trim, {})


def _network_folder(cache: Path, source: Source, graphs: Mapping[str, Calibration]) -> NetworkFolder:
    """The folder of this model with this calibration data, made if it is not there."""
    digest = hashlib.sha256(source.sha256.encode())
    for name, examples in sorted(graphs.items()):
        digest.update(name.encode())
        for values in examples.arrays.values():
            digest.update(np.ascontiguousarray(values).tobytes())
    path = cache / "networks" / digest.hexdigest()[:12]
    if not (path / RECORD).is_file():
        path.mkdir(parents=True, exist_ok=True)
        export_float_onnx(source, path / "model.onnx")
        write_record(path, source.name, digest.hexdigest(), graphs)
    return NetworkFolder.open(path)
