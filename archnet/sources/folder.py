"""A Hugging Face or sentence-transformers folder becomes a `Source`; its files are data and never run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NoReturn

from torch import nn

from archnet.calibration.image_settings import SETTINGS_FILE, ImageSettings
from archnet.errors import ArchNetError
from archnet.generation import GenerationSettings
from archnet.sources.jsonfile import read_json_object
from archnet.sources.pretrained import load_pretrained
from archnet.sources.sentence_transformer import Chain, read_chain
from archnet.sources.source import (
    DEFAULT_MAX_LENGTH,
    Source,
    check_finite,
    input_kind,
    probe_outputs,
)
from archnet.sources.tokenizer import load_tokenizer, lower_cased, tokenizer_max_length
from archnet.sources.weights import PICKLE_SUFFIXES, find_weights, hash_files
from archnet.sources.writer import as_writer

_GENERIC_NAMES = ("model", "models", "checkpoint", "0_Transformer")


def open_folder(folder: Path, *, name: str | None = None, tokenizer_required: bool = True) -> Source:
    """Open a model folder.

    Args:
        name: for reports; the folder's own name by default.
        tokenizer_required: refuse a text model whose folder has no tokenizer.

    Raises:
        ArchNetError: for whatever is wrong with the folder; nothing was run or changed.
    """
    chain = read_chain(folder)
    encoder = chain.folder if chain else folder
    name = name or _short_name(folder)
    config = _read_config(encoder)
    files = find_weights(encoder)
    # What pools is an encoder, whatever its weights were saved as (Qwen3-Embedding: as a language model).
    module, notes = load_pretrained(encoder, {**config, "architectures": []} if chain else config)
    check_finite(module, str(encoder))
    kind = input_kind(module, str(encoder))
    generation: GenerationSettings | None = None
    more: tuple[str, ...] = ()
    if kind in ("translation", "language"):
        module, generation, more = as_writer(module, alone=kind == "language", name=str(encoder))
    found = load_tokenizer(encoder) if kind != "image" else None
    if found is None and kind != "image" and tokenizer_required:
        raise ArchNetError(
            f"{encoder} has no tokenizer.json",
            fix="save it beside the weights: AutoTokenizer.from_pretrained(name).save_pretrained(folder)",
        )
    tokenizer, tokenizer_files = found if found else (None, ())
    if tokenizer is not None and chain and chain.lower_case:
        tokenizer = lower_cased(tokenizer)
    settings = encoder / SETTINGS_FILE
    images = ImageSettings.read(settings) if kind == "image" and settings.is_file() else None
    return Source(
        name=name,
        module=module,
        output_names=probe_outputs(module, kind, str(encoder), images),
        tokenizer=tokenizer,
        tokenizer_files=tokenizer_files,
        pooling=chain.pooling if chain else None,
        normalize=chain.normalize if chain else False,
        max_length=_max_length(module, encoder, chain),
        sha256=hash_files(files),
        kind=kind,
        config=module_config(module),
        notes=(*notes, *more, *(chain.notes if chain else ())),
        generation=generation,
        images=images,
    )


def module_config(module: nn.Module) -> dict[str, Any]:
    """The transformers configuration of a module as plain data; empty for other modules."""
    to_dict = getattr(getattr(module, "config", None), "to_dict", None)
    return dict(to_dict()) if callable(to_dict) else {}


def module_max_length(module: nn.Module) -> int | None:
    """Positions that the module has rows for; None when its configuration does not say.

    RoBERTa and its like count positions from padding_idx + 1, so that many rows are no use for tokens.
    """
    # A module of the user's own may wrap a configured one.
    configured = (getattr(part, "config", None) for part in module.modules())
    known = (getattr(config, "max_position_embeddings", None) for config in configured)
    positions = next((count for count in known if isinstance(count, int) and count > 0), None)
    if positions is None:
        return None
    for part in module.modules():
        if (
            isinstance(part, nn.Embedding)
            and part.num_embeddings == positions
            and part.padding_idx is not None
        ):
            return positions - part.padding_idx - 1
    return positions


def _max_length(module: nn.Module, encoder: Path, chain: Chain | None) -> int:
    limits = [module_max_length(module), tokenizer_max_length(encoder), chain.max_length if chain else None]
    known = [limit for limit in limits if limit is not None]
    return min(known) if known else DEFAULT_MAX_LENGTH


def _read_config(folder: Path) -> dict[str, Any]:
    """config.json, refused where this version could not or must not follow it."""
    file = folder / "config.json"
    if not file.exists():
        _refuse_without_config(folder)
    config = read_json_object(file)
    if config.get("auto_map"):
        raise ArchNetError(
            f"{file} asks to run Python code that comes with the model (auto_map), which is never done here",
            fix="use an architecture that transformers has built in, or load the model yourself and pass it "
            "as path/to/file.py:factory",
        )
    if config.get("quantization_config"):
        method = config["quantization_config"]
        raise ArchNetError(
            f"{file} describes weights that are quantized already ({_quant_method(method)})",
            fix="convert the original float model",
        )
    return config


def _quant_method(settings: object) -> str:
    method = settings.get("quant_method") if isinstance(settings, dict) else None
    return str(method or "quantization_config")


def _refuse_without_config(folder: Path) -> NoReturn:
    inside = sorted(
        child.parent.name for child in folder.glob("*/config.json") if child.parent.name != "1_Pooling"
    )
    if inside:
        raise ArchNetError(
            f"{folder} has no config.json, so it is no model folder",
            fix=f"name the folder inside it that has one: {', '.join(inside[:5])}",
        )
    pickles = sorted(f.name for f in folder.iterdir() if f.suffix in PICKLE_SUFFIXES)
    also = f" (it holds {pickles[0]}, a pickle)" if pickles else ""
    raise ArchNetError(
        f"{folder} has no config.json, so it is no model folder{also}",
        fix="name a folder that save_pretrained wrote: config.json, model.safetensors, tokenizer.json",
    )


def _short_name(folder: Path) -> str:
    resolved = folder.resolve()
    for part in (resolved, *resolved.parents):
        if (
            part.name
            and part.name not in _GENERIC_NAMES
            and not re.fullmatch(r"[0-9a-f]{40}|snapshots", part.name)
        ):
            return part.name.removeprefix("models--")
    return "model"
