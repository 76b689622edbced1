"""The probes behind the target profiles: each operator alone, against the reference executor.

A profile lists an operator because a network of that one operator gives the reference's integers on the
target's runtime. Softmax on ONNX Runtime is computed in float and may differ by 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from archnet.backends.onnxruntime import OnnxRuntimeBackend
from archnet.backends.tvm import TvmBackend
from archnet.config import Bits
from archnet.export.onnx import build_onnx
from archnet.export.tvm import compile_tvm
from archnet.graph import GraphOutput, QuantizedGraph
from archnet.operators import Op
from archnet.reference import execute
from archnet.targets import list_profiles, load_profile
from tests.attention_graphs import (
    distance_graph,
    neighbour_graph,
    product_graph,
    with_log_sum_softmax,
    with_padding,
    with_relu_attention,
    with_table_softmax,
)
from tests.graphs import tiny_encoder
from tests.image_graphs import image_graph

NEVER_A_NODE = {Op.BATCH_NORM, Op.RELU}
"""Folded and fused before the integer network exists."""

BATCH, SEQUENCE = 2, 5


def networks(bits: Bits, share_levels: int = 255) -> Iterator[QuantizedGraph]:
    """Random encoders in which every operator of the integer network occurs, each made when it is reached."""
    rng = np.random.default_rng(7)
    make = partial(
        tiny_encoder,
        rng,
        weight_bits=bits.weights,
        activation_bits=bits.activations,
        share_levels=share_levels,
    )
    yield make(pooled=False, concat=True, activation="gelu")
    yield make(embedding="one_hot")
    yield with_table_softmax(make())
    yield with_relu_attention(make())
    yield with_padding(make())
    yield image_graph("vit", bits)
    yield image_graph("cnn", bits)
    yield image_graph("swin", bits)
    yield product_graph(bits)
    yield distance_graph(bits)
    yield neighbour_graph(bits)
    yield with_log_sum_softmax(make())


def alone(op: Op, bits: Bits, share_levels: int = 255) -> QuantizedGraph:
    """A network of one node of this operator in `networks`, its input tensors as inputs."""
    narrow = op is Op.REQUANTIZE and bits.activations == 8
    present = networks(Bits(8, 6) if narrow else bits, share_levels)
    graph, node = next((g, n) for g in present for n in g.nodes if n.op is op)
    inputs = [graph.tensors[name] for name in node.inputs if name in graph.tensors]
    fixed = "attention_mask" not in graph.tensors
    if not fixed and not any("sequence" in spec.shape for spec in inputs) and op is not Op.SELECT:
        inputs.append(graph.tensors["attention_mask"])  # binds "sequence"
    inputs.sort(key=lambda spec: "sequence" not in spec.shape)  # sizes are read from the first
    return replace(
        graph,
        name=str(op),
        inputs=tuple(dict.fromkeys(inputs)),
        outputs=(GraphOutput("y", node.output, np.ones(1, np.float32)),),
        nodes=(node,),
        tensors={spec.name: spec for spec in (*inputs, graph.tensors[node.output])},
        constants={name: graph.constants[name] for name in node.inputs if name in graph.constants},
    )


def random_feeds(graph: QuantizedGraph) -> dict[str, NDArray[Any]]:
    """Integers over the whole range of every input."""
    rng = np.random.default_rng(11)
    sizes = {"batch": BATCH, "sequence": SEQUENCE}
    feeds = {}
    for spec in graph.inputs:
        low, high = (0, 1) if spec.dtype == "int64" else spec.range
        shape = [sizes[dim] if isinstance(dim, str) else dim for dim in spec.shape]
        feeds[spec.name] = rng.integers(low, high + 1, shape).astype(spec.dtype)
    return feeds


def probed(target: str) -> list[tuple[Op, Bits]]:
    """The operators of a profile that occur as nodes, with each of their widths."""
    operators = load_profile(target).operators.items()
    return [
        (op, Bits.parse(text if text.startswith("w") else f"w8{text}"))
        for op, support in operators
        for text in support.bits
        if op not in NEVER_A_NODE
    ]


def name_of(value: object) -> str:
    return str(value)


def test_every_operator_of_a_profile_can_be_probed() -> None:
    present = {
        node.op for bits in (Bits(8, 8), Bits(8, 6)) for graph in networks(bits) for node in graph.nodes
    }
    listed = {op for profile in list_profiles() for op in profile.operators}
    assert listed - NEVER_A_NODE == present


@pytest.mark.parametrize("target", [profile.name for profile in list_profiles()])
def test_the_widths_of_a_profile_are_those_of_its_operators(target: str) -> None:
    profile = load_profile(target)
    pairs = {f"w{w}a{a}" for w in profile.weight_bits for a in profile.activation_bits}
    assert set(profile.operators[Op.LINEAR].bits) == pairs


@pytest.mark.parametrize(("op", "bits"), probed("onnxruntime"), ids=name_of)
def test_onnxruntime_gives_the_reference_integers(op: Op, bits: Bits) -> None:
    graph = alone(op, bits)
    feeds = random_feeds(graph)
    model = build_onnx(graph)
    onnx.checker.check_model(model, full_check=True)
    found = OnnxRuntimeBackend(graph, model, threads=1).run(feeds)["y"]
    expected = execute(graph, feeds)[graph.outputs[0].tensor]
    assert found.shape == expected.shape
    difference = np.abs(found - expected)
    assert difference.max() <= (1 if op is Op.SOFTMAX else 0)


@pytest.mark.parametrize("op", sorted({op for op, _ in probed("tvm")}), ids=name_of)
def test_tvm_gives_the_reference_integers(op: Op, tmp_path: Path) -> None:
    """At the narrowest widths; tests/export/test_tvm.py runs whole networks at the others."""
    graph = alone(op, min(bits for other, bits in probed("tvm") if other is op))
    feeds = random_feeds(graph)
    compile_tvm(graph, tmp_path)
    found = TvmBackend(graph, tmp_path, threads=1).run(feeds)["y"]
    expected = execute(graph, feeds)[graph.outputs[0].tensor]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("op", "bits"), probed("ethos-u55"), ids=name_of)
def test_litert_gives_the_reference_integers(op: Op, bits: Bits) -> None:
    pytest.importorskip("ai_edge_litert", reason="needs archnet[ethos]")
    from archnet.backends.litert import LiteRtBackend
    from archnet.export.tflite import build_tflite

    if op in (Op.SLICE, Op.WIDEN):
        return  # a constant, and what the host does: no operator of the file
    graph = alone(op, bits)
    feeds = random_feeds(graph)
    backend = LiteRtBackend(graph, build_tflite(graph, SEQUENCE), threads=1)
    found = backend.tensors(feeds)[graph.outputs[0].tensor]
    expected = execute(graph, feeds)[graph.outputs[0].tensor]
    assert found.shape == expected.shape
    difference = np.abs(found.astype(np.int64) - expected)
    assert difference.max() <= (1 if op in (Op.SOFTMAX, Op.ADD) else 0)
