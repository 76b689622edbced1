"""Everyday English, written by a small grammar of our own: captions, news, opinions, questions, definitions.

Documentation speaks of arguments and files; the sentences that encoders are used on speak of people and
places. These are plain and repetitive, but they carry the words and turns that documentation lacks.
A rule is a list of alternatives; `<name>` in one is replaced by an alternative of that rule.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from archnet.calibration.everyday_captions import CAPTIONS
from archnet.calibration.everyday_news import NEWS
from archnet.calibration.everyday_texts import TEXTS

RULES: Mapping[str, tuple[str, ...]] = {
    "sentence": (
        *("<caption>",) * 12,
        *("<news>",) * 8,
        *("<opinion>",) * 3,
        *("<question>",) * 3,
        *("<gloss>",) * 4,
    ),
    **CAPTIONS,
    **NEWS,
    **TEXTS,
}

_SLOT = re.compile(r"<(\w+)>")
_VOWEL_FOLLOWS = re.compile(r"\b([Aa]) (?=(?:(?!one\b|uni(?!m|n)|use|euro)[aeiou]|hour|honest))")
_MOST_TRIES = 20


def everyday_sentences(count: int, seed: int = 0) -> list[str]:
    """`count` distinct sentences (fewer when the grammar runs dry), the same for the same seed."""
    rng = np.random.default_rng(seed)
    found: dict[str, None] = {}
    for _ in range(count * _MOST_TRIES):
        if len(found) == count:
            break
        found[_finish(_expand("<sentence>", rng))] = None
    return list(found)


def _expand(text: str, rng: np.random.Generator) -> str:
    while (slot := _SLOT.search(text)) is not None:
        choices = RULES[slot.group(1)]
        text = text[: slot.start()] + choices[int(rng.integers(len(choices)))] + text[slot.end() :]
    return text


def _finish(text: str) -> str:
    """Articles before vowels, and a capital at the start of what ends like a sentence."""
    text = _VOWEL_FOLLOWS.sub(r"\1n ", text)
    return text[0].upper() + text[1:] if text[-1] in ".!?" else text
