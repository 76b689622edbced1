"""A build for a chip: its TFLite file, and what the chip's own compiler makes of the network."""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path

from archnet.atomic import TEMPORARY_MARK, disk_errors, remove_tree, sweep, write_json
from archnet.build import BuildDir
from archnet.errors import ArchNetError
from archnet.parts import ENCODER, HOST_DECODER, chip_parts, part_names
from archnet.results import merge_metrics, read_metrics
from archnet.routes import CompileJob, check_length, compile_by_route, reads_tokens
from archnet.storage import load_graph
from archnet.targets.chips import Chip, CompileSummary, find_chip
from archnet.targets.toolchain import find_toolchain

COMPILE_SECONDS = 1800.0


def write_tflite(folder: Path, path: Path, sequence: int | None = None) -> int | None:
    """Write a network as a TFLite file.

    Args:
        folder: of the network: a build's, or a part's in it.
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
    check_length(graph, folder, sequence)
    model = export_tflite(graph, path, sequence)
    return model.sequence if reads_tokens(graph) else None


def compile_for(
    build_dir: Path, target: str, *, sequence: int | None = None, seconds: float = COMPILE_SECONDS
) -> tuple[CompileSummary, ...]:
    """Compile the networks of a finished build for a chip, and record what that gave.

    There is one, or the encoder and the decoder's step of a model that writes, each in its own folder of the
    build, DIR. DIR/compiled/TARGET gets what the compiler read, what it made and summary.json, all or
    nothing; the compiler's log is DIR/compiled/TARGET.log. metrics.json keeps the figures under `compiled`.

    Args:
        target: a name of `archnet.targets.chips.CHIPS`.
        sequence: tokens of a sentence; the network's greatest when None.
        seconds: time limit of the compiler for each network.

    Raises:
        ArchNetError: an unknown target, no toolchain, no form of a network for it, a compiler that fails, or
            operators that it leaves to another processor.
    """
    chip = find_chip(target)
    parts = chip_parts(build_dir, decoders=chip.decoders)  # before a toolchain is asked for in vain
    if chip.toolchain is not None:
        find_toolchain(chip.toolchain).require()
    build = BuildDir.open_finished(build_dir)
    works = {part: _work_folder(build.path / part / "compiled", target) for part in parts}
    try:
        summaries = tuple(
            _compiled(CompileJob(chip, build, work, _log(work, target), seconds, sequence, part=part))
            for part, work in works.items()
        )
        for work in works.values():
            final = work.parent / target
            with disk_errors(final):
                remove_tree(final)
                os.rename(work, final)
    finally:
        for work in works.values():
            shutil.rmtree(work, ignore_errors=True)
    known = read_metrics(build.metrics).get("compiled") or {}
    kept = {name: record for name, record in known.items() if record.get("target") != target}
    found = {f"{target} {s.part}".strip(): dataclasses.asdict(s) for s in summaries}
    merge_metrics(build.metrics, compiled={**kept, **found})
    return summaries


def _work_folder(base: Path, target: str) -> Path:
    """An empty folder beside the one that the results will be in."""
    work = base / f".{target}.{os.getpid()}{TEMPORARY_MARK}"
    with disk_errors(base):
        sweep(base)
        work.mkdir(parents=True, exist_ok=True)
    return work


def _log(work: Path, target: str) -> Path:
    return work.parent / f"{target}.log"


def _compiled(job: CompileJob) -> CompileSummary:
    """What the chip's compiler made of one network; summary.json is in the job's folder."""
    summary = compile_by_route(job)
    if summary.fallback_operators:
        named = ", ".join(summary.fallbacks) or f"{summary.fallback_operators} operators"
        of = f" of the {job.part}" if job.part else ""
        raise ArchNetError(
            f"{summary.tool} leaves {named}{of} on the CPU of {job.chip.name} (its log: {job.log})",
            fix=_fix(job.build, job.chip),
        )
    if part_names(job.build.path) != (job.part,):
        summary = dataclasses.replace(summary, part=job.part)
        if job.part == ENCODER and not job.chip.decoders:
            said = f"{HOST_DECODER}; {summary.configuration}".rstrip("; ")
            summary = dataclasses.replace(summary, configuration=said)
    write_json(job.folder / "summary.json", dataclasses.asdict(summary))
    return summary


def _fix(build: BuildDir, chip: Chip) -> str:
    """What can be done about operators that the chip does not run."""
    if build.settings.target != chip.profile:
        return f"convert for the chip's own profile: --target {chip.profile}"
    return "compile for another chip (archnet targets), and report the network's operators with the log"
