"""What a chip's own compiler makes of the trained model as it is, to stand beside what it makes of ours.

Its compiler gets the float original as ONNX, of batch 1 and one length, and does with it what its makers
have it do: quantize it by its own calibration, or leave it in float. Operators may go to other processors,
and a compiler that refuses or crashes is an answer, too: nothing here is an error of the conversion.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from archnet.atomic import TEMPORARY_MARK, disk_errors, remove_tree, sweep
from archnet.build import BuildDir
from archnet.errors import ArchNetError
from archnet.export.float_onnx import build_float_onnx
from archnet.export.host_split import static_length
from archnet.export.older_onnx import of_one_size
from archnet.parts import part_names
from archnet.results import merge_metrics, read_metrics
from archnet.routes import (
    OriginalJob,
    original_by_route,
    reads_tokens,
    require_for_original,
    takes_originals,
)
from archnet.sources.source import Source
from archnet.storage import load_graph
from archnet.targets.chips import CHIPS, Chip, CompileSummary, find_chip
from archnet.targets.toolchain import cache_folder
from archnet.validate import agreement_inputs

SAMPLES = 16
"""Random inputs that stand for data where there is none: the ranges are then nobody's, the places right."""

IDS = "input_ids"


@dataclass(frozen=True, slots=True)
class OriginalSummary:
    """A compiler's answer.

    Attributes:
        target: the chip's name.
        refused: the compiler's own words where it made nothing of the model; else "".
        compiled: what it made.
        part: "encoder" where the model has a decoder too, which is not asked about.
    """

    target: str
    refused: str = ""
    compiled: CompileSummary | None = None
    part: str = ""

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return dataclasses.asdict(self)


def askable(target: str) -> Chip:
    """The chip of this name, when its compiler can be asked about a float original now.

    Raises:
        ArchNetError: there is none, its compiler takes no float original, or is not installed.
    """
    chip = find_chip(target)
    if not takes_originals(chip):
        able = ", ".join(c.name for c in CHIPS if takes_originals(c))
        raise ArchNetError(
            f"{chip.name}: there is no route that gives its compiler the original",
            fix=f"ask for one of {able}; docs/chips.md has what was measured by hand for others",
        )
    require_for_original(chip)
    return chip


def compile_original_of(
    build_dir: Path, target: str, *, sequence: int | None = None, seconds: float
) -> OriginalSummary:
    """Let a chip's compiler make what it can of the float original of a finished build.

    DIR/compiled/TARGET-original gets what the compiler read and made, the log is beside it, and metrics.json
    keeps the answer under `originals`.

    Args:
        target: a name of `archnet.targets.chips.CHIPS`.
        sequence: tokens of a sentence; what the converted network takes at most when None.
        seconds: time limit of the compiler.

    Raises:
        ArchNetError: no such chip, no toolchain, no way to give it an original, or a damaged build.
    """
    chip = askable(target)
    build = BuildDir.open_finished(build_dir)
    if part_names(build.path) != ("",):
        raise ArchNetError(
            f"{build.path} writes, and the build of such a model holds no ONNX file of its original",
            fix=f"archnet inspect MODEL --chip {target} asks about the encoder of a translation model",
        )
    graph = load_graph(build.path / "graph")
    if sequence is not None and not reads_tokens(graph):
        raise ArchNetError(f"{build.path} reads no tokens, so it has no --seq-len", fix="leave it out")
    length = static_length(graph, sequence) if reads_tokens(graph) else None
    samples = agreement_inputs(build)
    model = _read(build.onnx_dir / "float.onnx")
    base = build.path / "compiled"
    with disk_errors(base):
        sweep(base)
        base.mkdir(exist_ok=True)
    name = f"{target}-original"
    final, work = base / name, base / f".{name}.{os.getpid()}{TEMPORARY_MARK}"
    try:
        answer = _ask(chip, model, samples, work, base / f"{name}.log", seconds, length)
        with disk_errors(final):
            remove_tree(final)
            if answer.compiled is not None:
                os.rename(work, final)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    known = read_metrics(build.metrics).get("originals") or {}
    merge_metrics(build.metrics, originals={**known, target: answer.to_json()})
    return answer


def ask_about(source: Source, chip: Chip, *, sequence: int, seconds: float) -> OriginalSummary:
    """Let a chip's compiler make what it can of an opened model, calibrated with random inputs.

    Of a translation model that is the encoder, as it is of a build.

    Args:
        chip: of `askable`.
        sequence: tokens of a sentence, where the model reads any.

    Raises:
        ArchNetError: the model cannot be written as ONNX.
    """
    if source.kind == "language":
        raise ArchNetError(
            f"{source.name} is a language model, whose step has a cache that the host moves; originals "
            "with one are not given to chips' compilers",
            fix="leave --chip out; convert it, and compile what comes out",
        )
    if source.kind == "translation":
        encoder = ask_about(_encoder_of(source), chip, sequence=sequence, seconds=seconds)
        return replace(encoder, part="encoder")
    model = build_float_onnx(source)
    text = source.kind == "text"
    draw = np.random.default_rng(0)
    if text:
        words = int(source.config.get("vocab_size", 1))
        ids = draw.integers(0, words, (SAMPLES, sequence))
        samples: dict[str, NDArray[Any]] = {IDS: ids, "attention_mask": np.ones_like(ids)}
    else:
        size = (SAMPLES, *source.image_size)
        samples = {"pixel_values": draw.normal(size=size).astype(np.float32)}
    logs = cache_folder()  # beside the toolchains', so that it is still there when an answer names it
    with disk_errors(logs):
        logs.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="archnet-") as folder:
        made, log = Path(folder) / "made", logs / f"{chip.name}-original.log"
        return _ask(chip, model, samples, made, log, seconds, sequence if text else None)


def _encoder_of(source: Source) -> Source:
    """The encoder of a translation model as a model of its own."""
    find = getattr(getattr(source.module, "model", None), "get_encoder", None)
    if not callable(find):
        raise ArchNetError(
            f"{source.name} does not say which part of it is the encoder", fix="leave --chip out"
        )
    return replace(source, module=find(), kind="text", output_names=("last_hidden_state",))


def _read(path: Path) -> onnx.ModelProto:
    try:
        model = onnx.load(str(path))
    except Exception:  # a missing file, or whatever protobuf raises
        model = onnx.ModelProto()
    if not model.graph.node:
        raise ArchNetError(
            f"{path} cannot be read, so there is no float original to compile",
            fix="convert again into a new folder",
        )
    return model


def _ask(
    chip: Chip,
    model: onnx.ModelProto,
    samples: Mapping[str, NDArray[Any]],
    folder: Path,
    log: Path,
    seconds: float,
    length: int | None,
) -> OriginalSummary:
    """The answer; what was made is in the folder, which is made."""
    with disk_errors(folder):
        folder.mkdir()
    given = {value.name: samples[value.name] for value in model.graph.input}
    if length is not None:
        given = {name: _to_length(values, length) for name, values in given.items()}
    job = OriginalJob(chip, of_one_size(model, length), given, folder, log, seconds, length)
    try:
        return OriginalSummary(chip.name, compiled=original_by_route(job))
    except ArchNetError as error:
        return OriginalSummary(chip.name, refused=error.problem)


def _to_length(values: NDArray[Any], length: int) -> NDArray[Any]:
    """Token ids or masks, (samples, tokens), cut or padded with zeros."""
    cut = values[:, :length]
    return np.pad(cut, [(0, 0), (0, length - cut.shape[1])])
