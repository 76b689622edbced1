"""QuantizedGraph -> QDQ whose scales are 1, for compilers that compute a requantization their own way.

A compiler that joins Dequantize, operator and Quantize may multiply an accumulator by the operands' scales
first and divide by the result's afterwards: two roundings where archnet/reference.py has one, and now and
then another integer. Here every activation has the scale 1, so that an accumulator is multiplied by
multiplier / 2**16 alone: exact in float32 in whichever order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import cast

import numpy as np
from onnx import TensorProto

from archnet.calibration.log_sum import NUMERATOR, NUMERATOR_SHIFT, OCTAVES
from archnet.export.onnx_operators import LOWERINGS, Lower, transposed_real
from archnet.export.onnx_relative import lower_relative_matmul_of_reals
from archnet.export.onnx_state import Layout, Lowering
from archnet.graph import MULTIPLIER_SHIFT, Node, QuantizedGraph
from archnet.operators import Op


def in_units(graph: QuantizedGraph) -> QuantizedGraph:
    """The graph with 1 for the scale of every activation, and multiplier / 2**16 for that of weights."""
    tensors = {name: replace(spec, scale=1.0) for name, spec in graph.tensors.items()}
    inputs = tuple(replace(spec, scale=1.0) for spec in graph.inputs)
    constants = dict(graph.constants)
    for node in graph.nodes:
        if node.op in (Op.LINEAR, Op.CONV):
            _, _, _, multiplier, scale = node.inputs
            factors = constants[multiplier] / 2**MULTIPLIER_SHIFT
            constants[scale] = factors.astype(np.float32)
    return replace(graph, inputs=inputs, tensors=tensors, constants=constants)


def unit_lowerings(graph: QuantizedGraph) -> Mapping[Op, Lower]:
    """What each operator of `in_units(graph)` becomes."""
    return {
        **LOWERINGS,
        Op.MATMUL: _matmul,
        Op.RELATIVE_MATMUL: lower_relative_matmul_of_reals,
        Op.ADD: _add,
        Op.MUL: _mul,
        Op.REQUANTIZE: _requantize,
        Op.SOFTMAX: partial(_softmax, graph),
        # Not written out: OpenVINO divides integers as reals and keeps the rest.
        Op.TABLE_SOFTMAX: partial(_softmax, graph),
        Op.LOG_SUM_SOFTMAX: _log_sum_softmax,
    }


def _times(state: Lowering, value: str, factor: float, name: str) -> str:
    constant = state.onnx.constant(f"{name}/factor", np.float32(factor))
    return state.onnx.node("Mul", [value, constant], name)


def _factor(node: Node, name: str = "multiplier") -> float:
    return float(cast(int, node.attributes[name]) / 2**MULTIPLIER_SHIFT)


def _matmul(state: Lowering, node: Node) -> None:
    a, b = node.inputs
    key = node.output
    transposed = node.attributes.get("transpose_b", False)
    right = transposed_real(state, b) if transposed else state.real(b, "logical")
    product = state.onnx.node("MatMul", [state.real(a, "logical"), right], f"{key}/exact")
    state.quantize(key, _times(state, product, _factor(node), f"{key}/scaled"), "logical")


def _add(state: Lowering, node: Node) -> None:
    a, b = node.inputs
    key = node.output
    same = state.spec(a).shape == state.spec(b).shape
    layout: Layout = "matrix" if same and (state.has(a, "matrix") or state.has(b, "matrix")) else "logical"
    convolved = {node.output for node in state.graph.nodes if node.op is Op.CONV}
    parts = []
    for name, end in ((a, "a"), (b, "b")):
        real = state.real(name, layout)
        if name in convolved:
            # The greatest integer changes nothing, but keeps OpenVINO (2026.4) from adding to a
            # convolution's accumulators what should be added to its rounded result.
            most = state.onnx.constant(f"{name}/most", np.float32(state.spec(name).range[1]))
            real = state.onnx.node("Min", [real, most], f"{key}/{end}/kept")
        parts.append(_times(state, real, _factor(node, f"multiplier_{end}"), f"{key}/{end}"))
    y = state.onnx.node("Add", parts, f"{key}/exact")
    if state.spec(key).dtype == "uint8":
        y = state.onnx.node("Relu", [y], f"{key}/relu")
    state.quantize(key, y, layout)


def _mul(state: Lowering, node: Node) -> None:
    key = node.output
    product = state.onnx.node("Mul", [state.real(name, "logical") for name in node.inputs], f"{key}/exact")
    state.quantize(key, _times(state, product, _factor(node), f"{key}/scaled"), "logical")


def _requantize(state: Lowering, node: Node) -> None:
    x, key = node.inputs[0], node.output
    layout: Layout = "matrix" if state.has(x, "matrix") else "logical"
    state.quantize(key, _times(state, state.real(x, layout), _factor(node), f"{key}/scaled"), layout)


def _softmax(graph: QuantizedGraph, state: Lowering, node: Node) -> None:
    """Softmax of the scores in their own scale; the greatest integer stands for a share of 1."""
    x, key = node.inputs[0], node.output
    scores = _times(state, state.real(x, "logical"), cast(float, graph.tensors[x].scale), f"{key}/scores")
    shares = state.onnx.node("Softmax", [scores], f"{key}/exact", axis=-1)
    state.quantize(key, _times(state, shares, graph.tensors[key].range[1], f"{key}/scaled"), "logical")


def _log_sum_softmax(state: Lowering, node: Node) -> None:
    """`archnet.reference.log_sum_softmax` with factors and Quantize where it has divisions.

    OpenVINO divides integers as reals and keeps the rest. A factor of an octave is exact up to 128 keys, and
    of all sums of more keys two come out one off.
    """
    x, exponentials, logs, shares = node.inputs
    make, key, last = state.onnx, node.output, state.onnx.integers(-1)
    real = state.real(x, "logical")

    def looked_up(table: str, at: str, part: str) -> str:
        values = make.constant(f"{table}/real", state.graph.constants[table].astype(np.float32))
        index = make.node("Cast", [at], f"{key}/{part}/index", to=TensorProto.INT32)
        return make.node("Gather", [values, index], f"{key}/{part}", axis=0)

    def as_byte(value: str, part: str) -> str:
        units = make.constant("f32:1", np.float32(1.0)), make.constant("u8:0", np.uint8(0))
        byte = make.node("QuantizeLinear", [value, *units], f"{key}/{part}")
        return make.node("DequantizeLinear", [byte, *units], f"{key}/{part}/real")

    top = make.node("ReduceMax", [real, last], f"{key}/top", keepdims=1)
    below = make.node("Sub", [top, real], f"{key}/below")
    total = make.node("ReduceSum", [looked_up(exponentials, below, "weights"), last], f"{key}/total")
    factors = NUMERATOR * 0.5 ** (NUMERATOR_SHIFT + np.arange(OCTAVES))
    octaves = make.constant("f32:octaves", factors.astype(np.float32))
    octaves = as_byte(make.node("Mul", [total, octaves], f"{key}/scaled octaves"), "octaves")
    summed = make.node("ReduceSum", [looked_up(logs, octaves, "logs"), last], f"{key}/summed")
    log = as_byte(_times(state, summed, _factor(node), f"{key}/scaled"), "log")
    steps = _times(state, below, 2.0 ** cast(int, node.attributes["shift"]), f"{key}/steps")
    exponents = make.node("Add", [steps, log], f"{key}/sum")
    exponents = make.node("Min", [exponents, make.constant("f32:255", np.float32(255.0))], f"{key}/exponents")
    state.quantize(key, looked_up(shares, exponents, "shares"), "logical")
