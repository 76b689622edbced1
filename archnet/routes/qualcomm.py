"""Qualcomm HTP: a QDQ file of the integers, compiled by QNN into a context binary."""

from __future__ import annotations

from dataclasses import replace

from archnet.export.qdq_state import QdqForm
from archnet.routes import CompileJob
from archnet.routes.qdq import write_qdq
from archnet.targets.chips import CompileSummary
from archnet.targets.qualcomm import compile_qnn

MODEL = "model.onnx"

FORM = QdqForm(activations="uint8", linear="gemm", wide="uint16", packed=True)
"""QNN takes no float32 behind integer operators, and weights of 4 bits as they are."""


def compile_chip(job: CompileJob) -> CompileSummary:
    """Write model.onnx and compile it (see `archnet.routes`)."""
    model = job.folder / MODEL
    _, sequence = write_qdq(job, model, FORM)
    summary = compile_qnn(model, job.folder, job.chip.name, log=job.log, seconds=job.seconds)
    return replace(summary, sequence=sequence)
