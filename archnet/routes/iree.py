"""IREE: the network in integer ONNX operators, compiled for this machine's processor."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from archnet.backends.static_onnx import IREE
from archnet.routes import CompileJob, OriginalJob
from archnet.routes.static_onnx import compile_static, compile_static_original, length
from archnet.targets.chips import CompileSummary
from archnet.targets.toolchain import find_toolchain


def compile_chip(job: CompileJob) -> CompileSummary:
    """Write model.onnx and compile it to model.vmfb (see `archnet.routes`)."""
    graph, binary, said = compile_static(job, IREE)
    floats = ("the factor of each requantization (exact)", "the outputs' scale")
    return _summary(job, binary, said, length(graph, job.sequence), floats)


def compile_original(job: OriginalJob) -> CompileSummary:
    """Write model.onnx of the float original and compile it to model.vmfb (see `archnet.routes`)."""
    return _summary(job, *compile_static_original(job, IREE), job.sequence, ("all",))


def _summary(
    job: CompileJob | OriginalJob,
    binary: Path,
    said: Mapping[str, Any],
    sequence: int | None,
    floats: tuple[str, ...],
) -> CompileSummary:
    return CompileSummary(
        target=job.chip.name,
        tool=find_toolchain(IREE.name).tool,
        native_operators=said["dispatches"],
        fallback_operators=0,
        fallbacks=(),
        binary=binary.name,
        binary_bytes=binary.stat().st_size,
        sequence=sequence,
        configuration="llvm-cpu for this machine's processor; operators are IREE's dispatches",
        float_operators=floats,
    )
