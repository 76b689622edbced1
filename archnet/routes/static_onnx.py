"""What the routes of compilers that take an ONNX file of one size share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import onnx

from archnet.atomic import disk_errors
from archnet.backends.static_onnx import MODEL, StaticRuntime
from archnet.export.onnx import StaticForm, build_static_onnx
from archnet.graph import QuantizedGraph
from archnet.routes import CompileJob, OriginalJob, network_of, reads_tokens


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
    binary, said = _compiled(job, runtime, model)
    return graph, binary, said


def write_original(job: OriginalJob, model: onnx.ModelProto | None = None) -> Path:
    """The original's file in the job's folder.

    Args:
        model: in another form; as the job has it by default.
    """
    path = job.folder / MODEL
    with disk_errors(path):
        path.write_bytes((model or job.model).SerializeToString())
    return path


def compile_static_original(job: OriginalJob, runtime: StaticRuntime) -> tuple[Path, dict[str, Any]]:
    """The compiled file of a float original, and what the driver says of it.

    Raises:
        ArchNetError: the compiler fails, crashes or takes too long.
    """
    return _compiled(job, runtime, write_original(job))


def counted(kinds: Iterable[str]) -> tuple[str, ...]:
    """How many there are of each kind, in words, the most first."""
    return tuple(f"{count} {kind}" for kind, count in Counter(kinds).most_common())


def _compiled(
    job: CompileJob | OriginalJob, runtime: StaticRuntime, model: Path
) -> tuple[Path, dict[str, Any]]:
    binary = job.folder / runtime.binary
    with runtime.worker(job.log) as worker:
        request = {"model": str(model.absolute()), "binary": str(binary.absolute())}
        return binary, worker.call("compile_model", request, seconds=job.seconds)
