"""How the weights of a build's integer networks are stored: bits, layers, bytes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from archnet.atomic import read_json
from archnet.errors import ArchNetError
from archnet.operators import Op
from archnet.parts import part_names
from archnet.storage import GRAPH_FILE


@dataclass(frozen=True, slots=True)
class StoredWeights:
    """All layers and tables of one width.

    Attributes:
        bits: of each weight; fewer than 4 and no power of two are stored as 4.
        layers: how many.
        elements: weights of all.
        bytes: that these take when they are packed.
    """

    bits: int
    layers: int
    elements: int
    bytes: int


def stored_weights(folder: Path) -> tuple[StoredWeights, ...]:
    """What the graph files of a build say of its weights, widest first; () where they cannot be read."""
    widths: dict[int, list[tuple[int, int]]] = {}
    with suppress(ArchNetError, KeyError, TypeError, ValueError, IndexError, AttributeError):
        for part in part_names(folder):
            structure: Any = read_json(folder / part / "graph" / GRAPH_FILE)["graph"]
            for bits, elements, size in _layers(structure):
                widths.setdefault(bits, []).append((elements, size))
    return tuple(
        StoredWeights(bits, len(layers), sum(e for e, _ in layers), sum(s for _, s in layers))
        for bits, layers in sorted(widths.items(), reverse=True)
    )


def _layers(structure: Mapping[str, Any]) -> list[tuple[int, int, int]]:
    """Bits, elements and bytes of every constant that a node reads as weights, each once."""
    constants, found = structure["constants"], {}
    for node in structure["nodes"]:
        whole = 8 if node["op"] == str(Op.EMBEDDING) else None  # a table's nodes say their bits below 8 only
        bits = node["attributes"].get("weight_bits", whole)
        if bits is not None and node["inputs"][1] in constants:
            constant = constants[node["inputs"][1]]
            elements = math.prod(constant["shape"])
            found[node["inputs"][1]] = (
                int(bits),
                elements,
                math.ceil(elements * constant.get("bits", 8) / 8),
            )
    return list(found.values())
