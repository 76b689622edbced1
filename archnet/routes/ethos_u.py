"""Arm Ethos-U: a TFLite file of the integers, compiled by Vela."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from onnx import helper

from archnet.atomic import disk_errors
from archnet.compiling import write_tflite
from archnet.export.onnx_for_tflite import for_tflite
from archnet.routes import CompileJob, OriginalJob
from archnet.routes.static_onnx import write_original
from archnet.targets.chips import CompileSummary
from archnet.targets.toolchain import find_toolchain
from archnet.targets.vela import compile_vela
from archnet.targets.worker import Worker

MODEL = "model.tflite"

ORIGINAL_TOOLCHAIN = "onnx2tf"
"""Vela reads TFLite that is quantized already, so a float original takes these tools to get there."""


def compile_chip(job: CompileJob) -> CompileSummary:
    """Write model.tflite and compile it (see `archnet.routes`)."""
    model = job.folder / MODEL
    sequence = write_tflite(job.network, model, job.sequence)
    summary = compile_vela(model, job.folder, job.chip.name, log=job.log, seconds=job.seconds)
    return replace(summary, sequence=sequence)


def compile_original(job: OriginalJob) -> CompileSummary:
    """Have the float original quantized to model.tflite, and compile that (see `archnet.routes`)."""
    given = for_tflite(job.model)
    plain = write_original(job, given)
    model, samples = job.folder / MODEL, job.folder / "samples.npz"
    types = {v.name: helper.tensor_dtype_to_np_dtype(v.type.tensor_type.elem_type) for v in given.graph.input}
    with disk_errors(samples):
        np.savez(samples, allow_pickle=False, **{n: v.astype(types[n]) for n, v in job.samples.items()})
    tools = find_toolchain(ORIGINAL_TOOLCHAIN)
    files = {"model": plain, "samples": samples, "tflite": model}
    request = {name: str(path.absolute()) for name, path in files.items()}
    with Worker(tools, "tflite_original", log=job.log, fix="look into the log") as worker:
        worker.call("quantize", request, seconds=job.seconds)
    samples.unlink()
    summary = compile_vela(model, job.folder, job.chip.name, log=job.log, seconds=job.seconds)
    made_by = " and ".join(tools.packages[:2]).replace("==", " ")
    part = "; cycles without the CPU's part" if summary.fallback_operators else ""
    return replace(
        summary,
        sequence=job.sequence,
        configuration=f"{summary.configuration}; made int8 by {made_by}{part}",
    )
