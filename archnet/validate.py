"""A finished build against its float original: on a task's metric, at the output, integer by integer."""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from archnet.agreement import (
    IntegerComparison,
    OutputComparison,
    emulated_places,
    main_output,
    split_batches,
)
from archnet.backends import open_backend
from archnet.backends.base import Backend
from archnet.build import BuildDir
from archnet.classify import PictureScorer
from archnet.encode import Inputs, Run, open_tokenizer
from archnet.errors import ArchNetError, nearest
from archnet.events import EventSink, Note, Progress, StageFinished, StageStarted, ignore
from archnet.float_model import FloatModel
from archnet.graph import QuantizedGraph
from archnet.parts import DECODER, is_image, is_language, part_names
from archnet.results import (
    BackendScore,
    BlockAgreement,
    TensorAgreement,
    ValidationResult,
    merge_metrics,
    read_metrics,
)
from archnet.scoring import Scorer
from archnet.storage import load_graph
from archnet.tasks import TASKS, Task, TaskScore, load_task
from archnet.tasks.score import drop_interval
from archnet.valid import MASKS

REFERENCE = "reference"

AGREEMENT_SENTENCES = 32
AGREEMENT_BATCH = 8
"""Few at a time: all integers of a batch are held at once."""


def validate(
    folder: Path | str,
    *,
    task: str | None = None,
    data: Sequence[Path | str] | Path | str = (),
    references: Path | str | None = None,
    backends: Sequence[str] | None = None,
    max_drop: float | None = None,
    events: EventSink | None = None,
) -> ValidationResult:
    """Compare the integer network of a build folder with its float original, and record it in metrics.json.

    The original runs in ONNX Runtime in float32. Without a task, only agreement is measured, on the
    sentences that the conversion left in the folder.

    Args:
        folder: a finished build folder.
        task: "sts", ...; needs `data`.
        data: labelled files or folders of the task.
        references: of the task translation, a translation a line of `data`.
        backends: what runs the integer network; what the folder was exported for when None.
        max_drop: the greatest drop of the task's score that passes, in points; needs a task.
        events: told what is going on.

    Returns:
        The result; `passed` says whether every backend kept `max_drop`.

    Raises:
        ArchNetError: the folder, the data, a backend's name or a combination of these is no good.
    """
    build = BuildDir.open_finished(Path(folder))
    paths = [Path(data)] if isinstance(data, (str, Path)) else [Path(p) for p in data]
    _check_arguments(task, paths, max_drop)
    if task is not None and task not in TASKS:
        raise ArchNetError(f"there is no task {task!r}", fix=nearest(task, TASKS))
    if task != "translation" and references is not None:
        raise ArchNetError("--references are of --task translation only", fix="leave them out")
    if part_names(build.path) != ("",):
        kept = Path(references) if references is not None else None
        return _validate_writer(build, task, paths, kept, backends, max_drop, events or ignore)
    loaded = load_task(task, paths) if task is not None else None
    names = _named(build, backends)
    graph = load_graph(build.graph_dir)
    scorer = _scorer(loaded, build, graph) if loaded is not None else None
    opened = [open_backend(name, build.path) for name in names]
    original = FloatModel.open(build.path)
    sink = events if events is not None else ignore
    if isinstance(scorer, PictureScorer):
        for warning in scorer.warnings():
            sink(Note(warning))

    inputs = agreement_inputs(build)
    stage = _Stage(sink, "agreement", 0, 1 if scorer is None else 2)
    scores, tensors = _agreement(graph, original, opened, inputs, stage)
    result = ValidationResult(
        task=None,
        metric="",
        data="",
        samples=0,
        agreement_samples=len(next(iter(inputs.values()))),
        float_score=BackendScore("float"),
        scores=tuple(scores),
        blocks=_blocks(build),
        tensors=tuple(tensors),
        emulated=emulated_places(graph, names),
        max_drop=max_drop,
    )
    if scorer is not None:
        result = _with_scores(result, original, opened, scorer, _Stage(sink, "score", 1, 2))
    merge_metrics(build.metrics, validation=result)
    return result


def _validate_writer(
    build: BuildDir,
    task: str | None,
    data: Sequence[Path],
    references: Path | None,
    backends: Sequence[str] | None,
    max_drop: float | None,
    sink: EventSink,
) -> ValidationResult:
    """The same for a model that writes: a decoder, and the encoder that it reads where there is one."""
    from archnet.tasks.language import TextSet, load_text_set
    from archnet.tasks.translation import ParallelSet, load_parallel_set
    from archnet.validate_writer import agreement, open_writer, with_scores

    own, does = ("language", "writes") if is_language(build.path) else ("translation", "translates")
    if task not in (None, own):
        raise ArchNetError(
            f"{build.path} {does}, which the task {task} does not score", fix=f"give --task {own}"
        )
    loaded: ParallelSet | TextSet | None = None
    if task is not None:
        tokenizer = open_tokenizer(build.tokenizer_dir)
        longest = load_graph(build.path / DECODER / "graph").max_sequence
        loaded = (
            load_text_set(data, tokenizer, longest)
            if own == "language"
            else load_parallel_set(data, references)
        )
    opened = [open_writer(build, name) for name in _named(build, backends)]
    stage = _Stage(sink, "agreement", 0, 1 if loaded is None else 2)
    result = replace(
        agreement(build, opened, agreement_inputs(build), stage.step),
        max_drop=max_drop,
        blocks=_blocks(build),
    )
    stage.finish()
    if loaded is not None:
        stage = _Stage(sink, "score", 1, 2)
        result = with_scores(result, build, opened, loaded, stage.step)
        stage.finish()
    merge_metrics(build.metrics, validation=result)
    return result


def _scorer(task: Task, build: BuildDir, graph: QuantizedGraph) -> Scorer | PictureScorer:
    """What feeds the task's data to a network."""
    if task.places:
        return PictureScorer.open(task, build)
    if is_image(build.path):
        raise ArchNetError(
            f"{build.path} classifies pictures, which the task {task.name} does not score",
            fix="give --task images",
        )
    return Scorer.open(task, build, graph)


def _named(build: BuildDir, backends: Sequence[str] | None) -> list[str]:
    names = list(dict.fromkeys(backends)) if backends is not None else default_backends(build)
    if not names:
        raise ArchNetError("no backend was named", fix="name at least one, such as --backend onnxruntime")
    return names


def default_backends(build: BuildDir) -> list[str]:
    """The reference, and every backend that the folder holds a file for and this machine can run."""
    names = [REFERENCE]
    place = build.path / part_names(build.path)[-1]
    if (place / "onnx" / "model.onnx").is_file():
        names.append("onnxruntime")
    if (place / "tvm" / platform.machine() / "model.so").is_file():
        names.append("tvm")
    return names


def agreement_inputs(build: BuildDir) -> Inputs:
    """The sentences that the conversion left for comparisons: token ids and mask, int64.

    Raises:
        ArchNetError: DIR/calibration.npz is missing or damaged.
    """
    file = build.path / "calibration.npz"
    try:
        with np.load(file, allow_pickle=False) as arrays:
            inputs = {n: _plain(arrays[n]) for n in arrays.files}
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        reason = "it is missing" if isinstance(error, FileNotFoundError) else "no .npz file of plain arrays"
        raise ArchNetError(
            f"{file} cannot be read: {reason}", fix="convert again into a new folder"
        ) from error
    images = inputs.get("pixel_values")
    if images is not None and images.ndim == 4:
        return {"pixel_values": images[:AGREEMENT_SENTENCES]}
    pairs = [(inputs[name], inputs.get(mask)) for name, mask in MASKS.items() if name in inputs]
    if not pairs or any(i.ndim != 2 or m is None or i.shape != m.shape for i, m in pairs):
        raise ArchNetError(f"{file} is damaged: its arrays do not fit", fix="convert again into a new folder")
    return {name: value[:AGREEMENT_SENTENCES] for name, value in inputs.items()}


def _plain(values: NDArray[Any]) -> NDArray[Any]:
    """Token ids and masks as int64, pixels as float32."""
    return values.astype(np.float32 if values.dtype.kind == "f" else np.int64)


class _Stage:
    """Tells a sink how far one stage is."""

    def __init__(self, sink: EventSink, stage: str, index: int, total: int) -> None:
        self._sink, self._stage, self._began = sink, stage, time.perf_counter()
        sink(StageStarted(stage, index, total))

    def step(self, backend: str, step: int, steps: int, unit: str = "sentences") -> None:
        self._sink(Progress(self._stage, backend, step, steps, unit=unit))

    def finish(self) -> None:
        self._sink(StageFinished(self._stage, time.perf_counter() - self._began))


def _check_arguments(task: str | None, data: Sequence[Path], max_drop: float | None) -> None:
    if (task is None) != (not data):
        raise ArchNetError("--task and --data need each other", fix="give both, or none for agreement only")
    if max_drop is None:
        return
    if task is None:
        raise ArchNetError("--max-drop needs a score", fix="give --task and --data, too")
    if not np.isfinite(max_drop):
        raise ArchNetError(f"--max-drop {max_drop} is no number of points", fix="give a number such as 0.3")


def _agreement(
    graph: QuantizedGraph,
    original: FloatModel,
    backends: Sequence[Backend],
    inputs: Inputs,
    stage: _Stage,
) -> tuple[list[BackendScore], list[TensorAgreement]]:
    batches = split_batches(inputs, AGREEMENT_BATCH)
    floats = [original.run(batch) for batch in batches]
    name = main_output(graph, floats[0])
    scores: list[BackendScore] = []
    tensors: list[TensorAgreement] = []
    for backend in backends:
        outputs = OutputComparison(name)
        integers = IntegerComparison(graph, backend)
        for i, (batch, expected) in enumerate(zip(batches, floats, strict=True)):
            outputs.add(expected[name], backend.run(batch)[name], batch.get("attention_mask"))
            if backend.name != REFERENCE:
                integers.add(batch)
            stage.step(backend.name, i + 1, len(batches), "batches")
        similarity, noise = outputs.agreement()
        scores.append(
            BackendScore(backend.name, cosine=similarity, sqnr_db=noise if np.isfinite(noise) else None)
        )
        tensors += integers.agreement()
    stage.finish()
    return scores, tensors


def _with_scores(
    result: ValidationResult,
    original: FloatModel,
    backends: Sequence[Backend],
    scorer: Scorer | PictureScorer,
    stage: _Stage,
) -> ValidationResult:
    """Score the float original and every backend on the task, and add that to the agreement."""

    def score(run: Run, before: BackendScore) -> tuple[TaskScore, BackendScore]:
        began = time.perf_counter()
        found = scorer.score(run, partial(stage.step, before.backend))
        seconds = time.perf_counter() - began
        return found, replace(before, score=found.score, parts=found.parts, seconds=seconds)

    best, float_score = score(original.run, result.float_score)
    scores = []
    for backend, before in zip(backends, result.scores, strict=True):
        found, after = score(backend.run, before)
        low_high = drop_interval(best, found)
        scores.append(replace(after, drop=best.score - found.score, drop_range=low_high))
    stage.finish()
    return replace(
        result,
        task=scorer.task.name,
        metric=best.metric,
        data=scorer.task.data,
        samples=best.samples,
        float_score=replace(float_score, drop=0.0),
        scores=tuple(scores),
    )


def _blocks(build: BuildDir) -> tuple[BlockAgreement, ...]:
    return tuple(BlockAgreement.from_json(b) for b in read_metrics(build.metrics).get("blocks") or ())
