"""Which constants of an integer network are kept in fewer bits than a byte, wherever they are stored."""

from __future__ import annotations

from archnet.calibration.packing import packed_width
from archnet.graph import Node, QuantizedGraph
from archnet.operators import Op

_TABLES = {Op.EMBEDDING: 1, Op.SLICE: 0}
"""Operators whose constant holds rows of their output -> its place among their inputs."""


def packed_constants(graph: QuantizedGraph) -> dict[str, int]:
    """Name -> 2 or 4, the bits of each element, for every constant that is packed.

    Weights have the width that their node names, tables that of the activation that they are rows of.
    A constant with several readers has the width of the widest.
    """
    bits: dict[str, int] = {}

    def read(name: str, width: int) -> None:
        bits[name] = max(bits.get(name, 0), width)

    for node in graph.nodes:
        for place, name in enumerate(node.inputs):
            read(name, _bits(graph, node, place))
    inputs = {spec.name: spec for spec in graph.inputs}
    for host in graph.host_tables:
        read(host.table, inputs[host.target].bits)
    packed = {name: packed_width(width) for name, width in bits.items() if name in graph.constants}
    return {
        name: width
        for name, width in packed.items()
        if width is not None and graph.constants[name].dtype.itemsize == 1
    }


def _bits(graph: QuantizedGraph, node: Node, place: int) -> int:
    weight_bits = node.attributes.get("weight_bits")
    if place == 1 and isinstance(weight_bits, int):
        return weight_bits
    if _TABLES.get(node.op) == place:
        return graph.tensors[node.output].bits
    return 8
