"""What every backend does alike: check the user's inputs, look up host tables, dequantize outputs.

The dequantization here is the only float arithmetic of a deployed network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from archnet.errors import ArchNetError, nearest
from archnet.graph import GraphOutput, QuantizedGraph, TensorSpec
from archnet.operators import Op

_LEAST_NORM = np.float32(1e-12)


class Backend(Protocol):
    """Something that runs an integer network."""

    name: str

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The network's outputs by name, for a user's inputs by name: float32, or integers handed on."""
        ...

    def tensors(
        self, inputs: Mapping[str, NDArray[Any]], names: Sequence[str] | None = None
    ) -> dict[str, NDArray[Any]]:
        """Integer activations by name, for a user's inputs; by default all that the backend can show."""
        ...


def user_inputs(graph: QuantizedGraph) -> tuple[str, ...]:
    """The names of what a user gives: the graph's inputs, with host tables' sources for their targets."""
    sources = {host.target: host.source for host in graph.host_tables}
    return tuple(dict.fromkeys(sources.get(spec.name, spec.name) for spec in graph.inputs))


def feed(graph: QuantizedGraph, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The arrays of graph.inputs for a user's inputs: checked, and rows of host tables looked up.

    Args:
        inputs: "input_ids" and "attention_mask", (batch, sequence) of any integer dtype; the mask
            holds 0 and 1; or "pixel_values", float32 as the image processor gives them, which are
            quantized here, or the integers themselves.

    Raises:
        ArchNetError: names, shapes, dtypes or values that the network does not take.
    """
    wanted = user_inputs(graph)
    for name in inputs:
        if name not in wanted:
            raise ArchNetError(f"the network has no input {name!r}", fix=nearest(name, wanted))
    for name in wanted:
        if name not in inputs:
            raise ArchNetError(f"the input {name!r} is missing", fix=f"give {', '.join(wanted)}")
    fed: dict[str, NDArray[Any]] = {}
    hosts = {host.target: host for host in graph.host_tables}
    limits = _id_limits(graph)
    for spec in graph.inputs:
        if spec.name in hosts:
            host = hosts[spec.name]
            table = graph.constants[host.table]
            ids = _integers(host.source, inputs[host.source])
            _check_values(host.source, ids, table.shape[0])
            fed[spec.name] = table[ids].astype(spec.dtype)
        else:
            if spec.dtype != "int64" and np.asarray(inputs[spec.name]).dtype == spec.dtype:
                fed[spec.name] = inputs[spec.name]  # handed on by another network
                _check_range(spec, fed[spec.name])
                continue
            if spec.dtype == "int8" and np.asarray(inputs[spec.name]).dtype.kind == "f":
                fed[spec.name] = quantize_input(spec, inputs[spec.name])
                continue
            values = _integers(spec.name, inputs[spec.name])
            limit = 2 if spec.name.endswith("_mask") else limits.get(spec.name)
            if limit is not None:
                _check_values(spec.name, values, limit)
            if spec.dtype != "int64":
                _check_range(spec, values)
            fed[spec.name] = values.astype(spec.dtype)
    _check_shapes(graph, fed)
    return fed


def quantize_input(spec: TensorSpec, values: NDArray[Any]) -> NDArray[np.int8]:
    """clip(round_half_even(values / scale)): normalised pixels as the network's integers.

    Raises:
        ArchNetError: some are NaN or infinite.
    """
    scaled = np.asarray(values, np.float32) / np.float32(spec.scale or 1.0)
    if not np.isfinite(scaled).all():
        raise ArchNetError(
            f"the input {spec.name!r} holds values that are no numbers",
            fix="check how pictures are normalised",
        )
    return np.asarray(np.clip(np.rint(scaled), *spec.range), dtype=np.int8)


def dequantize_output(
    values: NDArray[Any], output: GraphOutput, mask: NDArray[Any] | None = None
) -> NDArray[np.float32]:
    """float32(values) * scale, pooled over tokens, divided by the L2 norm or bounded where the output is so.

    Args:
        mask: (batch, sequence), the input that `output.pool` names.
    """
    real = values.astype(np.float32) * output.scale
    if mask is not None:
        seen = (mask != 0).astype(np.float32)[:, :, None]
        real = (real * seen).sum(axis=1) / np.maximum(seen.sum(axis=1), np.float32(1.0))
    if output.normalize:
        length = np.sqrt(np.sum(real * real, axis=-1, keepdims=True))
        real = real / np.maximum(length, _LEAST_NORM)
    if output.cap:
        cap = np.float32(output.cap)
        real = cap * np.tanh(real / cap)
    return np.asarray(real, dtype=np.float32)


def dequantize_outputs(
    graph: QuantizedGraph, tensors: Mapping[str, NDArray[Any]], inputs: Mapping[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """All outputs of the network by name, from its integer tensors and the user's inputs by name."""
    return {
        o.name: tensors[o.tensor]
        if o.integers
        else dequantize_output(tensors[o.tensor], o, np.asarray(inputs[o.pool]) if o.pool else None)
        for o in graph.outputs
    }


def _integers(name: str, values: NDArray[Any]) -> NDArray[np.int64]:
    values = np.asarray(values)
    if values.dtype.kind not in "iub":
        raise ArchNetError(
            f"the input {name!r} holds {values.dtype}, not integers",
            fix="give what the tokenizer in the build folder returns, as a NumPy array of int64",
        )
    return values.astype(np.int64)


def _check_values(name: str, values: NDArray[np.int64], limit: int) -> None:
    if values.size and (int(values.min()) < 0 or int(values.max()) >= limit):
        raise ArchNetError(
            f"the input {name!r} holds {int(values.min())} .. {int(values.max())}, outside 0 .. {limit - 1}",
            fix="use the tokenizer in the build folder",
        )


def _check_range(spec: TensorSpec, values: NDArray[np.int64]) -> None:
    low, high = spec.range
    if values.size and (int(values.min()) < low or int(values.max()) > high):
        found = f"{int(values.min())} .. {int(values.max())}"
        raise ArchNetError(
            f"the input {spec.name!r} holds {found}, outside {low} .. {high}",
            fix=f"quantize it with the scale {spec.scale}",
        )


def _id_limits(graph: QuantizedGraph) -> dict[str, int]:
    """How many ids there are, by the input that holds them."""
    limits: dict[str, int] = {}
    for node in graph.nodes:
        count = None
        if node.op is Op.EMBEDDING:
            count = int(graph.constants[node.inputs[1]].shape[0])
        elif node.op is Op.ONE_HOT:
            depth = node.attributes["depth"]
            count = depth if isinstance(depth, int) else None
        if count is not None:
            limits[node.inputs[0]] = min(count, limits.get(node.inputs[0], count))
    return limits


def _check_shapes(graph: QuantizedGraph, fed: Mapping[str, NDArray[Any]]) -> None:
    sources = {host.target: host.source for host in graph.host_tables}
    bound: dict[str, tuple[int, str]] = {}
    for spec in graph.inputs:
        name, shape = sources.get(spec.name, spec.name), fed[spec.name].shape
        fits = len(shape) == len(spec.shape) and all(
            isinstance(dim, str) or dim == size for dim, size in zip(spec.shape, shape, strict=True)
        )
        if not fits:
            given, wanted = shape, spec.shape
            if spec.name in sources:
                given, wanted = shape[:-1], spec.shape[:-1]
            raise ArchNetError(
                f"the input {name!r} has shape {given}, not ({', '.join(map(str, wanted))})",
                fix="give pictures as the model's image processor makes them: that size, channels first"
                if name == "pixel_values"
                else "give whole batches: one row a sentence, padded to one length",
            )
        for dim, size in zip(spec.shape, shape, strict=True):
            if not isinstance(dim, str):
                continue
            known, where = bound.setdefault(dim, (size, name))
            if known != size:
                raise ArchNetError(
                    f"{dim} is {known} in {where!r} and {size} in {name!r}",
                    fix="give ids and mask of the same shape",
                )
    for dim, (size, name) in bound.items():
        if size < 1:
            raise ArchNetError(f"{dim} is 0 in {name!r}", fix="give at least one sentence of one token")
    length, name = bound.get("sequence", (1, ""))
    if length > graph.max_sequence:
        raise ArchNetError(
            f"{name!r} has {length} positions; the network takes at most {graph.max_sequence}",
            fix=f"truncate to {graph.max_sequence} tokens, or convert with a greater --seq-len",
        )
