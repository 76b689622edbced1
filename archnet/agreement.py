"""How close a backend is: its integers to the reference executor's, its outputs to the float original's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from archnet.backends.base import Backend, feed
from archnet.encode import SENTENCE_OUTPUT, Inputs
from archnet.errors import ArchNetError
from archnet.export.host_split import split
from archnet.graph import QuantizedGraph
from archnet.metrics import cosine, sqnr_db
from archnet.operators import Op
from archnet.reference import bind_dims, execute, run_node
from archnet.results import EmulatedPlace, TensorAgreement

Array = NDArray[Any]
Scope = Literal["network", "layer"]


@dataclass(slots=True)
class _Count:
    """Differences of one tensor, summed over batches."""

    elements: int = 0
    differing: int = 0
    max_lsb: int = 0

    def add(self, actual: Array, expected: Array) -> None:
        difference = np.abs(actual.astype(np.int64) - expected.astype(np.int64))
        self.elements += difference.size
        self.differing += int(np.count_nonzero(difference))
        self.max_lsb = max(self.max_lsb, int(difference.max(initial=0)))


@dataclass(slots=True)
class IntegerComparison:
    """Compares the integers of a backend with the reference executor's, batch by batch.

    Two questions are asked of every tensor that the backend shows. Scope "network": is it what the
    reference has when each runs the whole network on its own? Scope "layer": is it what the reference
    makes of this one operator, given the integers that the backend itself had before it? An operator
    that the backend emulates shows up in the second with its own error only.
    """

    graph: QuantizedGraph
    backend: Backend
    _counts: dict[tuple[Scope, str], _Count] = field(default_factory=dict)

    def add(self, inputs: Mapping[str, Array]) -> None:
        """Run a batch on both.

        Raises:
            ArchNetError: the backend shows a tensor in another shape than the graph has.
        """
        graph = self.graph
        feeds = feed(graph, inputs)
        dims = bind_dims(graph, feeds)
        expected = execute(graph, feeds, [node.output for node in graph.nodes])
        shown = self.backend.tensors(inputs, None)
        known: dict[str, Array] = dict(feeds)
        for node in graph.nodes:
            name = node.output
            before = [known[n] if n in known else graph.constants[n] for n in node.inputs]
            made = run_node(node, before, graph.tensors[name], dims)
            if name in shown:
                self._check_shape(name, shown[name], made)
                self._count("network", name).add(shown[name], expected[name])
                self._count("layer", name).add(shown[name], made)
            known[name] = shown.get(name, made)

    def agreement(self) -> tuple[TensorAgreement, ...]:
        """Scope "network" of every tensor, then scope "layer" unless all of them are equal."""
        nodes = {node.output: node for node in self.graph.nodes}
        scopes: tuple[Scope, ...] = ("network", "layer")
        if not any(count.differing for count in self._counts.values()):
            scopes = ("network",)
        return tuple(
            TensorAgreement(
                self.backend.name, name, str(nodes[name].op), nodes[name].block, scope,
                count.elements, count.differing, count.max_lsb,
            )
            for wanted in scopes
            for (scope, name), count in self._counts.items()
            if scope == wanted
        )  # fmt: skip

    def _count(self, scope: Scope, name: str) -> _Count:
        return self._counts.setdefault((scope, name), _Count())

    def _check_shape(self, name: str, shown: Array, made: Array) -> None:
        if shown.shape != made.shape or not np.issubdtype(shown.dtype, np.integer):
            raise ArchNetError(
                f"the backend {self.backend.name} shows {name} as {shown.dtype} {shown.shape}, "
                f"not as integers {made.shape}",
                fix="export the build again: archnet export DIR --format onnx (or tvm)",
            )


@dataclass(slots=True)
class OutputComparison:
    """Compares the main output of a network with the float original's, batch by batch."""

    name: str
    _original: list[Array] = field(default_factory=list)
    _network: list[Array] = field(default_factory=list)

    def add(self, original: Array, network: Array, mask: Array | None) -> None:
        """One batch: (batch, width), or (batch, sequence, width), of which masked tokens do not count.

        Raises:
            ArchNetError: the network's output is not finite, or has another shape.
        """
        if original.shape != network.shape:
            raise ArchNetError(
                f"the output {self.name} is {network.shape}, the float original's {original.shape}",
                fix="convert again into a new folder",
            )
        if not np.isfinite(network).all():
            raise ArchNetError(
                f"the output {self.name} has values that are no numbers",
                fix="convert again into a new folder; if it stays, report it with the build folder",
            )
        chosen = mask != 0 if mask is not None and original.ndim == 3 else slice(None)
        self._original.append(original[chosen])
        self._network.append(network[chosen])

    def agreement(self) -> tuple[float, float]:
        """The mean cosine of the vectors, and the SQNR in decibels (infinite when all are equal)."""
        original, network = np.concatenate(self._original), np.concatenate(self._network)
        return float(cosine(original, network).mean()), sqnr_db(original, network)


def main_output(graph: QuantizedGraph, original: Iterable[str]) -> str:
    """The output that is compared: the sentence's vector, else the first that both networks have.

    Args:
        original: names of the float original's outputs.

    Raises:
        ArchNetError: they share no output.
    """
    names = [output.name for output in graph.outputs]
    shared = [name for name in names if name in set(original)]
    if not shared:
        raise ArchNetError(
            f"the network's outputs ({', '.join(names)}) are none of the float original's",
            fix="convert again into a new folder",
        )
    return SENTENCE_OUTPUT if SENTENCE_OUTPUT in shared else shared[0]


_ROCKCHIP = "RKNN-Toolkit2's simulator computes in float32 between roundings; logits leave it as float16"
_SOPHGO = "the TPU computes it in float32 and rounds half to even: a share next to a half may differ by 1"

FLOAT_RUNTIMES: Mapping[str, tuple[str, frozenset[Op]]] = {
    "k230": (
        "nncase quantizes the network's real numbers in ranges and with roundings of its own",
        frozenset(),
    ),
    "rk3588": (_ROCKCHIP, frozenset()),
    "rk3576": (_ROCKCHIP, frozenset()),
    "openvino": (
        "OpenVINO computes it on dequantized numbers; `archnet compile` lists what else it has in float",
        frozenset({Op.SOFTMAX, Op.TABLE_SOFTMAX, Op.LOG_SUM_SOFTMAX, Op.MASK}),
    ),
    "bm1684x": (_SOPHGO, frozenset({Op.SOFTMAX, Op.TABLE_SOFTMAX})),
    "bm1688": (_SOPHGO, frozenset({Op.SOFTMAX, Op.TABLE_SOFTMAX})),
}
"""What a backend computes in float: why, and which operators (all where none is named)."""


def emulated_places(graph: QuantizedGraph, backends: Sequence[str]) -> tuple[EmulatedPlace, ...]:
    """The operators that these backends compute otherwise than the reference, each with its reason."""
    places: list[EmulatedPlace] = []
    if "onnxruntime" in backends:
        from archnet.export.onnx import emulated_places as in_onnx

        places += [EmulatedPlace("onnxruntime", p.node, str(p.op), p.reason) for p in in_onnx(graph)]
    if "litert" in backends:
        from archnet.export.tflite import emulated_places as in_tflite

        places += [EmulatedPlace("litert", p.node, str(p.op), p.reason) for p in in_tflite(graph)]
    if "qualcomm-htp" in backends:
        from archnet.backends.qualcomm import emulated_places as in_htp

        places += [EmulatedPlace("qualcomm-htp", name, str(op), reason) for name, op, reason in in_htp(graph)]
    if "tosa" in backends:
        from archnet.export.tflite import fixed_point_places

        places += [EmulatedPlace("tosa", p.node, str(p.op), p.reason) for p in fixed_point_places(graph)]
    for name, (reason, only) in FLOAT_RUNTIMES.items():
        if name in backends:
            named = [n for n in split(graph).body if not only or n.op in only]
            places += [EmulatedPlace(name, n.name, str(n.op), reason) for n in named]
    return tuple(places)


def split_batches(inputs: Inputs, batch_size: int) -> list[Inputs]:
    """Batches of at most `batch_size` sentences, each cut to the longest sentence in it; or of images."""
    mask = inputs.get("attention_mask")
    if mask is None:
        count = len(next(iter(inputs.values())))
        starts = range(0, count, batch_size)
        return [{name: value[s : s + batch_size] for name, value in inputs.items()} for s in starts]
    batches = []
    for start in range(0, len(mask), batch_size):
        rows = slice(start, start + batch_size)
        width = max(int(mask[rows].sum(axis=1).max()), 1)
        batches.append({name: value[rows, :width] for name, value in inputs.items()})
    return batches
