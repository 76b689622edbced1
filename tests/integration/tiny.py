"""Tiny real conversions: short presets, a text, a target without TVM, and the command line as a process.

`python -m tests.integration.tiny DISTIL QUANTIZE convert ...` is `archnet convert ...` with that many
steps, and a checkpoint after every step and after every eight translations.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from archnet import engine, translations
from archnet.presets import PRESETS_OF
from tests.hf_models import SENTENCES, WORDS

ROOT = Path(__file__).parents[2]
SEQUENCE = 32


def text() -> list[str]:
    """Some 70 sentences of 3 to 20 known words."""
    draw = random.Random(0)
    made = [" ".join(draw.choices(WORDS, k=draw.randint(3, 20))) for _ in range(60)]
    return [*SENTENCES, *made]


def write_text(folder: Path) -> Path:
    """`text()` as a file, one sentence a line."""
    path = folder / "sentences.txt"
    path.write_text("\n".join(text()) + "\n")
    return path


def write_target(folder: Path, *, title: str = "mine") -> Path:
    """A user's own target like archnet, without TVM, whose compiler takes most of a tiny conversion."""
    lines = (ROOT / "targets" / "profiles" / "archnet.toml").read_text().splitlines()
    changed = {"name": 'name = "my_chip"', "title": f'title = "{title}"', "exports": 'exports = ["onnx"]'}
    path = folder / "my_chip.toml"
    path.write_text("\n".join(changed.get(line.partition(" =")[0], line) for line in lines) + "\n")
    return path


@contextmanager
def short_presets(distil: int = 100, quantize: int = 20) -> Iterator[None]:
    """Every preset takes so many steps of eight sentences or pictures."""
    tables = list(PRESETS_OF.values())
    before = [dict(table) for table in tables]
    for table in tables:
        for name, preset in table.items():
            table[name] = replace(
                preset,
                distil=replace(preset.distil, steps=distil),
                quantize=replace(preset.quantize, steps=quantize),
                batch_size=8,
            )
    try:
        yield
    finally:
        for table, presets in zip(tables, before, strict=True):
            table.update(presets)


@contextmanager
def many_checkpoints() -> Iterator[None]:
    """A checkpoint after every step and after every eight translations."""
    before = engine.CHECKPOINT_SECONDS, translations.SENTENCES
    engine.CHECKPOINT_SECONDS, translations.SENTENCES = 0.0, 8
    try:
        yield
    finally:
        engine.CHECKPOINT_SECONDS, translations.SENTENCES = before


if __name__ == "__main__":
    from archnet.cli import main

    steps = [int(argument) for argument in sys.argv[1:3]]
    sys.argv = ["archnet", *sys.argv[3:]]
    with short_presets(*steps), many_checkpoints():
        main()
