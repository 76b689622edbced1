"""Qualcomm's Hexagon tensor processor (HTP): compiling for it, and its emulator on x86.

The compiler is QNN inside onnxruntime-qnn; `archnet.targets.drivers.qualcomm` talks to it. Nothing may fall
back to the CPU: what QNN does not take is told by name.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from archnet.errors import ArchNetError
from archnet.targets.chips import CompileSummary
from archnet.targets.toolchain import find_toolchain
from archnet.targets.worker import Worker

TOOLCHAIN = "qualcomm"
DRIVER = "qualcomm"
CONTEXT = "context.onnx"
"""ONNX file of one node that stands for the binary; ONNX Runtime opens it on the device."""
BINARY = "context_qnn.bin"
RUN_SECONDS = 1800.0
_FIX = "try another --target or --seq-len; look into the log"


@dataclass(frozen=True, slots=True)
class Processor:
    """An HTP as QNN names it.

    Attributes:
        architecture: of the Hexagon processor, the number behind the v.
        soc: QNN's number of a chip that has it.
        title: that chip.
    """

    architecture: str
    soc: str
    title: str

    def request(self) -> dict[str, str]:
        """Its part of a request to the driver."""
        return {"architecture": self.architecture, "soc": self.soc}


PROCESSORS: Mapping[str, Processor] = {
    "qualcomm-htp-v73": Processor("73", "43", "SM8550"),
    "qualcomm-htp-v75": Processor("75", "57", "SM8650"),
    "qualcomm-htp-v79": Processor("79", "69", "SM8750"),
}
"""Chip -> what QNN is told."""


def compile_qnn(model: Path, folder: Path, chip: str, *, log: Path, seconds: float) -> CompileSummary:
    """Compile a QDQ file into CONTEXT and BINARY in a folder.

    Args:
        model: the file.
        folder: exists.
        chip: one of PROCESSORS.
        log: gets all that QNN prints.
        seconds: time limit.

    Raises:
        ArchNetError: the toolchain is missing, or QNN fails, crashes or takes too long.
    """
    toolchain, processor = find_toolchain(TOOLCHAIN), PROCESSORS[chip]
    scratch = folder / "scratch"
    scratch.mkdir()
    try:
        with Worker(toolchain, DRIVER, log=log, fix=_FIX) as worker:
            request = {
                "model": str(model.absolute()),
                "context": str((folder / CONTEXT).absolute()),
                "scratch": str(scratch.absolute()),
                **processor.request(),
            }
            told = worker.call("compile", request, seconds=seconds)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    binary = folder / BINARY
    if told["elsewhere"]:  # of the part that QNN takes
        binary.unlink(missing_ok=True)
    if not told["elsewhere"] and not (binary.is_file() and told["operators"]):
        raise ArchNetError(
            f"{toolchain.tool} wrote no {BINARY}, or said nothing of it (its log: {log})", fix=_FIX
        )
    return CompileSummary(
        target=chip,
        tool=toolchain.tool,
        native_operators=sum(told["operators"].values()),
        fallback_operators=len(told["elsewhere"]),
        fallbacks=tuple(told["elsewhere"]),
        binary=BINARY,
        binary_bytes=binary.stat().st_size if binary.is_file() else 0,
        configuration=f"HTP v{processor.architecture} ({processor.title})",
    )


class Emulator:
    """HTP's emulator in a process of its own.

    Args:
        chip: one of PROCESSORS.
        folder: for files that are exchanged; exists.
        log: gets all that it prints.

    Raises:
        ArchNetError: the toolchain is not installed.
    """

    def __init__(self, chip: str, folder: Path, log: Path) -> None:
        self._processor, self._folder = PROCESSORS[chip], folder
        fix = "compile again; look into the log"
        self._worker = Worker(find_toolchain(TOOLCHAIN), DRIVER, log=log, fix=fix)
        self._outputs: dict[Path, list[str]] = {}

    def load(self, model: Path) -> None:
        """Open a QDQ file, or CONTEXT beside its binary.

        Raises:
            ArchNetError: QNN does not take it whole, fails or takes too long.
        """
        request = {"model": str(model.absolute()), **self._processor.request()}
        told = self._worker.call("load", request, seconds=RUN_SECONDS)
        self._outputs[model] = [str(name) for name in told["outputs"]]

    def run(self, model: Path, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The outputs by name of a file that was loaded.

        Raises:
            ArchNetError: QNN fails or takes too long.
        """
        given, made = self._folder / "inputs.npz", self._folder / "outputs.npz"
        arrays: dict[str, Any] = {str(i): value for i, value in enumerate(inputs.values())}
        np.savez(given, **arrays)
        request = {
            "model": str(model.absolute()),
            "names": list(inputs),
            "inputs": str(given.absolute()),
            "outputs": str(made.absolute()),
        }
        self._worker.call("run", request, seconds=RUN_SECONDS)
        with np.load(made) as results:
            return {name: results[str(i)] for i, name in enumerate(self._outputs[model])}

    def close(self) -> None:
        """End the process."""
        self._worker.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
