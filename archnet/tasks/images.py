"""Image classification: top-1 accuracy x100.

The name of the folder that a picture lies in is its label; a file of arrays has labels of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from archnet.calibration.array_files import LABELS, ArraySet
from archnet.calibration.image_files import PictureSet
from archnet.errors import ArchNetError, nearest
from archnet.tasks.score import TaskScore, percentage

METRIC = "Top-1 accuracy (%)"
BATCH = 100

Samples = PictureSet | ArraySet

Classify = Callable[[Samples, slice], NDArray[np.float32]]
"""Some samples of a set to logits (samples, classes)."""


def count_of(samples: Samples) -> int:
    """How many samples a set has."""
    return len(samples.pixels if isinstance(samples, PictureSet) else samples.values)


def evaluate_images(
    classify: Classify, sets: Sequence[Samples], *, label_names: Mapping[int, str] | None = None
) -> TaskScore:
    """Mean over the sets of 100 x the share of samples whose class has the largest logit.

    Args:
        label_names: the model's `id2label`.

    Raises:
        ArchNetError: the logits are not finite, a folder is none of the model's classes, or a file of arrays
            has no labels or others.
    """
    right: dict[str, NDArray[np.float64]] = {}
    wanted: list[NDArray[np.int64]] = []
    for number, samples in enumerate(sets):
        count = count_of(samples)
        found: list[NDArray[np.int64]] = []
        for start in range(0, count, BATCH):
            logits = classify(samples, slice(start, start + BATCH))
            if logits.ndim != 2 or not np.isfinite(logits).all():
                raise ArchNetError(
                    f"the model gives {logits.shape} numbers, not finite logits (pictures, classes)",
                    fix="scoring needs an image classifier (logits)",
                )
            if not wanted:  # wrong folders are told before everything is classified
                wanted = [class_ids(every, logits.shape[1], label_names or {}) for every in sets]
            found.append(logits.argmax(axis=1))
        right[samples.name] = (np.concatenate(found) == wanted[number]).astype(np.float64)[:, None]
    return TaskScore.of(METRIC, right, percentage)


def class_ids(samples: Samples, count: int, names: Mapping[int, str]) -> NDArray[np.int64]:
    """The class of each sample: a picture's from its folder's name, an array's from the labels beside it.

    Raises:
        ArchNetError: it is none of the model's classes, or there is none.
    """
    if isinstance(samples, PictureSet):
        return _folder_classes(samples, count, names)
    if samples.labels is None:
        raise ArchNetError(
            f"{samples.name} has no {LABELS}, so nothing can be scored",
            fix=f"write it with {LABELS}=..., integers from 0, one a sample",
        )
    if int(samples.labels.max()) >= count:
        raise ArchNetError(
            f"{samples.name} has a label {int(samples.labels.max())}, but the model has {count} classes",
            fix=f"number the classes from 0 to {count - 1}, as the model does",
        )
    return samples.labels


def _folder_classes(pictures: PictureSet, count: int, names: Mapping[int, str]) -> NDArray[np.int64]:
    """The class of each picture, from its folder's name.

    That is one of the model's class names or a number; if the model names its classes LABEL_0, LABEL_1,
    ..., the folders are taken in alphabetical order, when there are as many.

    Raises:
        ArchNetError: a folder is none of the classes, or pictures lie in no folder.
    """
    known = {str(i): i for i in range(count)} | {name.lower(): i for i, name in names.items()}
    found = sorted(set(pictures.folders))
    if "" in found or (len(found) == 1 and found[0].lower() not in known):
        raise ArchNetError(
            f"the pictures of {pictures.name} do not lie in one folder a class", fix="sort them into folders"
        )
    unnamed = all(name.startswith("LABEL_") for name in names.values())
    if unnamed and len(found) == count and not all(folder.lower() in known for folder in found):
        known = {folder.lower(): i for i, folder in enumerate(found)}
    unknown = next((folder for folder in found if folder.lower() not in known), None)
    if unknown is not None:
        raise ArchNetError(
            f"{pictures.name} has a folder {unknown!r}, which is none of the model's {count} classes",
            fix=nearest(unknown.lower(), known),
        )
    return np.asarray([known[folder.lower()] for folder in pictures.folders], dtype=np.int64)
