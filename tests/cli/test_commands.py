"""Every command: what it hands on, what it prints, and how it ends."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from archnet.cli import app
from archnet.engine import Interrupted
from archnet.errors import ArchNetError
from archnet.events import EventSink, Note, Progress, StageFinished, StageStarted
from archnet.results import (
    merge_metrics,
)
from tests.cli.conftest import Replace

Archnet = Callable[..., Result]


@pytest.mark.parametrize("name", sorted(app.commands))
def test_every_help_ends_with_examples_of_that_command(archnet: Archnet, name: str) -> None:
    result = archnet(name, "--help")
    assert result.exit_code == 0
    text = result.output.rstrip()
    assert text.index("Examples:") > text.index("Options:")
    assert f"archnet {name}" in text[text.index("Examples:") :]


def test_the_parts_of_the_method_have_a_section_of_their_own(archnet: Archnet) -> None:
    text = archnet("convert", "--help").output
    options, _, method = text.partition("How it learns:")
    for option in ("--quantizer", "--periods", "--block-decay", "--adaptation"):
        assert f"\n  {option} " in method
        assert f"\n  {option} " not in options
    assert "\n  --bits " in options


@pytest.mark.parametrize("name", sorted(app.commands))
def test_the_examples_use_options_that_exist(name: str) -> None:
    command = app.commands[name]
    known = {option for parameter in command.params for option in parameter.opts}
    assert command.epilog is not None
    used = set(re.findall(r"(?<= )--[a-z-]+", command.epilog))
    assert used <= known


def test_no_arguments_show_the_help(archnet: Archnet) -> None:
    result = archnet()
    assert result.exit_code == 0
    assert result.output.startswith("Usage: archnet [OPTIONS] COMMAND")


def test_version(archnet: Archnet) -> None:
    from archnet import __version__

    assert archnet("--version").output == f"archnet {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "problem", "fix"),
    [
        (["frobnicate"], "no such command 'frobnicate'", "see `archnet --help`"),
        (["convert"], "missing argument 'MODEL'", "see `archnet convert --help`"),
        (["bench", "x", "--jsom"], "no such option '--jsom'", "see `archnet bench --help`"),
        (["convert", "m", "--data", "d", "--target", "tvm", "--out", "o", "--seed", "x"], "", "see `archnet"),
    ],
)
def test_wrong_usage_is_two_lines_and_exit_code_2(
    archnet: Archnet, arguments: list[str], problem: str, fix: str
) -> None:
    result = archnet(*arguments)
    assert result.exit_code == 2
    first, second = result.stderr.splitlines()
    assert first.startswith(f"error: {problem}")
    assert second.startswith(f"  fix: {fix}")


def test_targets(archnet: Archnet) -> None:
    result = archnet("targets")
    assert result.exit_code == 0
    for word in ("archnet", "onnxruntime", "tvm", "w8 4 3 2", "a8 6 4"):
        assert word in result.output
    told = json.loads(archnet("targets", "--json").output)
    assert sorted(told) == ["chips", "profiles", "toolchains"]
    assert {"archnet", "onnxruntime", "tvm"} <= {profile["name"] for profile in told["profiles"]}
    toolchains = {toolchain["name"]: toolchain for toolchain in told["toolchains"]}
    assert toolchains["openvino"]["licence"] == "Apache-2.0"
    chips = {chip["name"]: chip for chip in told["chips"]}
    assert chips["iree"]["toolchain"] == "iree"
    assert {chip["toolchain"] for chip in told["chips"]} <= {*toolchains, None}
    assert {chip["profile"] for chip in told["chips"]} <= {profile["name"] for profile in told["profiles"]}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--target", "tvn"], "did you mean 'tvm'"),
        (["--target", "tvm", "--bits", "w8a88"], "did you mean 'w8a8'"),
        (["--target", "tvm", "--bits", "w4a2"], "did you mean 'w4a"),
        (["--target", "tvm", "--bits", "auto"], "--bits auto needs --max-drop"),
        (["--target", "tvm", "--max-drop", "0.5"], "--max-drop belongs to --bits auto, not to --bits w8a8"),
        (["--target", "tvm", "--bits", "auto", "--max-drop", "-1"], "--max-drop -1 is out of range"),
        (["--target", "tvm", "--bits", "auto", "--max-drop", "nan"], "--max-drop nan is out of range"),
        (["--target", "tvm", "--bits", "autoo", "--max-drop", "1"], "did you mean 'auto'"),
        (["--target", "tvm", "--preset", "fastt"], "did you mean 'fast'"),
        (["--target", "tvm", "--seq-len", "5000"], "--seq-len 5000 is out of range"),
        (["--target", "tvm", "--embedding", "hots"], "--embedding 'hots' does not exist"),
    ],
)
def test_convert_refuses_misspelt_names_before_it_loads_anything(
    archnet: Archnet, replace_module: Replace, tmp_path: Path, options: list[str], words: str
) -> None:
    replace_module("archnet.api")  # without `convert`: calling it would be another error
    out = tmp_path / "out"
    result = archnet("convert", "model", "--data", "x.txt", "--out", str(out), *options)
    assert result.exit_code == 2
    assert words in result.stderr
    assert not out.exists()


def fake_convert(build: Path, calls: list[dict[str, Any]]) -> Callable[..., Path]:
    def convert(model: str, data: str, *, events: EventSink, **settings: Any) -> Path:
        calls.append({"model": model, "data": data, **settings})
        events(StageStarted("distil", 0, 1, stages=("distil",)))
        events(
            Progress("distil", "block 0", 1, 2, loss=0.5, speed=1234.0, seconds_left=70.0, memory_bytes=2**30)
        )
        events(Note("a note"))
        events(StageFinished("distil", 62.0, {"cosine": 0.99}))
        merge_metrics(build / "metrics.json", sizes={"onnx/model.onnx": 2**20}, seconds={"distil": 62.0})
        return build

    return convert


def test_convert_hands_all_settings_on_and_tells_its_progress(
    archnet: Archnet, replace_module: Replace, build: Path, tmp_path: Path
) -> None:
    calls: list[dict[str, Any]] = []
    replace_module("archnet.api", convert=fake_convert(build, calls))
    log = tmp_path / "events.jsonl"
    result = archnet(
        *("convert", "tiny", "--data", "x.txt", "--target", "tvm", "--bits", "W8A8", "--out", str(build)),
        *(
            "--preset",
            "fast",
            "--seq-len",
            "32",
            "--seed",
            "3",
            "--attention",
            "relu",
            "--embedding",
            "host",
            "--reuse",
            "earlier",
            "--json-log",
            str(log),
        ),
        *("--quantizer", "dorefa", "--block-decay", "0.5", "--sequences", "greedy"),
        *("--norms", "corrected", "--head-width", "8,16", "--ffn-width", "512"),
    )
    assert result.exit_code == 0, result.stderr
    assert calls == [
        {
            "model": "tiny",
            "data": "x.txt",
            "target": "tvm",
            "bits": "w8a8",
            "max_drop": None,
            "out": build,
            "preset": "fast",
            "seq_len": 32,
            "seed": 3,
            "embedding": "host",
            "attention": "relu",
            "norms": "corrected",
            "head_width": "8,16",
            "ffn_width": 512,
            "reuse": Path("earlier"),
            "quantizer": "dorefa",
            "periods": "all",
            "block_decay": 0.5,
            "adaptation": "none",
            "sequences": "greedy",
        }
    ]
    lines = result.output.splitlines()
    assert lines[1:5] == [
        "[1/1] distil",
        "distil: 1/2, block 0, loss 0.5, 1,234 tokens/s, 1:10 left, memory 1.0 GiB (peak 0 B)",
        "a note",
        "distil: done in 1:02: cosine 0.99",
    ]
    assert "onnx/model.onnx 1.0 MiB" in result.output
    assert f"archnet validate {build}" in result.output
    kinds = [json.loads(line)["event"] for line in log.read_text().splitlines()]
    assert kinds == ["stage_started", "progress", "note", "stage_finished"]


def test_convert_hands_the_choice_of_widths_on(
    archnet: Archnet, replace_module: Replace, build: Path
) -> None:
    calls: list[dict[str, Any]] = []
    replace_module("archnet.api", convert=fake_convert(build, calls))
    options = ("--target", "tvm", "--bits", "AUTO", "--max-drop", "0.5", "--out", str(build))
    result = archnet("convert", "tiny", "--data", "x.txt", *options)
    assert result.exit_code == 0, result.stderr
    assert (calls[0]["bits"], calls[0]["max_drop"]) == ("auto", 0.5)


def test_convert_leaves_the_embedding_to_the_target(
    archnet: Archnet, replace_module: Replace, build: Path
) -> None:
    calls: list[dict[str, Any]] = []
    replace_module("archnet.api", convert=fake_convert(build, calls))
    archnet("convert", "tiny", "--data", "x.txt", "--target", "archnet", "--out", str(build))
    assert calls[0]["embedding"] is None
    assert calls[0]["attention"] is None
    assert (calls[0]["preset"], calls[0]["seq_len"], calls[0]["bits"]) == ("balanced", 128, "w8a8")


def test_quickstart_has_a_folder_of_its_own(archnet: Archnet, replace_module: Replace, build: Path) -> None:
    calls: list[Path] = []

    def quickstart(out: Path, events: EventSink) -> Path:
        calls.append(out)
        return build

    replace_module("archnet.quickstart", quickstart=quickstart)
    assert archnet("quickstart").exit_code == 0
    assert archnet("quickstart", "--out", str(build)).exit_code == 0
    assert calls == [Path("archnet-quickstart"), build]


def test_an_interrupted_convert_says_how_to_go_on(
    archnet: Archnet, replace_module: Replace, build: Path
) -> None:
    def convert(*arguments: Any, **settings: Any) -> Path:
        raise Interrupted("stopped at a checkpoint of stage distil")

    replace_module("archnet.api", convert=convert)
    command = ["convert", "my model", "--data", "x.txt", "--target", "tvm", "--out", str(build)]
    result = archnet(*command)
    assert result.exit_code == 130
    assert result.stderr.splitlines() == [
        "",
        "stopped at a checkpoint of stage distil",
        f"{build} keeps what is done; the same command goes on:",
        f"  archnet convert 'my model' --data x.txt --target tvm --out {build}",
    ]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(archnet: Archnet, shell: str) -> None:
    result = archnet("completion", shell)
    assert result.exit_code == 0
    assert f"_ARCHNET_COMPLETE={shell}_complete" in result.stdout


def test_completion_knows_commands_and_targets(monkeypatch: pytest.MonkeyPatch, archnet: Archnet) -> None:
    monkeypatch.setenv("_ARCHNET_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "archnet inspect x --target onn")
    monkeypatch.setenv("COMP_CWORD", "4")
    assert archnet().output.split() == ["plain,onnxruntime"]


@pytest.mark.parametrize(
    ("words", "place", "expected"),
    [
        ("archnet convert x --bits a", "4", ["plain,auto"]),
        ("archnet inspect x --bits w4a", "4", ["plain,w4a8", "plain,w4a6", "plain,w4a4"]),
        ("archnet inspect x --bits a", "4", []),
        ("archnet convert x --quantizer d", "4", ["plain,dorefa"]),
        ("archnet inspect x --norms c", "4", ["plain,corrected"]),
        ("archnet convert x --periods b", "4", ["plain,blocks"]),
        ("archnet convert x --adaptation t", "4", ["plain,teacher-attention"]),
    ],
)
def test_completion_knows_widths_and_methods(
    monkeypatch: pytest.MonkeyPatch, archnet: Archnet, words: str, place: str, expected: list[str]
) -> None:
    monkeypatch.setenv("_ARCHNET_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", place)
    assert archnet().output.split() == expected


def test_an_error_of_ours_is_two_lines(archnet: Archnet, replace_module: Replace) -> None:
    def inspect(model: str, target: str, **_options: object) -> None:
        raise ArchNetError("tiny/config.json is no JSON", fix="download it again")

    replace_module("archnet.api", inspect=inspect)
    result = archnet("inspect", "tiny", "--target", "tvm")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr == "error: tiny/config.json is no JSON\n  fix: download it again\n"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ModuleNotFoundError("No module named 'tvm'", name="tvm.relax"), "pip install 'archnet[tvm]'"),
        (ModuleNotFoundError("No module named 'transformers'", name="transformers"), "archnet[hf]"),
        (MemoryError(), "too little memory"),
    ],
)
def test_what_the_machine_lacks_is_bad_input(
    archnet: Archnet, replace_module: Replace, error: Exception, words: str
) -> None:
    def inspect(model: str, target: str, **_options: object) -> None:
        raise error

    replace_module("archnet.api", inspect=inspect)
    result = archnet("inspect", "tiny", "--target", "tvm")
    assert result.exit_code == 2
    assert words in result.stderr


def test_a_bug_names_the_file_with_its_traceback(
    archnet: Archnet, replace_module: Replace, build: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def convert(*arguments: Any, **settings: Any) -> Path:
        raise ZeroDivisionError("division\nby zero")

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    replace_module("archnet.api", convert=convert)
    command = ["convert", "tiny", "--data", "x.txt", "--target", "tvm", "--out"]
    for out, place in ((build, build), (tmp_path / "new", tmp_path)):
        result = archnet(*command, str(out))
        assert result.exit_code == 70
        first, second = result.stderr.splitlines()
        assert first == "error: unexpected ZeroDivisionError: division by zero"
        file = Path(second.rpartition(" ")[2])
        assert file.parent == place
        text = file.read_text()
        assert text.startswith("archnet convert tiny --data x.txt")
        assert "Traceback (most recent call last)" in text
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("command", ["", *sorted(app.commands)])
def test_help_fits_the_terminal(
    archnet: Archnet, monkeypatch: pytest.MonkeyPatch, command: str, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    result = archnet(*([command] if command else []), "--help")
    assert result.exit_code == 0
    assert "Examples:" in result.output
    assert max(map(len, result.output.splitlines())) <= width
