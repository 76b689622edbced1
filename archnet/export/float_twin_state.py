"""The state of a float export: which ONNX value holds which activation, and in which sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from archnet.errors import ArchNetError
from archnet.export.onnx_model import OnnxBuilder
from archnet.graph import Dim, Node, QuantizedGraph, TensorSpec
from archnet.operators import Op


@dataclass
class TwinLowering:
    """One export of a graph at batch 1 and one sequence length.

    A tensor that `ZeroPad` made has rows of zeros behind those of the tokens. They are left out here, and
    with them the weights that read them: `short` names the axis that has `sequence` entries instead.

    Tensors of attention, split into heads, have no batch axis (`flat`): nncase 2.11 aborts in its pass
    NeutralOptimizeTranspose on (1, heads, tokens, width) where tokens and width are equal, and takes
    (heads, tokens, width). Axes are counted as in the graph all the same.
    """

    graph: QuantizedGraph
    sequence: int
    onnx: OnnxBuilder = field(default_factory=OnnxBuilder)
    values: dict[str, str] = field(default_factory=dict)
    short: dict[str, int] = field(default_factory=dict)
    limit: float = 0.0

    def __post_init__(self) -> None:
        self.makers = {node.output: node for node in self.graph.nodes}
        self.mixed = mixing_heads(self.graph)
        layers = [layer for _, layers in self.mixed.values() for layer in layers]
        self.replaced = {name for layer in layers for name in (layer.output, layer.inputs[0])}
        self.flat = split_heads(self.graph)

    @property
    def dims(self) -> Mapping[str, int]:
        """The values of the symbols."""
        return {"batch": 1, "sequence": self.sequence}

    def spec(self, name: str) -> TensorSpec:
        return self.graph.tensors[name]

    def sizes(self, shape: tuple[Dim, ...]) -> list[int]:
        """A shape in numbers."""
        return [self.dims[d] if isinstance(d, str) else d for d in shape]

    def shape(self, name: str) -> list[int]:
        """The sizes of an activation in the file."""
        sizes = self.sizes(self.spec(name).shape)
        if name in self.short:
            sizes[self.short[name]] = self.sequence
        return sizes[1:] if name in self.flat else sizes

    def permutation(self, name: str, perm: Sequence[int]) -> list[int]:
        """A permutation of the graph's axes, for the axes that the activation has in the file."""
        return [axis - 1 for axis in perm[1:]] if name in self.flat else list(perm)

    def scale(self, name: str) -> float:
        """The real value of the integer 1."""
        scale = self.spec(name).scale
        if scale is None:
            raise ArchNetError(f"tensor {name} has no scale", fix="run archnet convert again")
        return scale

    def low(self, name: str) -> float:
        """The least real value that the activation's integers can hold."""
        return self.spec(name).range[0] * self.scale(name)

    def high(self, name: str) -> float:
        """The greatest one."""
        return self.spec(name).range[1] * self.scale(name)

    def real(self, name: str, value: NDArray[np.generic]) -> str:
        """A float32 constant."""
        return self.onnx.constant(name, np.ascontiguousarray(value, dtype=np.float32))

    def scalar(self, value: float) -> str:
        """A float32 constant number, shared by its value."""
        number = np.float32(value)
        return self.onnx.constant(f"f32:{number!r}", number)

    def define(self, name: str, value: str) -> None:
        """Say that a value holds an activation; what its integers cannot hold is clipped."""
        if self.spec(name).dtype != "int32":
            ends = [self.scalar(self.low(name)), self.scalar(self.high(name))]
            value = self.onnx.node("Clip", [value, *ends], f"{name}/clipped")
        self.pass_on(name, value)

    def pass_on(self, name: str, value: str) -> None:
        """`define` for what only moves numbers that are in their range already."""
        self.values[name] = value

    def keep_short(self, source: str, name: str) -> None:
        """Say that a result leaves out the same rows as what it was made of."""
        if source in self.short:
            self.short[name] = self.short[source]


def split_heads(graph: QuantizedGraph) -> frozenset[str]:
    """Four-dimensional activations of attention: made of tokens (batch, tokens, features), or a cache.

    Inputs are caches where attention multiplies them, or joins a token's keys and values to them; pictures
    are four-dimensional, too.
    """
    inputs = {spec.name for spec in graph.inputs if len(spec.shape) == 4}
    products = (Op.MATMUL, Op.MEAN_MATMUL)
    found: set[str] = set()
    for node in graph.nodes:
        if node.op in products or (node.op is Op.CONCAT and node.attributes["axis"] == 2):
            found |= inputs & set(node.inputs)
        x = node.inputs[0]
        tokens = node.op is Op.RESHAPE and len(graph.tensors[x].shape) == 3
        if len(graph.tensors[node.output].shape) == 4 and (tokens or x in found):
            found.add(node.output)
    return frozenset(found)


def mixing_heads(graph: QuantizedGraph) -> dict[str, tuple[str, tuple[Node, ...]]]:
    """Concats of fully connected layers that read one head each: they are one product for all heads.

    Returns:
        Output of the Concat -> the tensor (batch, heads, width, positions), and the layers in its order.
    """
    made = {node.output: node for node in graph.nodes}
    found = {}
    for node in graph.nodes:
        if node.op is not Op.CONCAT or node.attributes["axis"] != 1:
            continue
        layers = [made[n] for n in node.inputs if n in made and made[n].op is Op.LINEAR]
        heads = [made[n.inputs[0]] for n in layers if n.inputs[0] in made]
        picks = [n for n in heads if n.op is Op.SELECT and n.attributes["axis"] == 1]
        sources = {n.inputs[0] for n in picks}
        if len(picks) != len(node.inputs) or len(sources) != 1:
            continue
        source = sources.pop()
        shape, order = graph.tensors[source].shape, [n.attributes["index"] for n in picks]
        if len(shape) == 4 and shape[1] == len(order) and order == list(range(len(order))):
            found[node.output] = source, tuple(layers)
    return found


def no_form(node: Node, reason: str, fix: str) -> ArchNetError:
    """The refusal of an operator."""
    return ArchNetError(f"{node.name}: {node.op} has no form in float ONNX: {reason}", fix=fix)
