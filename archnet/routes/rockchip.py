"""Rockchip RK3588 and RK3576: a QDQ file of the integers, compiled by RKNN-Toolkit2."""

from __future__ import annotations

from archnet.errors import ArchNetError
from archnet.export.qdq import export_qdq
from archnet.export.qdq_state import QdqForm
from archnet.graph import QuantizedGraph
from archnet.routes import CompileJob, network_of, reads_tokens
from archnet.targets.chips import CompileSummary
from archnet.targets.rockchip import read_log
from archnet.targets.toolchain import find_toolchain
from archnet.targets.worker import Worker

FORM = QdqForm(activations="int8", mask="add")
"""RKNN has Add of int8 on the NPU, and no Minimum."""

MODEL, BINARY = "model.onnx", "model.rknn"
DRIVER = "rockchip"
FIX = "try another --target or --seq-len; report the log to the compiler's makers if it crashed"


def compile_chip(job: CompileJob) -> CompileSummary:
    """Write model.onnx and compile it to model.rknn (see `archnet.routes`)."""
    graph = network_of(job)
    model = export_qdq(graph, job.folder / MODEL, job.sequence, form=FORM)
    toolchain = find_toolchain("rockchip")
    request = {
        "model": str((job.folder / MODEL).absolute()),
        "binary": str((job.folder / BINARY).absolute()),
        "platform": job.chip.name,
    }
    worker = Worker(toolchain, DRIVER, log=job.log.absolute(), fix=FIX)
    try:
        reply = worker.call("compile", request, seconds=job.seconds)
    finally:
        worker.close()
    try:
        compiled = read_log(job.log.read_text(encoding="utf-8", errors="replace"))
    except ValueError as error:
        raise ArchNetError(
            f"what {toolchain.tool} wrote cannot be understood: {error} (its log: {job.log})", fix=FIX
        ) from error
    return CompileSummary(
        target=job.chip.name,
        tool=toolchain.tool,
        native_operators=len(compiled.layers) - len(compiled.elsewhere),
        fallback_operators=len(compiled.elsewhere),
        fallbacks=tuple(f"{layer.kind} ({layer.name})" for layer in compiled.elsewhere),
        binary=BINARY,
        binary_bytes=int(reply["bytes"]),
        sequence=model.sequence if reads_tokens(graph) else None,
        configuration="one NPU core; cycles of what multiplies, by the compiler's own estimate",
        cycles=compiled.cycles,
        sram_bytes=None,
        other_bytes=compiled.internal_bytes + compiled.weight_bytes,
        float_operators=("logits (float16)",) if _has_logits(graph) else (),
    )


def _has_logits(graph: QuantizedGraph) -> bool:
    """Whether int32 accumulators are an output, which the file gives as numbers."""
    return any(graph.tensors[output.tensor].dtype == "int32" for output in graph.outputs)
