"""`convert --reuse`: the same integers as without, at other widths; what is refused before any writing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from archnet.api import convert
from archnet.events import Event, Note, StageFinished
from archnet.results import read_metrics
from tests.hf_models import make_model_folder
from tests.hf_writers import make_translation_folder
from tests.integration.conftest import Archnet
from tests.integration.test_convert_refusals import check_refusal
from tests.integration.tiny import SEQUENCE, short_presets, text


@pytest.fixture(scope="module", autouse=True)
def shorter() -> Iterator[None]:
    with short_presets(12, 4):
        yield


@pytest.fixture(scope="module")
def first(model: Path, sentences: Path, target: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished build at 8 bits."""
    out = tmp_path_factory.mktemp("reuse") / "first"
    return convert(model, sentences, target=str(target), out=out, preset="fast", seq_len=SEQUENCE)


def integers(build: Path) -> dict[str, bytes]:
    """Every file of the integer networks, by path."""
    files = [file for file in build.rglob("graph.*") if file.parent.name == "graph"]
    return {file.relative_to(build).as_posix(): file.read_bytes() for file in files}


def loaded(events: list[Event]) -> list[str]:
    return [event.stage for event in events if isinstance(event, StageFinished) and event.loaded]


@pytest.mark.parametrize("asked", [{"bits": "w2a4"}, {"attention": "logsum"}], ids=["bits", "softmax"])
def test_a_reused_distillation_gives_the_same_bytes(
    model: Path, sentences: Path, target: Path, tmp_path: Path, first: Path, asked: dict[str, Any]
) -> None:
    def build(out: Path, **more: Any) -> Path:
        settings = {"target": str(target), "preset": "fast", "seq_len": SEQUENCE, **asked, **more}
        return convert(model, sentences, out=out, **settings)

    events: list[Event] = []
    alone = build(tmp_path / "alone")
    reused = build(tmp_path / "reused", reuse=first, events=events.append)
    assert len(integers(alone)) == 2
    assert integers(reused) == integers(alone) != integers(first)
    assert loaded(events) == ["distil"]
    assert Note(f"taken from {first}: distil") in events
    assert (reused / "stages" / "distil" / "seal.json").is_file()  # others can start from it in turn


def test_two_bits_start_from_four_of_another_build(
    model: Path, sentences: Path, target: Path, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"target": str(target), "preset": "fast", "seq_len": SEQUENCE}
    four = convert(model, sentences, out=tmp_path / "four", bits="w4a4", **settings)
    events: list[Event] = []
    two = convert(
        model, sentences, out=tmp_path / "two", bits="w2a4", reuse=four, events=events.append, **settings
    )
    alone = convert(model, sentences, out=tmp_path / "alone", bits="w2a4", **settings)
    assert loaded(events) == ["distil", "quantize-w4a4"]
    curves = {point["stage"] for point in read_metrics(two / "metrics.json")["training"]}
    assert curves == {"distil", "quantize-w4a4", "quantize-w2a4"}
    assert integers(two) == integers(alone)
    again: list[Event] = []
    back = convert(
        model, sentences, out=tmp_path / "back", bits="w4a4", reuse=two, events=again.append, **settings
    )
    assert loaded(again) == ["distil", "quantize-w4a4"]  # only the integers are made
    assert integers(back) == integers(four)


def test_a_translator_reuses_its_translations_too(target: Path, tmp_path: Path) -> None:
    model = make_translation_folder(tmp_path / "model", layers=1, end_bias=3.0)
    events: list[Event] = []
    settings: dict[str, Any] = {"target": str(target), "seq_len": SEQUENCE}
    first = convert(model, text(), out=tmp_path / "first", **settings)
    settings |= {"bits": "auto", "max_drop": 1.0, "reuse": first, "events": events.append}
    second = convert(model, text(), out=tmp_path / "second", **settings)
    assert loaded(events) == ["translate", "distil"]
    assert integers(second) != integers(first)
    name = "translations.safetensors"
    assert (second / name).read_bytes() == (first / name).read_bytes()


def test_refusals_of_reuse_come_before_anything_is_written(
    archnet: Archnet, model: Path, sentences: Path, target: Path, tmp_path: Path, first: Path
) -> None:
    out = tmp_path / "out"

    def refused(problem: str, fix: str, *changes: object, reuse: Path = first) -> None:
        command = ["convert", model, "--data", sentences, "--target", target, "--out", out]
        command += ["--preset", "fast", "--seq-len", SEQUENCE, "--bits", "w4a8", "--reuse", reuse]
        check_refusal(archnet(*command, *changes), problem, fix)
        assert not out.exists()

    refused(f"{tmp_path / 'no'} does not exist", "archnet convert --out", reuse=tmp_path / "no")
    refused("is no Arch-Net build: it has no settings.json", "archnet convert --out", reuse=model)
    refused("is a file, not a folder", "archnet convert --out", reuse=sentences)
    other = "its distillation is of something else: "
    refused(f"{other}preset: fast -> best", "leave --reuse out", "--preset", "best")
    refused(f"{other}seq_len: 32 -> 16", "leave --reuse out", "--seq-len", "16")
    (tmp_path / "other.txt").write_text("Something else.\nA second sentence.\n")
    refused(f"{other}data: sha256", "leave --reuse out", "--data", tmp_path / "other.txt")
    changed = make_model_folder(tmp_path / "changed", layers=1, pooling="mean", seed=3)
    command = ["convert", changed, "--data", sentences, "--target", target, "--out", out, "--reuse", first]
    result = archnet(*command, "--preset", "fast", "--seq-len", SEQUENCE)
    check_refusal(result, f"{other}model weights: sha256", "leave --reuse out")

    copy = shutil.copytree(first, tmp_path / "copy")
    (copy / "manifest.json").unlink()
    refused("is not finished: it has no manifest.json", "goes on where it stopped", reuse=copy)
    shutil.copy(first / "manifest.json", copy)
    network = copy / "stages" / "distil" / "network.safetensors"
    network.write_bytes(network.read_bytes()[:-1])
    refused(f"{copy / 'stages' / 'distil'} is damaged", "leave --reuse out", reuse=copy)
    shutil.rmtree(copy / "stages")
    refused(f"{copy / 'stages' / 'distil'} is gone", "leave --reuse out", reuse=copy)
