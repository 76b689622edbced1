"""Rockchip's simulator as a backend: the network that `archnet compile` made, in RKNN-Toolkit2's process.

The simulator computes each operator in float32 between roundings to the tensors' integers. It shows the
network's outputs and nothing between.
"""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from archnet.atomic import read_json
from archnet.backends.static_qdq import QdqBackend
from archnet.errors import ArchNetError
from archnet.export.qdq import QdqModel, build_qdq
from archnet.graph import QuantizedGraph
from archnet.routes.rockchip import DRIVER, FIX, FORM, MODEL
from archnet.storage import load_graph
from archnet.targets.toolchain import find_toolchain
from archnet.targets.worker import Worker

BUILD_SECONDS = 1800.0
RUN_SECONDS = 600.0


class RockchipBackend(QdqBackend):
    """Runs a QDQ file in the simulator (see StaticBackend).

    Attributes:
        platform: the chip, of each subclass.

    Args:
        graph: the network.
        model: what was compiled.
        log: gets what the toolkit prints; its folder exists.

    Raises:
        ArchNetError: the toolchain is not installed.
    """

    platform: ClassVar[str]

    def __init__(self, graph: QuantizedGraph, model: QdqModel, *, log: Path) -> None:
        super().__init__(graph, model)
        self.name = self.platform
        self._worker = Worker(find_toolchain("rockchip"), DRIVER, log=log.absolute(), fix=FIX)
        self._folder = tempfile.TemporaryDirectory(prefix="archnet-rknn-")
        # Otherwise it would live as long as this process.
        weakref.finalize(self, self._worker.close)
        self._ready = False

    @classmethod
    def open(cls, build_dir: Path, *, threads: int | None = None) -> Self:
        """The network of a build folder, as compiled for the chip; threads are the simulator's business.

        Raises:
            ArchNetError: it was not compiled, or from another network.
        """
        platform = cls.platform
        folder = build_dir / "compiled" / platform
        fix = f"archnet compile {build_dir} --target {platform}"
        if not (folder / "summary.json").is_file():
            raise ArchNetError(f"{build_dir} is not compiled for {platform}", fix=fix)
        graph = load_graph(build_dir / "graph")
        sequence = read_json(folder / "summary.json").get("sequence")
        model = build_qdq(graph, int(sequence) if isinstance(sequence, int) else None, form=FORM)
        if not (folder / MODEL).is_file() or (folder / MODEL).read_bytes() != model.content:
            raise ArchNetError(f"{folder / MODEL} is damaged, or of another network", fix=fix)
        return cls(graph, model, log=folder.with_name(f"{platform}-simulator.log"))

    def execute(self, model: QdqModel, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """One row (see StaticBackend)."""
        folder = Path(self._folder.name)
        given, found = folder / "inputs.npz", folder / "outputs.npz"
        np.savez(given, *inputs.values())
        if not self._ready:
            self._open()
        request = {"name": self.name, "inputs": str(given), "outputs": str(found)}
        self._worker.call("run", request, seconds=RUN_SECONDS)
        with np.load(found) as arrays:
            values = [arrays[name] for name in arrays.files]
        return {value.name: array for value, array in zip(model.model.graph.output, values, strict=True)}

    def showing(self, length: int) -> QdqModel:
        """The compiled model: the simulator shows its outputs only.

        With further outputs the toolkit (2.5.0) ended in errors of its own, or not within ten minutes.
        """
        if length > self.model.sequence:
            raise ArchNetError(
                f"the input has {length} positions; the compiled file takes {self.model.sequence}",
                fix="truncate, or compile with a greater --seq-len",
            )
        return self.model

    def _open(self) -> None:
        path = Path(self._folder.name) / "model.onnx"
        path.write_bytes(self.model.content)
        request = {"name": self.name, "model": str(path), "platform": self.name}
        self._worker.call("open", request, seconds=BUILD_SECONDS)
        self._ready = True


class Rk3588Backend(RockchipBackend):
    """The simulator of RK3588 (see the base class)."""

    platform = "rk3588"


class Rk3576Backend(RockchipBackend):
    """The simulator of RK3576 (see the base class)."""

    platform = "rk3576"
