"""Unlabelled English for `archnet quickstart`, from nothing but what pip installs.

Two parts: prose from the documentation of the Python installation (docstrings and comments of the
standard library and of the packages Arch-Net itself depends on, the language's reference topics, README
texts in package metadata), and everyday sentences from a small grammar of our own (everyday.py).
Source files are read and parsed as data, never imported. The same installation gives the same sentences.
"""

from __future__ import annotations

import ast
import os
import sysconfig
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from archnet.calibration.everyday import everyday_sentences
from archnet.calibration.prose import comments, docstrings, sentences, words
from archnet.errors import ArchNetError

DEFAULT_LIMIT = 45_000
EVERYDAY_SHARE = 0.5
"""How much of the text is from the grammar: the rest is documentation."""

PACKAGES = (
    *(
        "numpy",
        "scipy",
        "sympy",
        "networkx",
        "onnx",
        "onnxruntime",
        "onnxscript",
        "huggingface_hub",
        "jinja2",
    ),
    *("click", "rich", "setuptools", "pip", "typing_extensions", "tvm", "torch", "transformers"),
)
"""Packages whose documentation is read when they are installed; all have permissive licences."""

_SKIPPED_FOLDERS = frozenset(
    (
        "test",
        "tests",
        "testing",
        "_testing",
        "__pycache__",
        "site-packages",
        "dist-packages",
        "idle_test",
        "lib2to3",
    )
)
_SKIPPED_PATHS = (
    *("transformers/models", "transformers/integrations", "pip/_vendor/rich", "setuptools/_vendor"),
    *(
        f"torch/{part}"
        for part in ("_inductor", "_dynamo", "_refs", "ao", "distributed", "fx", "onnx", "export")
    ),
)
"""Large parts whose documentation repeats itself or that of another package: they cost time."""

_SAME_START = 4
_MOST_SAME_START = 6
"""At most so many sentences may begin with the same four words."""


def quickstart_sentences(limit: int = DEFAULT_LIMIT, seed: int = 0) -> list[str]:
    """Distinct English sentences of 6 to 40 words, shuffled (definitions in the grammar are shorter).

    Args:
        limit: how many at most.
        seed: of the grammar and the order.

    Raises:
        ArchNetError: the installation has hardly any text (a Python without sources or docstrings).
    """
    everyday = everyday_sentences(round(limit * EVERYDAY_SHARE), seed)
    documentation = most_varied(documentation_sentences(), limit - len(everyday))
    if len(documentation) < min(limit // 4, 1000):
        raise ArchNetError(
            f"this Python installation carries only {len(documentation)} sentences of documentation",
            fix="bring your own text with --data FILE_OR_DIR",
        )
    chosen = list(dict.fromkeys([*documentation, *everyday]))
    return [chosen[i] for i in np.random.default_rng(seed).permutation(len(chosen))]


def documentation_sentences(roots: Sequence[Path] | None = None) -> list[str]:
    """The distinct English sentences in the documentation under some folders, in a fixed order.

    Args:
        roots: folders of Python files; this installation's by default, with its topics and descriptions.
    """
    texts = _installation_texts() if roots is None else _file_texts(roots)
    return list(dict.fromkeys(sentence for text in texts for sentence in sentences(text)))


def most_varied(candidates: Iterable[str], limit: int) -> list[str]:
    """The `limit` sentences with the most varied words, without near repetitions, in the given order.

    A sentence's worth is the mean rarity of its words. Words of technical documentation are frequent in
    it and everyday words rare, so this also keeps what is the least technical. Words that occur only once
    or twice count nothing: most are names.
    """
    kept = _without_repetitions(candidates)
    bags = [words(sentence) for sentence in kept]
    counts = Counter(word for bag in bags for word in set(bag))
    total = len(kept)
    rarity = {word: float(np.log(total / n)) if n > 2 else 0.0 for word, n in counts.items()}
    worth = np.asarray([sum(rarity[word] for word in bag) / max(1, len(bag)) for bag in bags])
    best = np.sort(np.argsort(-worth, kind="stable")[:limit])
    return [kept[i] for i in best]


def _without_repetitions(candidates: Iterable[str]) -> list[str]:
    """Drop sentences of the same long words as one before, and all but a few with the same beginning."""
    seen: set[tuple[str, ...]] = set()
    starts: Counter[tuple[str, ...]] = Counter()
    kept = []
    for sentence in candidates:
        bag = words(sentence)
        key = tuple(sorted({word for word in bag if len(word) > 3}))
        start = tuple(bag[:_SAME_START])
        if key in seen or starts[start] >= _MOST_SAME_START:
            continue
        seen.add(key)
        starts[start] += 1
        kept.append(sentence)
    return kept


def _installation_texts() -> Iterator[str]:
    """Texts with English in them: topics, docstrings, comments, package descriptions."""
    library = Path(sysconfig.get_path("stdlib"))
    yield from _topics(library / "pydoc_data" / "topics.py")
    yield from _file_texts([library, *_package_folders()])
    yield from _descriptions()


def _file_texts(roots: Iterable[Path]) -> Iterator[str]:
    for root in roots:
        for file in _python_files(root):
            source = _read(file)
            yield from docstrings(source)
            yield comments(source.decode("utf-8", "replace"))


def _topics(file: Path) -> Iterator[str]:
    """The language reference that `help()` shows: the strings of one dictionary."""
    try:
        tree = ast.parse(_read(file))
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) > 200:
            yield node.value


def _package_folders() -> Iterator[Path]:
    for name in PACKAGES:
        try:
            spec = find_spec(name)  # of a top-level name, so nothing is imported
        except (ImportError, ValueError):
            continue
        for location in (spec.submodule_search_locations or ()) if spec else ():
            yield Path(location)


def _python_files(root: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in _SKIPPED_FOLDERS)
        if folder.replace(os.sep, "/").endswith(_SKIPPED_PATHS):
            folders.clear()
            continue
        for name in sorted(names):
            if name.endswith(".py"):
                yield Path(folder, name)


def _descriptions() -> Iterator[str]:
    """The README texts that packages carry in their metadata."""
    site = Path(sysconfig.get_path("purelib"))
    for file in sorted(site.glob("*.dist-info/METADATA")):
        yield _read(file).decode("utf-8", "replace").partition("\n\n")[2]


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""
