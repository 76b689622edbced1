"""The state of an ONNX export: which value holds which activation, as integers between Q and DQ.

What an operator computes is an integer value between one QuantizeLinear and its DequantizeLinear. Reshape
and Transpose act on what is dequantized, without a pair of their own: ONNX Runtime then runs them on the
integers, and OpenVINO keeps attention in int8. An activation exists in one or more layouts, made when a
consumer asks:

    logical       the shape of its TensorSpec
    contiguous    the same elements in the same order, in whatever shape is at hand
    matrix        what a fully connected layer reads: (tokens, features) for Gemm, and
                  (1, features, 1, tokens) for a 1x1 convolution

The stream between fully connected layers and Adds stays in `matrix`, so there is no Reshape or Transpose
around a layer except where attention splits it into heads.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, cast, get_args

import numpy as np

from archnet.calibration.packing import Packing
from archnet.errors import ArchNetError
from archnet.export.onnx_model import OnnxBuilder
from archnet.graph import Dim, QuantizedGraph, TensorSpec
from archnet.operators import Op

LinearForm = Literal["convolution", "gemm"]
ActivationType = Literal["mixed", "uint8", "int8"]
Layout = Literal["logical", "contiguous", "matrix"]
Kind = Literal["integer", "real"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where an activation is found in the ONNX graph.

    value (integers + zero_point, or reals when `scale` is set) reshaped to `dims`, then transposed by
    `permutation`, is the activation in the shape of its TensorSpec.
    """

    value: str
    zero_point: int
    dims: tuple[Dim, ...]
    permutation: tuple[int, ...] = ()
    scale: float | None = None


@dataclass
class Lowering:
    """The state of one export: which ONNX value holds which activation, in which layout and kind."""

    graph: QuantizedGraph
    linear: LinearForm
    activations: ActivationType
    attention_operands: frozenset[str] = frozenset()
    onnx: OnnxBuilder = field(default_factory=OnnxBuilder)
    values: dict[tuple[str, Layout, Kind], str] = field(default_factory=dict)
    stored: dict[str, StoredTensor] = field(default_factory=dict)
    transposed: dict[str, tuple[str, tuple[int, ...]]] = field(default_factory=dict)
    """Output of a Transpose -> (the tensor that it reads, perm), to merge a second Transpose with it."""
    packings: dict[str, Packing] = field(default_factory=dict)
    """The graph's constants that are to be packed."""
    packed: dict[str, Packing] = field(default_factory=dict)
    """The same for the ONNX constants that were made of them."""

    def spec(self, name: str) -> TensorSpec:
        return self.graph.tensors[name]

    def zero_point(self, spec: TensorSpec) -> int:
        """The stored integer of 0: signed activations are stored as uint8 plus 128 where asked."""
        return 128 if spec.dtype == "int8" and self.stored_dtype(spec) == "uint8" else 0

    def stored_dtype(self, spec: TensorSpec) -> str:
        if spec.dtype != "int8":
            return spec.dtype
        if self.activations == "mixed":
            return "int8" if spec.name in self.attention_operands else "uint8"
        return self.activations

    def quantization(self, spec: TensorSpec) -> list[str]:
        """The constants [scale, zero point] of an activation."""
        if spec.scale is None:
            raise ArchNetError(
                f"tensor {spec.name} has no scale",
                fix="run archnet convert again with this version of archnet",
            )
        zero_point = np.array(self.zero_point(spec), dtype=self.stored_dtype(spec))
        return [
            self.onnx.constant(f"{spec.name}/scale", np.float32(spec.scale)),
            self.onnx.constant(f"zero_point:{zero_point.dtype}:{zero_point}", zero_point),
        ]

    def quantize(self, name: str, real: str, layout: Layout) -> None:
        """Define an activation as the quantization of a real value."""
        spec = self.spec(name)
        whole = spec.range == _dtype_range(spec)
        value = name if whole else f"{name}/unclamped"
        self.onnx.node("QuantizeLinear", [real, *self.quantization(spec)], value)
        if not whole:  # fewer than 8 bits: a Clip on the integers
            limits = [np.array(v + self.zero_point(spec), dtype=self.stored_dtype(spec)) for v in spec.range]
            ends = [
                self.onnx.constant(f"{name}/{end}", v) for end, v in zip(("low", "high"), limits, strict=True)
            ]
            value = self.onnx.node("Clip", [value, *ends], name)
        self.define(name, value, layout)

    def define(self, name: str, value: str, layout: Layout) -> None:
        """Define an activation by an integer value (zero point included)."""
        self.values[name, layout, "integer"] = value
        spec = self.spec(name)
        dims: tuple[Dim, ...] = spec.shape
        permutation: tuple[int, ...] = ()
        if layout == "matrix" and self.linear == "convolution":
            dims, permutation = (spec.shape[-1], *spec.shape[:-1]), (*range(1, len(spec.shape)), 0)
        self.stored.setdefault(name, StoredTensor(value, self.zero_point(spec), dims, permutation))

    def has(self, name: str, layout: Layout) -> bool:
        """Whether the activation is already there in this layout."""
        return (name, layout, "integer") in self.values or (name, layout, "real") in self.values

    def integer(self, name: str, layout: Layout) -> str:
        """The integer value of an activation in a layout; layout changes then act on integers."""
        key: tuple[str, Layout, Kind] = (name, layout, "integer")
        if key not in self.values:
            if not any((name, other, "integer") in self.values for other in LAYOUTS):
                real = self.real(name, layout)
                spec = self.spec(name)
                self.values[key] = self.onnx.node(
                    "QuantizeLinear", [real, *self.quantization(spec)], f"{name}/{layout}/integer"
                )
            else:
                self.values[key] = self._change_layout(name, layout, "integer")
        return self.values[key]

    def real(self, name: str, layout: Layout) -> str:
        """The dequantized value of an activation in a layout; layout changes act on what is dequantized."""
        key: tuple[str, Layout, Kind] = (name, layout, "real")
        if key not in self.values:
            integer = self.values.get((name, layout, "integer"))
            if integer is None and layout == "matrix" and (name, "logical", "integer") in self.values:
                # The stream enters the layers once; ONNX Runtime would leave a pair around this change.
                integer = self.integer(name, "matrix")
            if integer is not None:
                inputs = [integer, *self.quantization(self.spec(name))]
                self.values[key] = self.onnx.node("DequantizeLinear", inputs, f"{integer}/real")
            else:
                self.values[key] = self._change_layout(name, layout, "real")
        return self.values[key]

    def _change_layout(self, name: str, layout: Layout, kind: Kind) -> str:
        get = self.integer if kind == "integer" else self.real
        spec = self.spec(name)
        if layout == "contiguous":
            if not self.has(name, "matrix"):
                return get(name, "logical")
            matrix = get(name, "matrix")
            if self.linear == "gemm":
                return matrix
            return self.onnx.node("Transpose", [matrix], f"{name}/{kind}/rows", perm=[0, 2, 3, 1])
        contiguous = get(name, "contiguous" if not self.has(name, "logical") else "logical")
        if layout == "logical":
            shape = self.onnx.shape(spec.shape, self.graph.inputs[0])
            return self.onnx.node("Reshape", [contiguous, shape], f"{name}/{kind}/logical")
        features = cast(int, spec.shape[-1])
        if self.linear == "gemm":
            shape = self.onnx.integers(-1, features)
            return self.onnx.node("Reshape", [contiguous, shape], f"{name}/{kind}/matrix")
        shape = self.onnx.integers(1, 1, -1, features)
        rows = self.onnx.node("Reshape", [contiguous, shape], f"{name}/{kind}/tokens")
        return self.onnx.node("Transpose", [rows], f"{name}/{kind}/matrix", perm=[0, 3, 1, 2])


def attention_operands(graph: QuantizedGraph) -> frozenset[str]:
    """The signed activations that only one operator of attention reads: operands and results of products."""
    made = {node.output for node in graph.nodes if node.op in (Op.LINEAR, Op.MATMUL)}
    readers: dict[str, list[Op]] = {name: [] for name in made}
    for node in graph.nodes:
        for name in made.intersection(node.inputs):
            readers[name].append(node.op)
    attention = {
        Op.RESHAPE,
        Op.TRANSPOSE,
        Op.MATMUL,
        Op.MASK,
        Op.SOFTMAX,
        Op.TABLE_SOFTMAX,
        Op.LOG_SUM_SOFTMAX,
    }
    outputs = {output.tensor for output in graph.outputs}
    return frozenset(
        name
        for name, ops in readers.items()
        if len(ops) == 1 and ops[0] in attention and name not in outputs and graph.tensors[name].bits == 8
    )


def _dtype_range(spec: TensorSpec) -> tuple[int, int]:
    info = np.iinfo(spec.dtype)
    return int(info.min), int(info.max)
