"""What runtimes of static files share: the host's part, row by row, around a file of batch 1 and one length.

A form of file says what its inputs are made of and where its activations are; a runtime says how it runs one
row. Shorter sentences are padded to the file's length, and results are cut to the user's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from archnet.backends.base import dequantize_outputs, feed
from archnet.errors import ArchNetError, nearest
from archnet.export.host_split import split
from archnet.graph import QuantizedGraph
from archnet.reference import bind_dims, run_nodes

Array = NDArray[Any]


class StaticFile(Protocol):
    """A file of batch 1 and one sequence length."""

    @property
    def sequence(self) -> int: ...


File = TypeVar("File", bound=StaticFile)


class StaticBackend(ABC, Generic[File]):
    """Runs a file of batch 1 and one sequence length (see Backend).

    Args:
        graph: the network.
        model: the file that the runtime has compiled.
    """

    name = ""

    def __init__(self, graph: QuantizedGraph, model: File) -> None:
        self.graph = graph
        self.model = model
        self._split = split(graph)
        self._exposed: File | None = None

    @abstractmethod
    def row(self, model: File, values: Mapping[str, Array], index: int) -> dict[str, Array]:
        """The file's inputs for one row of a batch, in the file's order and types.

        Args:
            values: graph inputs, and the outputs of the host's first nodes, by name.
        """

    @abstractmethod
    def execute(self, model: File, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """One row: the file's inputs by name, batch 1, to its outputs by the file's own names.

        `model` is the one of the constructor, or one with every activation as an output; a runtime compiles
        each once.
        """

    @abstractmethod
    def activations(self, model: File, found: Mapping[str, Array]) -> dict[str, Array]:
        """What `execute` gave, as the graph's integers in the graph's shapes at batch 1, by activation."""

    @abstractmethod
    def expose(self, length: int) -> File:
        """A file of this length with every activation as an output."""

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs by name (see Backend).

        Raises:
            ArchNetError: a sentence is longer than the file's sequence length.
        """
        fed = feed(self.graph, inputs)
        length = bind_dims(self.graph, fed).get("sequence", self.model.sequence)
        if length > self.model.sequence:
            raise ArchNetError(
                f"the input has {length} positions; the compiled file takes {self.model.sequence}",
                fix="truncate, or compile with a greater --seq-len",
            )
        values = self._finish(self._execute(self.model, fed), fed)
        return dequantize_outputs(self.graph, values, inputs)

    def tensors(self, inputs: Mapping[str, Array], names: Sequence[str] | None = None) -> dict[str, Array]:
        """Integer activations by name, by default all that the file computes, at the length of the input."""
        fed = feed(self.graph, inputs)
        length = bind_dims(self.graph, fed).get("sequence", self.model.sequence)
        values = self._finish(self._execute(self.showing(length), fed), fed)
        made = [node.output for node in self.graph.nodes if node.output in values]
        wanted = made if names is None else list(names)
        for name in wanted:
            if name not in made:
                raise ArchNetError(f"the compiled file does not show {name!r}", fix=nearest(name, made))
        return {name: values[name] for name in wanted}

    def showing(self, length: int) -> File:
        """The file whose outputs are the activations that `tensors` shows, at least of this length."""
        if self._exposed is None or self._exposed.sequence != length:
            self._exposed = self.expose(length)
        return self._exposed

    def _execute(self, model: File, fed: Mapping[str, Array]) -> dict[str, Array]:
        """Activations of a batch, row by row, at the lengths of the user's input."""
        dims = bind_dims(self.graph, fed)
        values = run_nodes(self.graph, self._split.before, dict(fed), dims)
        rows = [
            self.activations(model, self.execute(model, self.row(model, values, i)))
            for i in range(dims["batch"])
        ]
        joined = {}
        for name in rows[0]:
            # The file's lengths are its own: what is stacked is cut to the user's.
            shape = [dims[d] if isinstance(d, str) else d for d in self.graph.tensors[name].shape]
            stacked = np.concatenate([row[name] for row in rows])
            joined[name] = stacked[tuple(slice(0, size) for size in shape)]
        return {**values, **joined}

    def _finish(self, values: Mapping[str, Array], fed: Mapping[str, Array]) -> dict[str, Array]:
        return run_nodes(self.graph, self._split.after, {**values, **fed}, bind_dims(self.graph, fed))


def padded(value: Array, shape: Sequence[int], fill: int, dtype: str) -> Array:
    """An array with so many entries more of a number at each axis's end that it has this shape."""
    missing = [(0, size - have) for size, have in zip(shape, value.shape, strict=True)]
    return np.ascontiguousarray(np.pad(value, missing, constant_values=fill), dtype=dtype)


def static_shape(graph: QuantizedGraph, name: str, sequence: int) -> list[int]:
    """The shape of an activation at batch 1 and a sequence length."""
    sizes = {"batch": 1, "sequence": sequence}
    return [sizes[d] if isinstance(d, str) else d for d in graph.tensors[name].shape]
