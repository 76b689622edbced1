"""Operators between a token and others at a distance -> operations of TpuLang."""

from __future__ import annotations

from archnet.export.static_relative import distance_moves, distance_rows, neighbour_pads
from archnet.export.tpu_state import TpuLowering, Value
from archnet.graph import MULTIPLIER_SHIFT, Node


def lower_shift(state: TpuLowering, node: Node) -> None:
    """Zeros at one end, and as many tokens less at the other."""
    x, dtype = node.inputs[0], state.spec(node.output).dtype
    front, back = neighbour_pads(state.graph, node)
    one, tokens, width = state.shape(x)
    shape, pads = (one, tokens + front + back, width), [0, front, 0, 0, back, 0]
    longer = state.emit("pad", [state.of(x)], f"{node.output}/longer", dtype, shape, pads=pads)
    state.move(node, "slice", [longer], starts=[0, back, 0], ends=[one, back + tokens, width])


def lower_relative_matmul(state: TpuLowering, node: Node) -> None:
    """A product with a constant, requantized, and moved (see `archnet.export.static_relative`)."""
    x, table = node.inputs[:2]
    key, dtype = node.output, state.spec(node.output).dtype
    heads, tokens = state.shape(x)[1:3]
    rows = state.constant(f"{node.name}/rows", distance_rows(state.graph.constants[table], tokens))
    shape = (1, heads, tokens, 2 * tokens)
    total = state.emit("matmul", [state.of(x), rows], f"{key}/accumulator", "int32", shape, transpose=True)
    factor = node.attributes["multiplier"]
    value = state.limited(node, "multiply", [total], shape, factor=factor, shift=MULTIPLIER_SHIFT)
    for move in distance_moves(heads, tokens):
        label, sizes = f"{key}/{move.part}", list(move.shape)
        if move.starts is None:
            value = state.emit("reshape", [value], label, dtype, move.shape, sizes=sizes)
        else:
            starts = list(move.starts)
            ends = [start + size for start, size in zip(starts, sizes, strict=True)]
            value = state.emit("slice", [value], label, dtype, move.shape, starts=starts, ends=ends)
    state.values[key] = Value(value, state.shape(key))
