"""Operators of image networks -> TFLite, channels last."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from archnet.export.tflite_model import Quantization
from archnet.export.tflite_state import INT8, TfliteLowering
from archnet.graph import Node
from archnet.windows import Step, Windows

SAME, VALID = 0, 1
"""TFLite's Padding."""

DEPTHWISE_STRIDE = 3
"""The greatest that Vela 5.2 takes for Ethos-U55 and U65 (its --supported-ops-report)."""


def lower_conv(state: TfliteLowering, node: Node) -> None:
    """CONV_2D, or DEPTHWISE_CONV_2D where each channel is read by itself.

    Other groups become a dense convolution whose further weights are 0: the same integers. So do channels
    by themselves in steps of more than DEPTHWISE_STRIDE.
    """
    x, weight, bias, _, weight_scale = node.inputs
    file, constants = state.file, state.graph.constants
    channels, groups = state.shape(x)[1], cast(int, node.attributes["groups"])
    stored, kernel = constants[weight], constants[weight].shape[2:]
    scales = constants[weight_scale].astype(np.float32)
    bias_scale = np.float32(cast(float, state.quantization(x).scale)) * scales
    down, right = strides = _strides(state, node, kernel)
    source, padding = _padded(state, node, kernel, strides, None)
    options: dict[str, int] = {
        "padding": padding, "strideH": down, "strideW": right, "dilationHFactor": 1, "dilationWFactor": 1,
    }  # fmt: skip
    b = file.constant(f"{node.name}/bias", constants[bias], Quantization(bias_scale))
    out = state.new(node.output, "last")
    if groups == channels and groups > 1 and max(strides) <= DEPTHWISE_STRIDE:
        values = stored[:, 0].transpose(1, 2, 0)[None]  # (N, 1, KH, KW) -> (1, KH, KW, N)
        w = file.constant(f"{node.name}/weight", values, Quantization(scales, axis=3))
        options["depthMultiplier"] = len(stored) // channels
        file.node("DEPTHWISE_CONV_2D", [source, w, b], out, **options)
    else:
        values = dense_weights(stored, groups).transpose(0, 2, 3, 1)
        w = file.constant(f"{node.name}/weight", values, Quantization(scales))
        file.node("CONV_2D", [source, w, b], out, **options)
    state.define(node.output, out, "last")


def dense_weights(weight: NDArray[Any], groups: int) -> NDArray[Any]:
    """(N, C / groups, KH, KW) -> (N, C, KH, KW), 0 where output channel n does not read."""
    if groups == 1:
        return weight
    rows, depth = weight.shape[0] // groups, weight.shape[1]
    dense = np.zeros((weight.shape[0], depth * groups, *weight.shape[2:]), weight.dtype)
    for g in range(groups):
        dense[g * rows : (g + 1) * rows, g * depth : (g + 1) * depth] = weight[g * rows : (g + 1) * rows]
    return dense


def lower_max_pool(state: TfliteLowering, node: Node) -> None:
    """MAX_POOL_2D; padding is with the least integer, which is never greater than another."""
    state.quantizations[node.output] = state.quantization(node.inputs[0])
    height, width = _sizes(node, "kernel")
    down, right = strides = _strides(state, node, (height, width))
    source, padding = _padded(state, node, (height, width), strides, INT8[0])
    out = state.new(node.output, "last")
    state.file.node(
        "MAX_POOL_2D", [source], out,
        padding=padding, strideH=down, strideW=right, filterHeight=height, filterWidth=width,
    )  # fmt: skip
    state.pass_on(node.output, out, "last")


def lower_windows(state: TfliteLowering, node: Node) -> None:
    """RESHAPE and TRANSPOSE; SLICE and CONCATENATION of what moves around an edge; PAD fills with 0."""
    x = node.inputs[0]
    state.quantizations[node.output] = state.quantization(x)
    value, sizes = state.get(x), state.shape(x)
    steps = Windows.of(node.attributes).steps(sizes[-1])
    for number, step in enumerate(steps):
        name = node.output if number == len(steps) - 1 else f"{node.output}/{number}"
        value, sizes = _stepped(state, x, step, value, sizes, name)
    state.pass_on(node.output, value)


def _stepped(
    state: TfliteLowering, x: str, step: Step, value: int, sizes: list[int], name: str
) -> tuple[int, list[int]]:
    """One step of windows: its tensor and sizes, in the integers of an activation."""
    file, quantization, axis = state.file, state.quantization(x), step.axis

    def made(label: str, kind: str, inputs: list[int], after: list[int], **options: int) -> int:
        return file.node(kind, inputs, file.tensor(label, after, "int8", quantization), **options)

    def part(label: str, first: int, last: int) -> int:
        """The elements of the axis from one place to another."""
        begin = [first if i == axis else 0 for i in range(len(sizes))]
        size = [last - first if i == axis else n for i, n in enumerate(sizes)]
        return made(label, "SLICE", [value, state.integers(begin), state.integers(size)], size)

    after = step.shape(sizes)
    if step.kind == "crop":
        return part(name, 0, step.count), after
    if step.kind == "roll":
        ends = [part(f"{name}/rest", step.count, sizes[axis]), part(f"{name}/first", 0, step.count)]
        return made(name, "CONCATENATION", ends, after, axis=axis), after
    if step.kind == "reshape":
        return made(name, "RESHAPE", [value, state.integers(after)], after), after
    if step.kind == "swap":
        return made(name, "TRANSPOSE", [value, state.integers([0, 2, 1, 3])], after), after
    pads = [[0, step.count if i == axis else 0] for i in range(len(sizes))]
    return made(name, "PAD", [value, state.integers(pads)], after), after


def _strides(state: TfliteLowering, node: Node, kernel: tuple[int, ...]) -> list[int]:
    """Down and right; 1 where a window covers the whole map, so that there is no step to take."""
    top, left, bottom, right = _sizes(node, "pads")
    height, width = state.shape(node.inputs[0])[2:]
    whole = (height + top + bottom == kernel[0], width + left + right == kernel[1])
    return [1 if all_of_it else s for all_of_it, s in zip(whole, _sizes(node, "strides"), strict=True)]


def _padded(
    state: TfliteLowering, node: Node, kernel: tuple[int, ...], strides: list[int], fill: int | None
) -> tuple[int, int]:
    """The map that a window slides over and TFLite's padding: SAME and VALID, else PAD before VALID.

    Args:
        fill: integer of the padding; None for the zero point.
    """
    x = node.inputs[0]
    source, sizes = state.get(x, "last"), state.shape(x)[2:]
    top, left, bottom, right = _sizes(node, "pads")
    if not any((top, left, bottom, right)):
        return source, VALID
    after = state.shape(node.output)[2:]
    same = []
    for i in range(2):
        total = max((after[i] - 1) * strides[i] + kernel[i] - sizes[i], 0)
        same.append(after[i] == -(-sizes[i] // strides[i]) and total // 2 == (top, left)[i])
    if all(same):
        return source, SAME
    pads = state.integers([[0, 0], [top, bottom], [left, right], [0, 0]])
    shape = [1, sizes[0] + top + bottom, sizes[1] + left + right, state.shape(x)[1]]
    out = state.file.tensor(f"{node.output}/padded", shape, "int8", state.quantization(x))
    if fill is None:
        return state.file.node("PAD", [source, pads], out), VALID
    value = state.file.constant(f"{node.output}/fill", np.array(fill, np.int8), state.quantization(x))
    return state.file.node("PADV2", [source, pads, value], out), VALID


def _sizes(node: Node, name: str) -> list[int]:
    return [int(size) for size in cast(tuple[int, ...], node.attributes[name])]
