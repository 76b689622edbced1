"""What the routes of compilers that take an ONNX file of one size share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from archnet.atomic import disk_errors
from archnet.backends.static_onnx import MODEL, StaticRuntime
from archnet.errors import ArchNetError
from archnet.export.onnx import StaticForm, build_static_onnx
from archnet.graph import QuantizedGraph
from archnet.parts import is_translation
from archnet.routes import CompileJob
from archnet.storage import load_graph


def whole_network(job: CompileJob) -> QuantizedGraph:
    """The integer network of the job's build.

    Raises:
        ArchNetError: it translates, or a length was given for a network without one.
    """
    build = job.build.path
    if is_translation(build):
        raise ArchNetError(
            f"{build} translates: {job.chip.name} gets text encoders and image classifiers",
            fix="export --format onnx or tvm",
        )
    graph = load_graph(build / "graph")
    if job.sequence is not None and not reads_tokens(graph):
        raise ArchNetError(f"{build} reads no tokens, so it has no --seq-len", fix="leave it out")
    return graph


def reads_tokens(graph: QuantizedGraph) -> bool:
    """Whether its inputs have a length."""
    return any("sequence" in spec.shape for spec in graph.inputs)


def length(graph: QuantizedGraph, sequence: int | None) -> int | None:
    """The length that a file gets; None for networks without one."""
    if not reads_tokens(graph):
        return None
    return graph.max_sequence if sequence is None else sequence


def write_static(job: CompileJob, form: StaticForm) -> tuple[QuantizedGraph, Path]:
    """The network, and the ONNX file of one size that is written of it."""
    graph = whole_network(job)
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
