"""What a network of one operator is collected in: its inputs, random constants, and scales that fit."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from archnet.calibration.affine import fit_linear_scales, fit_output_scale
from archnet.config import Bits
from archnet.graph import AttributeValue, Dim, GraphOutput, Node, QuantizedGraph, TensorSpec
from archnet.graph_check import validate_graph
from archnet.operators import Op

SEQUENCE = 16
"""The greatest sequence of these networks."""

SCALE = 0.05
"""Of inputs, and of results where their operator leaves it free."""

REACH = 0.6
"""Standard deviation of results against that of what they are made of: few saturate."""

Shape = tuple[Dim, ...]


@dataclass
class SingleOperator:
    """Collects the parts of a network of one node.

    Attributes:
        bits: of weights and activations.
        share_levels: units of probabilities of 8 bits that make 1 (see `Profile.softmax_levels`).
    """

    bits: Bits
    share_levels: int = 255
    inputs: list[TensorSpec] = field(default_factory=list)
    constants: dict[str, NDArray[Any]] = field(default_factory=dict)
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(7))

    def tensor(self, name: str, shape: Shape, dtype: str = "int8", bits: int | None = None) -> TensorSpec:
        """An input of the network."""
        scale = None if dtype == "int64" else SCALE
        width = 64 if dtype == "int64" else bits or self.bits.activations
        self.inputs.append(TensorSpec(name, shape, dtype, width, scale))
        return self.inputs[-1]

    @property
    def spread(self) -> float:
        """The standard deviation of integers over the whole range of activations."""
        return float(2**self.bits.activations / 12**0.5)

    def product_scale(self, depth: int, *, unsigned: bool) -> tuple[int, float]:
        """Multiplier and scale of a sum of so many products that uses its range."""
        spread = (2.0 if unsigned else 1.0) * self.spread * depth**0.5
        return fit_output_scale(SCALE**2 * spread / REACH, SCALE, SCALE)

    def mask(self) -> str:
        """The attention mask."""
        return self.tensor("attention_mask", ("batch", "sequence"), "int64").name

    def result(
        self, shape: Shape, dtype: str = "int8", bits: int | None = None, scale: float = SCALE
    ) -> TensorSpec:
        """The network's output."""
        return TensorSpec("y", shape, dtype, bits or self.bits.activations, scale)

    def constant(self, name: str, value: NDArray[Any]) -> str:
        self.constants[name] = value
        return name

    def table(self, *shape: int) -> str:
        """Random integers, rows of them."""
        low, high = TensorSpec("", (), "int8", self.bits.activations).range
        return self.constant("table", self.random.integers(low, high + 1, shape, dtype=np.int8))

    def weights(self, shape: tuple[int, ...]) -> NDArray[np.int8]:
        """Of the asked width; of 2 bits the odd numbers from -3 to 3."""
        span = 2 ** (self.bits.weights - 1)
        values = self.random.integers(-span, span, shape, dtype=np.int8)
        return np.asarray(2 * values + 1, np.int8) if self.bits.weights == 2 else values

    def graph(
        self, op: Op, inputs: tuple[str, ...], output: TensorSpec, /, **attributes: AttributeValue
    ) -> QuantizedGraph:
        """The network, checked."""
        node = Node(op, str(op), inputs, "y", attributes)
        # What is handed on as it is; int32 is for a host that dequantizes it.
        integers = output.dtype in ("int8", "uint8")
        scales = np.ones(1 if integers else int(output.shape[-1]), np.float32)
        made = QuantizedGraph(
            name=str(op),
            inputs=tuple(self.inputs),
            outputs=(GraphOutput("result", "y", scales, integers=integers),),
            nodes=(node,),
            tensors={spec.name: spec for spec in (*self.inputs, output)},
            constants=self.constants,
            max_sequence=SEQUENCE,
        )
        validate_graph(made)
        return made

    def weighted(
        self, op: Op, x: TensorSpec, weight: NDArray[np.int8], output: TensorSpec, /, **more: AttributeValue
    ) -> QuantizedGraph:
        """A fully connected layer or a convolution, (channels, ...) weights."""
        rows, depth = len(weight), int(np.prod(weight.shape[1:]))
        spread = float(weight.std()) * depth**0.5
        multiplier, scales, scale = fit_linear_scales(np.full(rows, REACH / spread), SCALE, SCALE)
        if output.dtype == "int32":
            multiplier, scale = np.full(rows, 2**16, np.int32), output.scale or SCALE
        names: dict[str, NDArray[Any]] = {
            "weight": weight,
            "bias": np.rint(self.random.normal(0, 0.2 * spread * self.spread, rows)).astype(np.int32),
            "multiplier": multiplier,
            "weight_scale": scales,
        }
        inputs = tuple(self.constant(name, value) for name, value in names.items())
        made = TensorSpec("y", output.shape, output.dtype, output.bits, scale)
        return self.graph(op, (x.name, *inputs), made, weight_bits=self.bits.weights, **more)
