"""What becomes of QNN's answers; a driver stands in for QNN. tests/integration has the real one."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from archnet.atomic import write_json
from archnet.errors import ArchNetError
from archnet.targets import worker
from archnet.targets.chips import CompileSummary
from archnet.targets.qualcomm import compile_qnn
from archnet.targets.toolchain import RECORD, find_toolchain

DRIVER = """
from pathlib import Path
def compile(request):
    assert (request["architecture"], request["soc"]) == ("75", "57")
    context = Path(request["context"])
    assert list(Path(request["scratch"]).iterdir()) == []
    if {binary}:
        context.with_name("context_qnn.bin").write_bytes(b"binary")
    return {{"operators": {operators}, "elsewhere": {elsewhere}}}
"""

Compile = Callable[..., CompileSummary]


@pytest.fixture
def compile_with(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Compile:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    drivers, folder = tmp_path / "drivers", tmp_path / "out"
    drivers.mkdir()
    folder.mkdir()
    (drivers / "runner.py").write_text((worker.DRIVERS / "runner.py").read_text())
    monkeypatch.setattr(worker, "DRIVERS", drivers)
    toolchain = find_toolchain("qualcomm")
    toolchain.python.parent.mkdir(parents=True)
    toolchain.python.symlink_to(sys.executable)
    write_json(toolchain.folder / RECORD, {"packages": list(toolchain.packages)})

    def run(**answer: object) -> CompileSummary:
        (drivers / "qualcomm.py").write_text(DRIVER.format(**answer))
        model = tmp_path / "model.onnx"
        return compile_qnn(model, folder, "qualcomm-htp-v75", log=tmp_path / "log", seconds=60)

    return run


def test_operators_and_the_binary_are_counted(compile_with: Compile, tmp_path: Path) -> None:
    summary = compile_with(binary=True, operators={"MatMul": 2, "Softmax": 1}, elsewhere=[])
    assert (summary.native_operators, summary.fallback_operators, summary.binary_bytes) == (3, 0, 6)
    assert summary.tool == "onnxruntime-qnn 2.7.0"
    assert summary.configuration == "HTP v75 (SM8650)"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["context_qnn.bin"]


def test_what_stays_on_the_cpu_is_named_and_no_part_of_a_binary_is_kept(
    compile_with: Compile, tmp_path: Path
) -> None:
    summary = compile_with(binary=True, operators={}, elsewhere=["Erf (gelu)"])
    assert (summary.fallback_operators, summary.fallbacks) == (1, ("Erf (gelu)",))
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("answer", [(False, {"MatMul": 1}), (True, {})], ids=["no_binary", "no_operators"])
def test_silence_is_an_error(compile_with: Compile, answer: tuple[bool, dict[str, int]]) -> None:
    with pytest.raises(ArchNetError, match=r"wrote no context_qnn\.bin, or said nothing of it") as caught:
        compile_with(binary=answer[0], operators=answer[1], elsewhere=[])
    assert "log" in caught.value.problem
