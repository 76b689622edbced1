"""The route to ExecuTorch with a stand-in for its environment, and what its driver asks of Vela's stream."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from archnet.atomic import write_json
from archnet.errors import ArchNetError
from archnet.results import read_metrics
from archnet.targets.chips import CHIPS, find_chip
from archnet.targets.drivers.runner import load
from archnet.targets.toolchain import RECORD, find_toolchain
from archnet.targets.worker import DRIVERS
from tests.builds import finished
from tests.graphs import tiny_encoder

pytest.importorskip("ai_edge_litert", reason="needs archnet[ethos]")

from archnet.compiling import compile_for

CHIP = "executorch-u65-256"

REPORT = """
mkdir output
cat > output/out_summary_x.csv <<'END'
system_config,memory_mode,inference_time,sram_memory_used,dram_memory_used,on_chip_flash_memory_used,\
off_chip_flash_memory_used,nn_macs,cycles_npu,cycles_total
Ethos_U65_High_End,Dedicated_Sram_384KB,0.0001,9.0,1.0,0.0,0.0,428064,70008,95688
END
"""

WHOLE = f"""{REPORT}
echo 'CPU operators = 0 (0.0%)'; echo 'NPU operators = 93 (100.0%)'
echo program > ../model.pte
echo '{{"result": {{"refused": null, "fast_scratch": 8832}}}}' > /dev/fd/$fd
"""

LEFT = f"""{REPORT}
echo 'FloorDiv             Passthrough          CPU                0             0.00          rows.add '
echo 'CPU operators = CPUS (1.0%)'; echo '   CPU: Passthrough = rows.add (outputs [1, 9])'
echo 'NPU operators = 92 (99.0%)'; echo binary > output/out_vela.tflite
echo '{{"result": {{"refused": "RawWriter expects a graph without CPU operations"}}}}' > /dev/fd/$fd
"""


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "a build"
    return finished(folder, tiny_encoder(np.random.default_rng(0)), "ethos-u65")


def stand_in(script: str, request: Path) -> None:
    """Put a script in the place of the toolchain's Python, which keeps what it is asked."""
    toolchain = find_toolchain("executorch")
    toolchain.python.parent.mkdir(parents=True)
    start = f'#!/bin/sh\nfd="$3"\nread -r line; echo "$line" > "{request}"\n'
    enter = 'cd "$(echo "$line" | sed \'s/.*"folder": "\\([^"]*\\)".*/\\1/\')"\n'
    toolchain.python.write_text(f"{start}{enter}{script}\nread -r more\n")
    toolchain.python.chmod(0o755)
    write_json(toolchain.folder / RECORD, {"packages": list(toolchain.packages)})


def test_each_ethos_u_is_there_a_second_time() -> None:
    for name in ("u55-128", "u55-256", "u65-256", "u85-256"):
        chip, plain = find_chip(f"executorch-{name}"), find_chip(f"ethos-{name}")
        assert (chip.profile, chip.decoders) == (plain.profile, True)
        assert (chip.route, chip.toolchain) == ("executorch", "executorch")
    assert sum(chip.route == "executorch" for chip in CHIPS) == 4


def test_the_driver_gets_the_files_tensors_and_the_figures_are_velas(build: Path, tmp_path: Path) -> None:
    stand_in(WHOLE, tmp_path / "request")
    (summary,) = compile_for(build, CHIP, sequence=8)
    assert (summary.target, summary.tool) == (CHIP, "executorch 1.5.1")
    assert (summary.native_operators, summary.fallback_operators, summary.cycles) == (93, 0, 95688)
    assert (summary.binary, summary.sequence) == ("model.pte", 8)
    assert summary.configuration == (
        "Ethos_U65_High_End, Dedicated_Sram_384KB; ethos-u-vela 5.1.0; ethosu_fast_scratch of 8832 bytes"
    )
    made = build / "compiled" / CHIP
    assert sorted(p.name for p in made.iterdir()) == ["model.pte", "model.tflite", "summary.json"]
    asked = json.loads((tmp_path / "request").read_text())
    assert asked["accelerator"] == "ethos-u65-256"
    assert (Path(asked["torch"]) / "torch" / "__init__.py").is_file()
    assert {t["dtype"] for t in (*asked["inputs"], *asked["outputs"])} == {"int8"}
    assert asked["inputs"][-1]["shape"] == [1, 1, 1, 8]  # the limits of the mask


def test_operators_that_vela_leaves_are_refused_by_name(build: Path, tmp_path: Path) -> None:
    stand_in(LEFT.replace("CPUS", "1"), tmp_path / "request")
    words = rf"executorch 1\.5\.1 leaves FloorDiv \(rows\.add\) on the CPU of {CHIP} \(its log: "
    with pytest.raises(ArchNetError, match=words):
        compile_for(build, CHIP)
    assert [p.name for p in (build / "compiled").iterdir()] == [f"{CHIP}.log"]


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (LEFT.replace("CPUS", "0"), "executorch 1.5.1 failed: RawWriter expects a graph"),
        ("echo reading; kill -SEGV $$", "crashed (SIGSEGV); its last words: reading"),
        ("sleep 60", "took longer than 1 s"),
        (WHOLE.replace("CPU op", "GPU op"), "cannot be understood: it names no operators"),
        (
            """echo '{"error": "ImportError: no torch"}' > /dev/fd/$fd""",
            "executorch 1.5.1 failed: ImportError: no torch (its log",
        ),
    ],
    ids=["refusal", "crash", "hang", "garbage", "exception"],
)
def test_whatever_it_does_is_one_error_and_leaves_nothing_but_its_log(
    build: Path, tmp_path: Path, script: str, words: str
) -> None:
    stand_in(script, tmp_path / "request")
    with pytest.raises(ArchNetError) as caught:
        compile_for(build, CHIP, seconds=1 if "sleep" in script else 30)
    assert words in caught.value.problem
    assert f"{CHIP}.log" in caught.value.problem
    assert [p.name for p in (build / "compiled").iterdir()] == [f"{CHIP}.log"]
    assert "compiled" not in read_metrics(build / "metrics.json")


def test_a_missing_toolchain_names_the_command_that_installs_it(build: Path) -> None:
    with pytest.raises(ArchNetError, match=r"executorch .* is not installed") as caught:
        compile_for(build, CHIP)
    assert caught.value.fix == "archnet targets install executorch"


STREAM: dict[str, Any] = {
    "input_shape": [[1, 1, 1, 1, 9, 4], [1, 1, 1, 1, 1, 9]],
    "input_elem_size": [1, 1], "input_region": [1, 1],
    "output_shape": [[1, 1, 1, 1, 1, 5]], "output_elem_size": [2], "output_region": [1],
    "weight_region": 0, "scratch_region": 1, "scratch_fast_size": 16,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, ""),
        ({"input_shape": STREAM["input_shape"][::-1]}, r"Vela's inputs are .*, those of the TFLite file"),
        ({"output_elem_size": [1]}, "Vela's outputs are"),
        ({"output_region": [4]}, "Vela's outputs are"),
        ({"weight_region": 2}, r"in regions \(2, 1\)"),
    ],
)
def test_what_the_runtime_would_refuse_or_mix_up_is_an_error(
    tmp_path: Path, changed: dict[str, Any], words: str
) -> None:
    driver = load(DRIVERS / "executorch_ethos_u.py")
    np.savez(tmp_path / "vela.npz", **{**STREAM, **changed})
    inputs = [{"shape": [1, 9, 4], "dtype": "int8"}, {"shape": [1, 1, 1, 9], "dtype": "int8"}]
    asked = tmp_path / "vela.npz", inputs, [{"shape": [1, 5], "dtype": "int16"}]
    if not words:
        assert driver._checked(*asked) == 16
        return
    with pytest.raises(RuntimeError, match=words):
        driver._checked(*asked)
