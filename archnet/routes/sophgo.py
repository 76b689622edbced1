"""Sophgo BM1684X and BM1688: a program of the integers, compiled by TPU-MLIR."""

from __future__ import annotations

from collections import Counter

from archnet.errors import ArchNetError
from archnet.export.tpu_program import export_tpu_program
from archnet.routes import CompileJob, network_of, reads_tokens
from archnet.targets.chips import CompileSummary
from archnet.targets.sophgo import read_placement
from archnet.targets.toolchain import find_toolchain
from archnet.targets.worker import Worker

MODEL, BINARY, PROFILE, PLACEMENT = "program.npz", "model.bmodel", "commands.txt", "final.mlir"
TOOLCHAIN = DRIVER = "sophgo"
FIX = "try another --target or --seq-len; report the log to the compiler's makers if it crashed"


def compile_chip(job: CompileJob) -> CompileSummary:
    """Write program.npz and compile it to model.bmodel (see `archnet.routes`)."""
    graph = network_of(job)
    program = export_tpu_program(graph, job.folder / MODEL, job.sequence)
    toolchain = find_toolchain(TOOLCHAIN)
    paths = {"program": MODEL, "binary": BINARY, "profile": PROFILE, "placement": PLACEMENT}
    request = {key: str((job.folder / name).absolute()) for key, name in paths.items()}
    with Worker(toolchain, DRIVER, log=job.log.absolute(), fix=FIX) as worker:
        reply = worker.call("compile", {**request, "chip": job.chip.name}, seconds=job.seconds)
    try:
        placed = read_placement(
            *((job.folder / name).read_text("utf-8", "replace") for name in (PLACEMENT, PROFILE))
        )
    except ValueError as error:
        raise ArchNetError(
            f"what {toolchain.tool} wrote cannot be understood: {error} (its log: {job.log})", fix=FIX
        ) from error
    return CompileSummary(
        target=job.chip.name,
        tool=toolchain.tool,
        native_operators=placed.tpu,
        fallback_operators=len(placed.elsewhere),
        fallbacks=placed.elsewhere,
        binary=BINARY,
        binary_bytes=int(reply["bytes"]),
        sequence=program.sequence if reads_tokens(graph) else None,
        configuration="one TPU core, all weights as int8; cycles by the compiler's own timing",
        cycles=placed.cycles,
        float_operators=tuple(f"{kind} ({n})" for kind, n in Counter(placed.floats).items()),
    )
