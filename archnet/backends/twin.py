"""What the host does around a float file (archnet/export/float_twin.py): real inputs, and integers again.

A compiler that calibrates itself is given `twin_inputs` of a few sentences or pictures; a runtime is given
those of a batch, row by row, and `twin_tensors` makes integers of what it returns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from archnet.backends.base import feed
from archnet.errors import ArchNetError
from archnet.export.float_twin import FloatTwin
from archnet.export.host_split import MaskInput, split
from archnet.graph import QuantizedGraph
from archnet.reference import bind_dims, run_nodes

Array = NDArray[Any]


def twin_inputs(
    graph: QuantizedGraph, twin: FloatTwin, inputs: Mapping[str, Array]
) -> list[NDArray[np.float32]]:
    """The file's inputs for a user's inputs, padded to the file's sequence length.

    Returns:
        In the file's order, float32, each (rows, *shape of the file's input).

    Raises:
        ArchNetError: the network does not take the inputs, or a sentence is longer than the file's length.
    """
    fed = feed(graph, inputs)
    dims = bind_dims(graph, fed)
    length = dims.get("sequence", twin.sequence)
    if length > twin.sequence:
        raise ArchNetError(
            f"the input has {length} positions; the compiled network takes {twin.sequence}",
            fix="truncate, or compile with a greater --seq-len",
        )
    values = run_nodes(graph, split(graph).before, dict(fed), dims)
    made = []
    for name, shape in zip(twin.inputs, twin.shapes, strict=True):
        given = _given(graph, twin, name, values, dims["batch"])
        given = given if given.ndim == len(shape) + 1 else given[:, 0]  # attention has no axis of a batch
        missing = [(0, 0), *((0, size - have) for size, have in zip(shape, given.shape[1:], strict=True))]
        made_of = MaskInput.of(graph, name)
        padding = twin.limit if made_of is not None and made_of.kind == "limit" else 0.0
        made.append(np.pad(given, missing, constant_values=padding).astype(np.float32))
    return made


def _given(
    graph: QuantizedGraph, twin: FloatTwin, name: str, values: Mapping[str, Array], rows: int
) -> Array:
    """One of the file's inputs at the user's length: (rows, 1, ...)."""
    if (made := MaskInput.of(graph, name)) is not None:
        seen: Array = (values[made.mask] != 0).astype(np.float64)
        if made.kind == "limit":
            return np.asarray(np.where(seen != 0, 0.0, twin.limit)[:, None, None, :])
        if made.kind == "share":
            return np.asarray((1.0 / np.maximum(seen.sum(axis=1), 1.0))[:, None, None, None])
        return np.asarray(seen[:, None, :, None])
    spec = graph.tensors[name]
    real = values[name].astype(np.float64) * (spec.scale or 1.0)
    if spec.shape[0] == "batch":
        return real[:, None]
    return np.broadcast_to(real, (rows, *real.shape))


def numbered(arrays: Sequence[NDArray[np.float32]]) -> dict[str, Any]:
    """Arrays by their number, as drivers take them in .npz files."""
    return {str(i): array for i, array in enumerate(arrays)}


def twin_tensors(
    graph: QuantizedGraph, twin: FloatTwin, results: Sequence[Array], inputs: Mapping[str, Array]
) -> dict[str, Array]:
    """The integers that a file's results stand for, and what the host's last nodes make of them.

    Args:
        results: in the order of the file's outputs, real numbers, (rows, *shape of the file's output).
        inputs: the user's.

    Returns:
        Activations by name, at the user's length.
    """
    fed = feed(graph, inputs)
    dims = bind_dims(graph, fed)
    values: dict[str, Array] = dict(fed)
    for name, result in zip(twin.outputs, results, strict=True):
        spec = graph.tensors[name]
        stored = [twin.sequence if d == "sequence" else d for d in spec.shape[1:]]
        rows = result.reshape(len(result), *map(int, stored))
        shape = [dims[d] if isinstance(d, str) else d for d in spec.shape]
        values[name] = _integers(graph, name, rows[tuple(slice(0, size) for size in shape)])
    found = run_nodes(graph, split(graph).after, values, dims)
    return {node.output: found[node.output] for node in graph.nodes if node.output in found}


def _integers(graph: QuantizedGraph, name: str, real: Array) -> Array:
    """The nearest integers; logits are accumulators with one scale a class."""
    spec = graph.tensors[name]
    if not np.isfinite(real).all():
        raise ArchNetError(
            f"the compiled network gives values of {name} that are no numbers",
            fix="compile again; if it stays, report it with the build folder",
        )
    if spec.dtype == "int32":
        scales = next(output.scale for output in graph.outputs if output.tensor == name)
        return np.rint(real / scales.astype(np.float64)).astype(np.int32)
    return np.clip(np.rint(real / (spec.scale or 1.0)), *spec.range).astype(spec.dtype)
