"""Translation: sacreBLEU of greedy and of beam search with 4 beams, with its signature.

The sources are a file with one sentence a line, the references a file with as many lines.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from archnet.calibration.text_files import text_lines
from archnet.errors import ArchNetError
from archnet.tasks.score import Examples, TaskScore

BEAMS = (1, 4)
"""What is searched with; the last one's score counts."""

Translate = Callable[[Sequence[str], int], Sequence[str]]
"""Translates sentences with so many beams."""

_REFERENCES = "give --references FILE, with the translation of each line of --data"


@dataclass(frozen=True, slots=True)
class ParallelSet:
    """Sources and one reference for each."""

    name: str
    sources: tuple[str, ...]
    references: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.sources)


def load_parallel_set(data: Sequence[Path], references: Path | None) -> ParallelSet:
    """Read sources and references, one a line; both may be gzipped.

    Raises:
        ArchNetError: no or several files of sources, no references, another number of lines, or nothing
            in them.
    """
    if len(data) != 1:
        raise ArchNetError(
            f"the task translation takes one file of sources, not {len(data)}", fix="give --data once"
        )
    if references is None:
        raise ArchNetError("the task translation needs references", fix=_REFERENCES)
    sources, wanted = (_lines(path) for path in (data[0], references))
    if len(sources) != len(wanted):
        raise ArchNetError(
            f"{data[0]} has {len(sources)} lines and {references} has {len(wanted)}", fix=_REFERENCES
        )
    name = data[0].name.removesuffix(".gz").removesuffix(".txt")
    return ParallelSet(name, tuple(sources), tuple(wanted))


def _lines(path: Path) -> list[str]:
    if path.is_dir() or not path.exists():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise ArchNetError(f"{path} {what}", fix="name a file with one sentence a line")
    return [line.strip() for line in text_lines(path)]


def evaluate_translation(translate: Translate, data: ParallelSet) -> TaskScore:
    """sacreBLEU x100 of each search; `score` is that of the most beams.

    Raises:
        ArchNetError: sacreBLEU is not installed.
    """
    counted = {
        "greedy" if beams == 1 else f"{beams} beams": sentence_counts(
            translate(data.sources, beams), data.references
        )
        for beams in BEAMS
    }
    return TaskScore.of(f"sacreBLEU ({signature()})", counted, bleu, counts=list(counted)[-1:])


def require_sacrebleu() -> None:
    """Refuse before anything is translated.

    Raises:
        ArchNetError: sacreBLEU is not installed.
    """
    try:
        import sacrebleu  # noqa: F401
    except ImportError as error:
        raise ArchNetError(
            "the task translation needs the package sacrebleu, which is not installed",
            fix="pip install 'archnet[translation]'",
        ) from error


def sentence_counts(found: Sequence[str], references: Sequence[str]) -> Examples:
    """What corpus BLEU is made of, (n, 10): right and all n-grams of 1 to 4 words, lengths of both sides."""
    require_sacrebleu()
    from sacrebleu.metrics.bleu import BLEU

    metric = BLEU(effective_order=True)  # which the counts do not depend on; sentences are warned of without
    scores = [metric.sentence_score(one, [wanted]) for one, wanted in zip(found, references, strict=True)]
    rows = [(*score.counts, *score.totals, score.sys_len, score.ref_len) for score in scores]
    return np.asarray(rows, dtype=np.float64)


def bleu(counts: Examples) -> float:
    """Corpus BLEU x100 with sacreBLEU's defaults, from `sentence_counts`."""
    from sacrebleu.metrics.bleu import BLEU

    right, every, lengths = np.split(counts.sum(axis=0).astype(np.int64), [4, 8])
    system, wanted = lengths.tolist()
    score = BLEU.compute_bleu(right.tolist(), every.tolist(), system, wanted, smooth_method="exp")
    return float(score.score)


def signature() -> str:
    """sacreBLEU's, of a corpus score with its defaults and one reference."""
    require_sacrebleu()
    from sacrebleu.metrics.bleu import BLEU

    metric = BLEU()
    metric.corpus_score(["a"], [["a"]])  # the number of references is known only then
    return str(metric.get_signature())
