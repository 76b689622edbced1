"""What a conversion of an image model starts from: pictures, or arrays, instead of sentences."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from archnet.calibration.array_files import holds_arrays, load_arrays
from archnet.calibration.image_batches import ArrayBatches, ImageBatches
from archnet.calibration.image_files import load_pictures
from archnet.errors import ArchNetError
from archnet.sources.source import Source


def check_kind(source: Source, data: Sequence[str] | Path) -> None:
    """Refuse pictures for a model that reads text, and text for one that reads pictures.

    Raises:
        ArchNetError: the two do not fit together, or the model came without its image processor.
    """
    if source.kind == "image":
        if not isinstance(data, Path):
            raise ArchNetError(
                f"{source.name} reads pictures, but the data is text",
                fix="give a folder or a .zip of pictures as --data; folders in it may be nested; or what the "
                "model reads as arrays, a .npz file",
            )
        if not holds_arrays(data):
            source.require_images()
    elif isinstance(data, Path):
        what = "arrays" if holds_arrays(data) else "pictures"
        raise ArchNetError(
            f"{source.name} reads text, but {data} holds {what}", fix="give a file with one sentence a line"
        )


def image_batches(
    source: Source, data: Path, *, batch_size: int, seed: int
) -> tuple[ImageBatches | ArrayBatches, str]:
    """Batches of the pictures in a place, or of a file's arrays, and a checksum of them.

    Raises:
        ArchNetError: there is no picture that can be read, or the arrays are not what the model reads.
    """
    if holds_arrays(data):
        arrays = load_arrays(data, source.image_size)
        return ArrayBatches(arrays, batch_size=batch_size, seed=seed), arrays.sha256
    settings = source.require_images()
    pictures = load_pictures(data, settings)
    return ImageBatches(pictures, settings, batch_size=batch_size, seed=seed), pictures.sha256
