"""`compile_for` with a stand-in for the compiler: what is kept, refused, and left after a crash."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from archnet.artifacts import missing_tflite
from archnet.atomic import write_json
from archnet.build import BuildDir
from archnet.config import Bits, ConvertSettings
from archnet.errors import ArchNetError
from archnet.parts import chip_parts
from archnet.results import read_metrics
from archnet.storage import save_graph
from archnet.targets import load_profile
from archnet.targets.toolchain import RECORD, find_toolchain
from tests.graphs import tiny_encoder
from tests.small_translation import frozen_translation

pytest.importorskip("ai_edge_litert", reason="needs archnet[ethos]")

from archnet.compiling import compile_for

SUMMARY = """\
system_config,memory_mode,inference_time,sram_memory_used,dram_memory_used,on_chip_flash_memory_used,\
off_chip_flash_memory_used,nn_macs,cycles_npu,cycles_total
Ethos_U55_High_End_Embedded,Shared_Sram,0.000191376,9.140625,0.0,0.0,33.015625,428064,70008,95688
"""

GOOD = f"""
cat > "$out/model_summary_x.csv" <<'END'
{SUMMARY}END
echo binary > "$out/model_vela.tflite"
echo 'Ceil                 Passthrough          CPU                0             0.00          pooled '
echo 'CPU operators = CPUS (0.0%)'
echo '   CPU: Passthrough = pooled (outputs [1, 1, 1, 9])'
echo '   CPU: Gather = rows (outputs [1, 9, 1, 32])'
echo 'NPU operators = 93 (100.0%)'
"""


def made_for(target: str, folder: Path) -> Path:
    """A finished build of a tiny encoder."""
    with BuildDir.open_for_convert(folder, ConvertSettings(target, Bits(8, 8)), "abc") as made:
        save_graph(tiny_encoder(np.random.default_rng(0)), folder / "graph")
        made.finish({})
    return folder


@pytest.fixture
def build(tmp_path: Path) -> Path:
    return made_for("archnet", tmp_path / "build")


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def stand_in(script: str) -> None:
    """Put a script in the place of the toolchain's Python."""
    toolchain = find_toolchain("ethos-u")
    toolchain.python.parent.mkdir(parents=True)
    toolchain.python.write_text(f'#!/bin/sh\nout="$7"\n{script}')
    toolchain.python.chmod(0o755)
    write_json(toolchain.folder / RECORD, {"packages": list(toolchain.packages)})


def test_figures_are_read_stored_and_kept_beside_others(build: Path) -> None:
    stand_in(GOOD.replace("CPUS", "0"))
    left = build / "compiled" / ".ethos-u55-128.999999999.archnet-tmp"  # of a process that was killed
    left.mkdir(parents=True)
    (summary,) = compile_for(build, "ethos-u55-128", sequence=8)
    assert not left.exists()
    assert (summary.native_operators, summary.fallback_operators, summary.cycles) == (93, 0, 95688)
    assert summary.sram_bytes == round(9.140625 * 1024)
    assert summary.other_bytes == round(33.015625 * 1024)
    assert summary.milliseconds == pytest.approx(0.191376)
    stored = json.loads((build / "compiled" / "ethos-u55-128" / "summary.json").read_text())
    assert stored["sequence"] == 8
    assert stored["tool"] == "ethos-u-vela 5.2.0"
    compile_for(build, "ethos-u85-256")
    found = read_metrics(build / "metrics.json")["compiled"]
    assert sorted(found) == ["ethos-u55-128", "ethos-u85-256"]
    assert found["ethos-u85-256"]["sequence"] == 16
    assert (build / "compiled" / "ethos-u85-256" / "model.tflite").is_file()


FULL = """\
case "$*" in
    *cascading*) exit 1;;
    *buffering*) cycles=80000; left=0;;
    *reuse*) cycles=70000; left=1;;
    *) cycles=95688; left=0;;
esac
"""


def schedules(memory: str) -> str:
    """A stand-in whose cycles depend on the schedule, on a chip with so much memory in KiB."""
    text = GOOD.replace("'CPU operators = CPUS (0.0%)'", '"CPU operators = $left (0.0%)"')
    text = text.replace(",95688", f",$cycles,{memory}").replace("<<'END'", "<<END")
    return FULL + text.replace("cycles_total", "cycles_total,arena_cache_size")


def test_where_memory_is_full_the_quickest_schedule_is_kept(build: Path) -> None:
    stand_in(schedules("9.5"))
    (summary,) = compile_for(build, "ethos-u65-256", sequence=8)
    assert (summary.cycles, summary.fallback_operators) == (80000, 0)
    assert summary.configuration.endswith("Shared_Sram, --disable-buffering")
    place = build / "compiled" / "ethos-u65-256"
    assert ",80000,9.5" in (place / "model_summary_x.csv").read_text()
    assert [path for path in place.iterdir() if path.is_dir()] == []


def test_where_memory_is_left_no_other_schedule_is_tried(build: Path) -> None:
    stand_in(schedules("99"))
    (summary,) = compile_for(build, "ethos-u65-256", sequence=8)
    assert summary.cycles == 95688
    assert summary.configuration.endswith("Shared_Sram")


def test_operators_on_the_cpu_are_refused_by_name(build: Path) -> None:
    stand_in(GOOD.replace("CPUS", "1"))
    with pytest.raises(
        ArchNetError, match=r"leaves Ceil \(pooled\), Gather \(rows\) on the CPU of eth"
    ) as caught:
        compile_for(build, "ethos-u55-256")
    assert caught.value.fix == "convert for the chip's own profile: --target ethos-u55"
    assert [p.name for p in (build / "compiled").iterdir()] == ["ethos-u55-256.log"]


def test_a_build_for_the_chips_own_profile_is_not_sent_back_to_it(tmp_path: Path) -> None:
    stand_in(GOOD.replace("CPUS", "1"))
    own = made_for("ethos-u55", tmp_path / "own")
    with pytest.raises(ArchNetError, match=r"leaves Ceil") as caught:
        compile_for(own, "ethos-u55-256")
    assert caught.value.fix.startswith("compile for another chip")
    with pytest.raises(ArchNetError, match=r"leaves Ceil") as caught:
        compile_for(own, "ethos-u85-256")
    assert caught.value.fix == "convert for the chip's own profile: --target ethos-u85"


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo reading; kill -SEGV $$", "crashed (SIGSEGV); its last words: reading"),
        ("echo 'Error: no memory mode'; exit 1", "its last words: Error: no memory mode"),
        ("sleep 60", "took longer than 1 s"),
        ("echo all is well", "cannot be understood: it names no operators"),
        (GOOD.replace("CPUS", "0").replace("cycles_total", "cycles"), "cannot be understood: 'cycles_total'"),
    ],
    ids=["crash", "error", "hang", "silence", "other_table"],
)
def test_a_compiler_that_fails_is_one_error_and_its_log_is_kept(build: Path, script: str, words: str) -> None:
    stand_in(script)
    with pytest.raises(ArchNetError) as caught:
        compile_for(build, "ethos-u55-128", seconds=1)
    assert words in caught.value.problem
    assert "ethos-u55-128.log" in caught.value.problem
    assert [p.name for p in (build / "compiled").iterdir()] == ["ethos-u55-128.log"]
    assert "compiled" not in read_metrics(build / "metrics.json")


def test_a_missing_toolchain_names_the_command_that_installs_it(build: Path) -> None:
    with pytest.raises(ArchNetError, match=r"ethos-u .* is not installed") as caught:
        compile_for(build, "ethos-u55-128")
    assert caught.value.fix == "archnet targets install ethos-u"


def test_unknown_targets_are_refused(build: Path) -> None:
    with pytest.raises(ArchNetError, match="'ethos-u99' cannot be compiled for") as caught:
        compile_for(build, "ethos-u99")
    assert "ethos-u85-256" in caught.value.fix


@pytest.fixture
def writer(tmp_path: Path) -> Path:
    """A finished build of a tiny encoder-decoder."""
    folder = tmp_path / "writer"
    with BuildDir.open_for_convert(folder, ConvertSettings("ethos-u55", Bits(8, 8)), "abc") as made:
        for part, graph in frozen_translation()[1].items():
            save_graph(graph, folder / part / "graph")
        made.finish({})
    return folder


def test_of_a_translation_model_both_networks_are_compiled(writer: Path) -> None:
    stand_in(GOOD.replace("CPUS", "0"))
    summaries = compile_for(writer, "ethos-u55-128")
    assert [s.part for s in summaries] == ["encoder", "decoder"]
    for part in ("encoder", "decoder"):
        assert (writer / part / "compiled" / "ethos-u55-128" / "model.tflite").is_file()
    assert not (writer / "compiled").exists()
    compiled = read_metrics(writer / "metrics.json")["compiled"]
    assert set(compiled) == {"ethos-u55-128 encoder", "ethos-u55-128 decoder"}
    compile_for(writer, "ethos-u55-128", sequence=6)  # takes the place of what was there
    compiled = read_metrics(writer / "metrics.json")["compiled"]
    assert [compiled[f"ethos-u55-128 {part}"]["sequence"] for part in ("encoder", "decoder")] == [6, 6]


def test_what_is_left_of_one_of_two_networks_leaves_nothing_new_of_either(writer: Path) -> None:
    left = '"CPU operators = $(case "$out" in *decoder*) echo 1;; *) echo 0;; esac) (0.0%)"'
    stand_in(GOOD.replace("'CPU operators = CPUS (0.0%)'", left))
    with pytest.raises(ArchNetError, match=r"leaves Ceil \(pooled\), .* of the decoder on the CPU"):
        compile_for(writer, "ethos-u55-128")
    assert not list(writer.glob("*/compiled/ethos-u55-128"))
    assert "compiled" not in read_metrics(writer / "metrics.json")


def test_chips_that_were_not_asked_get_no_decoder(tmp_path: Path) -> None:
    pair, alone = tmp_path / "pair", tmp_path / "alone"
    for folder in (pair / "encoder", pair / "decoder", alone / "decoder"):
        folder.mkdir(parents=True)
    assert chip_parts(pair, decoders=False) == ("encoder",)
    assert chip_parts(pair, decoders=True) == ("encoder", "decoder")
    with pytest.raises(ArchNetError, match=r"is a language model: a decoder, .* not asked about"):
        compile_for(alone, "rk3588")


def test_a_conversion_says_when_its_target_gets_no_tflite_file(monkeypatch: pytest.MonkeyPatch) -> None:
    ethos, tvm = load_profile("ethos-u55"), load_profile("tvm")
    assert missing_tflite(tvm) is None
    assert missing_tflite(ethos) is None
    monkeypatch.setattr("archnet.artifacts._installed", lambda module: False)
    assert "pip install 'archnet[ethos]'" in (missing_tflite(ethos) or "")
