"""The build folder: what may be begun, gone on with, opened; and what is refused without a trace."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from archnet.build import BuildDir, estimate_build_bytes
from archnet.config import Bits, ConvertSettings
from archnet.errors import ArchNetError
from tests.archnet.fake_job import Child

SETTINGS = ConvertSettings("archnet", Bits(8, 8))


def begin(path: Path, sha256: str = "abc", **more: str) -> BuildDir:
    return BuildDir.open_for_convert(path, SETTINGS, sha256, **more)  # type: ignore[arg-type]


def refusal(path: Path) -> ArchNetError:
    with pytest.raises(ArchNetError) as caught:
        begin(path)
    return caught.value


def test_a_new_folder_is_begun_gone_on_with_and_finished(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b"
    with begin(path) as build:
        assert not build.resumed
        assert not build.finished
    with begin(path) as build:
        assert build.resumed
        build.write_json(build.checkpoints_dir / "x.json", {})
        build.finish({"name": "x"})
        assert not build.checkpoints_dir.exists()
    opened = BuildDir.open_finished(path)
    assert opened.settings == SETTINGS
    assert opened.source_sha256 == "abc"
    assert opened.read_json(opened.manifest) == {"name": "x"}


def test_an_empty_folder_and_what_a_killed_run_left_are_fine(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text("1\n")
    (tmp_path / ".settings.json.123.archnet-tmp").write_text("{")
    with begin(tmp_path) as build:
        assert not build.resumed
    assert sorted(os.listdir(tmp_path)) == [".lock", "settings.json"]


def test_another_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    assert refusal(tmp_path).problem == f"{tmp_path} is not empty and no Arch-Net build"
    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_somebody_elses_settings_file_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text('{"theme": "dark"}')
    assert "its settings.json is another's" in refusal(tmp_path).problem
    assert os.listdir(tmp_path) == ["settings.json"]


@pytest.mark.parametrize(
    ("name", "problem"),
    [("file", "is a file, not a folder"), ("file/below", "cannot be written: not a directory")],
)
def test_a_file_is_no_folder(tmp_path: Path, name: str, problem: str) -> None:
    (tmp_path / "file").write_text("x")
    assert refusal(tmp_path / name).problem == f"{tmp_path / name} {problem}"
    assert (tmp_path / "file").read_text() == "x"


def test_other_weights_and_data_are_named(tmp_path: Path) -> None:
    begin(tmp_path, "a" * 64, data_sha256="b" * 64).close()
    with pytest.raises(ArchNetError) as caught:
        begin(tmp_path, "c" * 64, data_sha256="d" * 64)
    assert "model weights: sha256 aaaaaaaaaaaa -> cccccccccccc; data: sha256 bbbb" in caught.value.problem


def test_another_version_may_not_go_on_but_finds_a_finished_build(tmp_path: Path) -> None:
    begin(tmp_path).close()
    record = json.loads((tmp_path / "settings.json").read_text())
    record["archnet"] = "0.0.1"
    (tmp_path / "settings.json").write_text(json.dumps(record))
    assert "archnet version: 0.0.1 -> " in refusal(tmp_path).problem
    (tmp_path / "manifest.json").write_text("{}")
    with begin(tmp_path) as build:
        assert build.finished


def test_another_format_is_refused(tmp_path: Path) -> None:
    begin(tmp_path).close()
    record = json.loads((tmp_path / "settings.json").read_text())
    (tmp_path / "settings.json").write_text(json.dumps({**record, "version": 99}))
    assert (
        "was written by another version of Arch-Net (format 99, this one has 1)" in refusal(tmp_path).problem
    )


def test_too_little_space_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(ArchNetError, match=r"needs about 1024\.0 TiB, .* are free"):
        BuildDir.open_for_convert(tmp_path / "new" / "deep", SETTINGS, "abc", needed_bytes=2**50)
    assert os.listdir(tmp_path) == []
    assert estimate_build_bytes(10**6) > 10**7


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A temporary folder that other users can look into, as pytest's own cannot."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_a_folder_without_permission_is_told(open_place: Path) -> None:
    readonly = open_place / "readonly"
    readonly.mkdir(mode=0o555)
    read, write = os.pipe()

    def without_rights() -> None:
        if os.geteuid() == 0:
            os.setuid(65534)
        for path in (readonly / "new", readonly):
            try:
                begin(path)
            except ArchNetError as error:
                os.write(write, f"{error.problem}\n".encode())

    assert Child.start(without_rights).wait() == 0
    assert os.read(read, 10_000).decode().splitlines() == [
        f"{readonly / 'new'} cannot be written: permission denied",
        f"{readonly / '.lock'} cannot be written: permission denied",
    ]
    assert list(readonly.iterdir()) == []


@pytest.mark.parametrize(
    ("prepare", "problem"),
    [
        (lambda p: None, "does not exist"),
        (lambda p: p.write_text("x"), "is a file, not a folder"),
        (lambda p: p.mkdir(), "is no Arch-Net build: it has no settings.json"),
        (lambda p: begin(p).close(), "is not finished: it has no manifest.json"),
    ],
    ids=["missing", "file", "empty", "unfinished"],
)
def test_only_a_finished_build_is_opened(
    tmp_path: Path, prepare: Callable[[Path], object], problem: str
) -> None:
    path = tmp_path / "x"
    prepare(path)
    with pytest.raises(ArchNetError) as caught:
        BuildDir.open_finished(path)
    assert caught.value.problem == f"{path} {problem}"


def test_the_lock_is_free_after_close_and_after_a_refusal(tmp_path: Path) -> None:
    path = tmp_path / "x"
    build = begin(path)
    assert f"is in use by process {os.getpid()}" in refusal(path).problem
    build.close()
    for _ in range(2):
        with pytest.raises(ArchNetError, match="other settings"):
            begin(path, "other")
    begin(path).close()
