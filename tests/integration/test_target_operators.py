"""The probes behind the target profiles: each operator alone, against the reference executor.

A profile lists an operator because a network of that one operator gives the reference's integers on the
target's runtime. Softmax on ONNX Runtime is computed in float and may differ by 1.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from archnet.backends.onnxruntime import OnnxRuntimeBackend
from archnet.backends.tvm import TvmBackend
from archnet.export.onnx import build_onnx
from archnet.export.tvm import compile_tvm
from archnet.graph import GraphOutput, QuantizedGraph
from archnet.operators import Op
from archnet.reference import execute
from archnet.targets import list_profiles, load_profile
from tests.attention_graphs import with_relu_attention, with_table_softmax
from tests.graphs import tiny_encoder

NEVER_A_NODE = {Op.BATCH_NORM, Op.RELU}
"""Folded and fused before the integer network exists."""

BATCH, SEQUENCE = 2, 5


def networks() -> list[QuantizedGraph]:
    """Random encoders in which every operator of the integer network occurs."""
    rng = np.random.default_rng(7)
    return [
        tiny_encoder(rng, pooled=False, concat=True, activation="gelu"),
        tiny_encoder(rng, pooled=True, embedding="one_hot", activation_bits=6),
        with_table_softmax(tiny_encoder(rng)),
        with_relu_attention(tiny_encoder(rng)),
    ]


def alone(op: Op) -> QuantizedGraph:
    """A network of the first node of this operator in `networks`, its input tensors as inputs."""
    graph, node = next((g, n) for g in networks() for n in g.nodes if n.op is op)
    inputs = [graph.tensors[name] for name in node.inputs if name in graph.tensors]
    if not any("sequence" in spec.shape for spec in inputs) and op is not Op.SELECT:
        inputs.append(graph.tensors["attention_mask"])  # binds "sequence"
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


def node_operators(target: str) -> list[Op]:
    """The operators of a profile that occur as nodes."""
    return [op for op in load_profile(target).operators if op not in NEVER_A_NODE]


def test_every_operator_of_a_profile_can_be_probed() -> None:
    present = {node.op for graph in networks() for node in graph.nodes}
    listed = {op for profile in list_profiles() for op in profile.operators}
    assert listed - NEVER_A_NODE == present


@pytest.mark.parametrize("op", node_operators("onnxruntime"), ids=str)
def test_onnxruntime_gives_the_reference_integers(op: Op) -> None:
    graph = alone(op)
    feeds = random_feeds(graph)
    model = build_onnx(graph)
    onnx.checker.check_model(model, full_check=True)
    found = OnnxRuntimeBackend(graph, model, threads=1).run(feeds)["y"]
    expected = execute(graph, feeds)[graph.outputs[0].tensor]
    assert found.shape == expected.shape
    difference = np.abs(found - expected)
    assert difference.max() <= (1 if op is Op.SOFTMAX else 0)


@pytest.mark.parametrize("op", node_operators("tvm"), ids=str)
def test_tvm_gives_the_reference_integers(op: Op, tmp_path: Path) -> None:
    graph = alone(op)
    feeds = random_feeds(graph)
    compile_tvm(graph, tmp_path)
    found = TvmBackend(graph, tmp_path, threads=1).run(feeds)["y"]
    expected = execute(graph, feeds)[graph.outputs[0].tensor]
    np.testing.assert_array_equal(found, expected)
