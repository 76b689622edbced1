"""Kendryte K230 as a backend: what `archnet compile` made, in nncase's simulator of the chip.

The simulator starts a program for each piece of work, so that one sentence takes from seconds to minutes.
Its integers are nncase's own; only the network's results can be compared, as the nearest integers of ours.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from archnet.atomic import read_json
from archnet.backends.base import dequantize_outputs, user_inputs
from archnet.backends.twin import numbered, twin_inputs, twin_tensors
from archnet.errors import ArchNetError, nearest
from archnet.export.float_twin import FloatTwin, build_float_twin
from archnet.graph import QuantizedGraph
from archnet.storage import load_graph
from archnet.targets.toolchain import find_toolchain
from archnet.targets.worker import Worker

Array = NDArray[Any]

TARGET = "k230"
TOOLCHAIN = "kendryte"

_COMPILE = f"archnet compile DIR --target {TARGET}"

SECONDS_A_ROW = 900.0
"""Time limit of one sentence or picture."""


class K230Backend:
    """Runs a .kmodel.

    Args:
        graph: the network that it was compiled from.
        twin: the file that nncase read.
        kmodel: the compiled file.
    """

    name = TARGET

    def __init__(self, graph: QuantizedGraph, twin: FloatTwin, kmodel: Path) -> None:
        self.graph, self._twin, self._kmodel = graph, twin, kmodel
        log = kmodel.parents[1] / f"{TARGET}-simulator.log"
        self._worker = Worker(find_toolchain(TOOLCHAIN), TOOLCHAIN, log=log, fix="look into the log")
        self._last: tuple[dict[str, Array], dict[str, Array]] | None = None

    @classmethod
    def open(cls, build_dir: Path, *, threads: int | None = None) -> Self:
        """The network of a build folder, as it was compiled for the chip.

        Raises:
            ArchNetError: it was not, or another network was, or the toolchain is not installed.
        """
        find_toolchain(TOOLCHAIN).require()
        graph, folder = load_graph(build_dir / "graph"), build_dir / "compiled" / TARGET
        if not (folder / "model.kmodel").is_file():
            raise ArchNetError(f"{build_dir} is not compiled for {TARGET}", fix=_COMPILE)
        known = read_json(folder / "summary.json").get("sequence")
        twin = build_float_twin(graph, known if isinstance(known, int) else None)
        try:
            same = (folder / "model.onnx").read_bytes() == twin.model.SerializeToString()
        except OSError:
            same = False
        if not same:
            raise ArchNetError(f"{folder} is compiled from another network", fix=_COMPILE)
        return cls(graph, twin, folder / "model.kmodel")

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs by name (see Backend).

        Raises:
            ArchNetError: a sentence is longer than the file's sequence length, or the simulator fails.
        """
        return dequantize_outputs(self.graph, self._simulate(inputs), inputs)

    def tensors(self, inputs: Mapping[str, Array], names: Sequence[str] | None = None) -> dict[str, Array]:
        """The network's results as integers, by name; the simulator shows no others."""
        found = self._simulate(inputs)
        for name in names or ():
            if name not in found:
                raise ArchNetError(f"the K230 simulator does not show {name!r}", fix=nearest(name, found))
        return found if names is None else {name: found[name] for name in names}

    def _simulate(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The results of a batch; those of the newest are kept, because a run takes so long."""
        given = {name: np.asarray(inputs[name]) for name in user_inputs(self.graph) if name in inputs}
        if self._last is not None and _same(self._last[0], given):
            return self._last[1]
        rows = twin_inputs(self.graph, self._twin, inputs)
        with tempfile.TemporaryDirectory() as folder:
            before, after = Path(folder) / "inputs.npz", Path(folder) / "outputs.npz"
            np.savez(before, **numbered(rows))
            request = {
                "kmodel": str(self._kmodel.resolve()),
                "inputs": str(before.resolve()),
                "outputs": str(after.resolve()),
            }
            self._worker.call("simulate", request, seconds=SECONDS_A_ROW * len(rows[0]))
            with np.load(after, allow_pickle=False) as arrays:
                results = [arrays[str(i)] for i in range(len(self._twin.outputs))]
        found = twin_tensors(self.graph, self._twin, results, inputs)
        self._last = {name: value.copy() for name, value in given.items()}, found
        return found


def _same(a: Mapping[str, Array], b: Mapping[str, Array]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)
