"""Latency of the float original and of the integer network, measured in turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from archnet.backends import open_backend
from archnet.build import BuildDir
from archnet.encode import Inputs
from archnet.errors import ArchNetError
from archnet.events import EventSink, Progress, StageFinished, StageStarted, ignore
from archnet.float_model import FloatModel
from archnet.parts import is_language, part_names
from archnet.results import LatencyRow, merge_metrics
from archnet.search import Stepper
from archnet.storage import load_graph
from archnet.validate import REFERENCE, agreement_inputs, default_backends

BATCHES = (1, 32)
SEQUENCES = (32, 128)
THREADS = 2
WARM_SECONDS = 0.1
"""How long a network runs, untimed, before each of its timed passes."""

LEAST_PAIRS, MOST_PAIRS = 5, 51
SECONDS = 4.0
"""Time that one shape on one backend takes, unless `LEAST_PAIRS` take longer."""


Forward = Callable[[Inputs], Mapping[str, object]]
"""Runs one batch."""


def bench(
    folder: Path | str,
    *,
    backends: Sequence[str] | None = None,
    batches: Sequence[int] = BATCHES,
    sequences: Sequence[int] = SEQUENCES,
    threads: int = THREADS,
    seconds: float = SECONDS,
    events: EventSink | None = None,
) -> list[LatencyRow]:
    """Time one forward pass of each at several shapes, and record it in metrics.json.

    Args:
        folder: a finished build folder.
        backends: what runs the integer network; what the folder was exported for when None. The
            reference executor is never timed unless it is named: it is written to be exact.
        sequences: tokens; longer ones than the build allows are replaced by its longest. Images have
            the size that the model reads.
        threads: of the float original and of the integer network.
        seconds: about this long for each shape and backend.
        events: told what is going on.

    Raises:
        ArchNetError: the folder is no finished build, or has nothing to time.
    """
    build = BuildDir.open_finished(Path(folder))
    names = list(backends) if backends is not None else [n for n in default_backends(build) if n != REFERENCE]
    if not names:
        raise ArchNetError(
            f"{build.path} has no exported network to time", fix="run archnet export DIR --format onnx first"
        )
    original, opened, longest = _opened(build, names, threads)
    samples = agreement_inputs(build)
    images = samples.get("pixel_values")
    lengths = (
        [images.shape[2]]
        if images is not None
        else list(dict.fromkeys(min(length, longest) for length in sequences))
    )
    shapes = [(batch, length) for batch in batches for length in lengths]
    sink = events if events is not None else ignore
    began = time.perf_counter()
    sink(StageStarted("bench", 0, 1))
    rows: list[LatencyRow] = []
    for batch, length in shapes:
        inputs = full_batch(samples, batch, length)
        for name, run in opened.items():
            detail = f"batch {batch}" if images is not None else f"batch {batch} × {length} tokens"
            sink(Progress("bench", name, len(rows), len(shapes) * len(opened), detail=detail))
            pairs = paired_times(original, run, inputs, seconds)
            rows.append(_row(name, batch, length, threads, pairs))
    merge_metrics(build.metrics, latency=rows)
    sink(StageFinished("bench", time.perf_counter() - began))
    return rows


def _opened(build: BuildDir, names: Sequence[str], threads: int) -> tuple[Forward, dict[str, Forward], int]:
    """What runs the float original, what runs the integers in each backend, and the most tokens."""
    if part_names(build.path) != ("",):
        from archnet.language import LanguageRun, open_language
        from archnet.translation import Translation, open_translation

        torch.set_num_threads(threads)
        alone = is_language(build.path)
        floats = LanguageRun.open_float(build) if alone else Translation.open_float(build)
        opener = open_language if alone else open_translation
        # The last token that is written is never fed, so one step fewer than tokens fit.
        runs: dict[str, Forward] = {
            name: partial(_write, opener(build, name, threads=threads).stepper) for name in names
        }
        return partial(_write, floats.stepper), runs, floats.longest - 1
    opened = [open_backend(name, build.path, threads=threads) for name in names]
    original = FloatModel.open(build.path, threads=threads)
    return original.run, {b.name: b.run for b in opened}, load_graph(build.graph_dir).max_sequence


def _write(stepper: Stepper, inputs: Inputs) -> dict[str, object]:
    """Greedily as many tokens as are given, whether or not the text ends before: of sources a translation."""
    ids, mask = (torch.from_numpy(inputs[name]) for name in ("input_ids", "attention_mask"))
    stepper.start(ids, mask, beams=1, max_length=ids.shape[1] + 1)
    tokens = ids[:, 0]
    for _ in range(ids.shape[1]):
        tokens = stepper.step(tokens).argmax(-1)
    return {}


def full_batch(samples: Inputs, batch: int, length: int) -> Inputs:
    """A batch without padding, made of the tokens of the sample sentences in order, repeated as needed.

    Of images so many, repeated as needed.
    """
    if "pixel_values" in samples:
        images = samples["pixel_values"]
        return {"pixel_values": np.resize(images, (batch, *images.shape[1:]))}
    side = "" if "input_ids" in samples else "decoder_"
    tokens = samples[f"{side}input_ids"][samples[f"{side}attention_mask"] != 0]
    ids = np.resize(tokens, (batch, length)).astype(np.int64)
    return {"input_ids": ids, "attention_mask": np.ones((batch, length), dtype=np.int64)}


def paired_times(
    first: Forward, second: Forward, inputs: Inputs, seconds: float
) -> list[tuple[float, float]]:
    """Seconds of one pass of each, taken in turn.

    Before each timed pass come some that are not counted: the other network's threads stop spinning and
    the weights come back to the caches, as in a process that runs this network only.
    """
    pairs: list[tuple[float, float]] = []
    began = time.perf_counter()
    while len(pairs) < LEAST_PAIRS or (len(pairs) < MOST_PAIRS and time.perf_counter() - began < seconds):
        pairs.append((_steady_pass(first, inputs), _steady_pass(second, inputs)))
    return pairs


def _steady_pass(run: Forward, inputs: Inputs) -> float:
    warm = time.perf_counter() + WARM_SECONDS
    while time.perf_counter() < warm:
        run(inputs)
    began = time.perf_counter()
    run(inputs)
    return time.perf_counter() - began


def _row(
    name: str, batch: int, length: int, threads: int, pairs: Sequence[tuple[float, float]]
) -> LatencyRow:
    return LatencyRow(
        backend=name,
        batch=batch,
        sequence=length,
        threads=threads,
        runs=len(pairs),
        float_ms=1000 * statistics.median(a for a, _ in pairs),
        int8_ms=1000 * statistics.median(b for _, b in pairs),
        ratio=statistics.median(a / b for a, b in pairs),
    )
