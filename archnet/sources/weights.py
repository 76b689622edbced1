"""Safetensors files of a model folder: found, checked and hashed before anything reads them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from safetensors import SafetensorError, safe_open

from archnet.errors import ArchNetError

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")

CONVERT_HINT = (
    'convert it once, where you trust its origin: python -c "import torch; '
    "from safetensors.torch import save_file; "
    "w = torch.load('{name}', map_location='cpu', weights_only=True); "
    "save_file({{k: v.clone().contiguous() for k, v in w.items()}}, 'model.safetensors', "
    "{{'format': 'pt'}})\""
)
"""The fix for pickled weights, with the file's name to be filled in."""


def find_weights(folder: Path) -> tuple[Path, ...]:
    """The safetensors files of a folder, each readable and complete; ArchNetError otherwise."""
    if (folder / WEIGHTS).exists():
        files: tuple[Path, ...] = (folder / WEIGHTS,)
    elif (folder / INDEX).exists():
        files = _indexed(folder)
    else:
        _refuse_missing(folder)
    for file in files:
        check_safetensors(file)
    return files


def check_safetensors(file: Path) -> None:
    """Refuse a file that is no complete safetensors file, saying which of the usual things it is."""
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            start = stream.read(64)
    except OSError as error:
        raise ArchNetError(
            f"{file} cannot be read: {error.strerror or error}",
            fix="check that the file exists and its permissions",
        ) from error
    again = "download or copy the file again and compare its size with the original's"
    if size == 0:
        raise ArchNetError(f"{file} is empty", fix=again)
    if start.startswith(b"version https://git-lfs"):
        raise ArchNetError(
            f"{file} is a Git LFS pointer, not the weights themselves",
            fix="run 'git lfs pull' in the folder that it was cloned to",
        )
    try:
        with safe_open(str(file), framework="pt") as opened:
            names = list(opened.keys())
    except (SafetensorError, OSError, ValueError) as error:
        raise ArchNetError(
            f"{file} ({size} bytes) is no complete safetensors file: {str(error).splitlines()[0]}", fix=again
        ) from error
    if not names:
        raise ArchNetError(f"{file} holds no tensors", fix=again)


def hash_files(files: Sequence[Path]) -> str:
    """SHA-256 of one file as `sha256sum` gives it; of several, that of their lines "digest  name"."""
    digests = []
    for file in files:
        with file.open("rb") as stream:
            digests.append(hashlib.file_digest(stream, "sha256").hexdigest())
    if len(digests) == 1:
        return digests[0]
    lines = "".join(f"{d}  {f.name}\n" for d, f in zip(digests, files, strict=True))
    return hashlib.sha256(lines.encode()).hexdigest()


def _indexed(folder: Path) -> tuple[Path, ...]:
    index = folder / INDEX
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ArchNetError(
            f"{index} is no index of weights", fix="download or copy the file again"
        ) from error
    missing = [name for name in names if not (folder / name).is_file()]
    if missing or not names:
        raise ArchNetError(
            f"{folder} lacks {len(missing)} of its {len(names)} weight files: {', '.join(missing[:3])}",
            fix="download or copy all the files that model.safetensors.index.json names",
        )
    return tuple(folder / name for name in names)


def _refuse_missing(folder: Path) -> NoReturn:
    pickles = sorted(f.name for f in folder.iterdir() if f.suffix in PICKLE_SUFFIXES and f.is_file())
    if pickles:
        raise ArchNetError(
            f"{folder} has its weights only as a pickle ({pickles[0]}), which can run any code when loaded",
            fix=CONVERT_HINT.format(name=pickles[0]),
        )
    other = sorted(f.name for f in folder.glob("*.safetensors"))
    if other:
        raise ArchNetError(
            f"{folder} has no {WEIGHTS}, only {', '.join(other[:3])}", fix=f"rename the weights to {WEIGHTS}"
        )
    raise ArchNetError(
        f"{folder} has a config.json but no {WEIGHTS}",
        fix="save the model with save_pretrained(folder), or download its safetensors file too",
    )
