"""A small builder of ONNX graphs: names, constants, Quantize/Dequantize pairs, unused nodes removed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from archnet.graph import Dim, TensorSpec

OPSET = 20
"""At opset 21 passes of ONNX Runtime (1.31) insert QuantizeLinear nodes whose output_dtype contradicts their
zero point, and it then refuses networks with int8 activations."""

IR_VERSION = 9

ELEMENT_TYPES = {
    "int8": TensorProto.INT8,
    "uint8": TensorProto.UINT8,
    "uint16": TensorProto.UINT16,
    "int32": TensorProto.INT32,
    "int64": TensorProto.INT64,
    "float32": TensorProto.FLOAT,
    "bool": TensorProto.BOOL,
}


SATURATING = 64
"""Weights from -64 to 63 are not made unsigned: their products fit 16 bits."""


def own_weights(model: onnx.ModelProto) -> None:
    """Give each layer weights and a zero point that no other layer reads, in place.

    Where ONNX Runtime makes weights unsigned (`archnet.onnx_session`), it makes new ones under names that it
    takes from the old: it cannot open a file in which two layers share them, as simplification leaves it.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    taken: set[str] = set()
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and _made_unsigned(constants.get(node.input[0])):
            layers = readers.get(node.output[0], [])
            nodes += [_copied(model, constants, taken, node, layer, i) for i, layer in enumerate(layers)]
        else:
            nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    used = {name for node in model.graph.node for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


def _made_unsigned(tensor: TensorProto | None) -> bool:
    if tensor is None or tensor.data_type != TensorProto.INT8:
        return False
    values = numpy_helper.to_array(tensor)
    return bool(values.size) and bool(values.min() < -SATURATING or values.max() >= SATURATING)


def _copied(
    model: onnx.ModelProto,
    constants: dict[str, TensorProto],
    taken: set[str],
    node: onnx.NodeProto,
    layer: onnx.NodeProto,
    index: int,
) -> onnx.NodeProto:
    """The node for one of its readers, with constants that were not taken before."""
    own = onnx.NodeProto()
    own.CopyFrom(node)
    if index:
        own.name, own.output[0] = f"{node.name}:{index}", f"{node.output[0]}:{index}"
        for i, name in enumerate(layer.input):
            if name == node.output[0]:
                layer.input[i] = own.output[0]
    for i in (0, 2):
        name = node.input[i]
        while name in taken:
            name += "'"
        if name != node.input[i]:
            tensor = TensorProto()
            tensor.CopyFrom(constants[node.input[i]])
            tensor.name = name
            model.graph.initializer.append(tensor)
            own.input[i] = name
        taken.add(name)
    return own


@dataclass
class OnnxBuilder:
    """Nodes and constants of a graph under construction; values are referred to by name."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    inputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    outputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    constants: dict[str, NDArray[Any]] = field(default_factory=dict)
    _made: set[str] = field(default_factory=set)

    def input(self, name: str, dtype: str, shape: Sequence[Dim]) -> None:
        self.inputs.append(helper.make_tensor_value_info(name, ELEMENT_TYPES[dtype], list(shape)))

    def output(self, name: str, dtype: str, shape: Sequence[Dim]) -> None:
        self.outputs.append(helper.make_tensor_value_info(name, ELEMENT_TYPES[dtype], list(shape)))

    def constant(self, name: str, value: NDArray[Any] | np.generic) -> str:
        """Add a constant, or find the one that already has this name and the same content."""
        array = np.asarray(value)
        known = self.constants.setdefault(name, array)
        if known is not array and not (known.dtype == array.dtype and np.array_equal(known, array)):
            raise ValueError(f"two constants are named {name}")
        return name

    def integers(self, *values: int) -> str:
        """A constant int64 vector, named by its content so that equal ones are shared."""
        return self.constant("i64:" + ",".join(map(str, values)), np.array(values, dtype=np.int64))

    def node(self, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """Append a node with one output and return the output's name."""
        self._made.add(output)
        self.nodes.append(helper.make_node(op, list(inputs), [output], name=f"{output}/{op}", **attributes))
        return output

    def shape(self, dims: tuple[Dim, ...], source: TensorSpec) -> str:
        """An int64 vector of sizes, for Reshape.

        "batch" and "sequence" are read from the graph input `source`; where one is enough it is -1.
        """
        if sum(isinstance(d, str) for d in dims) < 2:
            return self.integers(*(-1 if isinstance(d, str) else d for d in dims))
        known = [-1 if d == "batch" else d for d in dims]
        label = "shape:" + ",".join(map(str, known))
        if label not in self._made:
            parts = [self.size(d, source) if isinstance(d, str) else self.integers(d) for d in known]
            self.node("Concat", parts, label, axis=0)
        return label

    def size(self, symbol: str, source: TensorSpec) -> str:
        """The run-time value of "batch" or "sequence", an int64 vector of one element."""
        label, axis = f"size:{symbol}", source.shape.index(symbol)
        if label not in self._made:
            self.node("Shape", [source.name], label, start=axis, end=axis + 1)
        return label

    def has(self, value: str) -> bool:
        """Whether a node makes this value."""
        return value in self._made

    def build(
        self, name: str, metadata: dict[str, str], *, opset: int = OPSET, ir_version: int = IR_VERSION
    ) -> onnx.ModelProto:
        """The model, without the nodes and constants that no output needs."""
        needed = {value.name for value in self.outputs}
        nodes: list[onnx.NodeProto] = []
        for node in reversed(self.nodes):
            if needed.intersection(node.output):
                nodes.append(node)
                needed.update(node.input)
        initializers = [numpy_helper.from_array(v, k) for k, v in self.constants.items() if k in needed]
        graph = helper.make_graph(nodes[::-1], name, self.inputs, self.outputs, initializers)
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", opset)],
            ir_version=ir_version,
            producer_name="archnet",
        )
        helper.set_model_props(model, metadata)
        return model
