"""What a user can get wrong, through the real command: one error, exit code 2, nothing left behind."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from click.testing import Result
from safetensors.torch import load_file, save_file

import archnet as package
from archnet import ArchNetError
from archnet.events import Event, StageStarted
from tests.hf_models import make_model_folder
from tests.integration.conftest import Archnet
from tests.integration.tiny import ROOT, SEQUENCE, text

pytestmark = pytest.mark.usefixtures("presets")

UNKNOWN_OPERATORS = """
import torch
from pathlib import Path
from transformers import AutoModel

class Strange(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = AutoModel.from_pretrained(Path(__file__).parent / "tiny")

    def forward(self, input_ids, attention_mask):
        states = self.inner(input_ids, attention_mask).last_hidden_state
        return torch.sin(torch.cumsum(states, dim=1))

def make():
    return Strange(), Path(__file__).parent / "tiny" / "tokenizer.json"
"""


@pytest.fixture
def place(tmp_path: Path, sentences: Path) -> Path:
    """A folder with the model `tiny`, the text `text.txt`, and nothing else."""
    make_model_folder(tmp_path / "tiny", layers=1)
    (tmp_path / "text.txt").write_bytes(sentences.read_bytes())
    return tmp_path


def convert(archnet: Archnet, place: Path, **changes: object) -> Result:
    """`archnet convert` on the good model and text, but for `changes` of options ("model" included)."""
    options: dict[str, object] = {
        "data": place / "text.txt",
        "target": "archnet",
        "bits": "w8a8",
        "out": place / "build",
        **changes,
    }
    model = options.pop("model", place / "tiny")
    arguments = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", value)]
    return archnet("convert", model, *arguments)


def check_refusal(result: Result, problem: str, fix: str) -> None:
    """One error that names the problem, one line with the fix, exit code 2, no traceback."""
    assert result.exit_code == 2, result.output
    lines = result.stderr.splitlines()
    assert [line[:6] for line in lines if line.startswith("error:")] == ["error:"]
    assert lines[0].startswith("error: ")
    assert lines[-1].startswith("  fix: ")
    assert problem in result.stderr
    assert fix in lines[-1]
    assert "Traceback" not in result.output


def truncate(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def corrupt(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(b"\xff" * 16 + file.read_bytes()[16:])


def pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x02}q\x00.")


def poison(folder: Path) -> None:
    weights = {name: value.clone() for name, value in load_file(folder / "model.safetensors").items()}
    weights["encoder.layer.0.output.dense.weight"][0, 0] = torch.nan
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "problem", "fix"),
    [
        (lambda folder: (folder / "config.json").unlink(), "has no config.json", "save_pretrained"),
        (truncate, "is no complete safetensors file", "again"),
        (corrupt, "is no complete safetensors file", "again"),
        (pickle, "pytorch_model.bin), which can run any code", "save_file"),
        (poison, "encoder.layer.0.output.dense.weight (1 of 2048 values)", "finite"),
    ],
    ids=["no config", "truncated", "corrupt", "pickle", "NaN"],
)
def test_models(
    archnet: Archnet, place: Path, damage: Callable[[Path], None], problem: str, fix: str
) -> None:
    damage(place / "tiny")
    check_refusal(convert(archnet, place), problem, fix)
    assert not (place / "build").exists()


def test_a_wrong_path_names_its_neighbour(archnet: Archnet, place: Path) -> None:
    result = convert(archnet, place, model=place / "tinny")
    check_refusal(result, f"there is no model folder at {place / 'tinny'}", f"did you mean {place / 'tiny'}?")
    assert not (place / "build").exists()


@pytest.mark.parametrize(
    ("name", "content", "problem", "fix"),
    [
        ("test.txt", None, "there is no file or folder of sentences or pictures at", "did you mean"),
        ("empty.txt", b"", "empty.txt is empty", "one a line"),
        ("blank.txt", b"\n \n\t\n", "blank.txt is empty", "one a line"),
        ("binary.txt", b"\x7fELF\x00\x01", "is a binary file (byte 4 is NUL)", "UTF-8"),
        ("latin.txt", b"one line\nna\xefve\n", "line 2 has the byte 0xef", "iconv"),
    ],
)
def test_data(
    archnet: Archnet, place: Path, name: str, content: bytes | None, problem: str, fix: str
) -> None:
    if content is not None:
        (place / name).write_bytes(content)
    check_refusal(convert(archnet, place, data=place / name), problem, fix)
    assert not (place / "build").exists()


@pytest.mark.parametrize(
    ("option", "value", "problem", "fix"),
    [
        ("target", "arcnet", "--target 'arcnet' does not exist", "did you mean 'archnet'"),
        ("target", "nowhere.toml", "nowhere.toml", ""),
        ("bits", "w8a9", "--bits 'w8a9' is no bit width", "did you mean 'w8a8'"),
        ("bits", "w2a2", "--bits 'w2a2' is no bit width", "did you mean 'w2a"),
        ("bits", "auto", "--bits auto needs --max-drop", "such as --max-drop 0.5"),
        ("max_drop", "0.5", "--max-drop belongs to --bits auto, not to --bits w8a8", "write --bits auto"),
        ("attention", "mixng", "--attention 'mixng' does not exist", "did you mean 'mixing'"),
        ("preset", "quick", "--preset 'quick' does not exist", "known: balanced, best, fast"),
        ("embedding", "onehot", "--embedding 'onehot' does not exist", "did you mean 'one-hot'"),
        ("embedding", "gather", "target 'archnet' cannot run --embedding 'gather'", "one-hot"),
        ("seq_len", "1", "--seq-len 1 is out of range", "from 2 to 1024"),
        ("seed", "-1", "--seed -1 is out of range", "from 0"),
    ],
)
def test_settings(archnet: Archnet, place: Path, option: str, value: str, problem: str, fix: str) -> None:
    check_refusal(convert(archnet, place, **{option: value}), problem, fix)
    assert not (place / "build").exists()


def test_a_tokenizer_of_another_model(archnet: Archnet, place: Path) -> None:
    file = place / "tiny" / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    words = tokenizer["model"]["vocab"]
    words["guitar"] = len(words) + 500
    file.write_text(json.dumps(tokenizer))
    result = convert(archnet, place)
    check_refusal(
        result, f"the tokenizer of tiny gives token {words['guitar']}, but the model has", "trained"
    )
    assert not (place / "build").exists()


def test_widths_that_a_target_lacks(archnet: Archnet, place: Path) -> None:
    lines = (ROOT / "targets" / "profiles" / "archnet.toml").read_text().splitlines()
    kept = []
    for line in lines:
        name, _, value = line.partition(" = ")
        if name == "weight_bits":
            line = "weight_bits = [8]"
        elif name == "activation_bits":
            line = "activation_bits = [8]"
        elif name == "bits":
            allowed = [bits for bits in json.loads(value) if bits in ("w8a8", "a8")]
            line = f"bits = {json.dumps(allowed)}"
        elif name == "name":
            line = 'name = "eight"'
        kept.append(line)
    (place / "eight.toml").write_text("\n".join(kept) + "\n")
    eight = {"target": place / "eight.toml"}
    for bits in ("w2a8", "w8a4"):
        refused = convert(archnet, place, bits=bits, **eight)
        check_refusal(refused, f"target 'eight' cannot run --bits {bits}", "known: w8a8) or another --target")
    auto = convert(archnet, place, bits="auto", max_drop="0.5", **eight)
    check_refusal(
        auto, "--bits auto has no choice: target 'eight' has weights of 8 bits only", "leave --bits"
    )
    assert not (place / "build").exists()


def test_all_unknown_operators_are_listed_at_once(archnet: Archnet, place: Path) -> None:
    (place / "strange.py").write_text(UNKNOWN_OPERATORS)
    result = convert(archnet, place, model=f"{place / 'strange.py'}:make", seq_len=SEQUENCE)
    check_refusal(result, "operators of make have no form that archnet can run", "docs/add_a_converter.md")
    assert "sin" in result.stderr
    assert "cumsum" in result.stderr
    assert not (place / "build").exists()
    shown = archnet("inspect", f"{place / 'strange.py'}:make", "--target", "archnet")
    assert shown.exit_code == 2
    assert "cumsum" in shown.stdout


def test_places_that_cannot_be_written(archnet: Archnet, place: Path) -> None:
    (place / "file").write_text("mine")
    (place / "full").mkdir()
    (place / "full" / "thesis.txt").write_text("mine")
    check_refusal(convert(archnet, place, out=place / "file"), "is a file, not a folder", "new or empty")
    check_refusal(
        convert(archnet, place, out=place / "file" / "build"), "is a file, not a folder", "write to"
    )
    check_refusal(
        convert(archnet, place, out=place / "full"), "not empty and no Arch-Net build", "nothing was changed"
    )
    assert [p.name for p in (place / "full").iterdir()] == ["thesis.txt"]


def test_a_place_without_permission(archnet: Archnet, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Root may write anywhere, so what the system says of the folder is put in.
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != place and allowed(path, mode))
    check_refusal(convert(archnet, place), f"permission denied for {place}", "write to")
    assert not (place / "build").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 40 MiB, mounted by root."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(disk)]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small file system needs root")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_disk_that_fills_up_half_way(small_disk: Path, model: Path, target: Path) -> None:
    ballast, out = small_disk / "ballast", small_disk / "build"

    def fill(event: Event) -> None:
        if isinstance(event, StageStarted) and event.stage == "quantize-w8a8":
            free = os.statvfs(small_disk)
            ballast.write_bytes(bytes(max(0, free.f_bavail * free.f_bsize - 20_000)))

    def run(events: Callable[[Event], None] = lambda event: None) -> Path:
        return package.convert(
            model, text(), target=str(target), out=out, preset="fast", seq_len=SEQUENCE, events=events
        )

    with pytest.raises(ArchNetError) as caught:
        run(fill)
    assert caught.value.problem.startswith("the disk is full: ")
    assert "the same command: it goes on" in caught.value.fix
    assert not (out / "manifest.json").exists()
    assert not (out / "graph").exists()
    ballast.unlink()
    assert package.load(run()).encode(["A man plays."]).shape[0] == 1


def test_too_small_a_disk_is_told_before_anything_is_made(
    archnet: Archnet, place: Path, small_disk: Path
) -> None:
    (small_disk / "ballast").write_bytes(bytes(20 * 2**20))
    result = convert(archnet, place, out=small_disk / "build")
    check_refusal(result, "has too little space: the conversion needs about 3", "free some space")
    assert [p.name for p in small_disk.iterdir()] == ["ballast"]
