"""Operators between a token and others at a distance -> TFLite."""

from __future__ import annotations

from archnet.export.static_relative import distance_moves, distance_rows, neighbour_pads
from archnet.export.tflite_model import Quantization
from archnet.export.tflite_state import TfliteLowering
from archnet.graph import Node


def lower_shift(state: TfliteLowering, node: Node) -> None:
    """PAD at one end, which fills with the zero point, and a SLICE of as many tokens at the other."""
    x = node.inputs[0]
    front, back = neighbour_pads(state.graph, node)
    quantization = state.quantizations[node.output] = state.quantization(x)
    one, tokens, width = size = state.shape(x)
    pads = state.integers([[0, 0], [front, back], [0, 0]])
    longer = state.file.tensor(
        f"{node.output}/longer", [one, tokens + front + back, width], "int8", quantization
    )
    state.file.node("PAD", [state.get(x), pads], longer)
    inputs = [longer, state.integers([0, back, 0]), state.integers(size)]
    state.pass_on(node.output, state.file.node("SLICE", inputs, state.new(node.output)))


def lower_relative_matmul(state: TfliteLowering, node: Node) -> None:
    """BATCH_MATMUL with a constant, then RESHAPE and SLICE (see `archnet.export.static_relative`)."""
    x, table, table_scale = node.inputs
    constants, file, quantization = state.graph.constants, state.file, state.quantization(node.output)
    heads, tokens = state.shape(x)[1:3]
    rows = distance_rows(constants[table], tokens)
    right = file.constant(f"{node.name}/rows", rows, Quantization(float(constants[table_scale][0])))
    shape = [1, heads, tokens, 2 * tokens]
    value = file.tensor(f"{node.output}/products", shape, "int8", quantization)
    file.node("BATCH_MATMUL", [state.get(x), right], value, adjX=False, adjY=True)
    for move in distance_moves(heads, tokens):
        size = state.integers(move.shape)
        out = file.tensor(f"{node.output}/{move.part}", move.shape, "int8", quantization)
        if move.starts is None:
            value = file.node("RESHAPE", [value, size], out)
        else:
            value = file.node("SLICE", [value, state.integers(move.starts), size], out)
    state.define(node.output, value)
