"""The integer networks of a build: one, or the encoder and the decoder of a model that writes.

A single network lies in the build folder itself (graph/, onnx/, tvm/); an encoder and a decoder each lie
in a folder of their own there (encoder/graph/, decoder/graph/, ...), so that whatever opens a build opens
a part. A language model has a decoder alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from archnet.errors import ArchNetError

if TYPE_CHECKING:
    from archnet.graph import QuantizedGraph

ENCODER, DECODER = "encoder", "decoder"

HOST_DECODER = "the encoder, whose decoder stays on the host"
"""What a chip gets of a translation model."""


def part_names(folder: Path) -> tuple[str, ...]:
    """The parts of a build folder: "" alone, or those of ENCODER and DECODER that there are."""
    return tuple(part for part in (ENCODER, DECODER) if (folder / part).is_dir()) or ("",)


def is_translation(folder: Path) -> bool:
    """Whether a build folder holds an encoder and a decoder."""
    return part_names(folder) == (ENCODER, DECODER)


def is_language(folder: Path) -> bool:
    """Whether a build folder holds a decoder alone, which goes on with a text."""
    return part_names(folder) == (DECODER,)


def chip_part(folder: Path) -> str:
    """The part of a build that chips compile: all, or the encoder of a translation model.

    The decoder takes a step a token, with caches that the host moves, and stays there.

    Raises:
        ArchNetError: the build is of a language model, which is such a decoder alone.
    """
    if is_language(folder):
        raise ArchNetError(
            f"{folder} is a language model: a decoder, which takes a step a token with a cache that the host "
            "moves, and which is not compiled for chips",
            fix="run it with --backend onnxruntime or tvm",
        )
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
