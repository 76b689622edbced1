"""What the routes of compilers that take an ONNX file of one size share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from archnet.atomic import disk_errors
from archnet.backends.static_onnx import MODEL, StaticRuntime
from archnet.export.onnx import StaticForm, build_static_onnx
from archnet.graph import QuantizedGraph
from archnet.routes import CompileJob, network_of, reads_tokens


def length(graph: QuantizedGraph, sequence: int | None) -> int | None:
    """The length that a file gets; None for networks without one."""
    if not reads_tokens(graph):
        return None
    return graph.max_sequence if sequence is None else sequence


def write_static(job: CompileJob, form: StaticForm) -> tuple[QuantizedGraph, Path]:
    """The network, and the ONNX file of one size that is written of it."""
    graph = network_of(job)
    model = build_static_onnx(graph, form, job.sequence)
    path = job.folder / MODEL
    with disk_errors(path):
        path.write_bytes(model.SerializeToString())
    return graph, path


def compile_static(job: CompileJob, runtime: StaticRuntime) -> tuple[QuantizedGraph, Path, dict[str, Any]]:
    """The network, the compiled file, and what the driver says of it.

    Raises:
        ArchNetError: the network has no ONNX form, or the compiler fails, crashes or takes too long.
    """
    graph, model = write_static(job, runtime.form)
    binary = job.folder / runtime.binary
    with runtime.worker(job.log) as worker:
        request = {"model": str(model.absolute()), "binary": str(binary.absolute())}
        said = worker.call("compile_model", request, seconds=job.seconds)
    return graph, binary, said
