"""Language: how well the next token is foreseen in texts, as perplexity and as a share of right guesses.

Any text will do, a line at a time: what comes next is in it, so no label is needed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from archnet.calibration.text_files import text_lines
from archnet.errors import ArchNetError
from archnet.results import PERPLEXITY
from archnet.tasks.score import Examples, TaskScore

METRIC = "next token right x100"


@dataclass(frozen=True, slots=True, eq=False)
class TextSet:
    """Texts as token ids, at least two of each."""

    name: str
    rows: tuple[NDArray[np.int32], ...]

    def __len__(self) -> int:
        return len(self.rows)


def load_text_set(data: Sequence[Path], tokenizer: Tokenizer, longest: int) -> TextSet:
    """Read texts, one a line; files may be gzipped.

    Args:
        longest: lines of more tokens are cut into several texts.

    Raises:
        ArchNetError: a file is missing or a folder, or no line has two tokens.
    """
    cutting = Tokenizer.from_str(tokenizer.to_str())
    cutting.no_padding()
    cutting.enable_truncation(longest)
    rows: list[NDArray[np.int32]] = []
    for path in data:
        if not path.is_file():
            what = "is a folder" if path.is_dir() else "does not exist"
            raise ArchNetError(f"{path} {what}", fix="name a file with a text a line")
        lines = [line.strip() for line in text_lines(path)]
        for found in cutting.encode_batch_fast([line for line in lines if line]):
            rows += [np.asarray(piece.ids, np.int32) for piece in (found, *found.overflowing)]
    rows = [row for row in rows if len(row) > 1]
    if not rows:
        raise ArchNetError(
            f"no line of {', '.join(map(str, data))} has two tokens", fix="give text, one piece a line"
        )
    return TextSet(", ".join(path.name.removesuffix(".gz") for path in data), tuple(rows))


def language_score(found: Examples) -> TaskScore:
    """The score of texts: the share of tokens that were the likeliest of all; perplexity beside it.

    Args:
        found: (texts, 3) as `archnet.language.LanguageRun.log_likelihoods` gives them.
    """
    score = TaskScore.of(METRIC, {METRIC: found}, right)
    return TaskScore(
        score.metric,
        score.score,
        {**score.per_set, PERPLEXITY: (perplexity(found), len(found))},
        score.examples,
        score.score_of,
    )


def right(rows: Examples) -> float:
    """100 x the share of tokens that were the likeliest of all."""
    _, likeliest, tokens = rows.sum(axis=0)
    return 100.0 * float(likeliest / tokens)


def perplexity(rows: Examples) -> float:
    """exp of the mean negative log-likelihood of a token."""
    lost, _, tokens = rows.sum(axis=0)
    return math.exp(min(float(lost / tokens), 700.0))
