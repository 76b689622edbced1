"""What a static file for a chip leaves to the host, and the inputs that it has for masks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from archnet.errors import ArchNetError
from archnet.graph import Node, QuantizedGraph
from archnet.operators import Op

MaskKind = Literal["limit", "tokens", "share", "factor"]
"""What the host makes of a mask: limits of scores (1, 1, 1, keys), tokens that count (1, keys, 1), or a
number that depends on how many count (one element)."""


@dataclass(frozen=True, slots=True)
class MaskInput:
    """An input of a static file that the host makes of a mask.

    Attributes:
        mask: an input of the network, int64 (batch, keys): "attention_mask", of a decoder "cache_mask".
        kind: what is made of it.
        detail: what tells inputs of one kind apart, as a format needs it.
    """

    mask: str
    kind: MaskKind
    detail: str = ""

    @property
    def name(self) -> str:
        """The input's name in the file, such as "attention_limit"."""
        return self.mask.removesuffix("mask") + self.kind + (f":{self.detail}" if self.detail else "")

    @classmethod
    def of(cls, graph: QuantizedGraph, name: str) -> Self | None:
        """The mask's input of this name, or None for one that is an activation."""
        plain, _, detail = name.partition(":")
        for mask in masks(graph):
            for kind in get_args(MaskKind):
                if plain == cls(mask, kind).name:
                    return cls(mask, kind, detail)
        return None

    def seen(self, values: Mapping[str, NDArray[Any]], row: int) -> NDArray[np.bool_]:
        """Which keys count in a row of a batch, (keys,)."""
        return np.asarray(values[self.mask][row] != 0)

    def keys(self, graph: QuantizedGraph, sequence: int) -> int:
        """How many keys it is for: the file's sequence length, or the fixed size of a cache."""
        keys = graph.tensors[self.mask].shape[1]
        return sequence if isinstance(keys, str) else keys

    def shape(self, graph: QuantizedGraph, sequence: int) -> tuple[int, ...]:
        """Its shape, see `MaskKind`."""
        keys = self.keys(graph, sequence)
        return {"limit": (1, 1, 1, keys), "tokens": (1, keys, 1)}.get(self.kind, (1, 1, 1, 1))


def masks(graph: QuantizedGraph) -> tuple[str, ...]:
    """The inputs of a network that are masks."""
    return tuple(s.name for s in graph.inputs if s.dtype == "int64" and s.name.endswith("_mask"))


HOST_ONLY: dict[Op, tuple[str, str]] = {
    Op.ONE_HOT: (
        "a row of a one-hot matrix is as wide as the vocabulary",
        "convert with --embedding host (or gather)",
    ),
    Op.EMBEDDING: (
        "only rows by the network's own input can be looked up by the host",
        "convert with --embedding host",
    ),
    Op.MEAN_POOL: ("it is no output of the network", "convert again"),
    Op.WIDEN: ("it is no output of the network", "convert again"),
}
"""What no static file has, mostly because the host does it: why it is refused elsewhere, and what to do."""


UNWINDOWED = (
    "no compiler behind this format was asked about tokens in the order of windows",
    "export it as onnx, tvm or tflite, or compile it for a Sophgo chip",
)
"""Why most static files refuse windows of images, and what to do."""


class NothingLeft(ArchNetError):
    """A network all of whose outputs are constants or the host's has no file."""


@dataclass(frozen=True, slots=True)
class Split:
    """Which nodes the host runs before and after the file."""

    before: tuple[Node, ...]
    body: tuple[Node, ...]
    after: tuple[Node, ...]

    def require_body(self, graph: QuantizedGraph) -> None:
        """Refuse a network that is the host's alone, or constants (NothingLeft)."""
        moving = {spec.name for spec in graph.inputs} | {node.output for node in self.before}
        if not any(moving & set(node.inputs) for node in self.body):
            raise NothingLeft(
                f"the network {graph.name} leaves nothing to a compiler: it is the host's, or constants",
                fix="run it with --backend reference",
            )


def split(graph: QuantizedGraph) -> Split:
    """Embedding rows by a network's input are the host's, and so is what makes an output's int32."""
    inputs = {spec.name for spec in graph.inputs}
    outputs = {output.tensor for output in graph.outputs}
    before = [n for n in graph.nodes if n.op is Op.EMBEDDING and n.inputs[0] in inputs]
    after = [n for n in graph.nodes if n.op in (Op.MEAN_POOL, Op.WIDEN) and n.output in outputs]
    body = [n for n in graph.nodes if n not in before and n not in after]
    return Split(tuple(before), tuple(body), tuple(after))


def file_inputs(graph: QuantizedGraph, parts: Split) -> tuple[str, ...]:
    """The activations that the host gives: the network's inputs, and what the host's first nodes make."""
    return (*(s.name for s in graph.inputs if s.dtype != "int64"), *(n.output for n in parts.before))


def unsplit(graph: QuantizedGraph, parts: Split) -> tuple[Node, ...]:
    """The nodes of the file that read ids or positions, which no file has."""
    known = {node.inputs[0] for node in parts.before} | {*masks(graph)}
    ids = {s.name for s in graph.inputs if s.dtype == "int64"} - known
    return tuple(node for node in parts.body if ids & set(node.inputs))


def file_outputs(graph: QuantizedGraph, parts: Split) -> tuple[str, ...]:
    """The activations that the file gives: the outputs, and what the host's last nodes read."""
    made = {node.output for node in parts.body}
    read = [node.inputs[0] for node in parts.after]
    names = [*read, *(output.tensor for output in graph.outputs)]
    return tuple(dict.fromkeys(name for name in names if name in made))


def static_length(graph: QuantizedGraph, sequence: int | None) -> int:
    """The sequence length of a static file: the network's greatest when None.

    Raises:
        ArchNetError: the network does not take it.
    """
    length = graph.max_sequence if sequence is None else sequence
    if not 1 <= length <= graph.max_sequence:
        raise ArchNetError(
            f"--seq-len {length} is not in 1 .. {graph.max_sequence}, which the network takes",
            fix="give another --seq-len",
        )
    return length
