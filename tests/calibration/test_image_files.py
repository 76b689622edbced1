"""Reading pictures: nested folders, archives, damaged files, kinds of pictures, sizes; batches of them."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from archnet.calibration import image_files
from archnet.calibration.image_batches import ImageBatches, moved
from archnet.calibration.image_files import holds_pictures, load_pictures, picture_files, read_pictures
from archnet.calibration.image_settings import ImageSettings
from archnet.errors import ArchNetError
from tests.hf_models import write_pictures

Image = pytest.importorskip("PIL.Image")

SETTINGS = ImageSettings(8, 8, mean=(0.5, 0.25, 0.0), deviation=(0.25, 0.5, 1.0))


def test_folders_and_archives_give_the_same_pictures(tmp_path: Path) -> None:
    write_pictures(tmp_path / "deep" / "er", each=2)
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for file in (tmp_path / "deep").rglob("*.png"):
            archive.write(file, file.relative_to(tmp_path / "deep"))
    folder = load_pictures(tmp_path / "deep", SETTINGS)
    packed = load_pictures(tmp_path / "all.zip", SETTINGS)
    np.testing.assert_array_equal(folder.pixels, packed.pixels)
    assert folder.folders == packed.folders == ("cat", "cat", "cow", "cow", "dog", "dog")
    assert folder.sha256 == packed.sha256
    assert folder.warning() is None
    assert holds_pictures(tmp_path / "all.zip")
    assert holds_pictures(tmp_path / "deep")
    assert not holds_pictures(tmp_path / "none")


def test_damaged_pictures_are_named_and_left_out(tmp_path: Path) -> None:
    write_pictures(tmp_path / "p", each=2)
    (tmp_path / "p" / "cat" / "broken.jpg").write_bytes(b"no picture")
    whole = (tmp_path / "p" / "dog" / "0.png").read_bytes()
    (tmp_path / "p" / "dog" / "0.png").write_bytes(whole[: len(whole) // 2])
    found = load_pictures(tmp_path / "p", SETTINGS)
    assert len(found.pixels) == len(found.folders) == 5
    warning = found.warning()
    assert warning is not None
    assert warning.startswith(
        "2 of 7 pictures cannot be read and are left out: cat/broken.jpg (it is no picture"
    )
    assert "dog/0.png" in warning


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1", "CMYK"])
def test_other_modes_become_rgb(mode: str, tmp_path: Path) -> None:
    picture = Image.fromarray(np.full((8, 8, 3), 255, np.uint8)).convert(mode)
    pixels = SETTINGS.pixels(picture)
    assert pixels.shape == (3, 8, 8)
    assert pixels.min() > 250


def test_sixteen_bits_a_pixel_are_not_read(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 40000, np.uint16)).save(tmp_path / "deep.png")
    message = (
        r"no picture of .* can be read: deep\.png \(more than 8 bits a channel \(mode I;16\) are not read"
    )
    with pytest.raises(ArchNetError, match=message):
        load_pictures(tmp_path, SETTINGS)


def test_pictures_that_would_fill_the_memory_are_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pictures(tmp_path / "p", each=1, size=(10, 10))
    Image.new("1", (11, 10)).save(tmp_path / "p" / "cat" / "wide.png")
    Image.new("1", (30, 30)).save(tmp_path / "p" / "dog" / "bomb.png")
    monkeypatch.setattr(image_files, "MOST_PIXELS", 100)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400)
    found = load_pictures(tmp_path / "p", SETTINGS)
    assert found.unreadable == (
        "cat/wide.png (11 x 10 pixels are too many)",
        "dog/bomb.png (it has too many pixels)",
    )
    assert len(found.pixels) == 3
    with pytest.raises(ArchNetError, match=r"wide\.png cannot be read as a picture: 11 x 10 pixels are too"):
        read_pictures([tmp_path / "p" / "cat" / "wide.png"], SETTINGS)


def test_files_that_would_fill_the_memory_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = (write_pictures(tmp_path / "p", each=1) / "cat" / "0.png").read_bytes()
    monkeypatch.setattr(image_files, "MOST_FILE_BYTES", 4096)
    (tmp_path / "p" / "cat" / "zeros.png").write_bytes(bytes(5000))
    with zipfile.ZipFile(tmp_path / "all.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("cat/0.png", picture)
        archive.writestr("cat/zeros.png", bytes(5000))
    assert (tmp_path / "all.zip").stat().st_size < 4096
    for place in (tmp_path / "all.zip", tmp_path / "p"):
        reason = "cat/zeros.png (a file of 4.9 KiB is too large for a picture)"
        assert load_pictures(place, SETTINGS).unreadable == (reason,)


def test_of_an_animation_the_first_picture_counts(tmp_path: Path) -> None:
    frames = [Image.new("L", (8, 8), value) for value in (200, 10)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert load_pictures(tmp_path, SETTINGS).pixels.min() == 200


def test_a_truncated_jpeg_is_named(tmp_path: Path) -> None:
    stream = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, "JPEG")
    (tmp_path / "whole.jpg").write_bytes(stream.getvalue())
    (tmp_path / "half.jpg").write_bytes(stream.getvalue()[: len(stream.getvalue()) // 2])
    (named,) = load_pictures(tmp_path, SETTINGS).unreadable
    assert named.startswith("half.jpg (image file is truncated")


def test_an_even_choice_is_taken_where_memory_is_short(tmp_path: Path) -> None:
    write_pictures(tmp_path, each=4)
    found = load_pictures(tmp_path, SETTINGS, most_bytes=6 * 3 * 8 * 8)
    assert len(found.pixels) == 6
    assert set(found.folders) == {"cat", "cow", "dog"}
    assert found.warning() == "6 of 12 pictures are used: the others would not fit into memory"


def _empty_class(folder: Path) -> Path:
    write_pictures(folder, each=1)
    (folder / "bird").mkdir()
    return folder


def _damaged_archive(folder: Path) -> Path:
    (folder / "x.zip").write_bytes(b"PK no archive")
    return folder / "x.zip"


def _archive(name: str, *files: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        with zipfile.ZipFile(folder / name, "w") as archive:
            for file in files:
                archive.writestr(file, "text")
        return folder / name

    return make


REFUSALS: dict[str, tuple[Any, str]] = {
    "empty-class": (_empty_class, "the folder bird in .* holds no pictures, unlike the folders beside it"),
    "nothing": (lambda folder: folder, "holds no pictures"),
    "missing": (lambda folder: folder / "gone", "there is no file or folder of pictures"),
    "archive": (_damaged_archive, "is a damaged archive"),
    "empty-archive": (_archive("empty.zip"), r"empty\.zip holds no pictures"),
    "other-files": (_archive("text.zip", "a.txt", "b/c.csv"), r"text\.zip holds no pictures"),
    "none-readable": (_archive("x.zip", "a.png"), r"no picture of .*x\.zip can be read: a\.png \(it is no"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals(name: str, tmp_path: Path) -> None:
    make, text = REFUSALS[name]
    with pytest.raises(ArchNetError, match=text):
        load_pictures(make(tmp_path), SETTINGS)


def test_single_files(tmp_path: Path) -> None:
    files = picture_files(write_pictures(tmp_path, each=1))
    assert read_pictures(files, SETTINGS).shape == (3, 3, 8, 8)
    with pytest.raises(ArchNetError, match=r"gone\.png cannot be read as a picture"):
        read_pictures([tmp_path / "gone.png"], SETTINGS)
    with pytest.raises(ArchNetError, match=r"a\.zip is an archive, not a picture") as caught:
        picture_files(_archive("a.zip")(tmp_path))
    assert "unpack it" in caught.value.fix


def test_pixels_are_scaled_and_normalised() -> None:
    pixels = np.full((1, 3, 2, 2), 51, np.uint8)  # 51 / 255 = 0.2
    got = SETTINGS.normalise(pixels)[0, :, 0, 0]
    np.testing.assert_allclose(got, [-1.2, -0.1, 0.2], rtol=1e-5)


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        ({"size": 32}, (32, 32, 0)),
        ({"size": {"height": 20, "width": 30}}, (20, 30, 0)),
        ({"size": {"shortest_edge": 256}, "crop_size": 224, "do_center_crop": True}, (224, 224, 256)),
        ({"size": {"shortest_edge": 224}, "crop_pct": 0.875}, (224, 224, 256)),
        ({"size": {"shortest_edge": 384}}, (384, 384, 0)),
        ({"size": 224, "feature_extractor_type": "ConvNextFeatureExtractor"}, (224, 224, 256)),
        (
            {"size": 288, "crop_size": 256, "feature_extractor_type": "MobileViTFeatureExtractor"},
            (256, 256, 288),
        ),
        ({"size": 256, "crop_size": 224, "feature_extractor_type": "DeiTFeatureExtractor"}, (224, 224, 0)),
    ],
    ids=["one-number", "both", "crop", "share", "large", "old", "old, crop", "old, both and crop"],
)
def test_settings_of_image_processors(config: dict[str, Any], wanted: tuple[int, int, int]) -> None:
    found = ImageSettings.parse(config)
    assert (found.height, found.width, found.shortest) == wanted
    assert ImageSettings.parse(found.to_json()) == found


_CROP = {"height": 32, "width": 32}
_SHORTEST = {"size": {"shortest_edge": 36}, "crop_size": _CROP}
_BOTH = {"size": {"height": 40, "width": 36}, "crop_size": _CROP, "do_center_crop": True}
PROCESSORS: dict[str, dict[str, Any]] = {
    "ViT": {"size": _CROP},
    "Pvt": {"size": _CROP},
    "Segformer": {"size": _CROP},
    "Beit": _BOTH,
    "DeiT": _BOTH,
    "Bit": _SHORTEST,
    "CLIP": _SHORTEST,
    "Levit": _SHORTEST,
    "MobileNetV2": _SHORTEST,
    "MobileViT": _SHORTEST,
    "PoolFormer": _SHORTEST,
    "ConvNext": {"size": {"shortest_edge": 32}},
}


@pytest.mark.parametrize("size", [(60, 81), (47, 33)], ids=["wide", "high"])
@pytest.mark.parametrize("name", PROCESSORS)
def test_pixels_are_those_of_transformers(name: str, size: tuple[int, int]) -> None:
    """Of its processors that compute with Pillow, with the settings that they would save."""
    transformers = pytest.importorskip("transformers")
    processor = getattr(transformers, f"{name}ImageProcessorPil")(**PROCESSORS[name])
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    wanted = processor(picture, return_tensors="np")["pixel_values"][0]
    found = ImageSettings.parse(json.loads(processor.to_json_string()))
    assert ImageSettings.parse(found.to_json()) == found
    np.testing.assert_allclose(found.normalise(found.pixels(picture)), wanted, atol=1e-6)


def test_the_middle_is_cut_out() -> None:
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:, 8:24] = 200
    cut = ImageSettings(8, 8, shortest=8).pixels(Image.fromarray(pixels))
    assert cut[:, :, 1:-1].min() > 190


def test_damaged_settings_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps({"size": {"longest": 3}}))
    with pytest.raises(ArchNetError, match="has a form that is not known"):
        ImageSettings.read(file)
    file.write_text(json.dumps({"size": 32, "rescale_offset": True}))
    with pytest.raises(ArchNetError, match="has a form that is not known: rescale_offset is True"):
        ImageSettings.read(file)
    file.write_text("{")
    with pytest.raises(ArchNetError, match="cannot be read"):
        ImageSettings.read(file)


def test_batches_are_the_same_whenever_they_are_asked_for(tmp_path: Path) -> None:
    pictures = load_pictures(write_pictures(tmp_path, each=2), SETTINGS)
    batches = ImageBatches(pictures, SETTINGS, batch_size=4, seed=1)
    assert len(batches) == 6
    first = batches.batch(3)["pixel_values"]
    assert first.shape == (4, 3, 8, 8)
    assert bool((batches.batch(3)["pixel_values"] == first).all())
    assert bool((batches.batch(4)["pixel_values"] != first).any())
    assert ImageBatches(pictures, SETTINGS, batch_size=9, seed=1).batch(0)["pixel_values"].shape[0] == 9
    plain = SETTINGS.normalise(pictures.pixels)
    for row in batches.calibration(1)[0]["pixel_values"].numpy():
        assert any(np.array_equal(row, picture) for picture in plain)


def test_moved_pictures_keep_their_pixels() -> None:
    pixels = np.arange(16, dtype=np.uint8).reshape(1, 1, 1, 16).repeat(3, 1).repeat(16, 2).repeat(40, 0)
    found = moved(pixels, np.random.default_rng(0))
    steps = np.abs(np.diff(found[:, 0, 8].astype(int), axis=1))
    assert steps.max() == 1  # neighbours stay neighbours, mirrored or shifted
    assert {int(row[0, 8, 0]) > 7 for row in found} == {True, False}


def test_a_picture_in_bytes_is_read(tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(stream, "JPEG")
    (tmp_path / "a.JPG").write_bytes(stream.getvalue())
    assert load_pictures(tmp_path / "a.JPG", SETTINGS).folders == ("",)
