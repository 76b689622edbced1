"""Pictures from a user's folder or .zip. The names of folders are labels, which only `validate` reads."""

from __future__ import annotations

import hashlib
import io
import os
import warnings
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from archnet.atomic import human_bytes
from archnet.calibration.image_settings import ImageSettings
from archnet.calibration.text_files import missing
from archnet.errors import ArchNetError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm")
MOST_BYTES = 2**30
"""Pixels that are kept in memory; of more pictures an even choice is taken."""

MOST_PIXELS = 90_000_000
"""Larger pictures are not read: unpacked, each of them would take more than 270 MB."""

MOST_FILE_BYTES = 2**28
"""Larger files are not read, be it an archive's that only unpacks to so much."""

_NAMED = 3
"""So many unreadable pictures are named; the others are counted."""


@dataclass(frozen=True, slots=True)
class PictureSet:
    """Pictures as a model's pixels.

    Attributes:
        name: of the folder or archive.
        pixels: uint8 (pictures, 3, height, width).
        folders: name of the folder that each lay in, "" at the top.
        unreadable: "name: reason" of pictures that were left out.
        sha256: of the files' names and contents.
        found: how many picture files there are.
    """

    name: str
    pixels: NDArray[np.uint8]
    folders: tuple[str, ...]
    unreadable: tuple[str, ...]
    sha256: str
    found: int

    def warning(self) -> str | None:
        """What to tell the user of the files; None when all were read."""
        parts = []
        if self.unreadable:
            more = ", ..." if len(self.unreadable) > _NAMED else ""
            named = ", ".join(self.unreadable[:_NAMED]) + more
            parts.append(
                f"{len(self.unreadable)} of {self.found} pictures cannot be read and are left out: {named}"
            )
        taken = len(self.pixels) + len(self.unreadable)
        if taken < self.found:
            parts.append(f"{taken} of {self.found} pictures are used: the others would not fit into memory")
        return "; ".join(parts) or None


def holds_pictures(path: str | os.PathLike[str]) -> bool:
    """Whether a path is an archive or picture, or a folder with pictures in it or in folders below."""
    place = Path(path).expanduser()
    if place.is_file():
        return place.suffix.lower() in (".zip", *SUFFIXES)
    return place.is_dir() and any(_is_picture(file.name) for file in place.rglob("*") if file.is_file())


def load_pictures(
    path: str | os.PathLike[str], settings: ImageSettings, *, most_bytes: int = MOST_BYTES
) -> PictureSet:
    """Read every picture of a folder, an archive or one file, nested as it may be, in order of name.

    Pictures that cannot be read are left out and named. Grey, palette and transparent ones become RGB.

    Raises:
        ArchNetError: nothing there, no picture that can be read, an empty folder of a class, a damaged
            archive, or Pillow is not installed.
    """
    image_module = _pillow()
    place = Path(path).expanduser()
    names, read = _entries(place)
    if not names:
        raise ArchNetError(
            f"{place} holds no pictures",
            fix=f"name a folder or a .zip with pictures ({', '.join(SUFFIXES[:4])}, ...)",
        )
    most = max(1, most_bytes // (3 * settings.height * settings.width))
    chosen = [names[int(i)] for i in np.linspace(0, len(names) - 1, min(most, len(names)))]
    pixels = np.empty((len(chosen), 3, settings.height, settings.width), np.uint8)
    digest = hashlib.sha256(repr((len(names), settings)).encode())
    folders: list[str] = []
    unreadable: list[str] = []
    for name in chosen:
        content = b""
        try:
            content = read(name)
            pixels[len(folders)] = _opened(image_module, io.BytesIO(content), settings)
        except Exception as error:  # Pillow's decoders raise nearly every type for damaged files
            unreadable.append(f"{name} ({_reason(error)})")
        else:
            folders.append(PurePosixPath(name).parent.name)
        digest.update(f"{name}\n{len(content)}\n".encode())
        digest.update(content)
    if not folders:
        raise ArchNetError(
            f"no picture of {place} can be read: {', '.join(unreadable[:_NAMED])}",
            fix="open one of them in a picture viewer, and copy or download the files again",
        )
    return PictureSet(
        place.name, pixels[: len(folders)], tuple(folders), tuple(unreadable), digest.hexdigest(), len(names)
    )


def picture_files(path: Path) -> list[Path]:
    """The picture files that a path stands for, sorted: itself, or those of a folder and the folders in it.

    Raises:
        ArchNetError: nothing there, no picture, or an archive.
    """
    if path.suffix.lower() == ".zip" and path.is_file():
        raise ArchNetError(
            f"{path} is an archive, not a picture", fix="unpack it, and name the folder with the pictures"
        )
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise missing(path, "pictures")
    files = sorted(file for file in path.rglob("*") if file.is_file() and _is_picture(file.name))
    if not files:
        raise ArchNetError(f"{path} holds no pictures", fix="name a picture or a folder with some")
    return files


def read_pictures(files: Sequence[str | os.PathLike[str]], settings: ImageSettings) -> NDArray[np.uint8]:
    """The pixels of single files, uint8 (files, 3, height, width).

    Raises:
        ArchNetError: a file is missing or no picture.
    """
    image_module = _pillow()
    pixels = np.empty((len(files), 3, settings.height, settings.width), np.uint8)
    for row, file in enumerate(files):
        try:
            _check_file_bytes(os.stat(file).st_size)
            pixels[row] = _opened(image_module, file, settings)
        except Exception as error:  # see load_pictures
            raise ArchNetError(
                f"{file} cannot be read as a picture: {_reason(error)}", fix="check the path and the file"
            ) from error
    return pixels


def _opened(image_module: Any, source: Any, settings: ImageSettings) -> NDArray[np.uint8]:
    """The pixels of a picture, which is not unpacked when it is too large."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with image_module.open(source) as picture:
            if picture.width * picture.height > MOST_PIXELS:
                raise ValueError(f"{picture.width} x {picture.height} pixels are too many")
            return settings.pixels(picture)


def _check_file_bytes(size: int) -> None:
    if size > MOST_FILE_BYTES:
        raise ValueError(f"a file of {human_bytes(size)} is too large for a picture")


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise ArchNetError(
            "reading pictures needs the package Pillow, which is not installed",
            fix="pip install 'archnet[images]'",
        ) from error
    return Image


def _entries(place: Path) -> tuple[list[str], Callable[[str], bytes]]:
    """Names of the pictures, relative with forward slashes and sorted, and what reads one."""
    if place.is_file() and place.suffix.lower() == ".zip":
        return _archived(place)
    if place.is_file():
        return [place.name], lambda name: _file_bytes(place)
    if not place.is_dir():
        raise missing(place, "pictures")
    files = [file.relative_to(place).as_posix() for file in place.rglob("*") if file.is_file()]
    folders = [folder.relative_to(place).as_posix() for folder in place.rglob("*") if folder.is_dir()]
    return _pictures(place, files, folders), lambda name: _file_bytes(place / name)


def _file_bytes(file: Path) -> bytes:
    _check_file_bytes(file.stat().st_size)
    return file.read_bytes()


def _archived(place: Path) -> tuple[list[str], Callable[[str], bytes]]:
    try:
        with zipfile.ZipFile(place) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile) as error:
        raise ArchNetError(
            f"{place} is a damaged archive: {error}", fix="copy or download it again"
        ) from error

    opened = zipfile.ZipFile(place)

    def read(name: str) -> bytes:
        _check_file_bytes(opened.getinfo(name).file_size)
        try:
            return opened.read(name)
        except (zipfile.BadZipFile, OSError, EOFError, RuntimeError, NotImplementedError):
            return b""  # no picture: named with the unreadable ones

    files = [name for name in names if not name.endswith("/")]
    return _pictures(place, files, [name.rstrip("/") for name in names if name.endswith("/")]), read


def _pictures(place: Path, files: Iterable[str], folders: Iterable[str]) -> list[str]:
    """The pictures among the files; a folder beside folders of pictures must not be empty."""
    pictures = sorted(name for name in files if _is_picture(name) and "__MACOSX" not in name)
    filled = {str(parent) for name in pictures for parent in PurePosixPath(name).parents}
    empty = [
        folder
        for folder in sorted(folders)
        if folder not in filled
        and str(PurePosixPath(folder).parent) in filled
        and not PurePosixPath(folder).name.startswith((".", "__"))
    ]
    if pictures and empty:
        raise ArchNetError(
            f"the folder {empty[0]} in {place} holds no pictures, unlike the folders beside it",
            fix="put its pictures there, or delete it",
        )
    return pictures


def _is_picture(name: str) -> bool:
    path = PurePosixPath(name)
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    text = lines[0] if lines else type(error).__name__
    if type(error).__name__ == "DecompressionBombError":  # of Pillow, before a size can be asked for
        return "it has too many pixels"
    return "it is no picture, or damaged" if "cannot identify" in text else text[:100]
