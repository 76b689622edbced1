"""The chain of a sentence-transformers folder: encoder, pooling, normalization.

Read from modules.json, <n>_Pooling/config.json and sentence_bert_config.json as data; the library itself is
not needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from archnet.errors import ArchNetError
from archnet.sources.jsonfile import read_json, read_json_object
from archnet.sources.source import Pooling

MODULES = "modules.json"
_MODES: dict[str, Pooling] = {"mean": "mean", "mean_tokens": "mean", "cls": "cls", "cls_token": "cls"}


@dataclass(frozen=True)
class Chain:
    """What comes after the encoder, and where the encoder is.

    Attributes:
        folder: of the encoder's config.json and weights.
        max_length: tokens, None when the folder does not say.
        lower_case: text is lower-cased before the tokenizer sees it.
        notes: what is not carried over.
    """

    folder: Path
    pooling: Pooling
    normalize: bool
    max_length: int | None
    lower_case: bool
    notes: tuple[str, ...]


def read_chain(folder: Path) -> Chain | None:
    """The chain of a sentence-transformers folder; None for a plain model folder.

    Raises:
        ArchNetError: a module or pooling mode that this version cannot convert, by name.
    """
    if not (folder / MODULES).exists():
        return None
    entries = read_json(folder / MODULES)
    if not isinstance(entries, list) or not all(isinstance(e, dict) and "type" in e for e in entries):
        raise ArchNetError(
            f"{folder / MODULES} does not list modules with their types",
            fix="save the model again with model.save()",
        )
    entries = sorted(entries, key=lambda e: e.get("idx", 0))
    kinds = [str(e["type"]).rsplit(".", 1)[-1] for e in entries]
    if kinds[:2] != ["Transformer", "Pooling"] or kinds[2:] not in ([], ["Normalize"]):
        known = ("Transformer", "Pooling", "Normalize")
        other = [k for k in kinds if k not in known]
        what = f"the module {', '.join(other)}" if other else "this order"
        raise ArchNetError(
            f"{folder} chains {' -> '.join(kinds)}; {what} is not supported",
            fix="Transformer -> Pooling, with or without Normalize, can be converted; to convert the encoder "
            f"alone, copy its files without {MODULES}",
        )
    encoder = folder / str(entries[0].get("path", ""))
    settings = _encoder_settings(encoder)
    length = settings.get("max_seq_length")
    return Chain(
        folder=encoder,
        pooling=read_pooling(folder / str(entries[1].get("path", "1_Pooling"))),
        normalize=kinds[2:] == ["Normalize"],
        max_length=int(length) if length else None,
        lower_case=bool(settings.get("do_lower_case", False)),
        notes=_prompt_notes(folder),
    )


def read_pooling(folder: Path) -> Pooling:
    """The one pooling mode of a Pooling module's folder."""
    file = folder / "config.json"
    config = read_json_object(file)
    mode = config.get("pooling_mode")
    if mode is not None:
        modes = [mode] if isinstance(mode, str) else [str(m) for m in mode]
    else:
        prefix = "pooling_mode_"
        modes = [k.removeprefix(prefix) for k, v in config.items() if k.startswith(prefix) and v]
        if not modes and not any(k.startswith(prefix) for k in config):
            modes = ["mean"]
    if len(modes) == 1 and modes[0] in _MODES:
        return _MODES[modes[0]]
    raise ArchNetError(
        f"{file} pools by {' and '.join(modes) or 'nothing'}; this version converts mean and cls pooling",
        fix="choose a model with one of these, or convert the encoder alone (copy its files without "
        f"{MODULES}) and pool its last_hidden_state yourself",
    )


def _encoder_settings(encoder: Path) -> dict[str, Any]:
    file = encoder / "sentence_bert_config.json"
    return read_json_object(file) if file.exists() else {}


def _prompt_notes(folder: Path) -> tuple[str, ...]:
    file = folder / "config_sentence_transformers.json"
    prompt = read_json_object(file).get("default_prompt_name") if file.exists() else None
    if not prompt:
        return ()
    return (f"the default prompt {prompt!r} of {file.name} is not put before sentences; do so yourself",)
