"""Every fault of an integer network is found, and its message says where and what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from archnet.errors import ArchNetError
from archnet.graph import GraphOutput, HostTable, QuantizedGraph
from archnet.graph_check import validate_graph
from archnet.operators import Op
from tests.graphs import Embedding, tiny_encoder

Change = Callable[[QuantizedGraph], QuantizedGraph]


def full_graph(embedding: Embedding = "gather") -> QuantizedGraph:
    """A network with all operators but OneHot and MeanPool."""
    rng = np.random.default_rng(0)
    return tiny_encoder(rng, pooled=False, concat=True, activation="gelu", embedding=embedding)


@pytest.mark.parametrize("embedding", ["gather", "one_hot", "host", "code"])
@pytest.mark.parametrize("seed", range(3))
def test_random_networks_are_valid(embedding: Embedding, seed: int) -> None:
    rng = np.random.default_rng(seed)
    validate_graph(tiny_encoder(rng, embedding=embedding, layers=2))
    validate_graph(tiny_encoder(rng, embedding=embedding, pooled=False, concat=True, activation="gelu"))


def attribute(name: str, **attributes: Any) -> Change:
    """Set attributes of the node of this name."""

    def change(graph: QuantizedGraph) -> QuantizedGraph:
        nodes = tuple(
            replace(n, attributes={**n.attributes, **attributes}) if n.name == name else n
            for n in graph.nodes
        )
        assert nodes != graph.nodes
        return replace(graph, nodes=nodes)

    return change


def node(which: str, **fields: Any) -> Change:
    """Replace fields of the node of this name."""
    return lambda g: replace(g, nodes=tuple(replace(n, **fields) if n.name == which else n for n in g.nodes))


def spec(name: str, **fields: Any) -> Change:
    """Replace fields of a TensorSpec."""
    return lambda g: replace(g, tensors={**g.tensors, name: replace(g.tensors[name], **fields)})


def constant(name: str, change: Callable[[Any], Any]) -> Change:
    """Replace a constant."""
    return lambda g: replace(g, constants={**g.constants, name: change(g.constants[name])})


def swapped(graph: QuantizedGraph) -> QuantizedGraph:
    nodes = list(graph.nodes)
    nodes[3], nodes[4] = nodes[4], nodes[3]
    return replace(graph, nodes=tuple(nodes))


def without_tensor(graph: QuantizedGraph) -> QuantizedGraph:
    return replace(graph, tensors={k: v for k, v in graph.tensors.items() if k != "layer0.up:0"})


def put(index: int, value: int) -> Callable[[Any], Any]:
    """Set one element of a flat copy."""

    def change(array: Any) -> Any:
        copy = array.copy()
        copy.flat[index] = value
        return copy

    return change


def output(**fields: Any) -> Change:
    return lambda g: replace(g, outputs=(replace(g.outputs[0], **fields), *g.outputs[1:]))


CASES: dict[str, tuple[Change, str]] = {
    "order": (swapped, r"layer0.query.split \(Reshape\): reads layer0.query:0, which is no constant and not"),
    "unknown-input": (node("pooling.first", inputs=("gone",)), r"pooling.first \(Select\): reads gone"),
    "no-spec": (without_tensor, "tensor layer0.up:0 has no TensorSpec"),
    "unused-spec": (
        lambda g: replace(g, tensors={**g.tensors, "x": replace(g.tensors["layer0.up:0"], name="x")}),
        "no node makes the tensors x",
    ),
    "made-twice": (node("layer0.key", output="layer0.query:0"), "no node makes|made twice"),
    "node-name-twice": (node("layer0.key", name="layer0.query"), "two nodes have the same name"),
    "operator": (node("layer0.up", op=Op.GELU), r"layer0.up \(GELU\): GELU is no operator of the integer"),
    "input-count": (node("embeddings.words", inputs=("input_ids",)), "has 1 inputs"),
    "input-spec": (spec("input_ids", shape=("batch", 7)), "input input_ids differs from its entry"),
    "max-sequence": (lambda g: replace(g, max_sequence=2000), r"max_sequence is 2000, not in 1 \.\. 1024"),
    "short-table": (lambda g: replace(g, max_sequence=17), "has 16 rows for 17 positions"),
    "shape": (
        spec("layer0.query:0", shape=("batch", "sequence", 17)),
        r"has shape \('batch', 'sequence', 17\)",
    ),
    "symbol": (spec("layer0.query:0", shape=("batch", "tokens", 16)), "tensor layer0.query:0 has shape"),
    "dtype": (spec("layer0.query:0", dtype="int16"), "has dtype int16"),
    "bits": (spec("layer0.query:0", bits=9), "has 9 bits in int8"),
    "scale": (spec("layer0.query:0", scale=float("nan")), "tensor layer0.query:0 has scale nan"),
    "no-scale": (spec("layer0.query:0", scale=None), "tensor layer0.query:0 has no scale"),
    "weight-dtype": (constant("layer0.query.weight", lambda a: a.astype(np.int16)), "holds int16, not int8"),
    "weight-shape": (constant("layer0.query.weight", lambda a: a[:, 1:]), r"has shape \(16, 15\)"),
    "weight-bits": (
        attribute("layer0.query", weight_bits=4),
        r"layer0.query.weight holds .* outside -8 \.\. 7",
    ),
    "bias-dtype": (constant("layer0.query.bias", lambda a: a.astype(np.int64)), "holds int64, not int32"),
    "multiplier-zero": (constant("layer0.query.multiplier", put(3, 0)), r"outside 1 \.\. 131072"),
    "multiplier-large": (constant("layer0.query.multiplier", put(3, 2**17 + 1)), r"outside 1 \.\. 131072"),
    "multiplier-other": (
        constant("layer0.query.multiplier", put(3, 12345)),
        "is not multiplier / 2.*16 at 1 places",
    ),
    "weight-scale": (constant("layer0.query.weight_scale", lambda a: -a), "a weight scale is not positive"),
    "overflow": (
        constant("layer0.query.bias", put(3, 2**31 - 1)),
        r"layer0.query \(FullyConnected\): its 32-bit accumulator can overflow: sums reach 2147",
    ),
    "matmul-multiplier": (
        attribute("layer0.scores", multiplier=0),
        r"attribute multiplier is 0, not an integer in 1",
    ),
    "matmul-factor": (attribute("layer0.scores", multiplier=12345), "is not multiplier"),
    "matmul-transpose": (attribute("layer0.scores", transpose_b=False), "multiplies"),
    "softmax-table": (constant("layer0.softmax.table", put(0, 5)), "its table begins with 5, not 1048576"),
    "softmax-rises": (constant("layer0.softmax.table", put(255, 2**19)), "its table rises"),
    "softmax-scale": (
        spec("layer0.softmax:0", scale=0.004),
        "its output's scale is 0.004, neither 1/255 nor 1/256",
    ),
    "mask-scale": (spec("layer0.mask:0", scale=0.5), "scale 0.5 is not its input's"),
    "mask-shape": (node("layer0.mask", inputs=("layer0.scores:0", "input_ids2")), "reads input_ids2"),
    "add-multiplier": (attribute("embeddings.add", multiplier_b="x"), "attribute multiplier_b is 'x'"),
    "add-shapes": (
        spec("embeddings.positions:0", shape=(3, 16)),
        r"adds \('batch', 'sequence', 16\) to \(3, 16\)",
    ),
    "slice-tensor": (
        node("embeddings.positions", inputs=("embeddings.words:0",)),
        "input embeddings.words:0 must be a constant",
    ),
    "lookup-table": (constant("layer0.gelu.table", lambda a: a[:255]), r"has shape \(255,\)"),
    "lookup-function": (attribute("layer0.gelu", function=3), "attribute function is 3"),
    "reshape": (attribute("layer0.query.split", shape=("batch", "sequence", 3, 8)), "makes"),
    "reshape-minus": (attribute("layer0.query.split", shape=("batch", -1, -1, 8)), "attribute shape is"),
    "transpose": (attribute("layer0.query.swap", perm=(0, 2, 2, 3)), "attribute perm is"),
    "concat-axis": (attribute("layer0.up", axis=3), "attribute axis is 3"),
    "concat-scale": (spec("layer0.up.first:0", scale=0.5), "is not multiplier|is not its input's"),
    "select-index": (
        attribute("pooling.first", index=1),
        r"attribute index is 1, not an integer in -1 \.\. 0",
    ),
    "widen-offset": (
        constant("widen.offset", put(0, 2**31 - 1)),
        r"pooling.widen \(Widen\): its 32-bit accumulator can overflow",
    ),
    "table-range": (spec("embeddings.words:0", bits=4), r"word_table holds .* outside -8 \.\. 7"),
    "no-output": (lambda g: replace(g, outputs=()), "it has no output"),
    "output-tensor": (output(tensor="gone"), "takes the tensor gone, which no node makes"),
    "output-scale": (output(scale=np.zeros(16, dtype=np.float32)), "has a scale that is not positive"),
    "output-width": (output(scale=np.ones(3, dtype=np.float32)), r"has \(3,\) scales for 16 channels"),
    "output-dtype": (output(scale=np.ones(16)), "has a scale of float64"),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_a_fault_is_named(case: tuple[Change, str]) -> None:
    change, message = case
    with pytest.raises(ArchNetError, match=message) as caught:
        validate_graph(change(full_graph()))
    assert caught.value.problem.startswith("the integer network 'tiny-gather' is not valid: ")
    assert caught.value.fix == "run archnet convert again"


NARROW_CASES: dict[str, tuple[Change, str]] = {
    "requantize-multiplier": (
        attribute("layer0.up.narrow", multiplier=2**17 + 1),
        r"layer0.up.narrow \(Requantize\): attribute multiplier is 131073, not an integer in 1 \.\. 131072",
    ),
    "requantize-factor": (attribute("layer0.up.narrow", multiplier=12345), "is not multiplier / 2"),
    "requantize-shape": (
        spec("layer0.up.narrow:0", shape=("batch", "sequence", 15)),
        r"its output has shape \('batch', 'sequence', 15\), not",
    ),
    "requantize-dtype": (spec("layer0.up.narrow:0", dtype="int32"), "its output is int32, not int8 or uint8"),
}


@pytest.mark.parametrize("case", NARROW_CASES.values(), ids=NARROW_CASES.keys())
def test_a_fault_of_a_narrow_network_is_named(case: tuple[Change, str]) -> None:
    change, message = case
    with pytest.raises(ArchNetError, match=message):
        validate_graph(change(tiny_encoder(np.random.default_rng(0), weight_bits=4, activation_bits=4)))


HOST_CASES: dict[str, tuple[HostTable, str]] = {
    "target": (HostTable("input_ids", "nowhere", "word_table"), "feeds nowhere, which is no input"),
    "source": (HostTable("attention_mask", "word_rows", "word_table"), "which the network reads itself"),
    "table": (HostTable("input_ids", "word_rows", "nothing"), "host table nothing is no constant"),
    "shape": (HostTable("input_ids", "word_rows", "layer0.up.bias"), r"has shape \(64,\)"),
    "dtype": (HostTable("input_ids", "attention_mask", "word_table"), "host table word_table"),
}


@pytest.mark.parametrize("case", HOST_CASES.values(), ids=HOST_CASES.keys())
def test_a_fault_of_a_host_table_is_named(case: tuple[HostTable, str]) -> None:
    host, message = case
    graph = tiny_encoder(np.random.default_rng(0), embedding="host")
    with pytest.raises(ArchNetError, match=message):
        validate_graph(replace(graph, host_tables=(host,)))


def test_a_sum_over_the_whole_sequence_counts_its_greatest_length() -> None:
    graph = tiny_encoder(np.random.default_rng(0))
    offset = np.full(16, 2**31 - 2, dtype=np.int32)
    with pytest.raises(ArchNetError, match=r"pooling.pool \(MeanPool\): its 32-bit accumulator"):
        validate_graph(replace(graph, constants={**graph.constants, "pool.offset": offset}))


def test_one_scale_for_all_channels_of_an_output_is_allowed() -> None:
    graph = full_graph()
    one = tuple(GraphOutput(o.name, o.tensor, o.scale[:1]) for o in graph.outputs)
    validate_graph(replace(graph, outputs=one))


def test_an_output_is_bounded_to_a_positive_number() -> None:
    graph = full_graph()
    wrong = tuple(replace(output, cap=-1.0) for output in graph.outputs)
    with pytest.raises(ArchNetError, match=r"is bounded to -1\.0"):
        validate_graph(replace(graph, outputs=wrong))


def test_a_reshape_may_infer_one_size() -> None:
    validate_graph(attribute("layer0.query.split", shape=("batch", "sequence", 2, -1))(full_graph()))
    validate_graph(attribute("layer0.query.split", shape=("batch", -1, 2, 8))(full_graph()))
