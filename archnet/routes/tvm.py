"""TVM: integer kernels as a library of any batch and sequence, or as C source of one size."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

from archnet.atomic import read_json
from archnet.errors import ArchNetError
from archnet.export.tvm import LIBRARY
from archnet.routes import CompileJob, OriginalJob, network_of
from archnet.routes.static_onnx import length, write_original
from archnet.routes.tvm_process import C_SOURCE, SAID
from archnet.targets.chips import CompileSummary
from archnet.targets.process import run_tool

PROCESSORS = {
    "tvm-x86-64": "x86_64-v3",
    "tvm-aarch64": "aarch64",
    "tvm-riscv64": "riscv64",
    "tvm-c": C_SOURCE,
}
"""What `archnet.routes.tvm_process` calls the chips of this route."""

WITHOUT_ORIGINALS = frozenset(("tvm-c",))
"""The function that calls the C kernels is written by Arch-Net, for integer networks alone."""


_FIX = "pip install 'archnet[tvm]', which brings a linker; or try another --target"


def require_packages() -> None:
    """Raises ArchNetError where TVM is not installed."""
    if importlib.util.find_spec("tvm") is None:
        raise ArchNetError("TVM is not installed here", fix=_FIX)


def compile_chip(job: CompileJob) -> CompileSummary:
    """Write model.so and meta.json, or C files (see `archnet.routes`)."""
    graph = network_of(job)
    tokens = [str(job.sequence)] if job.sequence is not None else []
    said = _run(job, "tvm_process", job.network / "graph", *tokens)
    as_source = PROCESSORS[job.chip.name] == C_SOURCE
    if as_source:
        binary, size, calls = "kernels.c", said["source_bytes"] + said["constant_bytes"], said["calls"]
        configuration = "C source without vectors, one size; operators are calls of kernels"
    else:
        binary, size, calls = LIBRARY, (job.folder / LIBRARY).stat().st_size, len(graph.nodes)
        configuration = (
            f"LLVM for {said['triple']}, {said['cpu']}, kernels {said['kernels']}; "
            f"any length up to {graph.max_sequence}"
        )
    return CompileSummary(
        target=job.chip.name,
        tool=f"apache-tvm {said['tvm']}",
        native_operators=calls,
        fallback_operators=0,
        fallbacks=(),
        binary=binary,
        binary_bytes=size,
        sequence=length(graph, job.sequence) if as_source else None,
        configuration=configuration,
        sram_bytes=said["workspace_bytes"] if as_source else None,
    )


def compile_original(job: OriginalJob) -> CompileSummary:
    """Write model.onnx and model.so of the float original (see `archnet.routes`)."""
    said = _run(job, "tvm_original_process", write_original(job))
    return CompileSummary(
        target=job.chip.name,
        tool=f"apache-tvm {said['tvm']}",
        native_operators=said["kernels"],
        fallback_operators=0,
        fallbacks=(),
        binary=LIBRARY,
        binary_bytes=(job.folder / LIBRARY).stat().st_size,
        sequence=job.sequence,
        configuration=f"LLVM for {said['triple']}, {said['cpu']}, not tuned; operators are kernels",
        float_operators=tuple(said["floats"]),
    )


def _run(job: CompileJob | OriginalJob, module: str, model: Path, *tokens: str) -> dict[str, Any]:
    """What a program of `archnet.routes` says of the model that it has compiled into the job's folder."""
    require_packages()
    command = [
        sys.executable, "-m", f"archnet.routes.{module}", str(model.absolute()),
        str(job.folder.absolute()), PROCESSORS[job.chip.name], *tokens,
    ]  # fmt: skip
    run_tool(command, log=job.log, seconds=job.seconds, title="TVM", fix=_FIX)
    said = job.folder / SAID
    found = dict(read_json(said))
    said.unlink()
    return found
