"""ONNX forms of what leaves a network as integers: accumulators of the last layer, tensors handed on."""

from __future__ import annotations

from typing import cast

import numpy as np

from archnet.export.onnx_state import Lowering
from archnet.graph import GraphOutput, Node


def wide_linear(state: Lowering, node: Node) -> None:
    """A fully connected layer whose int32 accumulators are its result: MatMulInteger and an int32 Add."""
    x, weight, bias = node.inputs[:3]
    key, make = node.output, state.onnx
    constants = state.graph.constants
    values = make.constant(f"{key}/weight", np.ascontiguousarray(constants[weight].T))
    if weight in state.packings:
        state.packed[values] = state.packings[weight]
    zero = make.constant("zero_point:int8:0", np.int8(0))
    _, zero_x = state.quantization(state.spec(x))
    product = make.node(
        "MatMulInteger", [state.integer(x, "logical"), values, zero_x, zero], f"{key}/product"
    )
    offsets = make.constant(f"{key}/bias", constants[bias])
    state.define(key, make.node("Add", [product, offsets], key), "logical")


def hand_on(state: Lowering, output: GraphOutput) -> None:
    """An output of int8 or uint8 without an offset, whatever the activation is stored as."""
    make, spec = state.onnx, state.spec(output.tensor)
    scale = make.constant(f"{output.name}/scale", np.float32(cast(float, spec.scale)))
    zero = make.constant(f"zero_point:{spec.dtype}:0", np.array(0, dtype=spec.dtype))
    make.node("QuantizeLinear", [state.real(output.tensor, "logical"), scale, zero], output.name)
    make.output(output.name, spec.dtype, spec.shape)
