"""The QuantizedGraph: an integer network, independent of any backend.

Every tensor is symmetric (zero point 0): `real = scale * integer`. A signed tensor of b bits holds
[-2**(b-1), 2**(b-1) - 1] in int8, an unsigned one (after ReLU, or probabilities) [0, 2**b - 1] in
uint8. Multipliers are Q16 fixed point: `requantize(acc, m) = round_half_even(acc * m / 65536)`, so
that the same result comes from 64-bit integers and, because m is at most 2**17 and the results have
at most 8 bits, from one float32 product.

What each operator computes is defined by archnet/reference.py; docs/file_formats.md lists them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from archnet.operators import Op

MULTIPLIER_SHIFT = 16
"""A multiplier m stands for the real number m / 2**16."""

WIDEN_SHIFT = 8
"""`Widen` and `MeanPool` return int32 values in units of scale / 2**8."""

Dim = int | str
"""A size, or one of the symbols "batch" and "sequence" (bound by the inputs at run time)."""

AttributeValue = int | str | bool | tuple[Dim, ...]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An activation of the integer network.

    Attributes:
        shape: sizes and symbols.
        dtype: "int8", "uint8" or "int32" (activations); "int64" (token ids and attention mask).
        bits: values use the range of this many bits (at most the dtype's).
        scale: the real value of 1; None for ids and masks.
    """

    name: str
    shape: tuple[Dim, ...]
    dtype: str
    bits: int = 8
    scale: float | None = None

    @property
    def levels(self) -> int:
        """Of probabilities: how many units make 1. 2**bits - 1, or 2**bits where the greatest is cut off."""
        assert self.scale is not None, "probabilities have a scale"
        return round(1.0 / self.scale)

    @property
    def range(self) -> tuple[int, int]:
        """The least and the greatest integer that the tensor can hold."""
        if self.dtype == "uint8":
            return 0, 2**self.bits - 1
        return -(2 ** (self.bits - 1)), 2 ** (self.bits - 1) - 1


@dataclass(frozen=True, slots=True)
class Node:
    """One operator: names of input tensors and constants in order, one output tensor, attributes."""

    op: Op
    name: str
    inputs: tuple[str, ...]
    output: str
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict)
    block: str = ""


@dataclass(frozen=True, slots=True)
class GraphOutput:
    """How a tensor of the integer network becomes the float result that the user sees.

    real = integer * scale[channel] (float32), then the mean over the tokens whose entry in the input
    `pool` is not 0, where that is set, then divided by its L2 norm over the last axis when `normalize` is
    set, or bounded to cap * tanh(real / cap) where `cap` is not 0. This is the only float arithmetic of a
    deployed network.

    With `integers` the user is given the integers themselves, int8 or uint8: what one network hands to
    the next, as an encoder does its keys and values.
    """

    name: str
    tensor: str
    scale: NDArray[np.float32]
    normalize: bool = False
    integers: bool = False
    pool: str = ""
    cap: float = 0.0


@dataclass(frozen=True, slots=True)
class HostTable:
    """A table look-up that the host does before the network runs: `network input = table[input]`.

    Attributes:
        source: the user's input ("input_ids").
        target: the network's input that is fed with the rows.
        table: name of the constant, (vocabulary, width) int8 (an embedding) or int32 (codes).
    """

    source: str
    target: str
    table: str


@dataclass(frozen=True, slots=True)
class QuantizedGraph:
    """A whole integer network: nodes in execution order, tensors by name, constants by name."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[GraphOutput, ...]
    nodes: tuple[Node, ...]
    tensors: Mapping[str, TensorSpec]
    constants: Mapping[str, NDArray[np.generic]]
    max_sequence: int
    host_tables: tuple[HostTable, ...] = ()
