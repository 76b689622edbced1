"""What a build folder holds for its report, read into records; what is missing stays empty."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from archnet.build import BuildDir
from archnet.calibration.packing import packed_width
from archnet.parts import part_names
from archnet.report.weights import StoredWeights, stored_weights
from archnet.results import (
    BlockAgreement,
    CensusRow,
    LatencyRow,
    TensorAgreement,
    TrainingPoint,
    ValidationResult,
    read_metrics,
)

Json = Any

FLOAT_FILE = "onnx/float.onnx"
FLOAT_WRITER = "float/network.safetensors"
INTEGER_FILES = ("onnx/model.onnx", "tvm/x86_64/model.so", "tvm/aarch64/model.so")
ARTIFACTS: Mapping[str, str] = {
    FLOAT_FILE: "Float original",
    "onnx/model.onnx": "Integer network, ONNX",
    "tvm/x86_64/model.so": "Integer network, TVM for x86-64",
    "tvm/aarch64/model.so": "Integer network, TVM for AArch64",
    "graph/graph.safetensors": "Integer network, as the reference runs it",
}
DEPLOYED_FIRST = ("onnxruntime", "tvm")
"""Backends whose figures are the headline's, before any other."""

ACTIONS: Mapping[str, str] = {
    "keep": "kept",
    "replace": "replaced",
    "fold": "folded away",
    "host": "left to the host",
    "refuse": "cannot be converted",
}


@dataclass(frozen=True, slots=True)
class Fate:
    """What the plan decided for an operator, for all sites with the same decision.

    Attributes:
        action: a key of `ACTIONS`.
        becomes: the operators in its place; "" when nothing is left.
    """

    op: str
    action: str
    becomes: str
    reason: str
    count: int
    sites: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ChosenLayer:
    """The width that a layer's weights got, and the share of the output's variance that it alone loses."""

    site: str
    elements: int
    bits: int
    lost: float

    @property
    def bytes(self) -> int:
        """That its weights take when they are packed."""
        return math.ceil(self.elements * (packed_width(self.bits) or 8) / 8)


@dataclass(frozen=True, slots=True)
class LsbRow:
    """Integer agreement of all tensors of one operator on one backend and scope."""

    op: str
    tensors: int
    equal: int
    elements: int
    differing: int
    max_lsb: int

    @property
    def share(self) -> float:
        """Share of elements that differ, 0 to 1."""
        return self.differing / self.elements if self.elements else 0.0


@dataclass(frozen=True, slots=True)
class LsbTable:
    """Integer agreement of one backend: a row an operator, and all of them together."""

    backend: str
    scope: str
    total: LsbRow
    rows: tuple[LsbRow, ...]
    tensors: tuple[TensorAgreement, ...]


@dataclass(frozen=True, slots=True)
class Contents:
    """Everything that the page shows.

    Attributes:
        folder: the build folder as the user named it, for commands to copy.
        sizes: label -> bytes, the float original first.
        wider: what has more bits than was asked for.
        layers: widths that were chosen layer by layer, widest first; none where they were given.
        weights: how they are stored, widest first; none where the graph cannot be read.
        choice: in words, how they were chosen; or empty.
        compiled: what chips' compilers said, a record a target.
        originals: the same of the float original, by target; "refused" says why there is none.
    """

    folder: str
    model: str
    settings: Mapping[str, str | int | float]
    manifest: Mapping[str, Json]
    fates: tuple[Fate, ...]
    census: tuple[CensusRow, ...]
    validation: ValidationResult | None
    blocks: tuple[BlockAgreement, ...]
    training: tuple[TrainingPoint, ...]
    latency: tuple[LatencyRow, ...]
    sizes: Mapping[str, int]
    seconds: Mapping[str, float]
    peak_memory_bytes: int | None
    wider: tuple[Mapping[str, Json], ...] = ()
    layers: tuple[ChosenLayer, ...] = ()
    choice: str = ""
    weights: tuple[StoredWeights, ...] = ()
    source_sha256: str = ""
    compiled: tuple[Mapping[str, Json], ...] = ()
    originals: Mapping[str, Mapping[str, Json]] = field(default_factory=dict)

    def command(self, verb: str, *rest: str) -> str:
        """A command line on this folder, quoted for a shell."""
        return shlex.join(["archnet", verb, self.folder, *rest])

    @property
    def translates(self) -> bool:
        """Whether the model is an encoder-decoder."""
        return self.manifest.get("kind") == "translation"

    @property
    def writes(self) -> bool:
        """Whether the model writes text token by token, from a source or alone."""
        return self.manifest.get("kind") in ("translation", "language")

    @property
    def images(self) -> bool:
        """Whether the model reads pictures."""
        return self.manifest.get("kind") == "image"

    @property
    def examples(self) -> str:
        """What the model reads, in words."""
        return "pictures" if self.images else "sentences"

    @property
    def asked(self) -> str:
        """The widths that were asked for, in short."""
        s = self.settings
        return f"auto ({s['max_drop']:g})" if "max_drop" in s else str(s["bits"])

    def shape_name(self, batch: int, sequence: int) -> str:
        """What a pass computes, in words: pictures have the size that the model reads."""
        return f"batch {batch}" if self.images else f"batch {batch} × {sequence} tokens"

    @property
    def float_runtime(self) -> str:
        """What runs the float original."""
        return "PyTorch" if self.writes else "ONNX Runtime"

    @property
    def score_command(self) -> str:
        """The command that measures a task's score."""
        if self.translates:
            return self.command(
                "validate", "--task", "translation", "--data", "SOURCES", "--references", "FILE"
            )
        if self.writes:
            return self.command("validate", "--task", "language", "--data", "FILE")
        if self.images:
            return self.command("validate", "--task", "images", "--data", "FOLDER_OR_ZIP")
        return self.command("validate", "--task", "sts", "--data", "FILE_OR_DIR")

    @property
    def lsb_tables(self) -> tuple[LsbTable, ...]:
        """The integers of every backend against the reference's."""
        return lsb_tables(self.validation.tensors) if self.validation else ()

    @property
    def host_work(self) -> tuple[Fate, ...]:
        """What runs outside the network, on the host."""
        return tuple(f for f in self.fates if f.action == "host")

    @property
    def refused(self) -> tuple[Fate, ...]:
        """What could not be converted."""
        return tuple(f for f in self.fates if f.action == "refuse")


def read_contents(folder: Path) -> Contents:
    """Read a finished build folder.

    Raises:
        ArchNetError: it is no finished build folder, or one of its files is damaged.
    """
    build = BuildDir.open_finished(folder)
    manifest = build.read_json(build.manifest)
    metrics = read_metrics(build.metrics)
    plan = build.read_json(build.plan) if build.plan.is_file() else {}
    validation = metrics.get("validation")
    return Contents(
        folder=str(folder),
        model=_model_name(manifest, plan),
        settings=build.settings.to_json(),
        manifest=manifest,
        fates=_fates(plan),
        census=_census(metrics.get("census_before") or {}, metrics.get("census_after") or {}),
        validation=ValidationResult.from_json(validation) if validation else None,
        blocks=tuple(BlockAgreement.from_json(b) for b in metrics.get("blocks") or ()),
        training=tuple(TrainingPoint.from_json(p) for p in metrics.get("training") or ()),
        latency=tuple(LatencyRow.from_json(r) for r in metrics.get("latency") or ()),
        sizes=_sizes(build.path, metrics.get("sizes") or {}),
        seconds=metrics.get("seconds") or {},
        peak_memory_bytes=metrics.get("peak_memory_bytes"),
        compiled=tuple((metrics.get("compiled") or {}).values()),
        originals=metrics.get("originals") or {},
        wider=tuple(_records(plan.get("wider"))),
        layers=_layers(plan.get("bits")),
        choice=_choice(plan.get("bits")),
        weights=stored_weights(build.path),
        source_sha256=build.source_sha256,
    )


def lsb_tables(tensors: Sequence[TensorAgreement]) -> tuple[LsbTable, ...]:
    """One table a backend and scope, in the order of the records; worst operators first."""
    groups: dict[tuple[str, str], list[TensorAgreement]] = {}
    for tensor in tensors:
        groups.setdefault((tensor.backend, tensor.scope), []).append(tensor)
    tables = []
    for (backend, scope), members in groups.items():
        by_op: dict[str, list[TensorAgreement]] = {}
        for member in members:
            by_op.setdefault(member.op, []).append(member)
        rows = [_lsb_row(op, part) for op, part in by_op.items()]
        rows.sort(key=lambda r: (-r.max_lsb, -r.share, r.op))
        tables.append(LsbTable(backend, scope, _lsb_row("all", members), tuple(rows), tuple(members)))
    return tuple(tables)


def _lsb_row(op: str, members: Sequence[TensorAgreement]) -> LsbRow:
    return LsbRow(
        op=op,
        tensors=len(members),
        equal=sum(m.differing == 0 for m in members),
        elements=sum(m.elements for m in members),
        differing=sum(m.differing for m in members),
        max_lsb=max(m.max_lsb for m in members),
    )


def _records(value: Json) -> list[Mapping[str, Json]]:
    return [entry for entry in value if isinstance(entry, Mapping)] if isinstance(value, list) else []


def _layers(choice: Json) -> tuple[ChosenLayer, ...]:
    if not isinstance(choice, Mapping):
        return ()
    layers = [
        ChosenLayer(
            str(entry["site"]),
            int(entry["elements"]),
            int(entry["bits"]),
            float((entry.get("damage") or {}).get(str(entry["bits"]), 0.0)),
        )
        for entry in _records(choice.get("layers"))
    ]
    return tuple(sorted(layers, key=lambda layer: -layer.bits))


def _choice(choice: Json) -> str:
    """How the widths were chosen, and what that is worth."""
    if not isinstance(choice, Mapping):
        return ""
    return (
        f"Chosen without labels for at most {choice['max_drop']:g} points lost. Each layer was measured "
        "alone, before training, by the share of the output's variance that fewer bits lose. The shares of "
        f"the chosen widths add up to {choice['predicted']:.2%}; {choice['budget']:.2%} were taken for the "
        "points. That is an estimate; the task score above is the measurement."
    )


def _model_name(manifest: Mapping[str, Json], plan: Mapping[str, Json]) -> str:
    source = manifest.get("source")
    named = source.get("name") if isinstance(source, Mapping) else source
    name = named or manifest.get("model") or manifest.get("name") or plan.get("model") or "model"
    return str(name).rstrip("/").rsplit("/", 1)[-1] if str(name).startswith(("/", ".")) else str(name)


def _fates(plan: Mapping[str, Json]) -> tuple[Fate, ...]:
    groups: dict[tuple[str, str, str, str], list[Mapping[str, Json]]] = {}
    for decision in plan.get("decisions") or ():
        key = tuple(str(decision.get(k) or "") for k in ("op", "action", "becomes", "reason"))
        groups.setdefault((key[0], key[1], key[2], key[3]), []).append(decision)
    fates = [
        Fate(
            *key,
            count=sum(int(d.get("count", 1)) for d in members),
            sites=tuple(str(d.get("site", "")) for d in members),
        )
        for key, members in groups.items()
    ]
    order = ("refuse", "host", "replace", "fold", "keep")
    rank = {action: i for i, action in enumerate(order)}
    return tuple(sorted(fates, key=lambda f: (rank.get(f.action, len(order)), f.op)))


def _census(before: Mapping[str, int], after: Mapping[str, int]) -> tuple[CensusRow, ...]:
    """Operators that vanish first, then those that stay, then new ones; frequent ones first in each."""
    rows = [CensusRow(op, int(before.get(op, 0)), int(after.get(op, 0))) for op in {**before, **after}]

    def key(row: CensusRow) -> tuple[int, int, str]:
        kind = 0 if not row.after else 1 if row.before else 2
        return kind, -max(row.before, row.after), row.op

    return tuple(sorted(rows, key=key))


def _sizes(folder: Path, recorded: Mapping[str, int]) -> dict[str, int]:
    """What the files weigh now, encoder and decoder together; the recorded size of a file that is gone."""
    sizes: dict[str, int] = {}
    parts = part_names(folder)
    for name, label in ARTIFACTS.items():
        files = [f"{part}/{name}".removeprefix("/") for part in parts]
        if parts != ("",) and name == FLOAT_FILE:
            files = [FLOAT_WRITER]
        counts = [_bytes(folder / file) or int(recorded.get(file, 0)) for file in files]
        if all(counts):
            sizes[label] = sum(counts)
    return sizes


def _bytes(file: Path) -> int:
    """Of a file and of the weights that ONNX may keep beside it; 0 when it is missing."""
    beside = file.with_name(f"{file.name}.data")
    return sum(f.stat().st_size for f in (file, beside) if f.is_file()) if file.is_file() else 0
