"""The state of a TFLite export: which tensor of the file holds which activation, in which layout.

TFLite's convolutions want channels last. A map (1, C, H, W) of the integer network therefore exists in
up to two layouts, made when a consumer asks: "logical", the shape of its TensorSpec, and "last", axis 1
moved to the end. uint8 activations are int8 with zero point -128: the same integers minus 128.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, cast

import numpy as np

from archnet.errors import ArchNetError
from archnet.export.tflite_model import Quantization, TfliteBuilder
from archnet.graph import Dim, Node, QuantizedGraph, TensorSpec

Layout = Literal["logical", "last"]

SHARE_LEVELS = 256
"""TFLite's int8 SOFTMAX has units of 1/256 and zero point -128, and takes no others."""

INT8 = (-128, 127)


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where an activation is in the file: its tensor's index, and what to add to its integers.

    Attributes:
        offset: the activation is the stored integer plus this.
        scale: the real value of a stored 1.
        last: the channels, axis 1 of the activation, are stored last.
    """

    index: int
    offset: int
    scale: float
    last: bool = False


@dataclass
class TfliteLowering:
    """One export of a graph at batch 1 and one sequence length."""

    graph: QuantizedGraph
    sequence: int
    file: TfliteBuilder = field(default_factory=TfliteBuilder)
    values: dict[tuple[str, Layout], int] = field(default_factory=dict)
    quantizations: dict[str, Quantization] = field(default_factory=dict)
    limits: dict[tuple[str, float, int], int] = field(default_factory=dict)
    """(mask, scale, zero point) -> the mask as limits in that quantization."""

    @property
    def dims(self) -> Mapping[str, int]:
        """The values of the symbols."""
        return {"batch": 1, "sequence": self.sequence}

    def spec(self, name: str) -> TensorSpec:
        return self.graph.tensors[name]

    def sizes(self, shape: tuple[Dim, ...]) -> list[int]:
        """A shape in numbers."""
        return [self.dims[d] if isinstance(d, str) else d for d in shape]

    def shape(self, name: str, layout: Layout = "logical") -> list[int]:
        """The shape of an activation in a layout."""
        sizes = self.sizes(self.spec(name).shape)
        return sizes if layout == "logical" else [sizes[0], *sizes[2:], sizes[1]]

    def quantization(self, name: str) -> Quantization:
        """Scale and zero point of an activation in the file."""
        if name not in self.quantizations:
            spec = self.spec(name)
            if spec.scale is None:
                raise ArchNetError(f"tensor {name} has no scale", fix="run archnet convert again")
            self.quantizations[name] = Quantization(spec.scale, -128 if spec.dtype == "uint8" else 0)
        return self.quantizations[name]

    def new(self, name: str, layout: Layout = "logical", *, part: str = "") -> int:
        """A new int8 tensor for an activation, or with `part` one on the way to it."""
        suffix = part or ("" if layout == "logical" else "/last")
        return self.file.tensor(f"{name}{suffix}", self.shape(name, layout), "int8", self.quantization(name))

    def define(self, name: str, index: int, layout: Layout = "logical") -> None:
        """Say that a tensor holds an activation; one of fewer than 8 bits is clamped to its range first."""
        spec = self.spec(name)
        offset = self.quantization(name).zero_point
        low, high = (value + offset for value in spec.range)
        for op, limit, whole in (("MINIMUM", high, INT8[1]), ("MAXIMUM", low, INT8[0])):
            if limit != whole:
                bound = self.file.constant(
                    f"{name}/{op.lower()}",
                    np.full((1,) * len(spec.shape), limit, np.int8),
                    self.quantization(name),
                )
                index = self.file.node(op, [index, bound], self.new(name, layout, part=f"/{op.lower()}d"))
        self.values[name, layout] = index

    def pass_on(self, name: str, index: int, layout: Layout = "logical") -> None:
        """`define` for what only moves integers that are in their range already."""
        self.values[name, layout] = index

    def has(self, name: str, layout: Layout) -> bool:
        """Whether the activation is already there in this layout."""
        return (name, layout) in self.values

    def get(self, name: str, layout: Layout = "logical") -> int:
        """The tensor of an activation in a layout, transposed where it is only there in the other one."""
        if (name, layout) not in self.values:
            other: Layout = "last" if layout == "logical" else "logical"
            rank = len(self.spec(name).shape)
            if layout == "logical":
                perm = [0, rank - 1, *range(1, rank - 1)]
            else:
                perm = [0, *range(2, rank), 1]
            out = self.new(name, layout, part=f"/{layout}")
            self.file.node("TRANSPOSE", [self.values[name, other], self.integers(perm)], out)
            self.values[name, layout] = out
        return self.values[name, layout]

    def integers(self, values: object) -> int:
        """A constant int32 tensor: a shape, a permutation, a padding."""
        array = np.asarray(values, np.int32)
        return self.file.constant(f"int32:{array.tolist()}", array)

    def stored(self) -> dict[str, StoredTensor]:
        """Where each activation that the file computes is."""
        found: dict[str, StoredTensor] = {}
        for (name, layout), index in self.values.items():
            if name in self.graph.tensors and index not in self.file.constants:
                quantization = self.quantization(name)
                stored = StoredTensor(
                    index, -quantization.zero_point, cast(float, quantization.scale), layout == "last"
                )
                found.setdefault(name, stored)
        return found


def no_form(node: Node, reason: str, fix: str) -> ArchNetError:
    """The refusal of an operator."""
    return ArchNetError(f"{node.name}: {node.op} has no TFLite form: {reason}", fix=fix)
