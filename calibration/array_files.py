"""What an image model reads that no picture file holds: spectrograms, sensors, pictures of other channels.

A .npz file has them as `pixel_values`, made as the model reads them, and for a score `labels`; a .npy file
has the array alone.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from archnet.errors import ArchNetError

ARRAYS = "pixel_values"
LABELS = "labels"
SUFFIXES = (".npz", ".npy")

_FORM = f"numpy.savez('data.npz', {ARRAYS}=...) of float32 (samples, channels, height, width)"


@dataclass(frozen=True, slots=True)
class ArraySet:
    """Samples as a model reads them.

    Attributes:
        name: of the file.
        values: float32 (samples, channels, height, width).
        labels: int64 (samples,), the number of each sample's class; None where the file has none.
        sha256: of the values, whatever the file is called.
    """

    name: str
    values: NDArray[np.float32]
    labels: NDArray[np.int64] | None
    sha256: str


def holds_arrays(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a file of arrays, by its name."""
    place = Path(path).expanduser()
    return place.suffix.lower() in SUFFIXES and place.is_file()


def load_arrays(path: str | os.PathLike[str], size: tuple[int, int, int]) -> ArraySet:
    """Read a .npz or .npy file; pickled objects are never read.

    Args:
        size: channels, height and width that the model reads.

    Raises:
        ArchNetError: the file is missing, damaged or empty, or its arrays are not what the model reads.
    """
    place = Path(path).expanduser()
    values, labels = _read(place)
    if values.dtype.kind != "f":
        raise ArchNetError(
            f"{ARRAYS} of {place} is {values.dtype}, not float32",
            fix="give the numbers as the model reads them, after normalising",
        )
    if values.ndim != 4 or values.shape[1:] != size:
        wanted = " x ".join(map(str, size))
        raise ArchNetError(
            f"{ARRAYS} of {place} has the shape {values.shape}, but the model reads samples of {wanted}",
            fix=f"write it with {_FORM}",
        )
    if not len(values):
        raise ArchNetError(f"{place} holds no sample", fix="give at least one")
    values = np.ascontiguousarray(values, dtype=np.float32)
    if not np.isfinite(values).all():
        sample = int(np.flatnonzero(~np.isfinite(values).all((1, 2, 3)))[0])
        raise ArchNetError(
            f"sample {sample} of {place} has NaN or infinite numbers",
            fix="leave such samples out, or look into what made them",
        )
    digest = hashlib.sha256(repr(values.shape).encode() + values.tobytes()).hexdigest()
    return ArraySet(place.name, values, _labels(place, labels, len(values)), digest)


def _read(place: Path) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """The samples and, where the file has them, the labels."""
    if not place.is_file():
        raise ArchNetError(f"there is no file of arrays at {place}", fix="check the spelling of the path")
    try:
        content = np.load(place, allow_pickle=False)
        if isinstance(content, np.ndarray):
            return content, None
        with content:
            names = content.files
            if ARRAYS in names:
                return content[ARRAYS], content[LABELS] if LABELS in names else None
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise ArchNetError(
            f"{place} is no file of plain arrays, or is damaged", fix=f"write it with {_FORM}"
        ) from error
    held = ", ".join(names) or "nothing"
    raise ArchNetError(f"{place} has no array {ARRAYS!r}: it holds {held}", fix=f"write it with {_FORM}")


def _labels(place: Path, labels: NDArray[Any] | None, samples: int) -> NDArray[np.int64] | None:
    if labels is None:
        return None
    if labels.shape != (samples,) or labels.dtype.kind not in "iu" or (labels < 0).any():
        raise ArchNetError(
            f"{LABELS} of {place} is {labels.dtype} {labels.shape}, not the class of each of the "
            f"{samples} samples",
            fix="give integers from 0, one a sample",
        )
    return labels.astype(np.int64)
