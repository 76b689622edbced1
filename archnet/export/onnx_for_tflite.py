"""The float original's ONNX file in the form that the tools on its way to an Ethos-U do best with.

PyTorch's export writes a layer over tokens as a MatMul with constants and an Add. onnx2tf makes of that a
product of two activations, which Vela leaves to the CPU where its weights have a scale a channel; of a Gemm
it makes a fully connected layer. And Vela 5.2 crashes for U85 on what is computed of ids in int64.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper


def for_tflite(model: ModelProto) -> ModelProto:
    """The same model with layers as Gemm, and with int32 inputs where nothing in it asks for int64.

    Args:
        model: of sizes that are all known; it stays as it is.
    """
    return with_int32_inputs(with_gemm_layers(model))


def with_int32_inputs(model: ModelProto) -> ModelProto:
    """The same model with inputs of int32 for int64; itself where an operator takes no others."""
    made = ModelProto()
    made.CopyFrom(model)
    for value in made.graph.input:
        if value.type.tensor_type.elem_type == TensorProto.INT64:
            value.type.tensor_type.elem_type = TensorProto.INT32
    del made.graph.value_info[:]  # types that may be others now
    try:
        onnx.checker.check_model(made, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
        return model
    return made


def with_gemm_layers(model: ModelProto) -> ModelProto:
    """The same model with a Gemm between two Reshapes for each product with a constant matrix.

    A constant vector that is added to the product and to nothing else becomes the Gemm's.

    Args:
        model: of sizes that are all known.
    """
    made: ModelProto = onnx.shape_inference.infer_shapes(model)
    graph = made.graph
    constants = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    shapes = {
        value.name: [d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*graph.value_info, *graph.output)
    }
    sums = _sums_of_one(graph)
    nodes: list[NodeProto] = []
    joined: set[str] = set()
    for node in graph.node:
        shape = constants.get(node.input[1], ()) if node.op_type == "MatMul" else ()
        if len(shape) == 2:
            add = sums.get(node.output[0])
            bias = "" if add is None else _other(add, node.output[0])
            if add is None or constants.get(bias) != shape[1:]:
                bias, output = "", node.output[0]
            else:
                output = add.output[0]
                joined.add(output)
            nodes += _gemm(graph, node, bias, output, rows=[-1, shape[0]], shape=shapes[output])
        elif node.output[0] not in joined:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    return made


def _sums_of_one(graph: GraphProto) -> Mapping[str, NodeProto]:
    """The Add that alone reads a value, by the value's name."""
    readers = Counter(name for node in graph.node for name in node.input)
    readers.update(value.name for value in graph.output)
    adds = [node for node in graph.node if node.op_type == "Add"]
    return {name: node for node in adds for name in node.input if readers[name] == 1}


def _other(add: NodeProto, name: str) -> str:
    """What an Add adds to a value."""
    first, second = map(str, add.input)
    return second if first == name else first


def _gemm(
    graph: GraphProto, node: NodeProto, bias: str, output: str, *, rows: list[int], shape: list[int]
) -> list[NodeProto]:
    """The nodes that stand for a product and its sum; their constants go to the graph."""
    sizes = {f"{output}.rows": rows, f"{output}.shape": shape}
    graph.initializer.extend(
        numpy_helper.from_array(np.array(size, np.int64), name) for name, size in sizes.items()
    )
    flat, product = f"{output}.flat", f"{output}.product"
    return [
        helper.make_node("Reshape", [node.input[0], f"{output}.rows"], [flat]),
        helper.make_node("Gemm", [flat, node.input[1], *([bias] if bias else [])], [product]),
        helper.make_node("Reshape", [product, f"{output}.shape"], [output]),
    ]
