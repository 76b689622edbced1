"""Kendryte K230: a float ONNX file of the network's real numbers, which nncase quantizes by itself.

nncase 2.11 takes no weights with one scale a channel as integers, so it is given dequantized ones and the
sentences or pictures of DIR/calibration.npz.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from archnet.atomic import disk_errors, remove_tree
from archnet.backends.base import user_inputs
from archnet.backends.twin import numbered, twin_inputs
from archnet.export.float_twin import OPSET, export_float_twin
from archnet.export.older_onnx import at_opset
from archnet.graph import QuantizedGraph
from archnet.routes import CompileJob, OriginalJob, network_inputs, network_of, reads_tokens
from archnet.routes.static_onnx import counted, write_original
from archnet.targets.chips import CompileSummary
from archnet.targets.nncase import read_placement
from archnet.targets.toolchain import find_toolchain
from archnet.targets.worker import Worker

MODEL, KMODEL = "model.onnx", "model.kmodel"

_FIX = "look into the log; docs/chips.md says what K230 takes"

CALIBRATION = 16
"""Sentences or pictures that nncase takes the ranges of activations from."""


def calibration_samples(
    graph: QuantizedGraph, inputs: Mapping[str, NDArray[Any]], length: int
) -> dict[str, NDArray[Any]]:
    """The first of a build's sentences, cut to so many tokens, or of its pictures.

    Args:
        inputs: of the whole model; a translation model's encoder takes only some.
    """
    wanted = user_inputs(graph)
    if "cache_mask" in wanted:
        return {name: values[:CALIBRATION] for name, values in inputs.items() if name in wanted}
    return {
        name: values[:CALIBRATION, :length] if values.dtype == np.int64 else values[:CALIBRATION]
        for name, values in inputs.items()
        if name in wanted
    }


def compile_chip(job: CompileJob) -> CompileSummary:
    """Write model.onnx and compile it into model.kmodel (see `archnet.routes`)."""
    graph = network_of(job)
    twin = export_float_twin(graph, job.folder / MODEL, job.sequence)
    given = network_inputs(job) if job.samples is None else job.samples
    samples = calibration_samples(graph, given, twin.sequence)
    return _compiled(job, twin_inputs(graph, twin, samples), twin.sequence if reads_tokens(graph) else None)


def compile_original(job: OriginalJob) -> CompileSummary:
    """Write model.onnx of the float original and compile it into model.kmodel (see `archnet.routes`)."""
    write_original(job, at_opset(job.model, OPSET))
    names = [value.name for value in job.model.graph.input]
    samples = [job.samples[name][:CALIBRATION, None] for name in names]
    return _compiled(job, samples, job.sequence)


def _compiled(
    job: CompileJob | OriginalJob, samples: Sequence[NDArray[Any]], sequence: int | None
) -> CompileSummary:
    """Let nncase compile the job's MODEL."""
    calibration, dump = job.folder / "calibration.npz", job.folder / "dump"
    with disk_errors(job.folder):
        np.savez(calibration, **numbered(samples))
    toolchain = find_toolchain("kendryte")
    with Worker(toolchain, "kendryte", log=job.log, fix=_FIX) as worker:
        request = {
            "model": str((job.folder / MODEL).resolve()),
            "calibration": str(calibration.resolve()),
            "kmodel": str((job.folder / KMODEL).resolve()),
            "dump": str(dump.resolve()),
        }
        size = worker.call("compile", request, seconds=job.seconds)["bytes"]
    placement = read_placement(dump)
    with disk_errors(job.folder):
        remove_tree(dump)
        calibration.unlink()
    return CompileSummary(
        target=job.chip.name,
        tool=toolchain.tool,
        native_operators=placement.kpu,
        fallback_operators=len(placement.cpu),
        fallbacks=counted(placement.cpu),
        binary=KMODEL,
        binary_bytes=int(size),
        sequence=sequence,
        configuration=f"{placement.pieces} pieces of work, int8 in ranges of its own",
        macs=placement.macs,
    )
