"""Qualcomm HTP as a backend: the context binary that `archnet compile` wrote, in QNN's emulator for x86.

`tensors`, which is there to compare integers, has the emulator compile the network once more with every
activation as an output, at the length at hand.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

from numpy.typing import NDArray

from archnet.atomic import read_json
from archnet.backends.static_qdq import QdqBackend
from archnet.errors import ArchNetError
from archnet.export.qdq import QdqModel, build_qdq
from archnet.graph import QuantizedGraph
from archnet.operators import Op
from archnet.routes.qualcomm import FORM, MODEL
from archnet.storage import load_graph
from archnet.targets.qualcomm import CONTEXT, PROCESSORS, Emulator

INEXACT = {Op.LINEAR, Op.CONV, Op.MATMUL, Op.ADD, Op.SOFTMAX}
"""What HTP rounds otherwise."""


class QualcommHtpBackend(QdqBackend):
    """Runs a compiled network.

    Args:
        graph: the network.
        folder: DIR/compiled/CHIP.
        chip: one of PROCESSORS.

    Raises:
        ArchNetError: the toolchain is not installed, or the folder holds another network.
    """

    name = "qualcomm-htp"

    def __init__(self, graph: QuantizedGraph, folder: Path, chip: str) -> None:
        sequence = read_json(folder / "summary.json").get("sequence")
        model = build_qdq(graph, sequence if isinstance(sequence, int) else None, form=FORM)
        if not (folder / MODEL).is_file() or (folder / MODEL).read_bytes() != model.content:
            raise ArchNetError(
                f"{folder} is damaged, or compiled from another network",
                fix=f"archnet compile {folder.parent.parent} --target {chip}",
            )
        super().__init__(graph, model)
        self._exchange = TemporaryDirectory(prefix="archnet-")
        self._emulator = Emulator(chip, Path(self._exchange.name), folder.with_suffix(".run.log"))
        weakref.finalize(self, self._emulator.close)
        self._loaded: dict[int, tuple[QdqModel, Path]] = {}
        self._deployed = folder / CONTEXT

    @classmethod
    def open(cls, build_dir: Path, *, threads: int | None = None) -> Self:
        """The network of a build folder that was compiled for an HTP: of several the first in PROCESSORS.

        Threads are the emulator's business.

        Raises:
            ArchNetError: it was compiled for none, or see the class.
        """
        for chip in PROCESSORS:
            folder = build_dir / "compiled" / chip
            if (folder / CONTEXT).is_file():
                return cls(load_graph(build_dir / "graph"), folder, chip)
        raise ArchNetError(
            f"{build_dir} is not compiled for an HTP",
            fix=f"archnet compile {build_dir} --target {next(iter(PROCESSORS))}",
        )

    def execute(self, model: QdqModel, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """One row in the emulator (see StaticBackend)."""
        if id(model) not in self._loaded:
            path = self._deployed
            if model is not self.model:
                path = Path(self._exchange.name) / f"exposed{len(self._loaded)}.onnx"
                path.write_bytes(model.content)
            self._emulator.load(path)
            self._loaded[id(model)] = model, path
        return self._emulator.run(self._loaded[id(model)][1], inputs)


def emulated_places(graph: QuantizedGraph) -> list[tuple[str, Op, str]]:
    """(node, operator, reason) of what HTP's arithmetic rounds otherwise than the reference."""
    reason = "HTP multiplies in fixed point of its own: where a result lies near a half, it may differ by 1"
    wide = "logits are uint16 in one scale for all classes: HTP has no int32 output"
    return [
        (node.name, node.op, wide if graph.tensors[node.output].dtype == "int32" else reason)
        for node in graph.nodes
        if node.op in INEXACT
    ]
