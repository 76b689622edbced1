"""The integer networks of a build: one, or the encoder and the decoder of a model that writes.

A single network lies in the build folder itself (graph/, onnx/, tvm/); an encoder and a decoder each lie
in a folder of their own there (encoder/graph/, decoder/graph/, ...), so that whatever opens a build opens
a part. A language model has a decoder alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, cast

from archnet.atomic import read_json
from archnet.errors import ArchNetError

if TYPE_CHECKING:
    from archnet.graph import QuantizedGraph

ENCODER, DECODER = "encoder", "decoder"

HOST_DECODER = "the encoder, whose decoder stays on the host"
"""What a chip whose compiler was not asked about decoders gets of a translation model."""


def part_names(folder: Path) -> tuple[str, ...]:
    """The parts of a build folder: "" alone, or those of ENCODER and DECODER that there are."""
    return tuple(part for part in (ENCODER, DECODER) if (folder / part).is_dir()) or ("",)


def is_translation(folder: Path) -> bool:
    """Whether a build folder holds an encoder and a decoder."""
    return part_names(folder) == (ENCODER, DECODER)


def is_language(folder: Path) -> bool:
    """Whether a build folder holds a decoder alone, which goes on with a text."""
    return part_names(folder) == (DECODER,)


def is_image(folder: Path) -> bool:
    """Whether a finished build's network reads pictures, or arrays in their place."""
    manifest = folder / "manifest.json"
    return manifest.is_file() and read_json(manifest).get("kind") == "image"


def image_size(folder: Path) -> tuple[int, int, int]:
    """Channels, height and width of what the network of such a build reads."""
    (given,) = cast(list[dict[str, list[int]]], read_json(folder / "manifest.json")["inputs"])
    _, channels, height, width = given["shape"]
    return channels, height, width


def chip_parts(folder: Path, *, decoders: bool) -> tuple[str, ...]:
    """The parts of a build that a chip compiles.

    Args:
        decoders: whether it takes a decoder's step (`archnet.targets.chips.Chip.decoders`).

    Raises:
        ArchNetError: it does not, and the build is of a language model, which is a decoder alone.
    """
    if not decoders and is_language(folder):
        raise ArchNetError(
            f"{folder} is a language model: a decoder, which takes a step a token with a cache that the host "
            "moves, and which this chip's compiler was not asked about",
            fix="compile it for another chip (archnet targets), or run it with --backend onnxruntime or tvm",
        )
    return tuple(part for part in part_names(folder) if decoders or part != DECODER)


def save_parts(parts: Mapping[str, QuantizedGraph], folder: Path) -> None:
    """Write every network under the folder, a single one into it."""
    from archnet.storage import save_graph

    for name, graph in parts.items():
        save_graph(graph, folder / name)


def load_parts(folder: Path) -> dict[str, QuantizedGraph]:
    """The networks of a folder that `save_parts` wrote."""
    from archnet.storage import load_graph

    return {name: load_graph(folder / name) for name in part_names(folder)}
