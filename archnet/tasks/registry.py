"""The tasks by name: `load_task("sts", path)`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from archnet.errors import ArchNetError, nearest
from archnet.tasks import classification, images, sts
from archnet.tasks.classification import LabelledSet
from archnet.tasks.score import Encode, TaskScore
from archnet.tasks.sts import PairSet, Paths

TASKS = ("classification", "images", "language", "sts", "translation")


@dataclass(frozen=True, slots=True)
class Task:
    """A task with its labelled data: `pairs` for "sts", `labelled` for "classification".

    Pictures are read when it is known how large they must be: `places` for "images".
    """

    name: str
    metric: str
    pairs: tuple[PairSet, ...] = ()
    labelled: tuple[LabelledSet, ...] = ()
    places: tuple[Path, ...] = ()

    @property
    def data(self) -> str:
        """The names of the sets, for people."""
        names = [s.name for s in self.pairs] + [s.name for s in self.labelled]
        names += [place.name for place in self.places]
        return ", ".join(names)

    def check_outputs(self, names: Sequence[str], model: str) -> None:
        """Refuse a model that cannot do the task.

        Args:
            names: of the model's outputs.
            model: its name, for the message.

        Raises:
            ArchNetError: classification of an encoder that has no logits.
        """
        if self.labelled:
            classification.require_logits(names, model)

    def evaluate(self, run: Encode, *, label_names: Mapping[int, str] | None = None) -> TaskScore:
        """Score a model.

        Args:
            run: texts to embeddings (n, width) for "sts", to logits (n, labels) for "classification".
            label_names: the model's `id2label`, for classification files that hold names.
        """
        if self.labelled:
            return classification.evaluate_classification(run, self.labelled, label_names=label_names)
        return sts.evaluate_sts(run, self.pairs)


def load_task(name: str, path: Paths) -> Task:
    """Load a task's labelled data.

    Args:
        name: one of `TASKS`.
        path: a file, a folder (each recognised file in it is a set), or several of them.

    Raises:
        ArchNetError: an unknown task, or data that does not suit it.
    """
    if name == "sts":
        return Task(name, sts.METRIC, pairs=tuple(sts.load_pair_sets(path)))
    if name == "images":
        places = [path] if isinstance(path, (str, os.PathLike)) else path
        return Task(name, images.METRIC, places=tuple(Path(place).expanduser() for place in places))
    if name == "classification":
        return Task(name, classification.METRIC, labelled=tuple(classification.load_labelled_sets(path)))
    if name == "translation":
        raise ArchNetError(
            "the task translation needs the build of an encoder-decoder",
            fix="use --task sts or --task classification, or convert a translation model",
        )
    if name == "language":
        raise ArchNetError(
            "the task language needs the build of a language model",
            fix="use --task sts or --task classification, or convert a decoder that writes text",
        )
    raise ArchNetError(f"there is no task {name!r}", fix=nearest(name, TASKS))
