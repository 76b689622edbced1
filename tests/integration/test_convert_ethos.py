"""A whole conversion for Arm Ethos-U: its softmax needs no division or has TFLite's units; all backends."""

from __future__ import annotations

from pathlib import Path

import pytest

from archnet.build import BuildDir
from archnet.operators import Op
from archnet.results import read_metrics
from archnet.storage import load_graph
from archnet.targets.toolchain import find_toolchain
from tests.hf_models import make_model_folder
from tests.integration.conftest import Archnet
from tests.integration.tiny import short_presets

pytest.importorskip("ai_edge_litert", reason="needs archnet[ethos]")


@pytest.mark.parametrize(
    ("family", "asked", "softmax"),
    [
        ("bert", (), Op.LOG_SUM_SOFTMAX),
        ("bert", ("--attention", "softmax"), Op.SOFTMAX),
        ("mobilebert", (), Op.LOG_SUM_SOFTMAX),
        ("deberta", ("--head-width", "4"), Op.LOG_SUM_SOFTMAX),
        ("deberta-v2", (), Op.LOG_SUM_SOFTMAX),
    ],
    ids=["bert", "softmax", "mobilebert", "narrow values", "deberta-v2"],
)
def test_convert(
    family: str, asked: tuple[str, ...], softmax: Op, archnet: Archnet, sentences: Path, tmp_path: Path
) -> None:
    model = make_model_folder(tmp_path / family, family, layers=1, pooling="mean")
    out = tmp_path / "build"
    with short_presets(12, 4):
        done = archnet(
            *("convert", model, "--data", sentences, "--target", "ethos-u55", "--bits", "w4a8"),
            *("--out", out, "--seq-len", 24, *asked),
        )
    assert done.exit_code == 0, done.output
    build = BuildDir.open_finished(out)
    graph = load_graph(build.graph_dir)
    shares = [(n.op, graph.tensors[n.output].levels) for n in graph.nodes if "probabilities" in n.output]
    assert set(shares) == {(softmax, 256)}
    exported = archnet("export", out, "--format", "tvm")
    assert exported.exit_code == 0, exported.output
    checked = archnet("validate", out, "--backend", "reference,onnxruntime,tvm,litert")
    assert checked.exit_code == 0, checked.output
    validation = read_metrics(build.metrics)["validation"]
    # Scope "layer" is only there where something differs at all.
    layered = {t["backend"] for t in validation["tensors"] if t["scope"] == "layer"}
    tensors = [t for t in validation["tensors"] if (t["scope"] == "layer") == (t["backend"] in layered)]
    assert {t["backend"] for t in tensors} == {"onnxruntime", "tvm", "litert"}
    for tensor in tensors:
        # Softmax without division is exact everywhere.
        emulated = {"onnxruntime": ["Softmax"], "litert": ["Softmax", "Add"]}.get(tensor["backend"], [])
        assert tensor["max_lsb"] <= (1 if tensor["op"] in emulated else 0), tensor
        assert tensor["differing"] <= max(2, 1e-3 * tensor["elements"]), tensor
    if find_toolchain("ethos-u").installed() is not None:
        compiled = archnet("compile", out, "--target", "ethos-u55-128")
        assert compiled.exit_code == 0, compiled.output
        assert "0 elsewhere" in compiled.output
