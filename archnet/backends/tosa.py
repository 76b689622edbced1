"""Arm's TOSA reference model as a backend: the exported TFLite file as the specification computes it.

A second opinion beside LiteRT: another program, of another maker, with the fixed-point arithmetic that
Ethos-U is specified in (TOSA 1.0, RESCALE). It is slow: a big network takes minutes a sentence.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from archnet.backends.tflite_file import Array, Runner, TfliteFileBackend
from archnet.errors import ArchNetError
from archnet.export.tflite import TfliteModel
from archnet.graph import QuantizedGraph
from archnet.targets.toolchain import find_toolchain
from archnet.targets.worker import Worker

TOOLCHAIN = "tosa"
SECONDS = 1800.0
_FIX = "compare with --backend litert, or report the log"


class TosaBackend(TfliteFileBackend):
    """Runs a TFLite file as a TOSA graph (see TfliteFileBackend)."""

    name = "tosa"

    def __init__(self, graph: QuantizedGraph, model: TfliteModel) -> None:
        toolchain = find_toolchain(TOOLCHAIN)
        toolchain.require()
        self._folder = Path(tempfile.mkdtemp(prefix="archnet-tosa-"))
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        log = self._folder.with_suffix(".log")
        self._forget_log = weakref.finalize(self, log.unlink, missing_ok=True)
        self._worker = Worker(toolchain, "tosa", log=log, fix=_FIX)
        weakref.finalize(self, self._worker.close)
        self._files = 0
        super().__init__(graph, model)

    def open_model(self, model: TfliteModel) -> Runner:
        """The file as a TOSA graph."""
        base = self._folder / str(self._files)
        self._files += 1
        path, graph, given, made = (
            base.with_suffix(suffix) for suffix in (".tflite", ".tosa", ".in.npz", ".out.npz")
        )
        path.write_bytes(model.content)
        self._call("convert", {"model": str(path), "graph": str(graph)})

        def run(inputs: Sequence[Array]) -> list[Array]:
            np.savez(given, *inputs)
            self._call("run", {"graph": str(graph), "inputs": str(given), "outputs": str(made)})
            with np.load(made) as results:
                return [results[f"arr_{i}"] for i in range(len(results.files))]

        return run

    def _call(self, do: str, request: Mapping[str, object]) -> None:
        """A call of the driver; the log stays where one fails, because the error names it."""
        try:
            self._worker.call(do, request, seconds=SECONDS)
        except ArchNetError:
            self._forget_log.detach()
            raise
