"""Which constants of an integer network are kept in fewer bits than a byte, wherever they are stored."""

from __future__ import annotations

from archnet.calibration.packing import Packing, find_packing, packed_width
from archnet.graph import Node, QuantizedGraph
from archnet.operators import Op

_TABLES = {Op.EMBEDDING: 1, Op.SLICE: 0}
"""Operators whose constant holds rows of their output -> its place among their inputs."""

_HOST_TABLE_BITS = 4


def packed_constants(graph: QuantizedGraph) -> dict[str, Packing]:
    """How each constant is packed that says to have at most 4 bits, by name.

    Weights and tables have the width that their node names, else tables that of the activation that they
    are rows of. Tables of the host are packed where their integers allow it.
    """
    bits: dict[str, int] = {}
    for node in graph.nodes:
        for place, name in enumerate(node.inputs):
            bits[name] = max(bits.get(name, 0), _bits(graph, node, place))
    for host in graph.host_tables:
        bits.setdefault(host.table, _HOST_TABLE_BITS)
    found: dict[str, Packing] = {}
    for name, value in graph.constants.items():
        width = packed_width(bits.get(name, 8))
        packing = find_packing(value, width) if width and value.dtype.itemsize == 1 else None
        if packing is not None:
            found[name] = packing
    return found


def _bits(graph: QuantizedGraph, node: Node, place: int) -> int:
    weight_bits = node.attributes.get("weight_bits")
    if place == 1 and isinstance(weight_bits, int):
        return weight_bits
    if _TABLES.get(node.op) == place:
        return graph.tensors[node.output].bits
    return 8
