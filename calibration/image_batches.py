"""Batches of pictures for training and calibration, with random flips and shifts, and of arrays as they are.

No label is known.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from archnet.calibration.array_files import ArraySet
from archnet.calibration.image_files import PictureSet
from archnet.calibration.image_settings import ImageSettings

SHIFT = 8
"""Pictures move by up to a share of 1 / SHIFT of their size; what is missing at an edge is mirrored."""

_CALIBRATION = 2**31


class Shuffled:
    """Which samples a step's batch has: each once an epoch; again where there are fewer than a batch.

    Args:
        count: of the samples, at least one.
        batch_size: samples in a batch.
        seed: of the order.
    """

    def __init__(self, count: int, *, batch_size: int, seed: int) -> None:
        self.count, self.batch_size, self.seed = count, batch_size, seed

    def __len__(self) -> int:
        """The number of samples."""
        return self.count

    def rows(self, step: int) -> NDArray[np.int64]:
        """The numbers of a step's samples, the same whenever they are asked for."""
        per_epoch = max(1, self.count // self.batch_size)
        epoch, index = divmod(step, per_epoch)
        order = np.random.default_rng([self.seed, 1, epoch]).permutation(self.count)
        if self.count < self.batch_size:
            order = np.resize(order, self.batch_size)
        return order[index * self.batch_size : (index + 1) * self.batch_size]

    def for_calibration(self, n: int) -> list[NDArray[np.int64]]:
        """The numbers of `n` batches for observers, drawn independently of training."""
        return [self.rows(_CALIBRATION + number) for number in range(n)]


class ImageBatches(Shuffled):
    """Pictures as a model's pixels, in batches of one size; any step's batch on its own.

    Args:
        pictures: at least one.
        settings: how pixels are normalised.
        batch_size: pictures in a batch.
        seed: of the order and of the flips and shifts.
    """

    def __init__(self, pictures: PictureSet, settings: ImageSettings, *, batch_size: int, seed: int) -> None:
        super().__init__(len(pictures.pixels), batch_size=batch_size, seed=seed)
        self._pictures, self._settings = pictures, settings

    def warnings(self) -> list[str]:
        """What to tell the user of the files."""
        found = self._pictures.warning()
        return [] if found is None else [found]

    def batch(self, step: int) -> dict[str, torch.Tensor]:
        """The batch of a training step, the same whenever it is asked for: pixel_values float32."""
        rng = np.random.default_rng([self.seed, step])
        return self._prepared(moved(self._pictures.pixels[self.rows(step)], rng))

    def calibration(self, n: int) -> list[dict[str, torch.Tensor]]:
        """`n` batches of unchanged pictures for observers, drawn independently of training."""
        return [self._prepared(self._pictures.pixels[rows]) for rows in self.for_calibration(n)]

    def _prepared(self, pixels: NDArray[np.uint8]) -> dict[str, torch.Tensor]:
        values = torch.from_numpy(self._settings.normalise(pixels))
        return {"pixel_values": values.contiguous(memory_format=torch.channels_last)}


class ArrayBatches(Shuffled):
    """Samples of a file of arrays; nothing is known of what may be turned or moved, so none is.

    Args:
        arrays: at least one sample.
        batch_size: samples in a batch.
        seed: of the order.
    """

    def __init__(self, arrays: ArraySet, *, batch_size: int, seed: int) -> None:
        super().__init__(len(arrays.values), batch_size=batch_size, seed=seed)
        self._values = arrays.values

    def warnings(self) -> list[str]:
        """Nothing: a file of arrays is read whole or refused."""
        return []

    def batch(self, step: int) -> dict[str, torch.Tensor]:
        """The batch of a training step, the same whenever it is asked for: pixel_values float32."""
        return self._prepared(self.rows(step))

    def calibration(self, n: int) -> list[dict[str, torch.Tensor]]:
        """`n` batches for observers, drawn independently of training."""
        return [self._prepared(rows) for rows in self.for_calibration(n)]

    def _prepared(self, rows: NDArray[np.int64]) -> dict[str, torch.Tensor]:
        values = torch.from_numpy(self._values[rows])
        return {"pixel_values": values.contiguous(memory_format=torch.channels_last)}


def moved(pixels: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Each picture mirrored or not, and shifted: (batch, 3, height, width) -> the same."""
    count, _, height, width = pixels.shape

    def places(size: int) -> NDArray[np.int64]:
        most = size // SHIFT
        places = np.arange(size) + rng.integers(-most, most + 1, (count, 1))
        places = np.abs(places)  # mirrored at both edges
        mirrored: NDArray[np.int64] = np.where(places >= size, 2 * (size - 1) - places, places)
        return mirrored

    rows, columns = places(height), places(width)
    columns = np.where(rng.integers(0, 2, (count, 1)) == 1, columns[:, ::-1], columns)
    channels = np.arange(3)[None, :, None, None]
    picture = np.arange(count)[:, None, None, None]
    return pixels[picture, channels, rows[:, None, :, None], columns[:, None, None, :]]
