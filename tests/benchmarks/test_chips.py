"""The table of chips: one row for what is missing or refuses, and rows that are kept."""

from __future__ import annotations

import json
from pathlib import Path

import chips
import numpy as np
import pytest

from archnet.build import BuildDir
from archnet.config import Bits, ConvertSettings
from archnet.storage import save_graph
from tests.archnet.integer_build import make_integer_build
from tests.graphs import random_inputs, tiny_encoder


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    graph = tiny_encoder(np.random.default_rng(0))
    folder = tmp_path / "tiny"
    with BuildDir.open_for_convert(folder, ConvertSettings("archnet", Bits(8, 8)), "abc") as made:
        save_graph(graph, folder / "graph")
        np.savez(folder / "calibration.npz", **random_inputs(np.random.default_rng(1), graph))
        made.finish({})
    return folder


def test_rows_are_made_once_and_say_what_is_missing_or_refused(
    build: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, table = tmp_path / "chips.json", tmp_path / "chips.md"
    wanted = [
        "--chips",
        "onnxruntime,openvino",
        "--out",
        str(out),
        "--markdown",
        str(table),
        "--seq-len",
        "8",
    ]
    assert chips.main([str(build), *wanted]) == 0
    rows = {row["chip"]: row for (row,) in json.loads(out.read_text()).values()}
    assert (rows["openvino"]["status"], rows["openvino"]["said"]) == (
        "missing", "archnet targets install openvino",
    )  # fmt: skip
    found = rows["onnxruntime"]
    assert (found["status"], found["summary"]["sequence"]) == ("compiled", 8)
    assert found["agreement"]["cosine"] > 0.99
    text = table.read_text()
    assert "not installed: archnet targets install openvino" in text
    assert len(text.splitlines()) == 4

    def never(*_: object, **__: object) -> None:
        raise AssertionError("it is made already")

    monkeypatch.setattr(chips, "compile_for", never)
    assert chips.main([str(build), *wanted]) == 0
    assert table.read_text() == text


def test_a_refusal_is_a_row_and_a_misspelt_chip_is_an_error(
    build: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = ["--out", str(tmp_path / "chips.json")]
    assert chips.main([str(build), "--chips", "tvm-x86-64", "--time-limit", "0.01", *wanted]) == 0
    assert "refused: TVM " in capsys.readouterr().out
    assert chips.main([str(build), "--chips", "onnxruntim", *wanted]) == 2
    assert "did you mean 'onnxruntime'" in capsys.readouterr().err


def test_the_trained_model_unchanged_has_a_row_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    make_integer_build(tmp_path / "tiny")
    out, table = tmp_path / "chips.json", tmp_path / "chips.md"
    names = "onnxruntime,openvino,rk3588"
    wanted = ["--chips", names, "--out", str(out), "--markdown", str(table), "--seq-len", "8"]
    assert chips.main([str(tmp_path / "tiny"), *wanted, "--originals"]) == 0
    rows = [row for (row,) in json.loads(out.read_text()).values() if row.get("original")]
    assert {row["chip"]: row["status"] for row in rows} == {"onnxruntime": "compiled", "openvino": "missing"}
    assert "| tiny, unchanged | `onnxruntime` |" in table.read_text()
    assert chips.main([str(tmp_path / "tiny"), *wanted]) == 0
    assert "unchanged" not in table.read_text()


def test_a_network_whose_rows_the_host_looks_up_is_given_ids(tmp_path: Path) -> None:
    graph = tiny_encoder(np.random.default_rng(0), embedding="host")
    with BuildDir.open_for_convert(tmp_path / "tiny", ConvertSettings("tvm", Bits(8, 8)), "abc") as made:
        save_graph(graph, tmp_path / "tiny" / "graph")
        given = random_inputs(np.random.default_rng(1), graph)
        np.savez(tmp_path / "tiny" / "calibration.npz", **given)
        made.finish({})
    assert "input_ids" not in {spec.name for spec in graph.inputs}
    assert set(chips.samples(tmp_path / "tiny", "", 2, 8)) == {"input_ids", "attention_mask"}
