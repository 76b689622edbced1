"""What backends that run a TFLite file have alike: the host's work before and after it, row by row.

The file has batch 1 and one sequence length. `run` pads every sentence to that length, as a device does.
`tensors`, which is there to compare integers, writes the network once more for the length at hand.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from archnet.backends.base import dequantize_outputs, feed
from archnet.backends.static import static_shape
from archnet.errors import ArchNetError, nearest
from archnet.export.host_split import MaskInput, split
from archnet.export.tflite import TfliteModel, build_tflite, is_map, read_tflite
from archnet.export.tflite_state import StoredTensor
from archnet.graph import QuantizedGraph
from archnet.reference import bind_dims, run_nodes
from archnet.storage import load_graph

Array = NDArray[Any]

Runner = Callable[[Sequence[Array]], Sequence[Array]]
"""Runs one row: the file's inputs in order, int8, to its outputs in order."""


class TfliteFileBackend(ABC):
    """Runs a TFLite file by what `open_model` gives for it.

    Args:
        graph: the network that it was exported from.
        model: the file.
    """

    name: str

    def __init__(self, graph: QuantizedGraph, model: TfliteModel) -> None:
        self.graph = graph
        self._split = split(graph)
        self._model = model
        self._deployed = self.open_model(model)
        self._exposed: tuple[TfliteModel, Runner] | None = None

    @classmethod
    def open(cls, build_dir: Path, *, threads: int | None = None) -> Self:
        """The network of a build folder.

        Raises:
            ArchNetError: there is no TFLite file of this network.
        """
        graph = load_graph(build_dir / "graph")
        model = read_tflite(build_dir / "tflite" / "model.tflite", graph)
        return cls.with_threads(graph, model, threads)

    @classmethod
    def with_threads(cls, graph: QuantizedGraph, model: TfliteModel, threads: int | None) -> Self:
        """A backend whose operators may use so many threads, where it has a choice."""
        return cls(graph, model)

    @abstractmethod
    def open_model(self, model: TfliteModel) -> Runner:
        """What runs a file.

        Raises:
            ArchNetError: it does not take the file.
        """

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs by name (see Backend).

        Raises:
            ArchNetError: a sentence is longer than the file's sequence length.
        """
        fed = feed(self.graph, inputs)
        dims = bind_dims(self.graph, fed)
        length = dims.get("sequence", self._model.sequence)
        if length > self._model.sequence:
            raise ArchNetError(
                f"the input has {length} positions; the TFLite file takes {self._model.sequence}",
                fix="truncate, or export with a greater --seq-len",
            )
        values = self._execute(self._model, self._deployed, fed, dims)
        return dequantize_outputs(self.graph, self._finish(values, fed, dims), inputs)

    def tensors(self, inputs: Mapping[str, Array], names: Sequence[str] | None = None) -> dict[str, Array]:
        """Integer activations by name; by default all but constants.

        SOFTMAX's are in units of 1/256, also where the network's are of 1/255 (see
        `archnet.export.tflite.emulated_places`).
        """
        fed = feed(self.graph, inputs)
        dims = bind_dims(self.graph, fed)
        length = dims.get("sequence", self._model.sequence)
        if self._exposed is None or self._exposed[0].sequence != length:
            model = build_tflite(self.graph, length, expose=True)
            self._exposed = model, self.open_model(model)
        values = self._finish(self._execute(*self._exposed, fed, dims), fed, dims)
        made = [node.output for node in self.graph.nodes if node.output in values]
        wanted = made if names is None else list(names)
        for name in wanted:
            if name not in made:
                raise ArchNetError(f"the TFLite file does not show {name!r}", fix=nearest(name, made))
        return {name: values[name] for name in wanted}

    def _execute(
        self, model: TfliteModel, runner: Runner, fed: Mapping[str, Array], dims: Mapping[str, int]
    ) -> dict[str, Array]:
        """Activations of a batch, row by row, at the lengths of the user's input."""
        values = run_nodes(self.graph, self._split.before, dict(fed), dims)
        rows = [self._row(model, runner, values, i) for i in range(dims["batch"])]
        found = {}
        for name in rows[0]:
            # The file's lengths are its own: what is stacked is cut to the user's.
            shape = [dims[d] if isinstance(d, str) else d for d in self.graph.tensors[name].shape]
            joined = np.concatenate([row[name] for row in rows])
            found[name] = joined[tuple(slice(0, size) for size in shape)]
        return {**values, **found}

    def _row(
        self, model: TfliteModel, runner: Runner, values: Mapping[str, Array], i: int
    ) -> dict[str, Array]:
        given = []
        for name in model.inputs:
            value, padding = self._given(name, values, i)
            shape = self._sizes(model, name)
            missing = [(0, int(size) - have) for size, have in zip(shape, value.shape, strict=True)]
            filled = np.pad(value, missing, constant_values=padding)
            given.append(np.ascontiguousarray(filled, dtype=np.int8))
        shown = dict(zip(model.shown, runner(given), strict=True))
        results: dict[str, Array] = {}
        for name, stored in model.stored.items():
            if stored.index in shown:
                value = shown[stored.index].astype(np.int64)
                value = np.moveaxis(value, -1, 1) if stored.last else value
                results[name] = self._restored(name, value + stored.offset, stored)
        return results

    def _sizes(self, model: TfliteModel, name: str) -> list[int]:
        """The shape of one of the file's inputs."""
        if (given := MaskInput.of(self.graph, name)) is not None:
            return list(given.shape(self.graph, model.sequence))
        sizes = static_shape(self.graph, name, model.sequence)
        return [1, *sizes[2:], sizes[1]] if is_map(self.graph, name) else sizes

    def _given(self, name: str, values: Mapping[str, Array], i: int) -> tuple[Array, int]:
        """One of the file's inputs for row i, at the user's length, and what it is padded with."""
        if (given := MaskInput.of(self.graph, name)) is not None:
            seen = given.seen(values, i)
            if given.kind == "limit":
                return np.where(seen, 127, -128).reshape(1, 1, 1, -1), -128
            return seen.astype(np.int64).reshape(1, -1, 1), 0
        spec = self.graph.tensors[name]
        zero = -128 if spec.dtype == "uint8" else 0
        row = values[name][i : i + 1] if spec.shape[0] == "batch" else values[name]
        value = row.astype(np.int64) + zero
        return np.moveaxis(value, 1, -1) if is_map(self.graph, name) else value, zero

    def _restored(self, name: str, value: Array, stored: StoredTensor) -> Array:
        """Stored integers as those of the graph: int16 logits back to accumulators, one scale a class."""
        spec = self.graph.tensors[name]
        if spec.dtype == "int32":
            scales = next(output.scale for output in self.graph.outputs if output.tensor == name)
            value = np.rint(value * stored.scale / scales.astype(np.float64))
        return value.astype(spec.dtype)

    def _finish(
        self, values: dict[str, Array], fed: Mapping[str, Array], dims: Mapping[str, int]
    ) -> dict[str, Array]:
        """The host's last nodes."""
        return run_nodes(self.graph, self._split.after, {**values, **fed}, dims)
