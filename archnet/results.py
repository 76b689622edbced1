"""The records that stages hand to people and machines; all of them go to metrics.json and back.

metrics.json holds, by key:
    settings            ConvertSettings as JSON
    census_before       count by operator of the trained model
    census_after        count by operator of the integer network
    training            list of TrainingPoint
    blocks              list of BlockAgreement, measured at the end of distillation
    sizes               bytes by file, named relative to the build folder
    seconds             wall-clock time by stage
    peak_memory_bytes   int
    validation          ValidationResult, newest run
    latency             list of LatencyRow, newest run

A number that does not exist (the SQNR of two equal signals is infinite) is null, never NaN.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from archnet.atomic import write_json
from archnet.errors import ArchNetError

Json = Any
"""What the json module reads and writes."""

PERPLEXITY = "perplexity"
"""The part of a score that is shown beside it, and that is better when it is lower."""


class Record:
    """A frozen dataclass that becomes JSON and is read back from it, nested records included."""

    __slots__ = ()

    def to_json(self) -> dict[str, Json]:
        """The fields as JSON values; NaN and infinities become null."""
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        return {f.name: _encode(getattr(self, f.name)) for f in fields}

    @classmethod
    def from_json(cls, value: Mapping[str, Json]) -> Self:
        """The record that `to_json` wrote.

        Unknown keys are ignored, so that an older Arch-Net reads the file of a newer one.

        Raises:
            ArchNetError: a field is missing or has a value of another type.
        """
        if not isinstance(value, Mapping):
            raise _unreadable(cls.__name__, f"expected an object, found {type(value).__name__}")
        hints = typing.get_type_hints(cls)
        arguments: dict[str, Any] = {}
        for f in dataclasses.fields(cls):  # type: ignore[arg-type]
            if f.name in value:
                arguments[f.name] = _decode(hints[f.name], value[f.name], f"{cls.__name__}.{f.name}")
            elif f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
                raise _unreadable(f"{cls.__name__}.{f.name}", "it is missing")
        return cls(**arguments)


@dataclass(frozen=True, slots=True)
class CensusRow(Record):
    """How often an operator occurs in the trained model and in the integer network.

    Attributes:
        op: an `archnet.operators.Op` value, or the name that the framework gives to another one.
    """

    op: str
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class TrainingPoint(Record):
    """One logged step of distillation.

    Attributes:
        stage: "distil", "polish", "quantize", ...
        block: the block that was trained; "" when all were trained together.
        step: counts from 0 within stage and block.
        homotopy: share of the new operator, 0 (the old one) to 1 (the new one); None when the
            stage has no homotopy.
    """

    stage: str
    block: str
    step: int
    loss: float | None
    homotopy: float | None = None


@dataclass(frozen=True, slots=True)
class BlockAgreement(Record):
    """How close a block's output is to the teacher's, given the same sentences.

    Attributes:
        cosine: mean over tokens of the cosine of both vectors.
        sqnr_db: 10 log10(signal power / noise power), decibels; None when they are equal.
    """

    block: str
    cosine: float
    sqnr_db: float | None


@dataclass(frozen=True, slots=True)
class BackendScore(Record):
    """What one backend reached; the float original is the backend "float".

    Attributes:
        score: on the task's metric (`ValidationResult.metric`); None without a task.
        drop: score of the float original minus this score: positive is a loss.
        parts: the score by data set, when there are several (`score` is their mean).
        cosine: of the output with the float original's, mean over the samples.
        sqnr_db: of the output against the float original's, decibels; None when they are equal.
        seconds: wall-clock time for all samples.
        drop_range: the 95% interval of the drop, lower and upper end, from a paired bootstrap over the
            examples; None without a task.
    """

    backend: str
    score: float | None = None
    drop: float | None = None
    parts: Mapping[str, float] = field(default_factory=dict)
    cosine: float | None = None
    sqnr_db: float | None = None
    seconds: float | None = None
    drop_range: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class TensorAgreement(Record):
    """The integers of one tensor on one backend, compared with the reference executor's.

    Attributes:
        scope: "network": each ran the whole network on its own; "layer": the backend ran this one
            operator on the reference's integers.
        max_lsb: greatest |difference|, in units of the last place.
        differing: elements that are not equal, of `elements` compared.
    """

    backend: str
    tensor: str
    op: str
    block: str
    scope: Literal["network", "layer"]
    elements: int
    differing: int
    max_lsb: int

    @property
    def share(self) -> float:
        """Share of elements that differ, 0 to 1."""
        return self.differing / self.elements if self.elements else 0.0


@dataclass(frozen=True, slots=True)
class EmulatedPlace(Record):
    """An operator that a backend computes in float although the network is defined in integers."""

    backend: str
    node: str
    op: str
    reason: str


@dataclass(frozen=True, slots=True)
class EmulatedGroup:
    """All places of a backend that compute the same operator in float for the same reason."""

    backend: str
    op: str
    reason: str
    count: int


def group_emulated(places: Sequence[EmulatedPlace]) -> list[EmulatedGroup]:
    """Places with the same backend, operator and reason as one, in the order of the first of each."""
    counts: dict[tuple[str, str, str], int] = {}
    for place in places:
        key = (place.backend, place.op, place.reason)
        counts[key] = counts.get(key, 0) + 1
    return [EmulatedGroup(*key, count=n) for key, n in counts.items()]


@dataclass(frozen=True, slots=True)
class ValidationResult(Record):
    """Float original against every backend.

    Attributes:
        task: "sts", "classification", ...; None when only agreement was measured.
        metric: name of the score and its unit ("Spearman x 100").
        data: where the labelled data came from; "" without a task.
        samples: number of sentences (or pairs) that were scored.
        agreement_samples: number of sentences of the agreement figures.
        float_score: the float original, float32.
        scores: one entry a backend.
        blocks: copied from the end of distillation.
        max_drop: the greatest drop that passes, in points; None: nothing was demanded.
    """

    task: str | None
    metric: str
    data: str
    samples: int
    agreement_samples: int
    float_score: BackendScore
    scores: tuple[BackendScore, ...]
    blocks: tuple[BlockAgreement, ...] = ()
    tensors: tuple[TensorAgreement, ...] = ()
    emulated: tuple[EmulatedPlace, ...] = ()
    max_drop: float | None = None

    @property
    def worst_drop(self) -> float | None:
        """The greatest drop of any backend, in points; None without a task."""
        return max((s.drop for s in self.scores if s.drop is not None), default=None)

    @property
    def passed(self) -> bool:
        """Whether every backend stayed within `max_drop` (true when nothing was demanded)."""
        if self.max_drop is None:
            return True
        worst = self.worst_drop
        return worst is not None and worst <= self.max_drop


@dataclass(frozen=True, slots=True)
class LatencyRow(Record):
    """Time of one forward pass: float original against the integer network.

    Both are measured in turn, run by run, so that a slow moment of the machine hits both.

    Attributes:
        backend: what ran the integer network.
        sequence: tokens, or the height of images.
        float_ms, int8_ms: medians, milliseconds.
        ratio: median over the paired runs of float time / integer time: above 1 is faster.
    """

    backend: str
    batch: int
    sequence: int
    threads: int
    runs: int
    float_ms: float
    int8_ms: float
    ratio: float


def read_metrics(path: Path) -> dict[str, Json]:
    """The content of a metrics.json; {} when there is none yet.

    Raises:
        ArchNetError: the file is no JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise _unreadable(str(path), str(error)) from error
    if not isinstance(value, dict):
        raise _unreadable(str(path), f"expected an object, found {type(value).__name__}")
    return value


def merge_metrics(path: Path, **updates: Json) -> None:
    """Set keys of a metrics.json and keep all others; the file is replaced in one step.

    Records, and lists and tuples of records, are written as JSON.

    Raises:
        ArchNetError: the file cannot be read or written, or the disk is full.
    """
    encoded = {key: _encode(value) for key, value in updates.items()}
    write_json(path, {**read_metrics(path), **encoded})


def _encode(value: Any) -> Json:
    if isinstance(value, Record):
        return value.to_json()
    if isinstance(value, Mapping):
        return {str(key): _encode(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_encode(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value


def _decode(hint: Any, value: Json, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:  # only `X | None` is used
        return None if value is None else _decode(arguments[0], value, where)
    if origin is Literal:
        if value not in arguments:
            raise _unreadable(where, f"found {value!r}, expected one of {', '.join(map(repr, arguments))}")
        return value
    if origin is tuple:
        if not isinstance(value, list):
            raise _unreadable(where, f"expected a list, found {type(value).__name__}")
        return tuple(_decode(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is Mapping:
        if not isinstance(value, Mapping):
            raise _unreadable(where, f"expected an object, found {type(value).__name__}")
        return {key: _decode(arguments[1], item, f"{where}[{key!r}]") for key, item in value.items()}
    if issubclass(hint, Record):
        return hint.from_json(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise _unreadable(where, f"expected {hint.__name__}, found {type(value).__name__}")
    return value


def _unreadable(where: str, why: str) -> ArchNetError:
    return ArchNetError(
        f"{where} cannot be read: {why}",
        fix="delete the file and run `archnet validate` again, or convert again into a new folder",
    )
