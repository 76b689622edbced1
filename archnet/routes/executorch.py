"""ExecuTorch on Arm Ethos-U: a TFLite file of the integers, and Vela's binary of it in a program."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from archnet.compiling import write_tflite
from archnet.routes import CompileJob
from archnet.routes.ethos_u import MODEL
from archnet.targets.chips import CompileSummary
from archnet.targets.executorch import Signature, compile_program


def compile_chip(job: CompileJob) -> CompileSummary:
    """Write model.tflite and make model.pte of it (see `archnet.routes`)."""
    model = job.folder / MODEL
    sequence = write_tflite(job.network, model, job.sequence)
    summary = compile_program(
        model, job.folder, signature(model), target=job.chip.name, log=job.log, seconds=job.seconds
    )
    return replace(summary, sequence=sequence)


def signature(model: Path) -> Signature:
    """What a TFLite file reads and gives, in its order."""
    from ai_edge_litert.interpreter import Interpreter

    file = Interpreter(str(model))
    inputs, outputs = (
        tuple((tuple(int(size) for size in t["shape"]), np.dtype(t["dtype"]).name) for t in tensors)
        for tensors in (file.get_input_details(), file.get_output_details())
    )
    return Signature(inputs, outputs)
