"""QuantizedGraph -> ONNX in integer operators, for compilers that run Quantize and Dequantize as they stand.

A compiler that does not fuse Dequantize, operator and Quantize multiplies reals, and rounds where
archnet/reference.py does not. Here products are MatMulInteger and ConvInteger, sums and the softmax are
int32, and the one float operation is a requantization: an int32 times a multiplier / 2**16. Wherever its
result does not saturate that product has at most 24 bits, so float32 holds it exactly and QuantizeLinear
rounds it once, half to even.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from archnet.export.onnx_attention import lower_table_softmax
from archnet.export.onnx_handover import wide_linear
from archnet.export.onnx_model import ELEMENT_TYPES
from archnet.export.onnx_operators import LOWERINGS, Lower
from archnet.export.onnx_state import Lowering
from archnet.graph import MULTIPLIER_SHIFT, Node
from archnet.operators import Op


def _requantized(state: Lowering, node: Node, value: str, factor: NDArray[Any]) -> None:
    """Define the node's output: QuantizeLinear(float32(int32 value) * factor) with scale 1, limited."""
    make, key, spec = state.onnx, node.output, state.spec(node.output)
    real = make.node("Cast", [value], f"{key}/float", to=ELEMENT_TYPES["float32"])
    name = make.constant(f"{key}/factor", factor.astype(np.float32))
    scaled = make.node("Mul", [real, name], f"{key}/scaled")
    low, high = spec.range
    info = np.iinfo(spec.dtype)
    if (low, high) != (info.min, info.max):
        # On the reals: IREE (3.13) compares uint8 as if it were signed.
        limits = [make.constant(f"f32:{v}", np.float32(v)) for v in (low, high)]
        scaled = make.node("Clip", [scaled, *limits], f"{key}/limited")
    one = make.constant("scale:1", np.float32(1.0))
    result = make.node("QuantizeLinear", [scaled, one, state.quantization(spec)[1]], key)
    state.define(key, result, "logical")


def _factor(node: Node, name: str = "multiplier") -> NDArray[Any]:
    return np.asarray(cast(int, node.attributes[name]) / 2**MULTIPLIER_SHIFT)


def _zeros(state: Lowering, *names: str) -> list[str]:
    return [state.quantization(state.spec(name))[1] for name in names]


def _linear(state: Lowering, node: Node) -> None:
    """MatMulInteger with the transposed weights, and an int32 Add."""
    if state.spec(node.output).dtype == "int32":
        wide_linear(state, node)
        return
    x, weight, bias, multiplier = node.inputs[:4]
    constants, make, key = state.graph.constants, state.onnx, node.output
    values = make.constant(f"{key}/weight", np.ascontiguousarray(constants[weight].T))
    zero = make.constant("zero_point:int8:0", np.int8(0))
    operands = [state.integer(x, "logical"), values, *_zeros(state, x), zero]
    product = make.node("MatMulInteger", operands, f"{key}/product")
    total = make.node("Add", [product, make.constant(f"{key}/bias", constants[bias])], f"{key}/int32")
    _requantized(state, node, total, constants[multiplier] / 2**MULTIPLIER_SHIFT)


def _conv(state: Lowering, node: Node) -> None:
    """ConvInteger, and an int32 Add of a bias a channel."""
    x, weight, bias, multiplier = node.inputs[:4]
    constants, make, key = state.graph.constants, state.onnx, node.output
    values = make.constant(f"{key}/weight", np.ascontiguousarray(constants[weight]))
    zero = make.constant("zero_point:int8:0", np.int8(0))
    sizes = {name: list(cast(tuple[int, ...], node.attributes[name])) for name in ("strides", "pads")}
    product = make.node(
        "ConvInteger",
        [state.integer(x, "logical"), values, *_zeros(state, x), zero],
        f"{key}/product",
        kernel_shape=list(constants[weight].shape[2:]),
        group=cast(int, node.attributes["groups"]),
        **sizes,
    )
    column = (-1, 1, 1)
    offsets = make.constant(f"{key}/bias", constants[bias].reshape(column))
    total = make.node("Add", [product, offsets], f"{key}/int32")
    _requantized(state, node, total, (constants[multiplier] / 2**MULTIPLIER_SHIFT).reshape(column))


def _matmul(state: Lowering, node: Node) -> None:
    a, b = node.inputs
    key, right = node.output, state.integer(b, "logical")
    if node.attributes.get("transpose_b", False):
        rank = len(state.spec(b).shape)
        perm = [*range(rank - 2), rank - 1, rank - 2]
        right = state.onnx.node("Transpose", [right], f"{key}/swapped", perm=perm)
    operands = [state.integer(a, "logical"), right, *_zeros(state, a, b)]
    product = state.onnx.node("MatMulInteger", operands, f"{key}/product")
    _requantized(state, node, product, _factor(node))


def _wide(state: Lowering, node: Node, name: str, multiplier: str) -> str:
    """An activation as int32, times a multiplier."""
    make, key = state.onnx, f"{node.output}/{multiplier}"
    wide = make.node("Cast", [state.integer(name, "logical")], f"{key}/wide", to=ELEMENT_TYPES["int32"])
    factor = cast(int, node.attributes[multiplier])
    return make.node("Mul", [wide, make.constant(f"i32:{factor}", np.int32(factor))], f"{key}/product")


def _add(state: Lowering, node: Node) -> None:
    a, b = node.inputs
    parts = [_wide(state, node, a, "multiplier_a"), _wide(state, node, b, "multiplier_b")]
    total = state.onnx.node("Add", parts, f"{node.output}/int32")
    _requantized(state, node, total, np.asarray(1 / 2**MULTIPLIER_SHIFT))


def _mul(state: Lowering, node: Node) -> None:
    make, key = state.onnx, node.output
    wide = [
        make.node("Cast", [state.integer(name, "logical")], f"{key}/{end}", to=ELEMENT_TYPES["int32"])
        for name, end in zip(node.inputs, ("a", "b"), strict=True)
    ]
    _requantized(state, node, make.node("Mul", wide, f"{key}/product"), _factor(node))


def _requantize(state: Lowering, node: Node) -> None:
    value = _wide(state, node, node.inputs[0], "multiplier")
    _requantized(state, node, value, np.asarray(1 / 2**MULTIPLIER_SHIFT))


def _mask(state: Lowering, node: Node) -> None:
    """Min of the integers with the greatest or the least one."""
    x, mask = node.inputs
    make, key, spec = state.onnx, node.output, state.spec(node.output)
    low, high = (
        make.constant(f"{key}/{end}", np.array(v, dtype=spec.dtype))
        for end, v in zip(("low", "high"), spec.range, strict=True)
    )
    axes = make.integers(*range(1, len(spec.shape) - 1))
    seen = make.node("Cast", [mask], f"{key}/seen", to=ELEMENT_TYPES["bool"])
    seen = make.node("Unsqueeze", [seen, axes], f"{key}/keys")
    limit = make.node("Where", [seen, high, low], f"{key}/limit")
    state.define(key, make.node("Min", [state.integer(x, "logical"), limit], key), "logical")


def _reshape(state: Lowering, node: Node) -> None:
    state.values[node.output, "contiguous", "integer"] = state.integer(node.inputs[0], "contiguous")


def _transpose(state: Lowering, node: Node) -> None:
    perm = list(cast(tuple[int, ...], node.attributes["perm"]))
    value = state.onnx.node("Transpose", [state.integer(node.inputs[0], "logical")], node.output, perm=perm)
    state.define(node.output, value, "logical")


def _max_pool(state: Lowering, node: Node) -> None:
    """MaxPool of the integers as reals, which is exact: IREE (3.13) compares uint8 as if it were signed."""
    make, key, spec = state.onnx, node.output, state.spec(node.output)
    real = make.node(
        "Cast", [state.integer(node.inputs[0], "logical")], f"{key}/cast", to=ELEMENT_TYPES["float32"]
    )
    kernel, strides, pads = (
        list(cast(tuple[int, ...], node.attributes[n])) for n in ("kernel", "strides", "pads")
    )
    most = make.node("MaxPool", [real], f"{key}/most", kernel_shape=kernel, strides=strides, pads=pads)
    state.define(key, make.node("Cast", [most], key, to=ELEMENT_TYPES[spec.dtype]), "logical")


INTEGER_LOWERINGS: Mapping[Op, Lower] = {
    **LOWERINGS,
    Op.LINEAR: _linear,
    Op.CONV: _conv,
    Op.MATMUL: _matmul,
    Op.ADD: _add,
    Op.MUL: _mul,
    Op.REQUANTIZE: _requantize,
    Op.MASK: _mask,
    Op.MAX_POOL: _max_pool,
    # Op.SOFTMAX has the same table and the same quotient.
    Op.SOFTMAX: lower_table_softmax,
    Op.RESHAPE: _reshape,
    Op.TRANSPOSE: _transpose,
}
"""What each operator becomes; those of `LOWERINGS` that are not listed again are integers already."""
