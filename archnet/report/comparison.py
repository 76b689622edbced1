"""Several builds of one model beside each other: what each scores, weighs and takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from archnet.errors import ArchNetError
from archnet.report.contents import Contents
from archnet.report.verdict import deployed, fastest_backend, float_size, integer_size

COSINE = "cosine with the float model's output"


@dataclass(frozen=True, slots=True)
class Compared:
    """One network of a comparison.

    Attributes:
        name: of its folder, or "float model".
        bits: as they were asked for; "float32" of the original.
        backend: whose score and time these are.
        score: on the common metric.
        size: bytes of what is deployed; None when nothing was exported.
        ms: of one pass of the common shape; None when it was not measured.
        this: whether it is the build of the page.
    """

    name: str
    bits: str
    backend: str
    score: float
    size: int | None
    ms: float | None
    this: bool = False


@dataclass(frozen=True, slots=True)
class Comparison:
    """Builds that were scored on the same data.

    Attributes:
        metric: what is compared, and on what data.
        by_task: whether that is a task's score, in points; else a cosine.
        shape: what was timed, in words; "" when nothing was.
        original: the float model.
        builds: in the order that they were given, that of the page first.
    """

    metric: str
    by_task: bool
    shape: str
    original: Compared
    builds: tuple[Compared, ...]

    @property
    def rows(self) -> tuple[Compared, ...]:
        """The float model, then the builds."""
        return (self.original, *self.builds)


def compare(main: Contents, others: Sequence[Contents]) -> Comparison:
    """Put the figures of several builds together.

    Raises:
        ArchNetError: one is given twice, is of another model, or was not scored on what the first one was.
    """
    seen = {Path(main.folder).resolve()}
    for other in others:
        if Path(other.folder).resolve() in seen:
            raise ArchNetError(f"{other.folder} is given twice", fix="name each build once")
        seen.add(Path(other.folder).resolve())
        _check_comparable(main, other)
    validation = main.validation
    assert validation is not None
    by_task = validation.task is not None
    timed = fastest_backend(main.latency)[:1]
    shape, original_ms = "", None
    if timed:
        shape = main.shape_name(timed[0].batch, timed[0].sequence)
        original_ms = timed[0].float_ms
    metric = f"{validation.metric} on {validation.data}" if by_task else COSINE
    score = validation.float_score.score if by_task else 1.0
    assert score is not None
    original = Compared("float model", "float32", "float", score, float_size(main), original_ms)
    rows = [_row(c, by_task, [(t.backend, t.batch, t.sequence) for t in timed]) for c in (main, *others)]
    return Comparison(metric, by_task, shape, original, (replace(rows[0], this=True), *rows[1:]))


def _row(contents: Contents, by_task: bool, timed: Sequence[tuple[str, int, int]]) -> Compared:
    validation = contents.validation
    best = deployed(validation.scores) if validation is not None else None
    assert best is not None
    score = best.score if by_task else best.cosine
    assert score is not None
    times = [row.int8_ms for row in contents.latency if (row.backend, row.batch, row.sequence) in timed]
    ms = times[0] if times else None
    name = Path(contents.folder).resolve().name
    return Compared(name, contents.asked, best.backend, score, integer_size(contents), ms)


def _check_comparable(main: Contents, other: Contents) -> None:
    if main.source_sha256 != other.source_sha256:
        raise ArchNetError(
            f"{other.folder} is of another model ({other.model}) than {main.folder} ({main.model})",
            fix="compare builds of one model",
        )
    for contents in (main, other):
        best = deployed(contents.validation.scores) if contents.validation is not None else None
        if best is None or (best.score is None and best.cosine is None):
            raise ArchNetError(
                f"{contents.folder} has no score that could be compared",
                fix=f"measure it first: {contents.command('validate')}",
            )
    one, two = main.validation, other.validation
    assert one is not None
    assert two is not None
    if (one.task, one.metric, one.data, one.samples) != (two.task, two.metric, two.data, two.samples):
        scored = [f"{v.task} ({v.data}, {v.samples} samples)" if v.task else "no task" for v in (two, one)]
        raise ArchNetError(
            f"{other.folder} was scored on {scored[0]}, {main.folder} on {scored[1]}",
            fix="run `archnet validate` on both, with the same --task and --data",
        )
