"""The real Vela, where `archnet targets install ethos-u` was run: whole networks on the NPU."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from archnet.api import original_on_chip
from archnet.config import Bits
from archnet.graph import QuantizedGraph
from archnet.operators import Op
from archnet.probing import probe
from archnet.single_operators import OPERATORS
from archnet.targets.chips import CHIPS as ALL_CHIPS
from archnet.targets.profile import load_profile
from archnet.targets.toolchain import find_toolchain
from tests.archnet.test_freeze import quantized
from tests.attention_graphs import with_padding
from tests.builds import finished
from tests.graphs import tiny_encoder
from tests.hf_models import make_image_folder, make_model_folder
from tests.image_graphs import AVERAGES, average_graph, image_graph
from tests.steps import STEPS, walked

pytest.importorskip("ai_edge_litert", reason="needs archnet[ethos]")

from archnet.compiling import compile_for
from archnet.export.tflite import export_tflite
from archnet.targets.vela import compile_vela

pytestmark = pytest.mark.skipif(
    find_toolchain("ethos-u").installed() is None, reason="needs archnet targets install ethos-u"
)


def network(name: str) -> QuantizedGraph:
    if name == "padding":
        return with_padding(tiny_encoder(np.random.default_rng(0)))
    if name in ("neighbours", "distances"):  # MobileBERT and DeBERTa, untrained
        return quantized(name, "host")[1]
    if name == "text":
        return tiny_encoder(np.random.default_rng(0), layers=2, embedding="host", concat=True)
    return image_graph(name, Bits(8, 8))  # type: ignore[arg-type]


@pytest.mark.parametrize("accelerator", [c.name for c in ALL_CHIPS if c.route == "ethos_u"])
@pytest.mark.parametrize(
    "name",
    [
        *("text", "padding", "neighbours", "distances"),
        *("cnn", "vit", "dinov2", "beit", "swin", "swin_padded", "pvt_v2", "mobilevit"),
    ],
)
def test_every_operator_is_placed_on_the_npu(tmp_path: Path, name: str, accelerator: str) -> None:
    folder = tmp_path / "build"
    finished(folder, network(name))
    (summary,) = compile_for(folder, accelerator, seconds=120)
    assert summary.fallback_operators == 0
    assert summary.native_operators > 5
    assert summary.cycles is not None
    assert summary.cycles > 100
    assert summary.binary_bytes > 1000


@pytest.mark.parametrize("accelerator", ["ethos-u55-256", "ethos-u65-256", "ethos-u85-256"])
@pytest.mark.parametrize("kind", STEPS)
def test_a_decoders_step_is_whole_on_the_npu(tmp_path: Path, kind: str, accelerator: str) -> None:
    folder = tmp_path / "build"
    finished(folder, {"decoder": walked(kind)[0]})
    (summary,) = compile_for(folder, accelerator, seconds=120)
    assert (summary.fallback_operators, summary.part) == (0, "")
    assert summary.native_operators > 40
    assert (folder / "decoder" / "compiled" / accelerator / summary.binary).is_file()


@pytest.mark.parametrize("sizes", AVERAGES.values(), ids=AVERAGES)
@pytest.mark.parametrize("accelerator", ["ethos-u55-128", "ethos-u65-256"])
def test_averages_in_great_steps_are_placed_on_the_npu(
    tmp_path: Path, accelerator: str, sizes: tuple[int, int, int]
) -> None:
    export_tflite(average_graph(*sizes), tmp_path / "model.tflite")
    log = tmp_path / "log"
    summary = compile_vela(tmp_path / "model.tflite", tmp_path, accelerator, log=log, seconds=120)
    assert (summary.fallback_operators, summary.fallbacks) == (0, ())


CHIPS = {"ethos-u55": "ethos-u55-128", "ethos-u65": "ethos-u65-256", "ethos-u85": "ethos-u85-256"}

HOSTED = {Op.SLICE, Op.WIDEN}
"""A constant, and what the host does: nothing that a compiler could be asked about alone."""


def listed(target: str) -> set[Op]:
    """The operators of a profile that occur as nodes."""
    return {op for op in load_profile(target).operators if op in OPERATORS}


@pytest.mark.parametrize("op", sorted(listed("ethos-u55") - HOSTED), ids=str)
@pytest.mark.parametrize("target", CHIPS)
def test_every_operator_of_the_profile_is_placed_on_the_npu(target: str, op: Op) -> None:
    """The probe "placed" of the three profiles: at each width, in each size."""
    assert listed(target) == listed("ethos-u55")
    report = probe(CHIPS[target], [str(op)])
    assert len(report.operators) >= len(OPERATORS[op])
    assert [answer for answer in report.operators if answer.outcome != "native"] == []


@pytest.mark.skipif(
    find_toolchain("onnx2tf").installed() is None, reason="needs archnet targets install onnx2tf"
)
@pytest.mark.parametrize(
    ("kind", "chip"), [("text", "ethos-u55-256"), ("text", "ethos-u85-256"), ("pictures", "ethos-u65-256")]
)
def test_the_original_goes_there_by_tools_of_others_and_leaves_its_norms_to_the_cpu(
    tmp_path: Path, kind: str, chip: str
) -> None:
    if kind == "text":
        made = make_model_folder(tmp_path / "bert", "bert", layers=1)
    else:
        made = make_image_folder(tmp_path / "vit", "vit")  # of one layer
    answer = original_on_chip(str(made), chip, seq_len=9, seconds=300)
    assert answer.refused == ""
    summary = answer.compiled
    assert summary is not None
    assert summary.native_operators > 20
    kinds = Counter(entry.partition(" (")[0] for entry in summary.fallbacks)
    assert kinds["Sqrt"] == 3
    assert len(summary.fallbacks) == summary.fallback_operators
    assert kinds["FullyConnected"] == kinds["BatchMatMul"] == kinds["Conv2D"] == 0
    assert "onnx2tf 2.6.9" in summary.configuration
