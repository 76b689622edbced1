"""The float original's ONNX file for compilers that want one size, and read only older operator sets.

LayerNormalization and Gelu become what they are defined as (ONNX 1.23, "Operators.md"), by operators of
opset 13; the rest is what `onnx.version_converter` makes of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import onnxsim
from onnx import GraphProto, ModelProto, NodeProto, helper, numpy_helper, version_converter

from archnet.errors import ArchNetError

DECOMPOSED_OPSET = 17
"""Until which a reduction's axes are an attribute, as the decompositions have them."""

IR_VERSION = 8

_NEWER = "noop_with_empty_axes"
"""Of reductions since opset 18, which the converter leaves there; where axes are given it says nothing."""


def of_one_size(model: ModelProto, sequence: int | None) -> ModelProto:
    """The model for batch 1 and so many tokens, without what is then known beforehand.

    Args:
        model: inputs "input_ids" and "attention_mask", or "pixel_values", with a free batch.
        sequence: None for models that read no tokens.

    Raises:
        ArchNetError: it cannot be simplified.
    """
    shapes = {
        value.name: [1, sequence]
        if sequence is not None
        else [1, *(d.dim_value for d in value.type.tensor_type.shape.dim[1:])]
        for value in model.graph.input
    }
    try:
        simple, same = onnxsim.simplify(model, overwrite_input_shapes=shapes)
    except Exception as error:  # whatever its C++ part raises
        raise _unsimplified(str(error).partition("\n")[0]) from error
    if not same:
        raise _unsimplified("its result computes something else")
    fixed: ModelProto = simple
    return fixed


def _unsimplified(reason: str) -> ArchNetError:
    return ArchNetError(
        f"the float original cannot be written for one size: {reason}",
        fix="compile without --original; the converted network does not need this",
    )


def at_opset(model: ModelProto, opset: int) -> ModelProto:
    """The same model with an older operator set.

    Raises:
        ArchNetError: an operator has no older form.
    """
    plain = ModelProto()
    plain.CopyFrom(model)
    if opset < DECOMPOSED_OPSET:
        _decompose(plain.graph)
    try:
        older: ModelProto = version_converter.convert_version(plain, opset)
    except Exception as error:  # its adapters raise whatever they do
        raise ArchNetError(
            f"the float original has no form in ONNX's operator set {opset}: {str(error).splitlines()[0]}",
            fix="compile without --original; the converted network does not need this",
        ) from error
    older.ir_version = IR_VERSION
    _drop_idle(older.graph)
    return older


def _drop_idle(graph: GraphProto) -> None:
    """Drop attributes that say nothing here and that readers stumble over."""
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    constants = [node for node in graph.node if node.op_type == "Constant"]
    values |= {n.output[0]: numpy_helper.to_array(helper.get_node_attr_value(n, "value")) for n in constants}
    for node in graph.node:
        idle = {_NEWER}
        if node.op_type == "Reshape" and node.input[1] in values and values[node.input[1]].all():
            idle.add("allowzero")
        kept = [a for a in node.attribute if a.name not in idle]
        del node.attribute[:]
        node.attribute.extend(kept)


def _decompose(graph: GraphProto) -> None:
    """Put what has no form before opset 17 as operators that have, in place."""
    nodes: list[NodeProto] = []
    for node in graph.node:
        decompose = DECOMPOSITIONS.get(node.op_type)
        if decompose is None:
            nodes.append(node)
        else:
            made = _Made(node)
            decompose(made)
            nodes.extend(made.nodes)
            graph.initializer.extend(made.constants)
    del graph.node[:]
    graph.node.extend(nodes)


class _Made:
    """The nodes that stand for one; their names are its own with a number behind."""

    def __init__(self, node: NodeProto) -> None:
        self.node = node
        self.attributes: Mapping[str, Any] = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        self.nodes: list[NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        name = f"{self.node.output[0]}.constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def add(self, kind: str, *inputs: str, last: bool = False, **attributes: Any) -> str:
        name = self.node.output[0] if last else f"{self.node.output[0]}.step_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name


def _layer_norm(made: _Made) -> None:
    """(x - mean) / sqrt(variance + eps) * scale + bias over the last axis."""
    if made.attributes.get("axis", -1) != -1:
        raise ArchNetError(
            "the float original has a LayerNormalization over several axes", fix="compile without --original"
        )
    x, scale, *bias = made.node.input
    axes = made.constant([-1], np.int64)
    centred = made.add("Sub", x, made.add("ReduceMean", x, axes, keepdims=1))
    variance = made.add("ReduceMean", made.add("Mul", centred, centred), axes, keepdims=1)
    deviation = made.add(
        "Sqrt", made.add("Add", variance, made.constant(made.attributes.get("epsilon", 1e-5)))
    )
    normed = made.add("Div", centred, deviation)
    scaled = made.add("Mul", normed, scale, last=not bias)
    if bias:
        made.add("Add", scaled, bias[0], last=True)


def _gelu(made: _Made) -> None:
    """x / 2 * (1 + erf(x / sqrt 2)), or its form with tanh."""
    (x,) = made.node.input
    half, one = made.constant(0.5), made.constant(1.0)
    if made.attributes.get("approximate", b"none") == b"tanh":
        cube = made.add("Mul", made.add("Mul", x, x), x)
        inner = made.add("Add", x, made.add("Mul", cube, made.constant(0.044715)))
        curve = made.add("Tanh", made.add("Mul", inner, made.constant(np.sqrt(2 / np.pi))))
    else:
        curve = made.add("Erf", made.add("Div", x, made.constant(np.sqrt(2.0))))
    made.add("Mul", made.add("Mul", x, half), made.add("Add", curve, one), last=True)


DECOMPOSITIONS: Mapping[str, Callable[[_Made], None]] = {"LayerNormalization": _layer_norm, "Gelu": _gelu}
