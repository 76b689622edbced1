"""Attention's products, mask and softmax as int8 operators of TFLite."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

from archnet.calibration.affine import matching_weight_scale
from archnet.calibration.log_sum import LOG_UNIT, NUMERATOR, NUMERATOR_SHIFT, OCTAVE_ONE, OCTAVES, SUM_ONE
from archnet.export.host_split import MaskInput
from archnet.export.tflite_model import Quantization
from archnet.export.tflite_state import SHARE_LEVELS, TfliteLowering, no_form
from archnet.graph import Node

IN_WEIGHTS = 64
"""The integer that stands for 1 in sums. Fixed-point kernels round twice, first with as many binary places as
the factor has zeros in front: with weights of 1 and few of those, one sum in ten or more would be one off."""


def lower_matmul(state: TfliteLowering, node: Node) -> None:
    """BATCH_MATMUL."""
    out = state.new(node.output)
    adjoint = bool(node.attributes.get("transpose_b", False))
    inputs = [state.get(name) for name in node.inputs]
    state.file.node("BATCH_MATMUL", inputs, out, adjX=False, adjY=adjoint)
    state.define(node.output, out)


def lower_mask(state: TfliteLowering, node: Node) -> None:
    """MINIMUM with the mask as limits."""
    x, mask = node.inputs
    quantization = state.quantization(x)
    state.quantizations[node.output] = quantization
    limit = _limit(state, mask, quantization)
    out = state.new(node.output)
    state.file.node("MINIMUM", [state.get(x), limit], out)
    state.define(node.output, out)


def lower_softmax(state: TfliteLowering, node: Node) -> None:
    """SOFTMAX."""
    spec = state.spec(node.output)
    if spec.bits != 8:
        raise no_form(node, f"{spec.bits} bits", "convert with activations of 8 bits, or --attention logsum")
    state.quantizations[node.output] = Quantization(1.0 / SHARE_LEVELS, -128)
    out = state.new(node.output)
    state.file.node("SOFTMAX", [state.get(node.inputs[0])], out, beta=1.0)
    state.pass_on(node.output, out)


def lower_log_sum_softmax(state: TfliteLowering, node: Node) -> None:
    """`archnet.reference.log_sum_softmax`: its tables are EXP and LOG, its sums fully connected layers.

    Differences are stored as 127 - below, and bytes of tables and sums as -128 + byte.
    """
    name, label, file = node.inputs[0], node.output, state.file
    scale, shape = cast(float, state.quantization(name).scale), state.shape(name)
    step = float(np.float32(scale / 2 ** cast(int, node.attributes["shift"])))
    scores = state.get(name)
    greatest = _greatest(state, scores, state.quantization(name), shape, label)
    below = file.tensor(f"{label}/below", shape, "int8", Quantization(scale, 127))
    file.node("SUB", [scores, greatest], below)
    powers = file.tensor(f"{label}/exponentials", shape, "int8", Quantization(1 / SUM_ONE, -128))
    file.node("EXP", [below], powers)
    log = _log(state, node, powers, step, shape)
    exponents = file.tensor(f"{label}/exponents", shape, "int8", Quantization(step, 127))
    file.node("SUB", [below, log], exponents)
    state.pass_on(node.output, file.node("EXP", [exponents], state.new(node.output)))


def _limit(state: TfliteLowering, mask: str, quantization: Quantization) -> int:
    """The mask as limits in the scores' quantization, which MINIMUM wants alike.

    The input has the greatest of the scales, so a Quantize to a smaller one saturates: 127 and -128 stay.
    """
    key = mask, cast(float, quantization.scale), quantization.zero_point
    if key not in state.limits:
        given = MaskInput(mask, "limit")
        source, shape = state.values[given.name, "logical"], given.shape(state.graph, state.sequence)
        out = state.file.tensor(f"{mask}/limit:{len(state.limits)}", list(shape), "int8", quantization)
        state.limits[key] = state.file.node("QUANTIZE", [source], out)
    return state.limits[key]


def _greatest(
    state: TfliteLowering, scores: int, quantization: Quantization, shape: Sequence[int], label: str
) -> int:
    """The greatest of each row, by halves: Vela's REDUCE_MAX takes several times the cycles of MAXIMUM.

    Halves of an odd number overlap, which a maximum does not mind.
    """
    file, value, (*lead, keys) = state.file, scores, shape
    while keys > 1:
        half = (keys + 1) // 2
        parts = []
        for begin in (0, keys - half):
            part = file.tensor(f"{label}/{keys}:{begin}", [*lead, half], "int8", quantization)
            starts, size = state.integers([*(0 for _ in lead), begin]), state.integers([*lead, half])
            parts.append(file.node("SLICE", [value, starts, size], part))
        out = file.tensor(f"{label}/greatest:{half}", [*lead, half], "int8", quantization)
        value, keys = file.node("MAXIMUM", parts, out), half
    return value


def _log(state: TfliteLowering, node: Node, powers: int, step: float, shape: Sequence[int]) -> int:
    """The logarithm of the sum of exponentials, in steps of the shares' exponents."""
    file, label, (*lead, keys) = state.file, node.output, shape
    # As many octaves as the greatest sum has; those beyond it count 0.
    octaves = min(OCTAVES, max(1, math.ceil(math.log2(keys))))
    unit = np.float32(NUMERATOR / 2**NUMERATOR_SHIFT * SUM_ONE / OCTAVE_ONE)
    rows = unit * np.float32(0.5) ** np.arange(octaves, dtype=np.float32)
    sums = file.tensor(f"{label}/octaves", [*lead, octaves], "int8", Quantization(1 / OCTAVE_ONE, -128))
    _sums(state, powers, keys, rows, sums)
    logs = file.tensor(f"{label}/logs", [*lead, octaves], "int8", Quantization(LOG_UNIT, -128))
    file.node("LOG", [sums], logs)
    multiplier = cast(int, node.attributes["multiplier"])
    row = np.atleast_1d(matching_weight_scale(multiplier, LOG_UNIT, step))
    log = file.tensor(f"{label}/log", [*lead, 1], "int8", Quantization(step, -128))
    _sums(state, logs, octaves, row, log)
    return log


def _sums(state: TfliteLowering, x: int, width: int, factors: NDArray[np.float32], out: int) -> None:
    """A fully connected layer that adds up and multiplies by factors, one an output, without bias."""
    file, scales = state.file, factors / np.float32(IN_WEIGHTS)
    label = file.tensors[out].name
    integers = np.full((len(scales), width), IN_WEIGHTS, np.int8)
    w = file.constant(f"{label}/weight", integers, Quantization(scales))
    scale_x = np.float32(file.tensors[x].quantization.scale[0])
    b = file.constant(f"{label}/bias", np.zeros(len(scales), np.int32), Quantization(scale_x * scales))
    file.node("FULLY_CONNECTED", [x, w, b], out, keepNumDims=True)
