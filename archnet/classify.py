"""Pictures -> pixels -> classes, through anything that runs an image network; or arrays."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from archnet.build import BuildDir
from archnet.calibration.array_files import holds_arrays, load_arrays
from archnet.calibration.image_files import PictureSet, load_pictures, read_pictures
from archnet.calibration.image_settings import ImageSettings
from archnet.encode import Run
from archnet.errors import ArchNetError
from archnet.parts import image_size, is_image
from archnet.tasks import Task, TaskScore
from archnet.tasks.images import BATCH, Samples, count_of, evaluate_images

LOGITS, BARE = "logits", "output"
PIXELS = "pixel_values"


@dataclass(frozen=True, slots=True)
class Prediction:
    """The likeliest class of a picture.

    Attributes:
        label: its name, or its number where the model has no names.
        index: its number.
        share: its probability, by softmax of the logits.
    """

    label: str
    index: int
    share: float


def open_image_settings(build: BuildDir) -> ImageSettings:
    """How pictures become pixels for a build.

    Raises:
        ArchNetError: the build is of no image model, or the file is damaged.
    """
    if not build.image_settings.is_file():
        raise ArchNetError(
            f"{build.path} has no {build.image_settings.name}: it does not read pictures",
            fix="give what it reads as arrays, a .npz file"
            if is_image(build.path)
            else "give the build of an image classifier",
        )
    return ImageSettings.read(build.image_settings)


def label_names(build: BuildDir) -> dict[int, str]:
    """The names of the classes by number; empty where the model has none."""
    named = build.read_json(build.manifest).get("id2label")
    return {int(k): str(v) for k, v in named.items()} if isinstance(named, Mapping) else {}


def classify_files(
    run: Run, build: BuildDir, files: Sequence[str | os.PathLike[str]], *, batch_size: int = 32
) -> list[Prediction]:
    """The likeliest class of every picture.

    Raises:
        ArchNetError: a file cannot be read, or the network has no logits.
    """
    settings, names = open_image_settings(build), label_names(build)
    found: list[Prediction] = []
    for start in range(0, len(files), batch_size):
        pixels = read_pictures(files[start : start + batch_size], settings)
        logits = _logits(run, settings.normalise(pixels)).astype(np.float64)
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares = powers / powers.sum(axis=1, keepdims=True)
        found += [
            Prediction(names.get(int(i), str(i)), int(i), float(row[i]))
            for row, i in zip(shares, logits.argmax(axis=1), strict=True)
        ]
    return found


def _logits(run: Run, values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits (samples, classes) of what the model reads; a bare tensor that it returns is taken for them."""
    outputs = run({PIXELS: values})
    if list(outputs) == [BARE]:
        return outputs[BARE]
    if LOGITS not in outputs:
        raise ArchNetError(
            f"the network has no logits, only {', '.join(outputs)}",
            fix="convert an image classifier (...ForImageClassification)",
        )
    return outputs[LOGITS]


@dataclass(frozen=True, slots=True)
class PictureScorer:
    """Feeds a task's pictures to a network, with the image settings of the build folder, or its arrays.

    `settings` is None where all sets are arrays.
    """

    task: Task
    settings: ImageSettings | None
    sets: tuple[Samples, ...]
    label_names: Mapping[int, str]

    @classmethod
    def open(cls, task: Task, build: BuildDir) -> PictureScorer:
        """For a build folder; reads the pictures or arrays.

        Raises:
            ArchNetError: the build is of no image model, or the files cannot be read.
        """
        pictures = not is_image(build.path) or any(not holds_arrays(place) for place in task.places)
        settings = open_image_settings(build) if pictures else None
        sets = tuple(_samples(place, settings, build) for place in task.places)
        return cls(task, settings, sets, label_names(build))

    def warnings(self) -> list[str]:
        """What to tell the user of the files: pictures that were left out."""
        pictures = (samples for samples in self.sets if isinstance(samples, PictureSet))
        return [f"{p.name}: {warning}" for p in pictures if (warning := p.warning())]

    def score(self, run: Run, report: Callable[[int, int], None]) -> TaskScore:
        """Score what `run` computes.

        Args:
            report: told how many pictures are done, of how many.
        """
        total, done = sum(count_of(samples) for samples in self.sets), 0

        def classify(samples: Samples, rows: slice) -> NDArray[np.float32]:
            nonlocal done
            made = _logits(run, self._values(samples, rows))
            done = min(total, done + BATCH)
            report(done, total)
            return made

        return evaluate_images(classify, self.sets, label_names=self.label_names)

    def _values(self, samples: Samples, rows: slice) -> NDArray[np.float32]:
        """What the model reads of some samples."""
        if not isinstance(samples, PictureSet):
            return samples.values[rows]
        assert self.settings is not None
        return self.settings.normalise(samples.pixels[rows])


def _samples(place: Path, settings: ImageSettings | None, build: BuildDir) -> Samples:
    if settings is None or holds_arrays(place):
        return load_arrays(place, image_size(build.path))
    return load_pictures(place, settings)
