"""The state of a QDQ export: which ONNX value holds which activation, in which static shape.

Every activation is one integer value, made by one QuantizeLinear and read through one DequantizeLinear.
Fully connected layers read (tokens, features), so a tensor may exist in several shapes of the same elements
in the same order; a Reshape with a pair of its own, at the same scale, makes one when a reader asks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from archnet.errors import ArchNetError
from archnet.export.onnx_model import OnnxBuilder
from archnet.graph import Dim, Node, QuantizedGraph, TensorSpec

Shape = tuple[int, ...]
ActivationType = Literal["uint8", "int8"]
WideForm = Literal["float32", "uint16"]
LinearForm = Literal["gemm", "convolution"]
MaskForm = Literal["minimum", "add"]


@dataclass(frozen=True, slots=True)
class QdqForm:
    """What a compiler wants to read.

    Attributes:
        activations: the type of every activation. "uint8" holds signed ones plus 128, "int8" unsigned ones
            minus 128: the arithmetic is the same.
        linear: Gemm on (tokens, features), or 1x1 convolutions on (1, features, 1, tokens).
        wide: how int32 accumulators that are an output leave the file: as the float32 that they stand for, or
            as uint16 in one scale that no input can make saturate.
        packed: weights of 4 bits are INT4 initializers; otherwise they are int8 ones.
        mask: the minimum with a limit, or the sum with 0 for tokens that count and, for padding, with so much
            less that every score saturates at the least: the same integers.
    """

    activations: ActivationType = "uint8"
    linear: LinearForm = "gemm"
    wide: WideForm = "float32"
    packed: bool = False
    mask: MaskForm = "minimum"


@dataclass(frozen=True, slots=True)
class QdqTensor:
    """Where an activation is in the file, and how its integers are read from what is found there.

    Attributes:
        value: name of the ONNX value.
        shape: its static shape; the activation's elements are in the same order.
        zero_point: the activation is the stored integer minus this.
        factor: of int32 accumulators, float64 (channels,): the activation is
            rint((stored - zero_point) * factor), over the last axis. None for others.
    """

    value: str
    shape: Shape
    zero_point: int
    factor: NDArray[np.float64] | None = None


@dataclass
class QdqLowering:
    """One export of a graph at batch 1 and one sequence length."""

    graph: QuantizedGraph
    sequence: int
    form: QdqForm
    onnx: OnnxBuilder = field(default_factory=OnnxBuilder)
    values: dict[str, dict[Shape, str]] = field(default_factory=dict)
    """Activation -> its integer values by shape; names of views share one entry."""
    wide: dict[str, QdqTensor] = field(default_factory=dict)
    """Int32 accumulators."""
    transposed: dict[str, tuple[str, tuple[int, ...]]] = field(default_factory=dict)
    """Output of a Transpose -> (the tensor that it reads, perm), to merge a second Transpose with it."""
    types: dict[str, str] = field(default_factory=dict)
    """The type of values that may become outputs."""

    @property
    def dims(self) -> Mapping[str, int]:
        """The values of the symbols."""
        return {"batch": 1, "sequence": self.sequence}

    def spec(self, name: str) -> TensorSpec:
        return self.graph.tensors[name]

    def sizes(self, shape: tuple[Dim, ...]) -> Shape:
        """A shape in numbers."""
        return tuple(self.dims[d] if isinstance(d, str) else d for d in shape)

    def shape(self, name: str) -> Shape:
        """The shape of an activation."""
        return self.sizes(self.spec(name).shape)

    def matrix(self, name: str) -> Shape:
        """(tokens, features) of an activation."""
        shape = self.shape(name)
        return math.prod(shape[:-1]), shape[-1]

    def scale(self, name: str) -> float:
        scale = self.spec(name).scale
        if scale is None:
            raise ArchNetError(f"tensor {name} has no scale", fix="run archnet convert again")
        return scale

    def zero_point(self, name: str) -> int:
        """The stored integer of 0."""
        if self.spec(name).dtype == self.form.activations:
            return 0
        return 128 if self.form.activations == "uint8" else -128

    def quantization(self, name: str) -> list[str]:
        """The constants [scale, zero point] of an activation."""
        scale = self.onnx.constant(f"{name}/scale", np.float32(self.scale(name)))
        return [scale, self.zero(self.zero_point(name))]

    def zero(self, value: int, dtype: str = "") -> str:
        """The constant of a zero point."""
        dtype = dtype or self.form.activations
        return self.onnx.constant(f"zero_point:{dtype}:{value}", np.array(value, dtype))

    def input(self, name: str, scale: float, zero_point: int, shape: Shape) -> str:
        """A further input of the file that is no activation; what it stands for, dequantized."""
        self.onnx.input(name, self.form.activations, shape)
        numbers = [self.onnx.constant(f"{name}/scale", np.float32(scale)), self.zero(zero_point)]
        return self.onnx.node("DequantizeLinear", [name, *numbers], f"{name}/real")

    def define(self, name: str, value: str, shape: Shape) -> str:
        """Say that an integer value holds an activation."""
        self.values.setdefault(name, {})[shape] = value
        self.types[value] = self.form.activations
        return value

    def quantize(self, name: str, real: str, shape: Shape) -> str:
        """Define an activation as the quantization of a real value.

        One of fewer than 8 bits is clamped to its range by a Clip with a pair of its own, at the same scale.
        """
        spec = self.spec(name)
        whole = spec.range == ((0, 255) if spec.dtype == "uint8" else (-128, 127))
        value = name if whole else f"{name}/unclamped"
        self.onnx.node("QuantizeLinear", [real, *self.quantization(name)], value)
        if not whole:
            ends = [
                self.onnx.constant(f"{name}/{end}", np.float32(limit) * np.float32(self.scale(name)))
                for end, limit in zip(("low", "high"), spec.range, strict=True)
            ]
            wide = self.onnx.node("DequantizeLinear", [value, *self.quantization(name)], f"{value}/real")
            clipped = self.onnx.node("Clip", [wide, *ends], f"{name}/clipped")
            value = self.onnx.node("QuantizeLinear", [clipped, *self.quantization(name)], name)
        return self.define(name, value, shape)

    def integer(self, name: str, shape: Shape | None = None) -> str:
        """The integer value of an activation in a shape; its own when None."""
        wanted, found = shape or self.shape(name), self.values[name]
        if wanted not in found:
            source = next(iter(found.values()))
            label = f"{source}/as:{'x'.join(map(str, wanted))}"
            sizes = self.onnx.integers(*wanted)
            real = self.onnx.node("Reshape", [self._dequantized(name, source), sizes], f"{label}/exact")
            found[wanted] = self.onnx.node("QuantizeLinear", [real, *self.quantization(name)], label)
            self.types[label] = self.form.activations
        return found[wanted]

    def real(self, name: str, shape: Shape | None = None) -> str:
        """The dequantized value of an activation in a shape; its own when None."""
        return self._dequantized(name, self.integer(name, shape))

    def _dequantized(self, name: str, value: str) -> str:
        label = f"{value}/real"
        if not self.onnx.has(label):
            self.onnx.node("DequantizeLinear", [value, *self.quantization(name)], label)
        return label

    def stored(self) -> dict[str, QdqTensor]:
        """Where each activation that the file computes is."""
        found: dict[str, QdqTensor] = dict(self.wide)
        for name, shapes in self.values.items():
            shape, value = next(iter(shapes.items()))
            if self.onnx.has(value):
                found[name] = QdqTensor(value, shape, self.zero_point(name))
        return found


def sizes_of(node: Node, name: str) -> list[int]:
    """A tuple attribute of numbers."""
    return [int(size) for size in cast(tuple[Any, ...], node.attributes[name])]


def no_form(node: Node, reason: str, fix: str) -> ArchNetError:
    """The refusal of an operator."""
    return ArchNetError(f"{node.name}: {node.op} has no QDQ form: {reason}", fix=fix)
