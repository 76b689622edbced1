"""The state of an export to TpuLang: operations so far, and which value holds which activation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from archnet.errors import ArchNetError
from archnet.export.host_split import MaskInput
from archnet.graph import Dim, Node, QuantizedGraph, TensorSpec

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TpuInput:
    """An input of a program."""

    name: str
    dtype: str
    shape: Shape


@dataclass(frozen=True, slots=True)
class Operation:
    """One call of TpuLang; what each kind computes stands in archnet/targets/drivers/sophgo.py.

    Attributes:
        kind: name of a function there.
        inputs: values and constants.
        output: the value that it makes.
        dtype: of the output.
        shape: of the output.
        numbers: its attributes.
    """

    kind: str
    inputs: tuple[str, ...]
    output: str
    dtype: str
    shape: Shape
    numbers: tuple[tuple[str, Any], ...] = ()

    def to_json(self) -> list[Any]:
        """As a JSON array, in the order of the attributes."""
        return [
            self.kind, list(self.inputs), self.output, self.dtype, list(self.shape), dict(self.numbers),
        ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Value:
    """Where an activation's elements are, in its own order.

    Attributes:
        name: of a value or a constant of the program.
        shape: that it has there: the activation's own.
    """

    name: str
    shape: Shape


@dataclass
class TpuLowering:
    """One export of a graph at batch 1 and one sequence length."""

    graph: QuantizedGraph
    sequence: int
    inputs: list[TpuInput] = field(default_factory=list)
    operations: list[Operation] = field(default_factory=list)
    constants: dict[str, NDArray[Any]] = field(default_factory=dict)
    values: dict[str, Value] = field(default_factory=dict)

    def spec(self, name: str) -> TensorSpec:
        return self.graph.tensors[name]

    def sizes(self, shape: Sequence[Dim]) -> Shape:
        """A shape in numbers."""
        dims = {"batch": 1, "sequence": self.sequence}
        return tuple(dims[d] if isinstance(d, str) else d for d in shape)

    def shape(self, name: str) -> Shape:
        """The shape of an activation."""
        return self.sizes(self.spec(name).shape)

    def input(self, name: str, dtype: str, shape: Shape) -> str:
        """An input of the program, once."""
        if all(known.name != name for known in self.inputs):
            self.inputs.append(TpuInput(name, dtype, shape))
        return name

    def mask_input(self, given: MaskInput) -> str:
        """An input of the program that the host makes of a mask, once.

        Limits are int8 127 for tokens that count and -128 for others, tokens int8 1 and 0; a factor is
        int32, the entry of the table that its detail names for the number of tokens that count.
        """
        dtype = "int32" if given.kind == "factor" else "int8"
        return self.input(given.name, dtype, given.shape(self.graph, self.sequence))

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """A constant of the program, by its name once."""
        self.constants.setdefault(name, np.ascontiguousarray(value))
        return name

    def emit(
        self, kind: str, inputs: Sequence[str], output: str, dtype: str, shape: Shape, /, **numbers: Any
    ) -> str:
        """An operation; the name of its output."""
        self.operations.append(
            Operation(kind, tuple(inputs), output, dtype, shape, tuple(sorted(numbers.items())))
        )
        return output

    def define(self, node: Node, kind: str, inputs: Sequence[str], /, **numbers: Any) -> None:
        """An operation that makes the node's output in its own type, which saturates; then its range."""
        spec, shape = self.spec(node.output), self.shape(node.output)
        low, high = spec.range
        least, greatest = (0, 255) if spec.dtype == "uint8" else (-128, 127)
        name = self.emit(kind, inputs, f"{node.output}/wide", spec.dtype, shape, **numbers)
        if high < greatest:
            name = self.emit("limit", [name], f"{node.output}/below", spec.dtype, shape, most=high)
        if low > least:
            name = self.emit("limit", [name], f"{node.output}/above", spec.dtype, shape, least=low)
        self.values[node.output] = Value(name, shape)

    def move(self, node: Node, kind: str, inputs: Sequence[str], /, **numbers: Any) -> None:
        """`define` for what only moves integers: they are in their range already."""
        shape = self.shape(node.output)
        name = self.emit(kind, inputs, node.output, self.spec(node.output).dtype, shape, **numbers)
        self.values[node.output] = Value(name, shape)

    def of(self, name: str) -> str:
        """The value of an activation."""
        return self.values[name].name


def no_form(node: Node, reason: str, fix: str) -> ArchNetError:
    """The refusal of an operator."""
    return ArchNetError(f"{node.name}: {node.op} has no form in TpuLang: {reason}", fix=fix)
