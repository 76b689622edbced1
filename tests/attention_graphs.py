"""Random integer networks with the other forms of attention, made of `tests.graphs.tiny_encoder`'s."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from archnet.calibration.log_sum import log_sum_tables
from archnet.config import Bits
from archnet.graph import Node, QuantizedGraph, TensorSpec
from archnet.operators import Op
from archnet.single_operators import single_operator


def with_table_softmax(graph: QuantizedGraph) -> QuantizedGraph:
    """Every Softmax as TableSoftmax."""
    nodes = [replace(n, op=Op.TABLE_SOFTMAX) if n.op is Op.SOFTMAX else n for n in graph.nodes]
    return replace(graph, nodes=tuple(nodes))


def with_log_sum_softmax(graph: QuantizedGraph) -> QuantizedGraph:
    """Every Softmax without division, from tables for its scores' scale."""
    nodes, constants = [], dict(graph.constants)
    for node in graph.nodes:
        if node.op is Op.SOFTMAX:
            scores, shares = graph.tensors[node.inputs[0]], graph.tensors[node.output]
            assert scores.scale is not None
            tables = log_sum_tables(scores.scale, shares.levels, shares.range[1])
            made = {f"{node.name}.{part}": table for part, table in tables.constants.items()}
            constants |= made
            inputs = (scores.name, *made)
            node = replace(node, op=Op.LOG_SUM_SOFTMAX, inputs=inputs, attributes=tables.attributes)
        nodes.append(node)
    used = {name for node in nodes for name in node.inputs} | {h.table for h in graph.host_tables}
    constants = {name: value for name, value in constants.items() if name in used}
    return replace(graph, nodes=tuple(nodes), constants=constants)


def with_relu_attention(graph: QuantizedGraph, *, masked: bool = True) -> QuantizedGraph:
    """Scores without mask and softmax, unsigned, and their mean over the valid keys."""
    tensors: dict[str, TensorSpec] = dict(graph.tensors)
    constants: dict[str, NDArray[Any]] = dict(graph.constants)
    nodes: list[Node] = []
    made = {node.output: node for node in graph.nodes}
    for node in graph.nodes:
        if node.op in (Op.MASK, Op.SOFTMAX):
            del tensors[node.output]
            continue
        before = made.get(node.inputs[0])
        if node.op is Op.MATMUL and before is not None and before.op is Op.SOFTMAX:
            scores = made[made[before.inputs[0]].inputs[0]].output
            tensors[scores] = replace(tensors[scores], dtype="uint8")
            sums = node.attributes["multiplier"]
            assert isinstance(sums, int)
            name = f"{node.name}.multipliers"
            counts = np.arange(1, graph.max_sequence + 1)
            constants[name] = np.clip(np.rint(6 * sums / counts), 1, 2**17).astype(np.int32)
            inputs = (scores, node.inputs[1], name, *(("attention_mask",) if masked else ()))
            node = replace(node, op=Op.MEAN_MATMUL, inputs=inputs, attributes={})
        nodes.append(node)
    used = {name for node in nodes for name in node.inputs} | {h.table for h in graph.host_tables}
    constants = {name: value for name, value in constants.items() if name in used}
    return replace(graph, nodes=tuple(nodes), tensors=tensors, constants=constants)


def with_padding(graph: QuantizedGraph) -> QuantizedGraph:
    """What is pooled, padded to the longest sequence and cropped again on its way."""
    nodes: list[Node] = []
    tensors = dict(graph.tensors)
    for node in graph.nodes:
        if node.op is Op.MEAN_POOL:
            spec = tensors[node.inputs[0]]
            padded = replace(spec, name="padded", shape=("batch", graph.max_sequence, *spec.shape[2:]))
            tensors |= {"padded": padded, "cropped": replace(spec, name="cropped")}
            nodes.append(Node(Op.ZERO_PAD, "pad", (spec.name, "attention_mask"), "padded"))
            nodes.append(Node(Op.CROP, "crop", ("padded",), "cropped"))
            node = replace(node, inputs=("cropped", *node.inputs[1:]))
        nodes.append(node)
    return replace(graph, nodes=tuple(nodes), tensors=tensors)


def neighbour_graph(bits: Bits) -> QuantizedGraph:
    """The features of the token before each."""
    return _renamed(single_operator(Op.SHIFT, "the token before", bits), "before")


def product_graph(bits: Bits) -> QuantizedGraph:
    """Two tensors of tokens multiplied element by element, as gated layers do."""
    return _renamed(single_operator(Op.MUL, "rank 3", bits), "product")


def distance_graph(bits: Bits) -> QuantizedGraph:
    """Tokens in heads times rows of the distances of others, as DeBERTa has them."""
    return _renamed(single_operator(Op.RELATIVE_MATMUL, "rank 4", bits), "distances")


def _renamed(graph: QuantizedGraph, name: str) -> QuantizedGraph:
    """A network of one operator whose result has this name."""
    (node,), (output,) = graph.nodes, graph.outputs
    tensors = {k: v for k, v in graph.tensors.items() if k != node.output}
    return replace(
        graph,
        nodes=(replace(node, name=name, output=name),),
        outputs=(replace(output, tensor=name),),
        tensors={**tensors, name: replace(graph.tensors[node.output], name=name)},
    )
