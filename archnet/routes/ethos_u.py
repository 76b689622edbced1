"""Arm Ethos-U: a TFLite file of the integers, compiled by Vela."""

from __future__ import annotations

from dataclasses import replace

from archnet.compiling import write_tflite
from archnet.routes import CompileJob
from archnet.targets.chips import CompileSummary
from archnet.targets.vela import compile_vela


def compile_chip(job: CompileJob) -> CompileSummary:
    """Write model.tflite and compile it (see `archnet.routes`)."""
    model = job.folder / "model.tflite"
    sequence = write_tflite(job.network, model, job.sequence)
    summary = compile_vela(model, job.folder, job.chip.name, log=job.log, seconds=job.seconds)
    return replace(summary, sequence=sequence)
