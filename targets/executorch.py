"""ExecuTorch's backend for Arm Ethos-U: a TFLite file in, a program (.pte) of one delegate out.

The delegate holds what Vela made of the file, so its integers are the file's, and what it costs is what
Vela says. ExecuTorch asks Vela for systems and memories of its own choice.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from archnet.atomic import disk_errors
from archnet.errors import ArchNetError
from archnet.targets.chips import CompileSummary
from archnet.targets.toolchain import find_toolchain
from archnet.targets.vela import read_report
from archnet.targets.worker import Worker

TOOLCHAIN = "executorch"
PROGRAM = "model.pte"
_FIX = "look into the log; ExecuTorch runs on the PyTorch of Arch-Net, and 2.13 was tested"


@dataclass(frozen=True, slots=True)
class Signature:
    """Inputs and outputs of a TFLite file in its order: shape and dtype of each."""

    inputs: tuple[tuple[tuple[int, ...], str], ...]
    outputs: tuple[tuple[tuple[int, ...], str], ...]


def compile_program(
    model: Path, folder: Path, signature: Signature, *, target: str, log: Path, seconds: float
) -> CompileSummary:
    """Compile a TFLite file into PROGRAM in a folder.

    Where Vela leaves operators to the CPU there is no program, and the summary names them.

    Args:
        model: the file.
        folder: exists.
        signature: of the file.
        target: the chip's name, such as executorch-u55-256.
        log: gets all that Vela and ExecuTorch print.
        seconds: time limit.

    Raises:
        ArchNetError: the toolchain is missing, Vela or ExecuTorch fail, crash or take too long, or what they
            made cannot be understood or is not what ExecuTorch's runtime takes.
    """
    toolchain = find_toolchain(TOOLCHAIN)
    work, program = folder / "vela", folder / PROGRAM
    with disk_errors(folder):
        work.mkdir()
    request = {
        "model": str(model.absolute()),
        "folder": str(work.absolute()),
        "program": str(program.absolute()),
        "accelerator": target.replace("executorch", "ethos"),
        "inputs": _described(signature.inputs),
        "outputs": _described(signature.outputs),
        "torch": _torch_folder(),
    }
    try:
        with Worker(toolchain, "executorch_ethos_u", log=log, fix=_FIX) as worker:
            made = worker.call("make_program", request, seconds=seconds)
        text = log.read_text(encoding="utf-8", errors="replace")
        tables, refused = work / "output", made["refused"]
        binary = program if refused is None else tables / "out_vela.tflite"
        summary = read_report(text, tables, binary, target=target, tool=toolchain.tool, log=log, fix=_FIX)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    if refused is not None and not summary.fallback_operators:
        raise ArchNetError(f"{toolchain.tool} failed: {refused} (its log: {log})", fix=_FIX)
    return replace(summary, configuration=_configuration(summary, made.get("fast_scratch", 0)))


def _configuration(summary: CompileSummary, fast: int) -> str:
    """Of which Vela the figures are, for which system, and what the firmware is to provide."""
    vela = next(p for p in find_toolchain(TOOLCHAIN).packages if p.startswith("ethos-u-vela"))
    provides = f"; ethosu_fast_scratch of {fast} bytes" if fast else ""
    return f"{summary.configuration}; {vela.replace('==', ' ')}{provides}"


def _described(tensors: Sequence[tuple[tuple[int, ...], str]]) -> list[Mapping[str, object]]:
    return [{"shape": list(shape), "dtype": dtype} for shape, dtype in tensors]


def _torch_folder() -> str:
    """Where the PyTorch of Arch-Net is.

    The toolchain has none of its own: the registry's for Linux needs another 3 GB for graphics cards, and
    pip knows the small one by an address only.
    """
    found = find_spec("torch")
    assert found is not None
    assert found.origin is not None
    return str(Path(found.origin).parents[1])
