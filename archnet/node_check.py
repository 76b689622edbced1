"""What the checks of a QuantizedGraph's nodes ask for: inputs, attributes, constants, accumulators, factors.

The checks themselves are in archnet/node_check_operators.py and archnet/node_check_image.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from archnet.calibration.affine import MAX_MULTIPLIER, MULTIPLIER_SHIFT, accumulator_factor
from archnet.graph import Dim, Node, QuantizedGraph, TensorSpec

Shape = tuple[Dim, ...]

SYMBOLS = ("batch", "sequence")
MAX_SEQUENCE = 1024
"""Softmax is defined for at most this many positions (its sums stay below 2**31)."""

SOFTMAX_ONE = 2**20
"""What a softmax table holds for exp(0)."""

_INT32_MAX = 2**31 - 1


class Fault(Exception):
    """What is wrong with one node, tensor or constant."""


def require(good: bool, fault: str) -> None:
    """Raise Fault unless good."""
    if not good:
        raise Fault(fault)


def check_range(name: str, values: NDArray[Any], limits: tuple[int, int]) -> None:
    """Raise Fault when a value lies outside the limits."""
    low, high = int(values.min()), int(values.max())
    good = limits[0] <= low and high <= limits[1]
    require(good, f"{name} holds {low} .. {high}, outside {limits[0]} .. {limits[1]}")


@dataclass(frozen=True, slots=True)
class NodeCheck:
    """One node in its graph, with what the operators' checks ask for."""

    graph: QuantizedGraph
    node: Node

    @property
    def output(self) -> TensorSpec:
        return self.graph.tensors[self.node.output]

    def tensor(self, index: int, *dtypes: str) -> TensorSpec:
        """Input `index`, which must be a tensor of one of these dtypes."""
        name = self.node.inputs[index]
        require(name in self.graph.tensors, f"input {name} must be a tensor, not a constant")
        spec = self.graph.tensors[name]
        require(spec.dtype in dtypes, f"input {name} is {spec.dtype}, not {' or '.join(dtypes)}")
        return spec

    def constant(self, index: int, dtype: str, shape: tuple[int | None, ...]) -> NDArray[Any]:
        """Input `index`, which must be a constant of this dtype and shape (None: any size)."""
        name = self.node.inputs[index]
        require(name in self.graph.constants, f"input {name} must be a constant")
        value = self.graph.constants[name]
        require(str(value.dtype) == dtype, f"constant {name} holds {value.dtype}, not {dtype}")
        fits = len(shape) == value.ndim and all(
            want in (None, have) for want, have in zip(shape, value.shape, strict=True)
        )
        require(fits and value.size > 0, f"constant {name} has shape {value.shape}, not {shape}")
        return value

    def integer(self, name: str, low: int, high: int) -> int:
        """The integer attribute of this name, which must lie in low .. high."""
        value = self.node.attributes.get(name)
        good = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
        require(good, f"attribute {name} is {value!r}, not an integer in {low} .. {high}")
        assert isinstance(value, int)
        return value

    def sizes(self, name: str) -> Shape:
        """The tuple attribute of this name."""
        value = self.node.attributes.get(name)
        require(isinstance(value, tuple), f"attribute {name} is {value!r}, not a tuple")
        assert isinstance(value, tuple)
        return value

    def output_is(self, *dtypes: str) -> None:
        """The output must have one of these dtypes."""
        require(self.output.dtype in dtypes, f"its output is {self.output.dtype}, not {' or '.join(dtypes)}")

    def output_like(self, spec: TensorSpec) -> None:
        """The output must hold the same kind of numbers as `spec`: dtype, bits and scale."""
        mine, other = (self.output.dtype, self.output.bits), (spec.dtype, spec.bits)
        require(mine == other, f"its output has {mine}, its input {spec.name} {other}")
        same = self.output.scale == spec.scale
        require(same, f"its output's scale {self.output.scale} is not its input's, {spec.scale}")

    def accumulates(self, bound: int) -> None:
        """A sum of this magnitude must fit into 32 bits."""
        require(bound <= _INT32_MAX, f"its 32-bit accumulator can overflow: sums reach {bound}")

    def extent(self, dim: Dim) -> int:
        """The greatest size that an axis can have."""
        if isinstance(dim, str):
            require(dim == "sequence", f"sums over the axis {dim!r}")
            return self.graph.max_sequence
        return dim


def _check_weights(c: NodeCheck, weight: NDArray[np.generic], bits: int) -> None:
    """Weights and tables hold what so many bits can say: whole multiples of a step, or 2 bits' odd ones."""
    name, step = c.node.inputs[1], c.integer("step", 1, 2 ** (8 - bits)) if "step" in c.node.attributes else 1
    if bits == 2:
        check_range(name, weight, (-3, 3))
        require(bool((weight.astype(np.int64) % 2 == 1).all()), f"{name} holds even integers in 2 bits")
        return
    check_range(name, weight, (-(2 ** (bits - 1)) * step, (2 ** (bits - 1) - 1) * step))
    require(bool((weight.astype(np.int64) % step == 0).all()), f"{name} holds no multiples of {step}")


def check_weighted(c: NodeCheck, x: TensorSpec, weight: NDArray[Any]) -> None:
    """What fully connected layers and convolutions have alike; weight (channels, ...)."""
    rows = weight.shape[0]
    bias, multiplier = c.constant(2, "int32", (rows,)), c.constant(3, "int32", (rows,))
    weight_scale = c.constant(4, "float32", (rows,))
    c.output_is("int8", "uint8", "int32")
    bits = c.integer("weight_bits", 1, 8)
    _check_weights(c, weight, bits)
    check_range(c.node.inputs[3], multiplier, (1, MAX_MULTIPLIER))
    magnitudes = np.abs(weight.reshape(rows, -1).astype(np.int64)).sum(axis=1) * magnitude(x)
    c.accumulates(int((magnitudes + np.abs(bias.astype(np.int64))).max()))
    require(bool((weight_scale > 0).all()), "a weight scale is not positive")
    if c.output.dtype == "int32":  # the accumulators themselves
        require(bool((multiplier == 2**MULTIPLIER_SHIFT).all()), "its int32 output has a multiplier")
        return
    check_factor(accumulator_factor(scale_of(x), weight_scale, scale_of(c.output)), multiplier)


def magnitude(spec: TensorSpec) -> int:
    """The greatest magnitude of a tensor's integers."""
    low, high = spec.range
    return max(-low, high)


def scale_of(spec: TensorSpec) -> float:
    """A tensor's scale."""
    assert spec.scale is not None, "_check_spec has seen every tensor"
    return spec.scale


def check_factor(factor: NDArray[np.float32], multiplier: NDArray[Any]) -> None:
    """A runtime's float32 factors must be the multipliers."""
    wanted = (multiplier / 2**MULTIPLIER_SHIFT).astype(np.float32)
    wrong = int(np.count_nonzero(factor != wanted))
    require(
        wrong == 0, f"(scale_x * scale_w) / scale_y in float32 is not multiplier / 2**16 at {wrong} places"
    )
