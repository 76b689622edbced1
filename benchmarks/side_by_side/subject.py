"""What is compared: a trained model, its unlabelled calibration data and how its networks are scored.

A task is a file beside this one with a function from `Question` to `Subject`, and a line in `tasks`; nothing
else of the comparison knows tasks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from archnet.build import BuildDir
from archnet.sources.source import Source
from archnet.tasks import TaskScore
from side_by_side.network_folder import RECORD, Calibration, Inputs, NetworkFolder, write_record

Run = Callable[[Mapping[str, NDArray[Any]]], Mapping[str, NDArray[Any]]]
Runs = Mapping[str, Run]
"""A network's graphs by name, ready to run."""

EXAMPLES = 1024
"""Of the calibration data, drawn at random; every tool takes from the front as many as it recommends."""


@dataclass(frozen=True)
class Question:
    """What the user asks.

    Attributes:
        model: as for `archnet convert`.
        calibration: unlabelled data.
        data: what the networks are scored on.
        references: of translations.
        cache: where the float graphs are kept.
        limit: so many calibration examples and examples of each set, for a try.
    """

    model: Path
    calibration: Path
    data: tuple[Path, ...]
    references: Path | None
    cache: Path
    limit: int | None


@dataclass(frozen=True)
class Subject:
    """A model with its data.

    Attributes:
        folder: the float graphs and the calibration data, as the tools get them.
        source_sha256: of the model's weights; builds of ours must be of the same model.
        metric: what `score` counts; higher is better.
        data: the names of the sets that are scored.
        data_key: decides, with the network, the score.
        score: scores a network that has the float graphs' inputs and outputs.
        score_ours: scores a build of ours.
        timed: inputs of each graph for the time of one pass; none where that says nothing.
        shape: what `timed` is, for people.
    """

    folder: NetworkFolder
    source_sha256: str
    metric: str
    data: str
    data_key: str
    score: Callable[[Runs], TaskScore]
    score_ours: Callable[[BuildDir, Runs], TaskScore]
    timed: Mapping[str, Inputs]
    shape: str


def sample(items: Sequence[str], count: int) -> list[str]:
    """So many of them, the same ones always."""
    order = np.random.default_rng(0).permutation(len(items))[:count]
    return [items[int(i)] for i in order]


def digest_of(source: Source, graphs: Mapping[str, Calibration]) -> str:
    """A name for a model with calibration data."""
    digest = hashlib.sha256(source.sha256.encode())
    for name, examples in sorted(graphs.items()):
        digest.update(name.encode())
        for values in examples.arrays.values():
            digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def network_folder(
    cache: Path, name: str, digest: str, make: Callable[[Path], Mapping[str, Calibration]]
) -> NetworkFolder:
    """The folder of a model with its calibration data, made if it is not there.

    Args:
        digest: decides both.
        make: writes GRAPH.onnx of every graph into a folder, and returns their calibration examples.
    """
    path = cache / "networks" / digest[:12]
    if not (path / RECORD).is_file():
        path.mkdir(parents=True, exist_ok=True)
        write_record(path, name, digest, make(path))
    return NetworkFolder.open(path)
