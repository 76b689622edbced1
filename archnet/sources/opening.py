"""`open_model`: which kind of source a user's MODEL argument is."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import NoReturn

import torch
from torch import nn

from archnet.calibration.image_settings import SETTINGS_FILE, ImageSettings
from archnet.errors import ArchNetError
from archnet.generation import GenerationSettings
from archnet.sources.factory import call_factory
from archnet.sources.folder import module_config, module_max_length, open_folder
from archnet.sources.hub import download, looks_like_hub_name
from archnet.sources.pretrained import without_cache
from archnet.sources.quiet import quiet_transformers
from archnet.sources.source import (
    DEFAULT_MAX_LENGTH,
    Pixels,
    Size,
    Source,
    check_finite,
    hash_tensors,
    input_kind,
    one_line,
    probe_outputs,
)
from archnet.sources.tokenizer import as_tokenizer, load_tokenizer
from archnet.sources.weights import CONVERT_HINT, PICKLE_SUFFIXES
from archnet.sources.writer import as_writer

FORMS = "a model folder, a hub name (owner/name) or path/to/file.py:factory"


def open_model(
    spec: str | os.PathLike[str] | nn.Module,
    *,
    tokenizer: object | None = None,
    tokenizer_required: bool = True,
) -> Source:
    """Open a trained model.

    Args:
        spec: a Hugging Face or sentence-transformers folder, a hub name, `path/to/file.py:factory`
            (this runs that file's code; the factory returns a module or (module, tokenizer)), or a live
            `torch.nn.Module`, which is copied and never changed.
        tokenizer: for a live module or a factory: a `tokenizers.Tokenizer`, a fast transformers
            tokenizer, or the path of a tokenizer.json or of the folder that has one; for an image model
            what preprocessor_config.json holds, or its path, or (channels, height, width) of its arrays.
        tokenizer_required: refuse a folder of a text model without tokenizer (`inspect` needs none).

    Raises:
        ArchNetError: for whatever is wrong with it, naming where, what and how to fix it.
    """
    if isinstance(spec, nn.Module):
        return _open_module(_copy(spec), type(spec).__name__, tokenizer)
    text = os.fspath(spec).strip()
    if not text:
        raise ArchNetError("the model's name is empty", fix=f"name {FORMS}")
    file, separator, factory = text.rpartition(".py:")
    if separator:
        return _open_factory(Path(file + ".py").expanduser(), factory, tokenizer)
    path = Path(text).expanduser()
    if path.is_dir():
        return open_folder(path, tokenizer_required=tokenizer_required)
    if path.exists():
        _refuse_file(path)
    if isinstance(spec, str) and looks_like_hub_name(text):
        return open_folder(_fetch(text, path), name=text, tokenizer_required=tokenizer_required)
    raise missing_path(path)


def _fetch(name: str, path: Path) -> Path:
    """Download a hub model; when that fails, a folder of nearly this name may be what was meant."""
    try:
        return download(name)
    except ArchNetError as error:
        near = _near(path)
        if not near:
            raise
        raise ArchNetError(
            error.problem, fix=f"did you mean {' or '.join(str(n) for n in near)}? Else {error.fix}"
        ) from error


def missing_path(path: Path, what: str = "model folder") -> ArchNetError:
    """The error for a path that does not exist: names that are nearly it, else what its parent holds."""
    parent = path.parent
    while not parent.exists() and parent != parent.parent:
        parent = parent.parent
    near = _near(path)
    if near:
        fix = f"did you mean {' or '.join(str(n) for n in near)}?"
    elif parent != path.parent:
        fix = f"{parent} exists, but not {path.relative_to(parent).parts[0]!r} in it; check the spelling"
    else:
        fix = "check the spelling of the path"
    return ArchNetError(f"there is no {what} at {path}", fix=fix)


def _near(path: Path) -> list[Path]:
    """Entries of the first existing parent whose names are nearly the missing part's."""
    parent, child = path.parent, path.name
    while not parent.is_dir():
        if parent == parent.parent:
            return []
        parent, child = parent.parent, parent.name
    try:
        names = sorted(entry.name for entry in parent.iterdir())
    except OSError:
        return []
    return [parent / name for name in get_close_matches(child, names, n=2, cutoff=0.6)]


def _refuse_file(path: Path) -> NoReturn:
    """Say what to do with a file where a folder is expected."""
    suffix = path.suffix.lower()
    if suffix == ".onnx":
        raise ArchNetError(
            f"{path} is an ONNX model, which a later version will read",
            fix="name the Hugging Face folder that it was exported from",
        )
    if suffix == ".py":
        raise ArchNetError(
            f"{path} is a Python file, but no function in it is named",
            fix=f"name the function that returns the module: {path}:factory",
        )
    if suffix in PICKLE_SUFFIXES:
        raise ArchNetError(
            f"{path} is a pickle, which can run any code when it is loaded",
            fix=CONVERT_HINT.format(name=path.name) + "; then name the folder with its config.json",
        )
    if suffix == ".safetensors" or path.name == "config.json":
        raise ArchNetError(
            f"{path} is one file of a model", fix=f"name the folder, {path.parent}, with all its files"
        )
    raise ArchNetError(f"{path} is a file, not a model folder", fix=f"name {FORMS}")


def _open_factory(file: Path, factory: str, tokenizer: object | None) -> Source:
    if not file.is_file():
        raise missing_path(file, "Python file")
    if not factory.isidentifier():
        raise ArchNetError(
            f"{str(file) + ':' + factory!r} names no function of {file}",
            fix=f"write {file}:name, with the name of a function that returns the module",
        )
    module, own_tokenizer = call_factory(file, factory)
    given = tokenizer if tokenizer is not None else own_tokenizer
    return _open_module(_plain_float(module, factory), factory, given)


def _open_module(module: nn.Module, name: str, tokenizer: object | None) -> Source:
    if type(module).__module__.split(".")[0] == "sentence_transformers":
        raise ArchNetError(
            f"a live {name} wraps its tokenizer and cannot be captured as it is",
            fix="save it with model.save(folder) and name that folder",
        )
    check_finite(module, name)
    kind = input_kind(module, name)
    generation: GenerationSettings | None = None
    notes: tuple[str, ...] = ()
    if kind in ("translation", "language"):
        module, generation, notes = as_writer(module, alone=kind == "language", name=name)
    images: Pixels = None
    if kind == "image" and tokenizer is not None:
        images, tokenizer = as_pixels(tokenizer), None
    found = as_tokenizer(tokenizer) if tokenizer is not None else None
    if found is None:
        origin = getattr(getattr(module, "config", None), "_name_or_path", None) if kind != "image" else None
        found = load_tokenizer(Path(origin)) if origin and Path(origin).is_dir() else None
    return Source(
        name=name,
        module=module,
        output_names=probe_outputs(module, kind, name, images),
        tokenizer=found[0] if found else None,
        tokenizer_files=found[1] if found else (),
        pooling=None,
        normalize=False,
        max_length=module_max_length(module) or DEFAULT_MAX_LENGTH,
        sha256=hash_tensors(module),
        kind=kind,
        config=module_config(module),
        notes=notes,
        generation=generation,
        images=images,
    )


def as_pixels(given: object) -> ImageSettings | Size:
    """What a live image model or a factory gives beside the module.

    That is settings of pictures, the path of such a file, or the size of what it reads as arrays.

    Raises:
        ArchNetError: it is something else, or not complete.
    """
    if isinstance(given, ImageSettings):
        return given
    if isinstance(given, (tuple, list)):
        return _as_size(given)
    if isinstance(given, (str, os.PathLike)):
        path = Path(given).expanduser()
        return ImageSettings.read(path / SETTINGS_FILE if path.is_dir() else path)
    settings = given if isinstance(given, Mapping) else getattr(given, "to_dict", dict)()
    try:
        return ImageSettings.parse(settings)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArchNetError(
            f"the settings beside the image model are not known: {error}",
            fix=f"give the path of a {SETTINGS_FILE}, or a dictionary with what it holds",
        ) from error


def _as_size(given: Sequence[object]) -> Size:
    if len(given) == 3 and all(type(side) is int and side > 0 for side in given):
        channels, height, width = (int(str(side)) for side in given)
        return channels, height, width
    raise ArchNetError(
        f"the size beside the image model is {given!r}, not three whole numbers",
        fix="give (channels, height, width)",
    )


def _copy(module: nn.Module) -> nn.Module:
    """A copy to work on, so that the caller's module keeps its mode, dtype and device."""
    name = type(module).__name__
    try:
        twin = copy.deepcopy(module)
    except Exception as error:  # modules may hold anything: locks, generators, open files
        raise ArchNetError(
            f"the live module {name} cannot be copied: {one_line(error)}",
            fix="pass it as path/to/file.py:factory, which needs no copy",
        ) from error
    return _plain_float(twin, name)


def _plain_float(module: nn.Module, name: str) -> nn.Module:
    """Eval mode, float32, CPU, scaled-dot-product attention where the module can switch."""
    if any(tensor.is_meta for tensor in module.state_dict().values()):
        raise ArchNetError(f"{name} has tensors without data (meta device)", fix="load its weights first")
    module = module.to(device="cpu", dtype=torch.float32).eval()
    without_cache(module)
    switch = getattr(module, "set_attn_implementation", None)
    if (
        callable(switch)
        and getattr(getattr(module, "config", None), "_attn_implementation", "sdpa") != "sdpa"
    ):
        try:
            with quiet_transformers():
                switch("sdpa")
        except ValueError:
            return module  # no such form of this architecture: captured as it is
    return module
