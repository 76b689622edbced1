"""The integer networks of a build: one, or the encoder and the decoder of a translation model.

A single network lies in the build folder itself (graph/, onnx/, tvm/); of two, each lies in a folder
of its own there (encoder/graph/, decoder/graph/, ...), so that whatever opens a build opens a part.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from archnet.freeze_translation import DECODER, ENCODER
from archnet.graph import QuantizedGraph
from archnet.storage import load_graph, save_graph

Parts = Mapping[str, QuantizedGraph]
"""Networks by part: "" alone, or ENCODER and DECODER."""


def part_names(folder: Path) -> tuple[str, ...]:
    """The parts of a build folder."""
    return (ENCODER, DECODER) if (folder / DECODER).is_dir() else ("",)


def save_parts(parts: Parts, folder: Path) -> None:
    """Write every network under the folder, a single one into it."""
    for name, graph in parts.items():
        save_graph(graph, folder / name)


def load_parts(folder: Path) -> dict[str, QuantizedGraph]:
    """Read what `save_parts` wrote."""
    return {name: load_graph(folder / name) for name in part_names(folder)}
