"""Operators between a token and others at a distance -> TFLite."""

from __future__ import annotations

from archnet.export.static_relative import distance_moves, distance_rows, neighbour_pads
from archnet.export.tflite_model import Quantization
from archnet.export.tflite_state import TfliteLowering
from archnet.graph import Node

NO_BIAS = -1
"""An operator's input that is left out."""


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
    """A fully connected layer a head, whose results RESHAPE and SLICE move (`static_relative`).

    For ethos-u55-256, Vela 5.2 makes 15.3 M cycles of one BATCH_MATMUL for 12 heads of 64 features and 128
    tokens, and 0.9 M of these operators; for ethos-u85-256, 0.8 M and 0.5 M.
    """
    x, table, table_scale = node.inputs
    constants, file, scale = state.graph.constants, state.file, state.quantization(node.output)
    heads, tokens, width = state.shape(x)[1:]
    scale_rows = Quantization(float(constants[table_scale][0]))
    of_head = state.integers([1, 1, tokens, width])
    parts = []
    for head, rows in enumerate(distance_rows(constants[table], tokens)[0]):
        label = f"{node.output}/{head}"
        own = file.tensor(f"{label}/tokens", [1, 1, tokens, width], "int8", state.quantization(x))
        file.node("SLICE", [state.get(x), state.integers([0, head, 0, 0]), of_head], own)
        weight = file.constant(f"{label}/rows", rows, scale_rows)
        value = file.tensor(f"{label}/products", [1, 1, tokens, 2 * tokens], "int8", scale)
        file.node("FULLY_CONNECTED", [own, weight, NO_BIAS], value, keepNumDims=True)
        for move in distance_moves(1, tokens):
            size = state.integers(move.shape)
            out = file.tensor(f"{label}/{move.part}", move.shape, "int8", scale)
            if move.starts is None:
                value = file.node("RESHAPE", [value, size], out)
            else:
                value = file.node("SLICE", [value, state.integers(move.starts), size], out)
        parts.append(value)
    joined = file.tensor(f"{node.output}/joined", [1, heads, tokens, tokens], "int8", scale)
    state.define(node.output, file.node("CONCATENATION", parts, joined, axis=1))
