"""benchmarks/latency.py: every peer is measured or named as missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, save

from archnet.export.onnx import export_onnx
from archnet.storage import save_graph
from tests.graphs import tiny_encoder

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "latency.py"


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny integer network beside a float file with the same inputs."""
    folder = tmp_path_factory.mktemp("build")
    graph = tiny_encoder(np.random.default_rng(0))
    save_graph(graph, folder / "graph")
    export_onnx(graph, folder / "onnx" / "model.onnx")
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"])
        for name in ("input_ids", "attention_mask")
    ]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "sequence"])
    nodes = [
        helper.make_node("Mul", ["input_ids", "attention_mask"], ["seen"]),
        helper.make_node("Cast", ["seen"], ["y"], to=TensorProto.FLOAT),
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "float", inputs, [output]),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=9,
    )
    save(model, folder / "onnx" / "float.onnx")
    return folder


def run(*arguments: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ)
    if path is not None:
        environment["PYTHONPATH"] = os.pathsep.join([str(path), environment.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )


def test_missing_peers_are_named_and_the_others_measured(build: Path, tmp_path: Path) -> None:
    (tmp_path / "openvino.py").write_text("raise ImportError('no openvino on this machine')\n")
    file = tmp_path / "latency.json"
    only = "int8 in,openvino float32,nncf"
    result = run(
        str(build),
        "--json",
        str(file),
        "--seconds",
        "0",
        "--shapes",
        "1x4,2x8",
        "--only",
        only,
        path=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    record = json.loads(file.read_text())
    reason = "no openvino on this machine"
    missing = {"OpenVINO float32", "OpenVINO NNCF int8", "Arch-Net int8 in OpenVINO"}
    assert record["missing"] == dict.fromkeys(missing, reason)
    shapes = [(row["peer"], row["batch"], row["sequence"]) for row in record["rows"]]
    assert shapes == [
        ("ONNX Runtime float32", 1, 4),
        ("Arch-Net int8 in ONNX Runtime", 1, 4),
        ("ONNX Runtime float32", 2, 8),
        ("Arch-Net int8 in ONNX Runtime", 2, 8),
    ]
    assert all(row["rounds"] == 7 and row["median_ms"] > 0 for row in record["rows"])
    assert {row["ratio"] for row in record["rows"] if row["peer"] == "ONNX Runtime float32"} == {1.0}
    assert record["versions"]["ONNX Runtime float32"].keys() == {"onnxruntime"}
    assert result.stdout.count(f"missing: {reason}") == 3


def test_folder_without_networks_is_refused(tmp_path: Path) -> None:
    result = run(str(tmp_path))
    assert result.returncode == 2
    assert "float.onnx is missing: give a finished build folder" in result.stderr
