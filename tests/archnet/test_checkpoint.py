"""Sealed folders, tensors bit by bit, trees of state, and the random generators."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from archnet import checkpoint
from archnet.errors import ArchNetError


def test_tensors_come_back_bit_by_bit(tmp_path: Path) -> None:
    base = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    tensors = {
        "nan": torch.tensor([float("nan"), -0.0, float("inf"), 1e-45]),
        "bf16": torch.randn(5).bfloat16(),
        "int64": torch.tensor([2**62, -1]),
        "bool": torch.tensor([True, False]),
        "scalar": torch.tensor(3.5),
        "empty": torch.empty(0, 3),
        "view": base[:, 1:3],
        "transposed": base.T,
        "shared": base,
        "shared again": base,
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }
    checkpoint.save_tensors(tmp_path / "x", tensors)
    loaded = checkpoint.load_tensors(tmp_path / "x")
    assert sorted(loaded) == sorted(tensors)
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype
        assert loaded[name].shape == tensor.shape
        expected = tensor.detach().contiguous().numpy(force=True) if tensor.dtype != torch.bfloat16 else None
        if expected is None:
            assert torch.equal(loaded[name], tensor)
        else:
            assert loaded[name].numpy().tobytes() == expected.tobytes()


def test_an_optimizer_goes_through_pack_and_back_exactly(tmp_path: Path) -> None:
    def step(weight: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        (weight * weight).sum().backward()
        optimizer.step()

    weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = torch.optim.AdamW([weight], lr=0.1, betas=(0.8, 0.9))
    step(weight, optimizer)
    tensors: checkpoint.Tensors = {"weight": weight}
    packed = checkpoint.pack(optimizer.state_dict(), tensors)
    checkpoint.save_tensors(tmp_path / "x", tensors)
    step(weight, optimizer)

    loaded = checkpoint.load_tensors(tmp_path / "x")
    again = torch.nn.Parameter(loaded["weight"])
    other = torch.optim.AdamW([again], lr=0.7)
    other.load_state_dict(checkpoint.unpack(packed, loaded))
    step(again, other)
    assert torch.equal(again, weight)
    assert other.param_groups[0]["betas"] == (0.8, 0.9)


def test_pack_keeps_the_types_of_keys_and_sequences() -> None:
    tree: Any = {0: [1, (2.5, None)], "a/b": {"x": True, 7: "text"}, "empty": {}}
    assert checkpoint.unpack(checkpoint.pack(tree, {}), {}) == tree
    assert isinstance(checkpoint.unpack(checkpoint.pack(tree, {}), {})[0][1], tuple)


def test_pack_refuses_what_json_cannot_hold() -> None:
    with pytest.raises(TypeError, match="/a/0 is a set"):
        checkpoint.pack({"a": [{1}]}, {})


def test_all_three_generators_are_put_back() -> None:
    def draw() -> tuple[float, float, float, float]:
        return random.random(), np.random.rand(), float(np.random.randn()), float(torch.randn(()))

    checkpoint.seed_everything(5)
    np.random.randn()  # leaves a spare Gaussian number behind
    tensors, state = checkpoint.random_state()
    first = draw()
    draw()
    checkpoint.restore_random_state(tensors, state)
    assert draw() == first


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    folder = tmp_path / "sealed"
    checkpoint.write_sealed(folder, lambda place: _fill(place, b"content"), {"stage": "x"})
    return folder


def _fill(folder: Path, content: bytes) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "file").write_bytes(content)


def test_a_sealed_folder_is_read_with_its_record(sealed: Path) -> None:
    seal = checkpoint.read_seal(sealed)
    assert seal is not None
    assert seal["stage"] == "x"
    assert seal["files"]["sub/file"]["bytes"] == 7


@pytest.mark.parametrize("content", [b"contenT", b"conten", b"content "])
def test_a_changed_file_breaks_the_seal(sealed: Path, content: bytes) -> None:
    (sealed / "sub" / "file").write_bytes(content)
    assert checkpoint.read_seal(sealed) is None


def test_a_missing_file_or_seal_breaks_it(sealed: Path) -> None:
    (sealed / "sub" / "file").unlink()
    assert checkpoint.read_seal(sealed) is None
    (sealed / "seal.json").write_text("{}")
    assert checkpoint.read_seal(sealed) is None
    (sealed / "seal.json").unlink()
    assert checkpoint.read_seal(sealed) is None


def test_a_failed_write_keeps_the_old_folder(sealed: Path) -> None:
    def fail(place: Path) -> None:
        _fill(place, b"new")
        raise OSError(28, "No space left on device")

    with pytest.raises(ArchNetError, match=r"needs 1\.0 KiB"):
        checkpoint.write_sealed(sealed, fail, {}, needed=1024)
    assert checkpoint.read_seal(sealed) is not None
    assert (sealed / "sub" / "file").read_bytes() == b"content"
    assert [p.name for p in sealed.parent.iterdir()] == ["sealed"]
