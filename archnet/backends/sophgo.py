"""Sophgo's TPUs as backends: the network that `archnet compile` made, in TPU-MLIR's simulator of the chip.

`tensors`, which is there to compare integers, compiles the network once more with every activation as an
output, at the length at hand. That keeps the compiler from joining operators, and what it joins has been
wrong, so the network's results are those of the network as it is deployed, of the same length.
"""

from __future__ import annotations

import itertools
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from archnet.atomic import read_json
from archnet.backends.static import StaticBackend, padded, static_shape
from archnet.errors import ArchNetError
from archnet.export.host_split import MaskInput
from archnet.export.tpu_program import TpuProgram, build_tpu_program
from archnet.export.tpu_state import TpuInput
from archnet.graph import QuantizedGraph
from archnet.routes.sophgo import BINARY, DRIVER, FIX, MODEL, PLACEMENT, PROFILE, TOOLCHAIN
from archnet.storage import load_graph
from archnet.targets.toolchain import find_toolchain
from archnet.targets.worker import Worker

Array = NDArray[Any]

BUILD_SECONDS = 1800.0
RUN_SECONDS = 600.0


class ProgramBackend(StaticBackend[TpuProgram]):
    """Runs a program of archnet/export/tpu_program.py; `execute` is the runtime's."""

    def row(self, model: TpuProgram, values: Mapping[str, Array], index: int) -> dict[str, Array]:
        """See StaticBackend."""
        return {given.name: self._given(given, values, index) for given in model.inputs}

    def _given(self, given: TpuInput, values: Mapping[str, Array], index: int) -> Array:
        if (made := MaskInput.of(self.graph, given.name)) is not None:
            seen = made.seen(values, index)
            if made.kind == "factor":
                count = max(int(seen.sum()), 1)
                return np.full(given.shape, self.graph.constants[made.detail][count - 1], given.dtype)
            if made.kind == "limit":
                return padded(np.where(seen, 127, -128).reshape(1, 1, 1, -1), given.shape, -128, given.dtype)
            return padded(seen.astype(np.int64).reshape(1, -1, 1), given.shape, 0, given.dtype)
        whole = values[given.name]
        chosen = whole[index : index + 1] if self.graph.tensors[given.name].shape[0] == "batch" else whole
        return padded(chosen, given.shape, 0, given.dtype)

    def activations(self, model: TpuProgram, found: Mapping[str, Array]) -> dict[str, Array]:
        """See StaticBackend."""
        return {
            name: found[value.name]
            .reshape(static_shape(self.graph, name, model.sequence))
            .astype(self.graph.tensors[name].dtype)
            for name, value in model.stored.items()
        }

    def expose(self, length: int) -> TpuProgram:
        """See StaticBackend."""
        return build_tpu_program(self.graph, length, expose=True)


class SophgoBackend(ProgramBackend):
    """Runs a .bmodel in the simulator (see StaticBackend).

    Attributes:
        chip: of each subclass.

    Args:
        graph: the network.
        program: what was compiled.
        binary: the compiled file.
        log: gets what the compiler and the simulator print; its folder exists.

    Raises:
        ArchNetError: the toolchain is not installed.
    """

    chip: ClassVar[str]

    def __init__(self, graph: QuantizedGraph, program: TpuProgram, binary: Path, *, log: Path) -> None:
        super().__init__(graph, program)
        self.name = self.chip
        find_toolchain(TOOLCHAIN).require()
        self._binary = binary
        self._log = log.absolute()
        self._folder = tempfile.TemporaryDirectory(prefix="archnet-")
        self._workers: list[tuple[TpuProgram, Worker]] = []
        self._numbers = itertools.count()
        self._plain = program

    @classmethod
    def open(cls, build_dir: Path, *, threads: int | None = None) -> Self:
        """The network of a build folder, as compiled for the chip; threads are the simulator's business.

        Raises:
            ArchNetError: it was not compiled, or from another network.
        """
        folder = build_dir / "compiled" / cls.chip
        fix = f"archnet compile {build_dir} --target {cls.chip}"
        if not (folder / BINARY).is_file() or not (folder / "summary.json").is_file():
            raise ArchNetError(f"{build_dir} is not compiled for {cls.chip}", fix=fix)
        graph = load_graph(build_dir / "graph")
        sequence = read_json(folder / "summary.json").get("sequence")
        program = build_tpu_program(graph, sequence if isinstance(sequence, int) else None)
        if not (folder / MODEL).is_file() or (folder / MODEL).read_bytes() != program.content:
            raise ArchNetError(f"{folder / MODEL} is damaged, or of another network", fix=fix)
        return cls(graph, program, folder / BINARY, log=folder.with_name(f"{cls.chip}-simulator.log"))

    def execute(self, model: TpuProgram, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """One row in the simulator (see StaticBackend)."""
        found = self._simulated(model, inputs)
        if model is self._exposed:
            if self._plain.sequence != model.sequence:
                self._plain = build_tpu_program(self.graph, model.sequence)
            found |= self._simulated(self._plain, inputs)
        return found

    def _simulated(self, model: TpuProgram, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs of a program, by the names of its values."""
        folder = Path(self._folder.name)
        worker = self._holding(model)
        before, after = folder / "inputs.npz", folder / "outputs.npz"
        numbered: dict[str, Any] = {str(i): value for i, value in enumerate(inputs.values())}
        np.savez(before, **numbered)
        worker.call("run", {"inputs": str(before), "outputs": str(after)}, seconds=RUN_SECONDS)
        with np.load(after, allow_pickle=False) as arrays:
            return {output: arrays[str(i)] for i, output in enumerate(model.outputs)}

    def _holding(self, model: TpuProgram) -> Worker:
        """A process whose simulator holds a program: two in one process make it crash (tpu-mlir 1.30)."""
        for known, worker in self._workers:
            if known is model:
                return worker
        self._forget()
        number, binary = next(self._numbers), self._binary
        log = self._log.with_name(f"{self._log.stem}-{number}.log") if number else self._log
        worker = Worker(find_toolchain(TOOLCHAIN), DRIVER, log=log, fix=FIX)
        # Otherwise it would live as long as this process.
        weakref.finalize(self, worker.close)
        self._workers.append((model, worker))
        if model is not self.model:
            folder = Path(self._folder.name)
            names = {"program": MODEL, "binary": BINARY, "profile": PROFILE, "placement": PLACEMENT}
            request = {key: str(folder / f"{number}-{file}") for key, file in names.items()}
            Path(request["program"]).write_bytes(model.content)
            worker.call("compile", {**request, "chip": self.chip}, seconds=BUILD_SECONDS)
            binary = Path(request["binary"])
        worker.call("load", {"binary": str(binary.absolute())}, seconds=RUN_SECONDS)
        return worker

    def _forget(self) -> None:
        """End the processes that hold programs of other lengths than the newest."""
        wanted = (self.model, self._plain, self._exposed)
        for known, worker in self._workers:
            if not any(known is program for program in wanted):
                worker.close()
        self._workers = [(p, w) for p, w in self._workers if any(p is program for program in wanted)]


class Bm1684xBackend(SophgoBackend):
    """The simulator of BM1684X (see the base class)."""

    chip = "bm1684x"


class Bm1688Backend(SophgoBackend):
    """The simulator of BM1688 (see the base class)."""

    chip = "bm1688"
