"""Collects the nodes, tensors and constants of an integer network while it is made."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from archnet.graph import (
    AttributeValue,
    Dim,
    GraphOutput,
    HostTable,
    Node,
    QuantizedGraph,
    TensorSpec,
)
from archnet.network import Network, Site
from archnet.operators import Op
from archnet.quantized_student import (
    QuantizedStudent,
)

TOKENS: tuple[Dim, ...] = ("batch", "sequence")

POSITION = "position"
"""The input that names each row's position, whether the network or the host reads it."""


def numpy_of(tensor: Tensor) -> NDArray[np.float32]:
    """A detached float32 array."""
    array: NDArray[np.float32] = tensor.detach().to(torch.float32).cpu().numpy()
    return array


@dataclass
class GraphBuilder:
    """Collects nodes, tensors and constants of the integer network."""

    network: Network
    student: QuantizedStudent
    max_sequence: int
    scales: dict[str, float] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    tensors: dict[str, TensorSpec] = field(default_factory=dict)
    constants: dict[str, NDArray[np.generic]] = field(default_factory=dict)
    host_tables: list[HostTable] = field(default_factory=list)
    inputs: list[TensorSpec] = field(default_factory=list)
    values: dict[str, str] = field(default_factory=dict)
    ids: dict[str, tuple[Dim, ...]] = field(default_factory=lambda: {"input_ids": TOKENS})
    """Shape of each input of token ids, whether the network or the host reads it."""
    position: tuple[Dim, ...] | None = None
    """Shape of the input POSITION, for a network that reads one token at a time."""
    embedding: str = "gather"

    def add(
        self,
        op: Op,
        site: Site,
        part: str,
        inputs: tuple[str, ...],
        spec: TensorSpec,
        **attributes: AttributeValue,
    ) -> str:
        """Append a node; returns its output's name."""
        name = f"{site.name}/{part}" if part else site.name
        self.nodes.append(Node(op, name, inputs, spec.name, attributes, site.block))
        self.tensors[spec.name] = spec
        return spec.name

    def constant(self, name: str, value: NDArray[np.generic]) -> str:
        """Register a constant; returns its name."""
        self.constants[name] = np.ascontiguousarray(value)
        return name

    def input(self, spec: TensorSpec) -> str:
        """Register an input of the network once; returns its name."""
        if spec.name not in self.tensors:
            self.inputs.append(spec)
            self.tensors[spec.name] = spec
        return spec.name

    def spec(self, name: str) -> TensorSpec:
        """The tensor that stands for a site."""
        return self.tensors[self.values[name]]

    def scale(self, name: str) -> float:
        """Its scale."""
        scale = self.spec(name).scale
        assert scale is not None
        return scale

    def graph(self, name: str, outputs: tuple[GraphOutput, ...]) -> QuantizedGraph:
        """What was collected."""
        return QuantizedGraph(
            name, tuple(self.inputs), outputs, tuple(self.nodes), self.tensors, self.constants,
            self.max_sequence, tuple(self.host_tables),
        )  # fmt: skip

    def activation(self, site: str, suffix: str, shape: tuple[Dim, ...]) -> TensorSpec:
        """The quantized result of a site, as its quantizer and the fitted scales say."""
        observer = self.student.observer(site)
        assert observer is not None
        dtype = "int8" if observer.signed else "uint8"
        return TensorSpec(f"{site}{suffix}", shape, dtype, observer.bits, self.scales[site])
