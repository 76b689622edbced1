"""Stages that a finished build keeps, and another conversion takes: what fits, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from archnet.atomic import TEMPORARY_MARK
from archnet.build import BuildDir
from archnet.checkpoint import read_seal, write_sealed
from archnet.config import Bits, ConvertSettings
from archnet.errors import ArchNetError
from archnet.method import Method
from archnet.reuse import check_reusable, shared_waypoint, take_stages

SETTINGS = ConvertSettings("archnet", Bits(8, 8))
MODEL, DATA = "a" * 64, "d" * 64
STAGES = ("translate", "distil")


def seal(place: Path, content: bytes) -> None:
    def fill(folder: Path) -> None:
        (folder / "network").write_bytes(content)

    write_sealed(place, fill, {"after": "x"})


def make_build(path: Path, **changes: Any) -> Path:
    """A finished build whose stages hold their own name."""
    with BuildDir.open_for_convert(path, replace(SETTINGS, **changes), MODEL, data_sha256=DATA) as build:
        for stage in (*STAGES, "quantize-w8a8", "quantize-w4a4"):
            seal(build.checkpoints_dir / stage / "result", stage.encode())
        build.finish({})
    return path


def check(path: Path, stages: tuple[str, ...] = STAGES, **changes: Any) -> None:
    wanted = {"source_sha256": MODEL, "data_sha256": DATA}
    given = {name: changes.pop(name, value) for name, value in wanted.items()}
    check_reusable(BuildDir.open_finished(path), replace(SETTINGS, **changes), stages=stages, **given)


def test_a_finished_build_keeps_what_does_not_depend_on_bits(tmp_path: Path) -> None:
    path = make_build(tmp_path / "a")
    assert sorted(os.listdir(path / "stages")) == sorted(STAGES)
    assert all(read_seal(path / "stages" / stage) for stage in STAGES)
    assert not (path / "checkpoints").exists()


def test_what_was_trained_at_four_bits_is_kept_and_serves_fewer(tmp_path: Path) -> None:
    path = make_build(tmp_path / "a", bits=Bits(4, 4))
    assert sorted(os.listdir(path / "stages")) == sorted((*STAGES, "quantize-w4a4"))
    other = BuildDir.open_finished(path)

    def fits(**changes: Any) -> list[str]:
        return shared_waypoint(other, replace(SETTINGS, **{"bits": Bits(2, 4), **changes}))

    assert fits() == fits(bits=Bits(3, 4)) == fits(bits=Bits(4, 4)) == ["quantize-w4a4"]
    assert fits(bits=Bits(8, 4)) == fits(bits=Bits(2, 8)) == fits(max_drop=0.5) == []
    assert fits(embedding="code") == fits(target="mine", target_sha256="c" * 64) == []
    assert fits(method=Method(quantizer="dorefa")) == []
    (path / "stages" / "quantize-w4a4" / "network").write_bytes(b"damaged")
    assert fits() == []


def test_a_kill_just_before_they_are_put_away_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with BuildDir.open_for_convert(path, SETTINGS, MODEL, data_sha256=DATA) as build:
        seal(build.checkpoints_dir / "distil" / "result", b"distil")
        build.write_json(build.manifest, {})  # killed here
    with BuildDir.open_for_convert(path, SETTINGS, MODEL, data_sha256=DATA) as build:
        assert build.finished
    check(path, ("distil",))
    assert not (path / "checkpoints").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"bits": Bits(2, 4)},
        {"bits": Bits(8, 8), "max_drop": 0.5},
        {"target": "mine", "target_sha256": "c" * 64},
        {"embedding": "code"},
        {"attention": "logsum"},
    ],
    ids=["bits", "auto", "target", "embedding", "softmax"],
)
def test_other_widths_targets_and_embeddings_fit(tmp_path: Path, changes: dict[str, Any]) -> None:
    check(make_build(tmp_path / "a"), **changes)


def test_without_attention_its_form_does_not_matter(tmp_path: Path) -> None:
    other = BuildDir.open_finished(make_build(tmp_path / "a"))
    given: dict[str, Any] = {"source_sha256": MODEL, "data_sha256": DATA, "stages": STAGES}
    check_reusable(other, replace(SETTINGS, attention="mixing"), attends=False, **given)
    with pytest.raises(ArchNetError, match="seed: 0 -> 1"):
        check_reusable(other, replace(SETTINGS, attention="mixing", seed=1), attends=False, **given)


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"source_sha256": "b" * 64}, "model weights: sha256 aaaaaaaaaaaa -> bbbbbbbbbbbb"),
        ({"data_sha256": "e" * 64}, "data: sha256 dddddddddddd -> eeeeeeeeeeee"),
        ({"preset": "best"}, "preset: balanced -> best"),
        ({"seq_len": 64}, "seq_len: 128 -> 64"),
        ({"seed": 1}, "seed: 0 -> 1"),
        ({"attention": "relu"}, "attention: softmax -> relu"),
    ],
    ids=["model", "data", "preset", "length", "seed", "attention"],
)
def test_what_the_stages_depend_on_must_be_equal(
    tmp_path: Path, changes: dict[str, Any], difference: str
) -> None:
    path = make_build(tmp_path / "a")
    with pytest.raises(ArchNetError) as caught:
        check(path, bits=Bits(4, 4), **changes)
    assert caught.value.problem == f"--reuse {path}: its distillation is of something else: {difference}"
    assert "but for bits, target, embedding, form of softmax and quantizer" in caught.value.fix


def test_all_differences_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(ArchNetError, match="preset: balanced -> fast; seed: 0 -> 3; data: sha256"):
        check(make_build(tmp_path / "a"), preset="fast", seed=3, data_sha256="")


def test_another_version_is_refused(tmp_path: Path) -> None:
    path = make_build(tmp_path / "a")
    record = json.loads((path / "settings.json").read_text())
    (path / "settings.json").write_text(json.dumps({**record, "archnet": "0.0.1"}))
    with pytest.raises(ArchNetError, match=r"something else: archnet version: 0\.0\.1 -> "):
        check(path)


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda p: shutil.rmtree(p / "stages"), "stages/translate is gone"),
        (lambda p: shutil.rmtree(p / "stages" / "distil"), "stages/distil is gone"),
        (lambda p: (p / "stages" / "distil" / "network").unlink(), "stages/distil is damaged"),
        (lambda p: (p / "stages" / "distil" / "network").write_bytes(b"dis"), "stages/distil is damaged"),
        (lambda p: (p / "stages" / "translate" / "seal.json").write_text("{"), "stages/translate is damaged"),
    ],
    ids=["all", "one", "file", "truncated", "seal"],
)
def test_stages_that_are_gone_or_damaged(
    tmp_path: Path, damage: Callable[[Path], object], problem: str
) -> None:
    path = make_build(tmp_path / "a")
    damage(path)
    with pytest.raises(ArchNetError) as caught:
        check(path)
    assert caught.value.problem == f"--reuse {path}: {path}/{problem}"
    assert "leave --reuse out" in caught.value.fix


def test_text_and_pictures_need_no_translations(tmp_path: Path) -> None:
    path = make_build(tmp_path / "a")
    shutil.rmtree(path / "stages" / "translate")
    check(path, ("distil",))


def test_stages_are_copied_once_and_whole(tmp_path: Path) -> None:
    other = BuildDir.open_finished(make_build(tmp_path / "a"))
    with BuildDir.open_for_convert(tmp_path / "b", SETTINGS, MODEL) as build:
        seal(build.checkpoints_dir / "translate" / "result", b"its own")
        left = build.checkpoints_dir / "distil" / f".result.1{TEMPORARY_MARK}"  # of a run that was killed
        left.mkdir(parents=True)
    with BuildDir.open_for_convert(tmp_path / "b", SETTINGS, MODEL) as build:
        assert take_stages(build, other, STAGES) == ["distil"]
        results = {stage: build.checkpoints_dir / stage / "result" for stage in STAGES}
        assert (results["translate"] / "network").read_bytes() == b"its own"
        assert (results["distil"] / "network").read_bytes() == b"distil"
        assert read_seal(results["distil"]) == read_seal(other.stages_dir / "distil")
        assert not left.exists()
        assert take_stages(build, other, STAGES) == []
