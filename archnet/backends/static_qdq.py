"""What runtimes of QDQ files share: what a file's inputs are made of, and where its activations are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from archnet.backends.static import StaticBackend, padded, static_shape
from archnet.export.host_split import MaskInput
from archnet.export.qdq import QdqModel, build_qdq
from archnet.export.qdq_state import QdqTensor
from archnet.graph import QuantizedGraph

Array = NDArray[Any]


class QdqBackend(StaticBackend[QdqModel]):
    """Runs a QDQ file of batch 1 and one sequence length; `execute` is the runtime's."""

    def row(self, model: QdqModel, values: Mapping[str, Array], index: int) -> dict[str, Array]:
        """See StaticBackend."""
        return row_inputs(self.graph, model, values, index)

    def activations(self, model: QdqModel, found: Mapping[str, Array]) -> dict[str, Array]:
        """See StaticBackend."""
        return {n: restored(self.graph, model, n, found[t.value]) for n, t in model.stored.items()}

    def expose(self, length: int) -> QdqModel:
        """See StaticBackend."""
        return build_qdq(self.graph, length, form=self.model.form, expose=True)


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
        value: Array
        made = MaskInput.of(graph, name)
        if made is not None and made.kind == "limit":
            most = (low + high + 1) // 2 if model.form.mask == "add" else high
            value, fill = np.where(made.seen(values, row), most, low).reshape(1, 1, 1, -1), low
        elif made is not None:
            value, fill = made.seen(values, row).astype(np.int64).reshape(1, -1, 1), 0
        else:
            spec, fill = graph.tensors[name], model.zero_points[name]
            chosen = values[name][row : row + 1] if spec.shape[0] == "batch" else values[name]
            value = chosen.astype(np.int64) + fill
        found[name] = padded(value, model.shapes[name], fill, model.form.activations)
    return found


def restored(graph: QuantizedGraph, model: QdqModel, name: str, value: Array) -> Array:
    """What a runtime gives for an activation, as the graph's integers in the graph's shape at batch 1."""
    tensor: QdqTensor = model.stored[name]
    spec = graph.tensors[name]
    if tensor.factor is None:
        integers = value.astype(np.int64) - tensor.zero_point
    else:
        integers = np.rint((value.astype(np.float64) - tensor.zero_point) * tensor.factor).astype(np.int64)
    return integers.reshape(static_shape(graph, name, model.sequence)).astype(spec.dtype)
