"""The tokenizer of a model, always as a `tokenizers.Tokenizer` without padding and truncation."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, normalizers

from archnet.errors import ArchNetError
from archnet.sources.jsonfile import read_json_object
from archnet.sources.quiet import quiet_transformers
from archnet.sources.source import one_line

TOKENIZER = "tokenizer.json"
CONFIG = "tokenizer_config.json"
_SIDE_FILES = (CONFIG, "special_tokens_map.json")
_SLOW_FILES = ("vocab.txt", "vocab.json", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model")


def load_tokenizer(folder: Path) -> tuple[Tokenizer, tuple[Path, ...]] | None:
    """The tokenizer of a model folder and its files; None when the folder has none.

    Raises:
        ArchNetError: tokenizer.json is damaged, or older vocabulary files cannot be turned into one.
    """
    if (folder / TOKENIZER).exists():
        tokenizer = _from_file(folder / TOKENIZER)
    elif any((folder / name).exists() for name in _SLOW_FILES):
        tokenizer = _from_vocabulary(folder)
    else:
        return None
    files = tuple(folder / name for name in _SIDE_FILES if (folder / name).is_file())
    return plain(tokenizer), files


def as_tokenizer(given: object) -> tuple[Tokenizer, tuple[Path, ...]]:
    """A tokenizer as users have it: `tokenizers.Tokenizer`, a fast transformers one, a file or a folder."""
    if isinstance(given, Tokenizer):
        return plain(given), ()
    inner = getattr(given, "backend_tokenizer", None)
    if isinstance(inner, Tokenizer):
        return plain(inner), ()
    if isinstance(given, (str, os.PathLike)):
        path = Path(given).expanduser()
        if path.is_file():
            return plain(_from_file(path)), ()
        found = load_tokenizer(path) if path.is_dir() else None
        if found is not None:
            return found
        raise ArchNetError(
            f"there is no tokenizer at {path}", fix=f"name a {TOKENIZER} file or the folder that has it"
        )
    raise ArchNetError(
        f"a {type(given).__module__}.{type(given).__qualname__} is no tokenizer that can be used",
        fix="pass a tokenizers.Tokenizer, a fast transformers tokenizer, or the path of a tokenizer.json",
    )


def plain(tokenizer: Tokenizer) -> Tokenizer:
    """A copy that neither pads nor cuts."""
    copy = Tokenizer.from_str(tokenizer.to_str())
    copy.no_padding()
    copy.no_truncation()
    return copy


def lower_cased(tokenizer: Tokenizer) -> Tokenizer:
    """A copy that lower-cases text first, as `do_lower_case` of sentence-transformers does."""
    copy = Tokenizer.from_str(tokenizer.to_str())
    steps: list[Any] = [normalizers.Lowercase()]
    if copy.normalizer is not None:
        steps.append(copy.normalizer)
    copy.normalizer = normalizers.Sequence(steps)
    return copy


def tokenizer_max_length(folder: Path) -> int | None:
    """`model_max_length` of tokenizer_config.json; None when absent or the "no limit" placeholder."""
    if not (folder / CONFIG).exists():
        return None
    length = read_json_object(folder / CONFIG).get("model_max_length")
    return int(length) if isinstance(length, (int, float)) and 0 < length < 1_000_000 else None


def _from_file(file: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises bare Exception
        raise ArchNetError(
            f"{file} is no tokenizer that can be read: {one_line(error)}",
            fix="download or copy the file again, or save it with tokenizer.save_pretrained(folder)",
        ) from error


def _from_vocabulary(folder: Path) -> Tokenizer:
    """Let transformers build the fast tokenizer from a vocabulary file."""
    hint = (
        "save the tokenizer with AutoTokenizer.from_pretrained(name).save_pretrained(folder), which writes "
        + TOKENIZER
    )
    build = f"build its fast form with the library tokenizers, and save it there as {TOKENIZER}"
    if (folder / "source.spm").exists():  # Marian's: transformers has no fast form of it
        hint = build
    try:
        from transformers import AutoTokenizer

        with quiet_transformers():
            loaded = AutoTokenizer.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=False
            )
    except Exception as error:  # anything from a missing sentencepiece to a malformed vocabulary
        raise ArchNetError(
            f"{folder} has no {TOKENIZER}, and its vocabulary files could not be used: {one_line(error)}",
            fix=hint,
        ) from error
    inner = getattr(loaded, "backend_tokenizer", None)
    if not isinstance(inner, Tokenizer):
        raise ArchNetError(
            f"the tokenizer of {folder} ({type(loaded).__name__}) has no fast form",
            fix=build,
        )
    return inner
