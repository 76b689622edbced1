"""The real Vela, where `archnet targets install ethos-u` was run: whole networks on the NPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from archnet.build import BuildDir
from archnet.config import Bits, ConvertSettings
from archnet.graph import QuantizedGraph
from archnet.storage import save_graph
from archnet.targets.toolchain import find_toolchain
from archnet.targets.vela import ACCELERATORS
from tests.attention_graphs import with_padding
from tests.graphs import tiny_encoder
from tests.image_graphs import image_graph

pytest.importorskip("ai_edge_litert", reason="needs archnet[ethos]")

from archnet.compiling import compile_for

pytestmark = pytest.mark.skipif(
    find_toolchain("ethos-u").installed() is None, reason="needs archnet targets install ethos-u"
)


def network(name: str) -> QuantizedGraph:
    if name == "padding":
        return with_padding(tiny_encoder(np.random.default_rng(0)))
    if name == "text":
        return tiny_encoder(np.random.default_rng(0), layers=2, embedding="host", concat=True)
    return image_graph("vit" if name == "vit" else "cnn", Bits(8, 8))


@pytest.mark.parametrize("accelerator", ACCELERATORS)
@pytest.mark.parametrize("name", ["text", "padding", "cnn", "vit"])
def test_every_operator_is_placed_on_the_npu(tmp_path: Path, name: str, accelerator: str) -> None:
    folder = tmp_path / "build"
    with BuildDir.open_for_convert(folder, ConvertSettings("archnet", Bits(8, 8)), "abc") as made:
        save_graph(network(name), folder / "graph")
        made.finish({})
    summary = compile_for(folder, accelerator, seconds=120)
    assert summary.cpu_operators == 0
    assert summary.npu_operators > 5
    assert 0 < summary.npu_cycles <= summary.cycles
    assert summary.binary_bytes > 1000
