"""Image classifiers through the command line: convert, validate, run, load, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import archnet as library
from tests.hf_models import make_image_folder, make_model_folder, write_pictures
from tests.integration.conftest import Archnet, check_all_equal
from tests.integration.test_convert_refusals import check_refusal
from tests.integration.tiny import short_presets

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


@pytest.mark.parametrize(
    ("family", "target"),
    [
        ("beit", "onnxruntime"),
        ("dinov2_with_registers", "onnxruntime"),
        ("dinov2", "archnet5"),
        ("ijepa", "archnet"),
        ("swin", "onnxruntime"),
        ("segformer", "onnxruntime"),
        ("convnext", "onnxruntime"),
        ("mobilenet_v2", "archnet"),
        ("mobilevit", "onnxruntime"),
        ("levit", "tvm"),
    ],
)
def test_vision_transformers_of_many_kinds_are_converted(
    tmp_path: Path, archnet: Archnet, family: str, target: str
) -> None:
    model = make_image_folder(tmp_path / family, family)
    pictures, build = write_pictures(tmp_path / "pictures"), tmp_path / "build"
    command = ("convert", model, "--data", pictures, "--target", target, "--bits", "w4a8", "--out", build)
    with short_presets(12, 4):
        made = archnet(*command)
    assert made.exit_code == 0, made.output
    check_all_equal(archnet, build, "tvm")


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


def test_refusals_of_pictures(tmp_path: Path, target: Path, archnet: Archnet) -> None:
    model, out = make_image_folder(tmp_path / "resnet"), tmp_path / "out"
    pictures = write_pictures(tmp_path / "pictures", each=1)
    (tmp_path / "none").mkdir()
    (pictures / "bird").mkdir()

    def refused(problem: str, fix: str, data: Path, *more: str) -> None:
        result = archnet("convert", model, "--data", data, "--target", target, "--out", out, *more)
        check_refusal(result, problem, fix)
        assert not out.exists()

    refused("holds no file of sentences or pictures", "a folder or a .zip of pictures", tmp_path / "none")
    refused("there is no file or folder of sentences or pictures at", "did you mean", tmp_path / "nonee")
    refused("the folder bird in", "put its pictures there, or delete it", pictures)
    (pictures / "bird").rmdir()
    refused("--embedding is of words, which resnet does not read", "leave", pictures, "--embedding", "code")
    refused("--norms corrected is of LayerNorm and", "leave --norms out", pictures, "--norms", "corrected")


@pytest.mark.usefixtures("presets")
def test_a_build_says_what_it_cannot_read(tmp_path: Path, target: Path, archnet: Archnet) -> None:
    pictures = write_pictures(tmp_path / "pictures", each=1)
    build = tmp_path / "build"
    model = make_image_folder(tmp_path / "resnet")
    assert archnet("convert", model, "--data", pictures, "--target", target, "--out", build).exit_code == 0
    (pictures / "cat" / "broken.jpg").write_bytes(b"no picture")
    scored = archnet("validate", build, "--task", "images", "--data", pictures, "--backend", "reference")
    assert scored.exit_code == 0, scored.output
    assert "pictures: 1 of 4 pictures cannot be read and are left out: cat/broken.jpg" in scored.stderr

    (pictures / "cat").rename(pictures / "lion")
    wrong = archnet("validate", build, "--task", "images", "--data", pictures)
    assert wrong.exit_code == 2
    assert "pictures has a folder 'lion', which is none of the model's 3 classes" in wrong.stderr

    outputs = tmp_path / "out.tsv"
    for inputs, problem, fix in (
        (pictures, "broken.jpg cannot be read as a picture", "check the path"),
        (target, "my_chip.toml cannot be read as a picture", "check the path"),
        (tmp_path / "gone", "there is no file or folder of pictures at", "check the spelling"),
    ):
        check_refusal(archnet("run", build, "--inputs", inputs, "--outputs", outputs), problem, fix)
    np.savez(tmp_path / "ids.npz", input_ids=np.zeros((1, 3), np.int64))
    ids = archnet("run", build, "--inputs", tmp_path / "ids.npz", "--outputs", outputs)
    check_refusal(ids, "the network has no input 'input_ids'", "pixel_values")
    assert not outputs.exists()
