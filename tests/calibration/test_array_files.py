"""Files of arrays: what is read, in which batches, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from archnet.calibration.array_files import holds_arrays, load_arrays
from archnet.calibration.image_batches import ArrayBatches
from archnet.errors import ArchNetError

SIZE = (2, 3, 4)


def values(count: int = 5, dtype: Any = np.float32) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).standard_normal((count, *SIZE)).astype(dtype)


def test_both_kinds_of_files_are_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", pixel_values=values(), labels=np.arange(5), more=np.zeros(3))
    np.save(tmp_path / "b.npy", values(dtype=np.float64))
    with_labels, alone = (load_arrays(tmp_path / name, SIZE) for name in ("a.npz", "b.npy"))
    np.testing.assert_array_equal(with_labels.values, values())
    np.testing.assert_array_equal(alone.values, values(dtype=np.float64).astype(np.float32))
    assert with_labels.labels is not None
    assert with_labels.labels.tolist() == [0, 1, 2, 3, 4]
    assert alone.labels is None
    assert alone.values.dtype == np.float32


def test_the_checksum_is_of_the_values(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", pixel_values=values())
    np.savez(tmp_path / "b.npz", pixel_values=values(), labels=np.arange(5))
    np.savez(tmp_path / "c.npz", pixel_values=values() + 1)
    a, b, c = (load_arrays(tmp_path / f"{name}.npz", SIZE).sha256 for name in "abc")
    assert a == b != c


def test_batches_hold_every_sample_once_an_epoch_and_nothing_is_turned(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", values(6))
    batches = ArrayBatches(load_arrays(tmp_path / "a.npy", SIZE), batch_size=2, seed=3)
    seen = torch.cat([batches.batch(step)["pixel_values"] for step in range(3)])
    assert len(batches) == 6
    assert {row.numpy().tobytes() for row in seen.contiguous()} == {row.tobytes() for row in values(6)}
    torch.testing.assert_close(batches.batch(7)["pixel_values"], batches.batch(7)["pixel_values"])
    assert [len(batch["pixel_values"]) for batch in batches.calibration(2)] == [2, 2]


def test_what_is_a_file_of_arrays(tmp_path: Path) -> None:
    (tmp_path / "a.NPZ").write_bytes(b"")
    (tmp_path / "folder.npz").mkdir()
    assert holds_arrays(tmp_path / "a.NPZ")
    assert not holds_arrays(tmp_path / "folder.npz")
    assert not holds_arrays(tmp_path / "a.zip")


REFUSED = {
    "other name": ({"x": values()}, "has no array 'pixel_values': it holds x"),
    "bytes": ({"pixel_values": np.zeros((1, *SIZE), np.uint8)}, "is uint8, not float32"),
    "other size": (
        {"pixel_values": np.zeros((1, 3, 3, 4), np.float32)},
        "has the shape (1, 3, 3, 4), but the model reads samples of 2 x 3 x 4",
    ),
    "one axis less": ({"pixel_values": np.zeros(SIZE, np.float32)}, "has the shape (2, 3, 4), but"),
    "empty": ({"pixel_values": np.zeros((0, *SIZE), np.float32)}, "holds no sample"),
    "not a number": (
        {"pixel_values": np.stack([values()[0], np.full(SIZE, np.nan, np.float32)])},
        "sample 1 of",
    ),
    "few labels": ({"pixel_values": values(), "labels": np.arange(4)}, "labels of"),
    "negative labels": ({"pixel_values": values(), "labels": np.arange(5) - 1}, "labels of"),
    "labels that are no numbers": (
        {"pixel_values": values(), "labels": np.array(list("abcde"))},
        "labels of",
    ),
}


@pytest.mark.parametrize(("arrays", "text"), REFUSED.values(), ids=REFUSED)
def test_refusals(tmp_path: Path, arrays: dict[str, Any], text: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ArchNetError) as raised:
        load_arrays(tmp_path / "a.npz", SIZE)
    assert text in raised.value.problem


def test_files_that_are_no_arrays_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04 cut off")
    np.savez(tmp_path / "b.npz", pixel_values=np.array([{"pickled": 1}], dtype=object))
    for name in ("a.npz", "b.npz"):
        with pytest.raises(ArchNetError, match="no file of plain arrays, or is damaged"):
            load_arrays(tmp_path / name, SIZE)
    with pytest.raises(ArchNetError, match="there is no file of arrays at"):
        load_arrays(tmp_path / "none.npz", SIZE)
