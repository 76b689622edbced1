"""The real ExecuTorch, after `archnet targets install executorch`: programs of one delegate, read again."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from archnet.config import Bits
from archnet.graph import QuantizedGraph
from archnet.targets.chips import CHIPS as ALL_CHIPS
from archnet.targets.executorch import Signature, compile_program
from archnet.targets.toolchain import find_toolchain
from tests.builds import finished
from tests.graphs import tiny_encoder
from tests.image_graphs import image_graph
from tests.small_translation import frozen_translation
from tests.steps import walked

pytest.importorskip("ai_edge_litert", reason="needs archnet[ethos]")

import flatbuffers
from ai_edge_litert import schema_py_generated as schema

from archnet.compiling import compile_for
from archnet.export.tflite import export_tflite
from archnet.routes.executorch import signature

TOOLCHAIN = find_toolchain("executorch")

pytestmark = [
    pytest.mark.vendor,
    pytest.mark.skipif(TOOLCHAIN.installed() is None, reason="needs archnet targets install executorch"),
]

CHIPS = [chip.name for chip in ALL_CHIPS if chip.route == "executorch"]

SYSTEMS = {
    "ethos-u55-128": ("Ethos_U55_High_End_Embedded", "Shared_Sram"),
    "ethos-u65-256": ("Ethos_U65_High_End", "Dedicated_Sram_384KB"),
    "ethos-u85-256": ("Ethos_U85_SYS_DRAM_Mid", "Sram_Only"),
}
"""What ExecuTorch asks Vela for."""

LOOK = """
import json, sys
sys.path.append(sys.argv[1])
from executorch.runtime import Runtime, Verification
program = Runtime.get().load_program(sys.argv[2], verification=Verification.Minimal)
about = program.metadata("forward")
inputs = [about.input_tensor_meta(i) for i in range(about.num_inputs())]
outputs = [about.output_tensor_meta(i) for i in range(about.num_outputs())]
tensors = [[[list(t.sizes()), t.dtype()] for t in side] for side in (inputs, outputs)]
try:
    program.load_method("forward")
    said = ""
except RuntimeError as error:
    said = str(error)
print(json.dumps({"tensors": tensors, "said": said}))
"""
"""What ExecuTorch's own runtime reads of a program, and why it cannot run it here."""

DTYPES = {"int8": 1, "int16": 2}
"""ExecuTorch's numbers of them."""


def graphs_of(name: str) -> dict[str, QuantizedGraph]:
    if name == "text":
        return {"": tiny_encoder(np.random.default_rng(0), layers=2, embedding="host", concat=True)}
    if name == "translation":
        return dict(frozen_translation()[1])
    return {"": image_graph(name, Bits(8, 8))}  # type: ignore[arg-type]


def look(program: Path, torch: str) -> tuple[dict[str, Any], str]:
    """What the runtime says of a program, and what it prints."""
    run = subprocess.run(
        [str(TOOLCHAIN.python), "-c", LOOK, torch, str(program)], capture_output=True, text=True, check=True
    )
    return json.loads(run.stdout.splitlines()[-1]), run.stdout + run.stderr


@pytest.mark.parametrize(
    ("name", "chip"),
    [
        *(("text", chip) for chip in CHIPS),
        *(
            (name, chip)
            for name in ("cnn", "vit", "translation")
            for chip in ("executorch-u55-256", "executorch-u85-256")
        ),
    ],
)
def test_every_network_is_one_delegate_whose_operators_are_all_on_the_npu(
    tmp_path: Path, name: str, chip: str
) -> None:
    graphs = graphs_of(name)
    build = finished(tmp_path / "a build", graphs, "ethos-u55")
    summaries = compile_for(build, chip, seconds=300)
    assert [s.part for s in summaries] == [part if len(graphs) > 1 else "" for part in graphs]
    for part, summary in zip(graphs, summaries, strict=True):
        made = build / part / "compiled" / chip
        assert sorted(p.name for p in made.iterdir()) == ["model.pte", "model.tflite", "summary.json"]
        assert (summary.fallback_operators, summary.binary) == (0, "model.pte")
        assert summary.native_operators > 5
        assert summary.cycles is not None
        assert summary.cycles > 100
        assert summary.binary_bytes == (made / "model.pte").stat().st_size
        assert ("ethosu_fast_scratch" in summary.configuration) == ("u65" in chip)


def test_executorchs_runtime_reads_the_program_up_to_the_chip(tmp_path: Path) -> None:
    import torch

    build = finished(tmp_path / "build", graphs_of("cnn"), "ethos-u55")
    compile_for(build, "executorch-u55-256", seconds=300)
    made = build / "compiled" / "executorch-u55-256"
    told, printed = look(made / "model.pte", str(Path(torch.__file__).parents[1]))
    file = signature(made / "model.tflite")
    wanted = [
        [[list(shape), DTYPES[dtype]] for shape, dtype in tensors] for tensors in (file.inputs, file.outputs)
    ]
    assert told["tensors"] == wanted
    assert "Failed to load method" in told["said"]
    assert "Backend EthosUBackend is not registered" in printed


@pytest.mark.parametrize("chip", SYSTEMS)
@pytest.mark.parametrize("kind", ["rotary", "translation"])
def test_inputs_and_outputs_of_velas_stream_are_in_the_files_order(
    tmp_path: Path, kind: str, chip: str
) -> None:
    """By their addresses, because many caches have one shape: Vela's TFLite output has them by name.

    And the commands of both are the same, so what the delegate does is what that file does.
    """
    export_tflite(walked(kind)[0], tmp_path / "model.tflite")
    system, memory = SYSTEMS[chip]
    for form in ("raw", "tflite"):
        subprocess.run(
            [
                str(TOOLCHAIN.python), "-m", "ethosu.vela", "model.tflite", "--accelerator-config", chip,
                "--config", "Arm/vela.ini", "--system-config", system, "--memory-mode", memory,
                "--output-format", form,
            ],
            cwd=tmp_path, check=True, capture_output=True,
        )  # fmt: skip
    given = parsed(tmp_path / "model.tflite")
    made = parsed(tmp_path / "output" / "model_vela.tflite")
    addresses = dict(zip((t.name for t in made.subgraphs[0].tensors), planned(made), strict=True))
    with np.load(tmp_path / "output" / "model_vela.npz") as stream:
        for side in ("input", "output"):
            indices = getattr(given.subgraphs[0], f"{side}s")
            names = [given.subgraphs[0].tensors[i].name for i in indices]
            assert [addresses[name] for name in names] == stream[f"{side}_offset"].tolist()
            assert len(set(stream[f"{side}_offset"].tolist())) == len(names)
        commands = stream["cmd_data"].tobytes()
    assert commands in [bytes(buffer.data) for buffer in made.buffers if buffer.data is not None]


def parsed(path: Path) -> Any:
    return schema.ModelT.InitFromPackedBuf(bytearray(path.read_bytes()))


def planned(model: Any) -> list[int]:
    """Where each tensor of a file of Vela's lies in memory."""
    entry = next(m for m in model.metadata if m.name == b"OfflineMemoryAllocation")
    return [int(n) for n in np.frombuffer(bytes(model.buffers[entry.buffer].data), np.int32)[3:]]


def test_an_operator_that_vela_leaves_to_the_cpu_is_named(tmp_path: Path) -> None:
    graph = tiny_encoder(np.random.default_rng(0), embedding="host")
    export_tflite(graph, tmp_path / "model.tflite")
    asked = signature(tmp_path / "model.tflite")
    changed = parsed(tmp_path / "model.tflite")
    kinds = schema.BuiltinOperator
    added = [i for i, c in enumerate(changed.operatorCodes) if c.builtinCode == kinds.ADD]
    for code in (changed.operatorCodes[i] for i in added):
        code.builtinCode = code.deprecatedBuiltinCode = kinds.FLOOR_DIV
    sums = [o for o in changed.subgraphs[0].operators if o.opcodeIndex in added]
    for operator in sums:
        operator.builtinOptions, operator.builtinOptionsType = None, 0
    builder = flatbuffers.Builder(0)
    builder.Finish(changed.Pack(builder), b"TFL3")
    (tmp_path / "model.tflite").write_bytes(bytes(builder.Output()))
    summary = compiled(tmp_path, asked)
    assert summary.fallback_operators == len(sums)
    assert all(entry.startswith("FloorDiv (") for entry in summary.fallbacks)
    assert not (tmp_path / "model.pte").exists()


def compiled(folder: Path, asked: Signature) -> Any:
    log = folder / "log"
    return compile_program(
        folder / "model.tflite", folder, asked, target="executorch-u55-128", log=log, seconds=300
    )
