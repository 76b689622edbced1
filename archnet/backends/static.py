"""What runtimes of static files share: the host's part, row by row, around a file of batch 1 and one length.

A runtime says how it runs one row (`StaticBackend.execute`); shorter sentences are padded to the file's
length, and results are cut to the user's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from archnet.backends.base import dequantize_outputs, feed
from archnet.errors import ArchNetError, nearest
from archnet.export.host_split import MASK, split
from archnet.export.qdq import QdqModel, build_qdq
from archnet.export.qdq_operators import LIMIT_INPUT, TOKENS_INPUT
from archnet.export.qdq_state import QdqTensor
from archnet.graph import QuantizedGraph
from archnet.reference import bind_dims, run_nodes

Array = NDArray[Any]


class StaticBackend(ABC):
    """Runs a QDQ file of batch 1 and one sequence length (see Backend).

    Args:
        graph: the network.
        model: the file that the runtime has compiled.
    """

    name = ""

    def __init__(self, graph: QuantizedGraph, model: QdqModel) -> None:
        self.graph = graph
        self.model = model
        self._split = split(graph)
        self._exposed: QdqModel | None = None

    @abstractmethod
    def execute(self, model: QdqModel, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """One row: the model's inputs by name, batch 1, to its outputs by the names of ONNX values.

        `model` is the one of the constructor, or one with every activation as an output; a runtime compiles
        each once.
        """

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

    def showing(self, length: int) -> QdqModel:
        """The model whose outputs are the activations that `tensors` shows, at least of this length."""
        if self._exposed is None or self._exposed.sequence != length:
            self._exposed = build_qdq(self.graph, length, form=self.model.form, expose=True)
        return self._exposed

    def _execute(self, model: QdqModel, fed: Mapping[str, Array]) -> dict[str, Array]:
        """Activations of a batch, row by row, at the lengths of the user's input."""
        dims = bind_dims(self.graph, fed)
        values = run_nodes(self.graph, self._split.before, dict(fed), dims)
        rows = []
        for i in range(dims["batch"]):
            found = self.execute(model, row_inputs(self.graph, model, values, i))
            rows.append({n: restored(self.graph, model, n, found[t.value]) for n, t in model.stored.items()})
        joined = {}
        for name in rows[0]:
            # The file's lengths are its own: what is stacked is cut to the user's.
            shape = [dims[d] if isinstance(d, str) else d for d in self.graph.tensors[name].shape]
            stacked = np.concatenate([row[name] for row in rows])
            joined[name] = stacked[tuple(slice(0, size) for size in shape)]
        return {**values, **joined}

    def _finish(self, values: Mapping[str, Array], fed: Mapping[str, Array]) -> dict[str, Array]:
        return run_nodes(self.graph, self._split.after, {**values, **fed}, bind_dims(self.graph, fed))


def row_inputs(
    graph: QuantizedGraph, model: QdqModel, values: Mapping[str, Array], row: int
) -> dict[str, Array]:
    """The model's inputs for one row of a batch, in the model's order and types.

    Args:
        values: graph inputs, and the outputs of the host's first nodes, by name.
    """
    found = {}
    low, high = (0, 255) if model.form.activations == "uint8" else (-128, 127)
    for name in model.inputs:
        if name.startswith(f"{LIMIT_INPUT}:"):
            seen = (low + high + 1) // 2 if model.form.mask == "add" else high
            value, fill = np.where(values[MASK][row] != 0, seen, low).reshape(1, 1, 1, -1), low
        elif name == TOKENS_INPUT:
            value, fill = (values[MASK][row] != 0).astype(np.int64).reshape(1, -1, 1), 0
        else:
            spec, fill = graph.tensors[name], model.zero_points[name]
            chosen = values[name][row : row + 1] if spec.shape[0] == "batch" else values[name]
            value = chosen.astype(np.int64) + fill
        shape = model.shapes[name]
        missing = [(0, size - have) for size, have in zip(shape, value.shape, strict=True)]
        filled = np.pad(value, missing, constant_values=fill)
        found[name] = np.ascontiguousarray(filled, dtype=model.form.activations)
    return found


def restored(graph: QuantizedGraph, model: QdqModel, name: str, value: Array) -> Array:
    """What a runtime gives for an activation, as the graph's integers in the graph's shape at batch 1."""
    tensor: QdqTensor = model.stored[name]
    spec = graph.tensors[name]
    if tensor.factor is None:
        integers = value.astype(np.int64) - tensor.zero_point
    else:
        integers = np.rint((value.astype(np.float64) - tensor.zero_point) * tensor.factor).astype(np.int64)
    sizes = {"batch": 1, "sequence": model.sequence}
    return integers.reshape([sizes[d] if isinstance(d, str) else d for d in spec.shape]).astype(spec.dtype)
