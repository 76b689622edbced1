"""A build for a chip: its TFLite file, and what the chip's own compiler makes of the network."""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path

from archnet.atomic import TEMPORARY_MARK, disk_errors, remove_tree, sweep, write_json
from archnet.build import BuildDir
from archnet.errors import ArchNetError
from archnet.parts import ENCODER, HOST_DECODER, chip_part
from archnet.results import merge_metrics, read_metrics
from archnet.routes import CompileJob, compile_by_route
from archnet.storage import load_graph
from archnet.targets.chips import Chip, CompileSummary, find_chip
from archnet.targets.toolchain import find_toolchain

COMPILE_SECONDS = 1800.0


def write_tflite(folder: Path, path: Path, sequence: int | None = None) -> int | None:
    """Write a network as a TFLite file.

    Args:
        folder: of the network: a build's, or the encoder's in it.
        sequence: its sequence length; the network's greatest when None.

    Returns:
        The file's sequence length; None for networks that read no tokens.

    Raises:
        ArchNetError: ai-edge-litert is not installed, the build has no TFLite form, or a sequence length was
            given for a network without one.
    """
    try:
        from archnet.export.tflite import export_tflite
    except ImportError as error:
        raise ArchNetError(
            f"writing TFLite needs ai-edge-litert ({error})", fix="pip install 'archnet[ethos]'"
        ) from error
    graph = load_graph(folder / "graph")
    reads_tokens = any("sequence" in spec.shape for spec in graph.inputs)
    if sequence is not None and not reads_tokens:
        raise ArchNetError(f"{folder} reads no tokens, so it has no --seq-len", fix="leave it out")
    model = export_tflite(graph, path, sequence)
    return model.sequence if reads_tokens else None


def compile_for(
    build_dir: Path, target: str, *, sequence: int | None = None, seconds: float = COMPILE_SECONDS
) -> CompileSummary:
    """Compile the network of a finished build for a chip, and record what that gave.

    Of a translation model the encoder is compiled, and DIR is its folder in the build.
    DIR/compiled/TARGET gets what the compiler read, what it made and summary.json, all or nothing; the
    compiler's log is DIR/compiled/TARGET.log. metrics.json keeps the figures under `compiled`.

    Args:
        target: a name of `archnet.targets.chips.CHIPS`.
        sequence: tokens of a sentence; the network's greatest when None.
        seconds: time limit of the compiler.

    Raises:
        ArchNetError: an unknown target, no toolchain, no form of the network for it, a compiler that fails,
            or operators that it leaves to another processor.
    """
    chip = find_chip(target)
    part = chip_part(build_dir)  # before a toolchain is asked for that would not help
    if chip.toolchain is not None:
        find_toolchain(chip.toolchain).require()
    build = BuildDir.open_finished(build_dir)
    base = build.path / part / "compiled"
    final, work = base / target, base / f".{target}.{os.getpid()}{TEMPORARY_MARK}"
    log = base / f"{target}.log"
    try:
        with disk_errors(base):
            sweep(base)
            work.mkdir(parents=True, exist_ok=True)
        summary = compile_by_route(CompileJob(chip, build, work, log, seconds, sequence))
        if summary.fallback_operators:
            named = ", ".join(summary.fallbacks) or f"{summary.fallback_operators} operators"
            raise ArchNetError(
                f"{summary.tool} leaves {named} on the CPU of {target} (its log: {log})",
                fix=_fix(build, chip),
            )
        if part == ENCODER:
            said = f"{HOST_DECODER}; {summary.configuration}".rstrip("; ")
            summary = dataclasses.replace(summary, configuration=said)
        record = dataclasses.asdict(summary)
        write_json(work / "summary.json", record)
        with disk_errors(final):
            remove_tree(final)
            os.rename(work, final)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    known = read_metrics(build.metrics).get("compiled") or {}
    merge_metrics(build.metrics, compiled={**known, target: record})
    return summary


def _fix(build: BuildDir, chip: Chip) -> str:
    """What can be done about operators that the chip does not run."""
    if build.settings.target != chip.profile:
        return f"convert for the chip's own profile: --target {chip.profile}"
    return "compile for another chip (archnet targets), and report the network's operators with the log"
