"""The integer networks of a build: one, or the encoder and the decoder of a translation model.

A single network lies in the build folder itself (graph/, onnx/, tvm/); of two, each lies in a folder
of its own there (encoder/graph/, decoder/graph/, ...), so that whatever opens a build opens a part.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from archnet.graph import QuantizedGraph

ENCODER, DECODER = "encoder", "decoder"

HOST_DECODER = "the encoder, whose decoder stays on the host"
"""What a chip gets of a translation model."""


def part_names(folder: Path) -> tuple[str, ...]:
    """The parts of a build folder: "" alone, or ENCODER and DECODER."""
    return (ENCODER, DECODER) if is_translation(folder) else ("",)


def is_translation(folder: Path) -> bool:
    """Whether a build folder holds an encoder and a decoder."""
    return (folder / DECODER).is_dir()


def chip_part(folder: Path) -> str:
    """The part of a build that chips compile: all, or the encoder of a translation model.

    The decoder takes a step a token, with caches that the host moves, and stays there.
    """
    return ENCODER if is_translation(folder) else ""


def save_parts(parts: Mapping[str, QuantizedGraph], folder: Path) -> None:
    """Write every network under the folder, a single one into it."""
    from archnet.storage import save_graph

    for name, graph in parts.items():
        save_graph(graph, folder / name)


def load_parts(folder: Path) -> dict[str, QuantizedGraph]:
    """The networks of a folder that `save_parts` wrote."""
    from archnet.storage import load_graph

    return {name: load_graph(folder / name) for name in part_names(folder)}
