"""`archnet compile`, `archnet targets install` and `remove`, and `archnet export --format tflite`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result

from archnet.original import OriginalSummary
from archnet.storage import save_graph
from archnet.targets import toolchain
from archnet.targets.chips import CompileSummary
from archnet.targets.toolchain import Toolchain
from tests.graphs import tiny_encoder

Archnet = Callable[..., Result]
Replace = Callable[..., None]

SUMMARY = CompileSummary(
    "ethos-u55-128", "ethos-u-vela 5.2.0", 93, 0, (), "model_vela.tflite", 59296, 64, "High_End, Shared_Sram",
    95688, 0.191, 9360, 33808, 428064,
)  # fmt: skip


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_compile_prints_what_the_compiler_says(
    archnet: Archnet, replace_module: Replace, build: Path
) -> None:
    asked: dict[str, Any] = {}

    def compile_for(folder: Path, target: str, **options: Any) -> tuple[CompileSummary, ...]:
        asked.update(folder=folder, target=target, **options)
        return (SUMMARY,)

    replace_module("archnet.compiling", compile_for=compile_for)
    result = archnet(
        "compile", str(build), "--target", "ethos-u55-128", "--seq-len", "64", "--time-limit", "9"
    )
    assert result.exit_code == 0
    assert asked == {"folder": build, "target": "ethos-u55-128", "sequence": 64, "seconds": 9.0}
    for words in ("93 on the chip, 0 elsewhere", "95,688 (0.191 ms)", "9.1 KiB", "57.9 KiB"):
        assert words in result.stdout
    assert str(build / "compiled" / "ethos-u55-128") in result.stdout.replace("\n", "")
    told = json.loads(archnet("compile", str(build), "--target", "ethos-u55-128", "--json").stdout)
    assert (told["cycles"], told["fallbacks"]) == (95688, [])


def test_compile_original_tells_what_is_left_to_others(
    archnet: Archnet, replace_module: Replace, build: Path
) -> None:
    made = CompileSummary(
        "k230", "nncase 2.11.0", 61, 14, ("13 LayerNorm", "1 Gather"), "model.kmodel", 2048, 32
    )
    answers = [OriginalSummary("k230", compiled=made), OriginalSummary("k230", refused="it crashed")]
    asked: list[Any] = []

    def compile_original_of(folder: Path, target: str, **options: Any) -> OriginalSummary:
        asked.append((folder, target, options))
        return answers[min(len(asked), 2) - 1]

    replace_module("archnet.original", compile_original_of=compile_original_of)
    command = ("compile", str(build), "--target", "k230", "--original")
    result = archnet(*command, "--seq-len", "32")
    assert result.exit_code == 0
    assert asked == [(build, "k230", {"sequence": 32, "seconds": 1800.0})]
    for words in (
        "the original, unchanged, on k230, 32 tokens",
        "61 on the chip, 14 elsewhere",
        "13 LayerNorm, 1 Gather",
    ):
        assert words in result.stdout
    refused = archnet(*command)
    assert refused.exit_code == 0
    assert "refused  it crashed" in refused.stdout
    told = json.loads(archnet(*command, "--json").stdout)
    assert told == {"target": "k230", "refused": "it crashed", "compiled": None, "part": ""}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--target", "ethos-u5"], "known: bm1684x, bm1688, ethos-u55-128"),
        (["--target", "ethos-u55-128"], "fix: archnet targets install ethos-u"),
        (["--target", "ethos-u55-128", "--time-limit", "0"], "--time-limit 0 is no number of seconds"),
        (["--target", "ethos-u55-128", "--time-limit", "nan"], "--time-limit nan is no number of seconds"),
    ],
)
def test_compile_refuses(archnet: Archnet, build: Path, options: list[str], words: str) -> None:
    result = archnet("compile", str(build), *options)
    assert result.exit_code == 2
    assert words in result.stderr


def test_install_shows_versions_size_and_licence_first(
    archnet: Archnet, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    def install(wanted: Toolchain, say: Callable[[str], None]) -> Path:
        say("working")
        return wanted.folder

    monkeypatch.setattr(toolchain, "install", install)
    lines = archnet("targets", "install", "ethos-u").stdout.splitlines()
    assert "ethos-u-vela==5.2.0" in lines[0]
    assert lines[1].startswith("licence Apache-2.0; 99.2 MiB; into ")
    assert lines[2:] == ["working", "installed"]
    unknown = archnet("targets", "install", "ethos")
    assert unknown.exit_code == 2
    assert "did you mean 'ethos-u'" in unknown.stderr


def test_proprietary_terms_are_named_and_must_be_accepted(
    archnet: Archnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    monkeypatch.setattr(toolchain, "install", lambda wanted, say: made.append(wanted.name))
    refused = archnet("targets", "install", "qualcomm")
    assert refused.exit_code == 2
    assert "onnxruntime-qnn==2.7.0" in refused.stdout
    assert "under the vendor's own terms: Qualcomm_LICENSE.pdf" in refused.stderr
    assert "archnet targets install qualcomm --accept-licence" in refused.stderr
    assert made == []
    assert archnet("targets", "install", "qualcomm", "--accept-licence").exit_code == 0
    assert made == ["qualcomm"]


def test_targets_say_what_is_installed_and_remove_removes_it(archnet: Archnet, cache: Path) -> None:
    assert "ethos-u-vela" not in archnet("targets").stdout
    place = cache / "archnet" / "toolchains" / "ethos-u"
    (place / "bin").mkdir(parents=True)
    (place / "bin" / "python").touch()
    (place / "toolchain.json").write_text('{"packages": ["ethos-u-vela==5.1.0"]}')
    (place / "library").write_bytes(bytes(100_000))
    assert "(other)" in archnet("targets").stdout
    told = json.loads(archnet("targets", "--json").stdout)["toolchains"]
    ethos = next(toolchain for toolchain in told if toolchain["name"] == "ethos-u")
    assert (ethos["installed"], ethos["current"]) == (["ethos-u-vela==5.1.0"], False)
    assert 100_000 <= ethos["installed_bytes"] < 150_000
    other = next(toolchain for toolchain in told if toolchain["name"] == "openvino")
    assert (other["installed"], other["installed_bytes"]) == (None, None)
    assert archnet("targets", "remove", "ethos-u").stdout == f"{place} is removed\n"
    assert not place.exists()
    assert archnet("targets", "remove", "ethos-u").stdout == f"{place} was not there\n"


def test_export_writes_tflite_of_the_asked_length(archnet: Archnet, build: Path) -> None:
    pytest.importorskip("ai_edge_litert", reason="needs archnet[ethos]")
    save_graph(tiny_encoder(np.random.default_rng(0)), build / "graph")
    result = archnet("export", str(build), "--format", "tflite", "--seq-len", "8")
    assert result.exit_code == 0, result.stderr
    path = build / "tflite" / "model.tflite"
    assert result.stdout.startswith(f"{path} (")
    assert path.read_bytes()[4:8] == b"TFL3"
    wrong = archnet("export", str(build), "--format", "tflite", "--seq-len", "99")
    assert wrong.exit_code == 2
    assert "--seq-len 99 is not in 1 .. 16" in wrong.stderr
