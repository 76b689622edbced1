"""Image classifiers through the command line: convert, validate, run, load, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import archnet as library
from tests.hf_models import make_image_folder, make_model_folder, write_pictures
from tests.integration.conftest import Archnet

pytest.importorskip("PIL")


@pytest.mark.usefixtures("presets")
def test_a_resnet_is_converted_scored_and_run(tmp_path: Path, target: Path, archnet: Archnet) -> None:
    model = make_image_folder(tmp_path / "resnet")
    pictures = write_pictures(tmp_path / "pictures")
    (pictures / "cat" / "broken.jpg").write_bytes(b"no picture")
    build = tmp_path / "build"
    made = archnet("convert", model, "--data", pictures, "--target", target, "--out", build)
    assert made.exit_code == 0, made.output
    assert "1 of 13 pictures cannot be read and are left out: cat/broken.jpg" in made.output.replace(
        "\n", " "
    )

    scored = archnet("validate", build, "--task", "images", "--data", pictures, "--json")
    assert scored.exit_code == 0, scored.output

    (pictures / "cat" / "broken.jpg").unlink()
    ran = archnet("run", build, "--inputs", pictures, "--outputs", tmp_path / "classes.tsv")
    assert ran.exit_code == 0, ran.output
    lines = (tmp_path / "classes.tsv").read_text().splitlines()
    assert len(lines) == 12
    assert {line.split("\t")[1] for line in lines} <= {"cat", "dog", "cow"}

    network = library.load(build)
    outputs = network(pixel_values=np.zeros((2, 3, 16, 16), np.float32))
    assert outputs.logits.shape == (2, 3)
    assert network.classify([pictures / "dog" / "0.png"])[0].label in ("cat", "dog", "cow")
    with pytest.raises(library.ArchNetError, match="the network takes pixel_values"):
        network(input_ids=None)


def test_text_and_pictures_are_not_mistaken(
    tmp_path: Path, target: Path, sentences: Path, archnet: Archnet
) -> None:
    pictures = write_pictures(tmp_path / "pictures")
    images = make_image_folder(tmp_path / "resnet")
    found = archnet("convert", images, "--data", sentences, "--target", target, "--out", tmp_path / "a")
    assert found.exit_code == 2
    assert "resnet reads pictures, but the data is text" in found.output.replace("\n", " ")
    text = make_model_folder(tmp_path / "bert", layers=1)
    found = archnet("convert", text, "--data", pictures, "--target", target, "--out", tmp_path / "b")
    assert found.exit_code == 2
    assert "bert reads text, but" in found.output.replace("\n", " ")
    (images / "preprocessor_config.json").unlink()
    found = archnet("convert", images, "--data", pictures, "--target", target, "--out", tmp_path / "c")
    assert found.exit_code == 2
    assert "has no preprocessor_config.json" in found.output.replace("\n", " ")
