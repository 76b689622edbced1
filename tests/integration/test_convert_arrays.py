"""Models that read arrays through the command line: convert, validate, run, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import archnet as library
from tests.integration.conftest import Archnet, check_all_equal

FACTORY = '''
import torch
from torch import nn


class Keywords(nn.Module):
    """A token a frame of a spectrogram, PyTorch's own encoder, the mean of its tokens."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.project = nn.Linear(6, 16)
        self.positions = nn.Parameter(torch.randn(9, 16))
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, activation="gelu")
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(16, 4)

    def forward(self, pixel_values):
        frames = self.project(pixel_values[:, :, 0].transpose(1, 2)) + self.positions
        return self.head(self.encoder(frames).mean(1))


def make():
    return Keywords(), (6, 1, 9)


def wrong():
    return Keywords(), (6, 9)
'''


@pytest.fixture
def model(tmp_path: Path) -> str:
    (tmp_path / "keywords.py").write_text(FACTORY)
    return f"{tmp_path / 'keywords.py'}:make"


def write_arrays(path: Path, count: int = 24, **more: np.ndarray) -> Path:
    values = np.random.default_rng(0).standard_normal((count, 6, 1, 9)).astype(np.float32)
    np.savez(path, pixel_values=values, **more)  # type: ignore[arg-type]
    return path


@pytest.mark.usefixtures("presets")
def test_keywords_are_converted_scored_and_run(tmp_path: Path, model: str, archnet: Archnet) -> None:
    data, build = write_arrays(tmp_path / "train.npz"), tmp_path / "build"
    made = archnet("convert", model, "--data", data, "--target", "onnxruntime", "--out", build)
    assert made.exit_code == 0, made.output
    assert "--inputs data.npz" in made.output
    assert not (build / "preprocessor_config.json").exists()
    check_all_equal(archnet, build, "tvm")

    network = library.load(build)
    with np.load(data) as arrays:
        given = arrays["pixel_values"]
    classes = network(pixel_values=given).output.argmax(1)
    labelled = write_arrays(tmp_path / "test.npz", labels=classes)
    scored = archnet(
        "validate", build, "--task", "images", "--data", labelled, "--backend", "reference", "--json"
    )
    assert scored.exit_code == 0, scored.output
    assert '"score": 100.0' in scored.output

    ran = archnet("run", build, "--inputs", labelled, "--outputs", tmp_path / "out.npz")
    assert ran.exit_code == 0, ran.output
    with np.load(tmp_path / "out.npz") as arrays:
        np.testing.assert_array_equal(arrays["output"].argmax(1), classes)

    for more, text in (
        ({}, "test.npz has no labels, so nothing can be scored"),
        ({"labels": np.full(24, 4)}, "test.npz has a label 4, but the model has 4 classes"),
    ):
        write_arrays(tmp_path / "test.npz", **more)
        found = archnet("validate", build, "--task", "images", "--data", labelled)
        assert found.exit_code == 2
        assert text in found.output.replace("\n", " ")
    found = archnet("validate", build, "--task", "images", "--data", tmp_path)
    assert found.exit_code == 2
    assert "it does not read pictures" in found.output.replace("\n", " ")


def test_refusals_of_arrays(tmp_path: Path, model: str, archnet: Archnet) -> None:
    def refused(model: str, data: Path) -> str:
        found = archnet(
            "convert", model, "--data", data, "--target", "onnxruntime", "--out", tmp_path / "build"
        )
        assert found.exit_code == 2
        assert not (tmp_path / "build").exists()
        return found.output.replace("\n", " ")

    data = write_arrays(tmp_path / "train.npz")
    assert "(6, 9), not three whole numbers" in refused(model.replace(":make", ":wrong"), data)
    np.savez(tmp_path / "other.npz", pixel_values=np.zeros((2, 6, 1, 8), np.float32))
    assert "has the shape (2, 6, 1, 8), but the model reads samples of 6 x 1 x 9" in refused(
        model, tmp_path / "other.npz"
    )
    (tmp_path / "empty.npz").write_bytes(b"")
    assert "no file of plain arrays, or is damaged" in refused(model, tmp_path / "empty.npz")
    (tmp_path / "text.txt").write_text("words\n")
    assert "reads pictures, but the data is text" in refused(model, tmp_path / "text.txt")
    assert "there is no" in refused(model, tmp_path / "missing.npz")
