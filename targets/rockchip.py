"""What RKNN-Toolkit2 says of a network that it has compiled: where each operator runs, cycles, memory.

It prints one table of layers and two sums of memory when it is asked to be verbose; they are read here.
Cycles are its own estimate, the greater of the memory's and the multiply-accumulates'; for operators that
only move or add elements it has none and prints 0.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_HOST = ("InputOperator", "OutputOperator")
"""What hands arrays to the NPU and takes them back; no operators of the network."""

_PREFIX = r"D RKNN: \[[\d:.]+\] "
_ROW = re.compile(
    _PREFIX + r"\d+ +(?P<kind>\S+) +(?P<type>\S+) +(?P<target>NPU|CPU|GPU) .*? "
    r"(?P<ddr>\d+)/(?P<npu>\d+)/(?P<total>\d+) +\d+ *(?P<name>.*?) *$",
    re.MULTILINE,
)
_MEMORY = re.compile(
    _PREFIX + r"Total (?P<what>Internal|Weight) Memory Size: (?P<kib>[\d.]+)KB", re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class Layer:
    """A row of the table.

    Attributes:
        kind: of operator, as the toolkit calls it.
        name: kind and name of the ONNX node, cut where the table cuts it; "" for what the toolkit added.
        type: INT8, FLOAT16, ...
        target: NPU, CPU or GPU.
        cycles: its estimate; 0 where it has none.
    """

    kind: str
    name: str
    type: str
    target: str
    cycles: int


@dataclass(frozen=True, slots=True)
class Compiled:
    """A compiled network.

    Attributes:
        layers: without those that hand over inputs and outputs.
        internal_bytes: of activations.
        weight_bytes: of constants.
    """

    layers: tuple[Layer, ...]
    internal_bytes: int
    weight_bytes: int

    @property
    def cycles(self) -> int:
        """The sum of the layers' estimates."""
        return sum(layer.cycles for layer in self.layers)

    @property
    def elsewhere(self) -> tuple[Layer, ...]:
        """The layers that do not run on the NPU."""
        return tuple(layer for layer in self.layers if layer.target != "NPU")


def read_log(text: str) -> Compiled:
    """Read what the toolkit printed while it compiled one network.

    Raises:
        ValueError: the table or the sums are not there.
    """
    rows = [row for row in _ROW.finditer(text) if row["kind"] not in _HOST]
    memory = {found["what"]: round(float(found["kib"]) * 1024) for found in _MEMORY.finditer(text)}
    if not rows or memory.keys() != {"Internal", "Weight"}:
        raise ValueError("it names no layers or no memory")
    layers = [
        Layer(row["kind"], row["name"].strip(), row["type"], row["target"], int(row["total"])) for row in rows
    ]
    return Compiled(tuple(layers), memory["Internal"], memory["Weight"])
