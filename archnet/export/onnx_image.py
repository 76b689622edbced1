"""Operators of image networks -> ONNX nodes, and the weights that all layers share."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from archnet.export.onnx_state import Lowering
from archnet.graph import Node
from archnet.windows import Windows


def real_weights(state: Lowering, node: Node, stored: NDArray[Any], *, axis: int) -> list[str]:
    """The dequantized weights and bias of a node.

    Args:
        stored: the weights in the shape that the ONNX operator wants.
        axis: of the output channels in it.
    """
    x, weight, bias, _, weight_scale = node.inputs
    key, constants, scale_x = node.name, state.graph.constants, cast(float, state.spec(x).scale)
    scales = constants[weight_scale]
    width = len(scales)
    scale = state.onnx.constant(f"{key}/weight_scale", scales)
    zeros = state.onnx.constant(f"zeros:int8:{width}", np.zeros(width, np.int8))
    values = state.onnx.constant(f"{key}/weight", np.ascontiguousarray(stored))
    if weight in state.packings:
        state.packed[values] = state.packings[weight]
    w = state.onnx.node("DequantizeLinear", [values, scale, zeros], f"{key}/weight/real", axis=axis)
    bias_scale = state.onnx.constant(f"{key}/bias_scale", np.float32(scale_x) * scales.astype(np.float32))
    bias_zeros = state.onnx.constant(f"zeros:int32:{width}", np.zeros(width, np.int32))
    bias_values = state.onnx.constant(f"{key}/bias", constants[bias])
    b = state.onnx.node("DequantizeLinear", [bias_values, bias_scale, bias_zeros], f"{key}/bias/real", axis=0)
    return [w, b]


def lower_conv(state: Lowering, node: Node) -> None:
    """Conv of the dequantized operands; ReLU before the Quantize."""
    weight = state.graph.constants[node.inputs[1]]
    operands = [state.real(node.inputs[0], "logical"), *real_weights(state, node, weight, axis=0)]
    y = state.onnx.node(
        "Conv",
        operands,
        f"{node.output}/exact",
        kernel_shape=list(weight.shape[2:]),
        strides=_sizes(node, "strides"),
        pads=_sizes(node, "pads"),
        group=cast(int, node.attributes["groups"]),
    )
    if state.spec(node.output).dtype == "uint8":
        y = state.onnx.node("Relu", [y], f"{node.output}/relu")
    state.quantize(node.output, y, "logical")


def lower_max_pool(state: Lowering, node: Node) -> None:
    """MaxPool of the integers: their least one, which ONNX pads with, is never greater than another."""
    value = state.onnx.node(
        "MaxPool",
        [state.integer(node.inputs[0], "logical")],
        node.output,
        kernel_shape=_sizes(node, "kernel"),
        strides=_sizes(node, "strides"),
        pads=_sizes(node, "pads"),
    )
    state.define(node.output, value, "logical")


def lower_prepend(state: Lowering, node: Node) -> None:
    """Pad of the integers with that of 0."""
    spec = state.spec(node.output)
    rows = cast(int, node.attributes["rows"])
    pads = state.onnx.integers(0, rows, 0, 0, 0, 0)
    zero_point = np.array(state.zero_point(spec), dtype=state.stored_dtype(spec))
    zero = state.onnx.constant(f"zero_point:{zero_point.dtype}:{zero_point}", zero_point)
    value = state.onnx.node("Pad", [state.integer(node.inputs[0], "logical"), pads, zero], node.output)
    state.define(node.output, value, "logical")


def lower_windows(state: Lowering, node: Node) -> None:
    """Reshapes, Transposes, and of what moves around an edge Slices and Concats, of the integers."""
    spec, make, key = state.spec(node.output), state.onnx, node.output
    zero_point = np.array(state.zero_point(spec), dtype=state.stored_dtype(spec))
    zero = make.constant(f"zero_point:{zero_point.dtype}:{zero_point}", zero_point)
    value = state.integer(node.inputs[0], "logical")
    steps = Windows.of(node.attributes).steps(cast(int, spec.shape[-1]))
    for number, step in enumerate(steps):
        name = key if number == len(steps) - 1 else f"{key}/{number}"
        axis, count = make.integers(step.axis), make.integers(step.count)
        if step.kind == "reshape":
            value = make.node("Reshape", [value, make.integers(-1, *step.sizes)], name)
        elif step.kind == "swap":
            value = make.node("Transpose", [value], name, perm=[0, 2, 1, 3])
        elif step.kind == "crop":
            value = make.node("Slice", [value, make.integers(0), count, axis], name)
        elif step.kind == "pad":
            ends = [step.count if i == step.axis else 0 for i in range(4)]
            value = make.node("Pad", [value, make.integers(0, 0, 0, 0, *ends), zero], name)
        else:
            first = make.node("Slice", [value, make.integers(0), count, axis], f"{name}/first")
            rest = make.node("Slice", [value, count, make.integers(2**31), axis], f"{name}/rest")
            value = make.node("Concat", [rest, first], name, axis=step.axis)
    state.define(key, value, "logical")


def _sizes(node: Node, name: str) -> list[int]:
    return [int(size) for size in cast(tuple[int, ...], node.attributes[name])]
