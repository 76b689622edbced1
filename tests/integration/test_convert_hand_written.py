"""A model that no library wrote, through the whole of a conversion."""

from __future__ import annotations

from pathlib import Path

import pytest

from archnet.operators import Op
from archnet.storage import load_graph
from tests import hand_written
from tests.integration.conftest import Archnet, check_all_equal
from tests.integration.tiny import short_presets


@pytest.mark.parametrize(
    ("target", "bits", "backend"),
    [("tvm", "w4a4", "tvm"), ("ethos-u55", "w8a8", "onnxruntime"), ("onnxruntime", "w2a4", "onnxruntime")],
)
def test_convert(
    target: str, bits: str, backend: str, archnet: Archnet, sentences: Path, tmp_path: Path
) -> None:
    out = tmp_path / "build"
    with short_presets(12, 4):
        done = archnet(
            *("convert", f"{hand_written.__file__}:make", "--data", sentences, "--target", target),
            *("--bits", bits, "--seq-len", 24, "--attention", "logsum", "--out", out),
        )
    assert done.exit_code == 0, done.output
    ops = {node.op for node in load_graph(out / "graph").nodes}
    assert {Op.MUL, Op.CONCAT, Op.LOG_SUM_SOFTMAX} <= ops
    check_all_equal(archnet, out, backend)
    report = (out / "report.html").read_text()
    assert "hard sigmoid" in report
    assert "Rectifier" in report
