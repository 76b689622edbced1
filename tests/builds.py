"""Finished build folders of integer networks, without a conversion."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from archnet.build import BuildDir
from archnet.config import Bits, ConvertSettings
from archnet.graph import QuantizedGraph
from archnet.storage import save_graph


def finished(
    folder: Path, graphs: QuantizedGraph | Mapping[str, QuantizedGraph], target: str = "archnet"
) -> Path:
    """A folder with a network, or with each part in a folder of its name ("" is the build's own)."""
    parts = {"": graphs} if isinstance(graphs, QuantizedGraph) else graphs
    with BuildDir.open_for_convert(folder, ConvertSettings(target, Bits(8, 8)), "abc") as made:
        for part, graph in parts.items():
            save_graph(graph, folder / part / "graph")
        made.finish({})
    return folder
