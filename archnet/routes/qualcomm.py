"""Qualcomm HTP: a QDQ file of the integers, compiled by QNN into a context binary."""

from __future__ import annotations

from dataclasses import replace

from archnet.errors import ArchNetError
from archnet.export.qdq_state import QdqForm
from archnet.operators import Op
from archnet.routes import CompileJob
from archnet.routes.qdq import write_qdq
from archnet.storage import load_graph
from archnet.targets.chips import CompileSummary
from archnet.targets.qualcomm import compile_qnn

MODEL = "model.onnx"

FORM = QdqForm(activations="uint8", linear="gemm", wide="uint16", packed=True)
"""QNN takes no float32 behind integer operators, and weights of 4 bits as they are."""


def compile_chip(job: CompileJob) -> CompileSummary:
    """Write model.onnx and compile it (see `archnet.routes`).

    Raises:
        ArchNetError: activations have fewer than 8 bits, the network has no QDQ form, or QNN fails.
    """
    for node in load_graph(job.network / "graph").nodes:
        if node.op is Op.REQUANTIZE:
            raise ArchNetError(
                f"{node.name} ({node.op}) is not exact on HTP: layers behind it were off by up to 11",
                fix="convert with activations of 8 bits: --target qualcomm-htp",
            )
    model = job.folder / MODEL
    _, sequence = write_qdq(job, model, FORM)
    summary = compile_qnn(model, job.folder, job.chip.name, log=job.log, seconds=job.seconds)
    return replace(summary, sequence=sequence)
