"""The float original's ONNX file for compilers that want one size, and read only older operator sets.

LayerNormalization and Gelu become what they are defined as (ONNX 1.23, "Operators.md"), and Split one Slice
a part, by operators of opset 13; the rest is what `onnx.version_converter` makes of it.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxsim
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, helper, numpy_helper, version_converter

from archnet.errors import ArchNetError

IR_VERSION = 8

_FIX = "leave --original or --chip out: the converted network does not need this"

_NEWER = "noop_with_empty_axes"
"""Of reductions since opset 18, which the converter leaves there; where axes are given it says nothing."""


def of_one_size(model: ModelProto, sequence: int | None) -> ModelProto:
    """The model for batch 1 and so many tokens, without what is then known beforehand, and else as it is.

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
        with _silent():  # it tells on the terminal what it could not compute beforehand
            simple, same = onnxsim.simplify(model, overwrite_input_shapes=shapes, perform_optimization=False)
    except Exception as error:  # whatever its C++ part raises
        raise _unsimplified(str(error).partition("\n")[0]) from error
    if not same:
        raise _unsimplified("its result computes something else")
    fixed: ModelProto = simple
    return fixed


def _unsimplified(reason: str) -> ArchNetError:
    return ArchNetError(
        f"the float original cannot be written for one size: {reason}",
        fix=_FIX,
    )


def at_opset(model: ModelProto, opset: int) -> ModelProto:
    """The same model with an operator set of 13 to 17.

    Raises:
        ArchNetError: an operator has no older form.
    """
    plain = ModelProto()
    plain.CopyFrom(model)
    _decompose(plain.graph)
    try:
        older: ModelProto = version_converter.convert_version(plain, opset)
    except Exception as error:  # its adapters raise whatever they do
        raise ArchNetError(
            f"the float original has no form in ONNX's operator set {opset}: {_reason(error)}",
            fix=_FIX,
        ) from error
    older.ir_version = IR_VERSION
    _drop_idle(older.graph)
    return older


def _reason(error: Exception) -> str:
    """What an adapter says, without the place in its source."""
    return str(error).partition("\n")[0].rpartition("failed: ")[2]


def _constants(graph: GraphProto) -> dict[str, NDArray[Any]]:
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    tensors = [
        node for node in graph.node if node.op_type == "Constant" and node.attribute[0].name == "value"
    ]
    return values | {node.output[0]: numpy_helper.to_array(node.attribute[0].t) for node in tensors}


def _drop_idle(graph: GraphProto) -> None:
    """Drop attributes that say nothing here and that readers stumble over."""
    values = _constants(graph)
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
    values = _constants(graph)
    for node in graph.node:
        decompose = DECOMPOSITIONS.get(node.op_type)
        if decompose is None:
            nodes.append(node)
        else:
            made = _Made(node, values)
            decompose(made)
            nodes.extend(made.nodes)
            graph.initializer.extend(made.constants)
    del graph.node[:]
    graph.node.extend(nodes)


class _Made:
    """The nodes that stand for one; their names are its own with a number behind."""

    def __init__(self, node: NodeProto, values: Mapping[str, NDArray[Any]]) -> None:
        self.node, self.values = node, values
        self.attributes: Mapping[str, Any] = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        self.nodes: list[NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        name = f"{self.node.output[0]}.constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def add(self, kind: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        name = output or f"{self.node.output[0]}.step_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name


def _layer_norm(made: _Made) -> None:
    """(x - mean) / sqrt(variance + eps) * scale + bias over the last axis."""
    if made.attributes.get("axis", -1) != -1:
        raise ArchNetError("the float original has a LayerNormalization over several axes", fix=_FIX)
    x, scale, *bias = made.node.input
    axes = made.constant([-1], np.int64)
    centred = made.add("Sub", x, made.add("ReduceMean", x, axes, keepdims=1))
    variance = made.add("ReduceMean", made.add("Mul", centred, centred), axes, keepdims=1)
    deviation = made.add(
        "Sqrt", made.add("Add", variance, made.constant(made.attributes.get("epsilon", 1e-5)))
    )
    normed = made.add("Div", centred, deviation)
    scaled = made.add("Mul", normed, scale, output="" if bias else made.node.output[0])
    if bias:
        made.add("Add", scaled, bias[0], output=made.node.output[0])


def _gelu(made: _Made) -> None:
    """x * (1 + erf(x / sqrt 2)) / 2, or its form with tanh, in the order that compilers look for."""
    (x,) = made.node.input
    half, one = made.constant(0.5), made.constant(1.0)
    if made.attributes.get("approximate", b"none") == b"tanh":
        cube = made.add("Mul", made.add("Mul", x, x), x)
        inner = made.add("Add", x, made.add("Mul", cube, made.constant(0.044715)))
        curve = made.add("Tanh", made.add("Mul", inner, made.constant(np.sqrt(2 / np.pi))))
    else:
        curve = made.add("Erf", made.add("Div", x, made.constant(np.sqrt(2.0))))
    made.add("Mul", made.add("Mul", x, made.add("Add", curve, one)), half, output=made.node.output[0])


def _split(made: _Made) -> None:
    """One Slice a part."""
    x, *sizes = made.node.input
    if not sizes or sizes[0] not in made.values:
        raise ArchNetError(
            "the float original has a Split whose parts' sizes are not written down",
            fix=_FIX,
        )
    axis, begin = made.constant([made.attributes.get("axis", 0)], np.int64), 0
    for output, size in zip(made.node.output, made.values[sizes[0]].tolist(), strict=True):
        bounds = (made.constant([at], np.int64) for at in (begin, begin + size))
        made.add("Slice", x, *bounds, axis, output=output)
        begin += size


DECOMPOSITIONS: Mapping[str, Callable[[_Made], None]] = {
    "LayerNormalization": _layer_norm,
    "Gelu": _gelu,
    "Split": _split,
}


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Without what C++ prints on the standard error."""
    if sys.stderr is None:  # closed by who started the process
        yield
        return
    sys.stderr.flush()
    before = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
