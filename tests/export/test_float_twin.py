"""The float twin against the integer network: in each operator only the rounding is missing."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from archnet.backends.base import feed
from archnet.backends.twin import twin_inputs, twin_tensors
from archnet.config import Bits
from archnet.errors import ArchNetError
from archnet.export.float_twin import FloatTwin, build_float_twin
from archnet.graph import QuantizedGraph
from archnet.metrics import cosine
from archnet.operators import Op
from archnet.reference import execute
from tests.archnet.test_attention_forms import frozen
from tests.attention_graphs import (
    with_log_sum_softmax,
    with_padding,
    with_relu_attention,
    with_table_softmax,
)
from tests.graphs import random_inputs, tiny_encoder
from tests.image_graphs import image_graph, images
from tests.integration.test_target_operators import SEQUENCE, alone, name_of, probed, random_feeds
from tests.steps import STEPS, walked

HOSTED = {Op.EMBEDDING, Op.MEAN_POOL, Op.WIDEN, Op.SLICE, Op.RELATIVE_MATMUL, Op.WINDOWS}
"""What the host does, a constant, and what no file has: no operator of the file."""


def real_results(graph: QuantizedGraph, twin: FloatTwin, inputs: dict[str, Any]) -> list[NDArray[Any]]:
    """What ONNX Runtime computes of the file, row by row."""
    session = ort.InferenceSession(twin.model.SerializeToString(), providers=["CPUExecutionProvider"])
    rows = zip(*twin_inputs(graph, twin, inputs), strict=True)
    results = [session.run(None, dict(zip(twin.inputs, row, strict=True))) for row in rows]
    return [np.stack(values) for values in zip(*results, strict=True)]


@pytest.mark.parametrize(
    ("kind", "attention"),
    [*((kind, "softmax") for kind in STEPS), ("windows", "relu"), ("translation", "relu")],
)
def test_steps_of_decoders_follow_the_integers(kind: str, attention: str) -> None:
    """Their caches come in, and a token's own keys and values go out, without an axis of a batch.

    The other two kinds have so few integers behind untrained `relu` attention that its roundings are most.
    """
    graph, feeds = walked(kind, attention)
    twin = build_float_twin(graph)
    shapes = dict(zip(twin.inputs, twin.shapes, strict=True))
    assert shapes["cache_key_0"] == (4, 11, 8)
    for fed in feeds:
        found = twin_tensors(graph, twin, real_results(graph, twin, fed), fed)
        expected = execute(graph, feed(graph, fed), [output.tensor for output in graph.outputs])
        for name, value in expected.items():
            assert found[name].shape == value.shape
            flat = (a.reshape(len(a), -1).astype(np.float64) for a in (found[name], value))
            assert cosine(*flat).min() > 0.97, name


@pytest.mark.parametrize("op", sorted({op for op, _ in probed("ethos-u55")} - HOSTED), ids=name_of)
def test_each_operator_is_the_integers_but_for_one_rounding(op: Op) -> None:
    graph = alone(op, Bits(8, 8))
    feeds = random_feeds(graph)
    twin = build_float_twin(graph, SEQUENCE)
    name = graph.outputs[0].tensor
    expected = execute(graph, feeds)[name].astype(np.float64)
    spec = graph.tensors[name]
    scale = graph.outputs[0].scale if spec.dtype == "int32" else spec.scale
    real = real_results(graph, twin, feeds)[0]
    if op is Op.ZERO_PAD:  # the rows of zeros behind the tokens are left out
        assert not expected[:, SEQUENCE:].any()
        expected = expected[:, :SEQUENCE]
    found = real.reshape(expected.shape) / scale
    if op is Op.MASK:  # what is masked is lower still
        hidden = np.broadcast_to(feeds["attention_mask"][:, None, None, :] == 0, expected.shape)
        assert hidden.any()
        assert (found[hidden] < spec.range[0]).all()
        found, expected = found[~hidden], expected[~hidden]
    # A multiplier has 16 bits behind the point, which an accumulator of a thousand steps makes visible;
    # a share whose exponent has steps of its own is up to 4% off.
    bound = {Op.ADD: 1.0, Op.MEAN_MATMUL: 1.0, Op.LOG_SUM_SOFTMAX: 0.04 * 256}
    assert np.abs(found - expected).max() <= bound.get(op, 0.51)


def whole(name: str) -> QuantizedGraph:
    rng = np.random.default_rng(3)
    encoder = tiny_encoder(rng, layers=2, embedding="host", hidden=32)
    return {
        "softmax": lambda: encoder,
        "table": lambda: with_table_softmax(encoder),
        "logsum": lambda: with_log_sum_softmax(encoder),
        "relu": lambda: with_relu_attention(encoder),
        "padding": lambda: with_padding(encoder),
        "mixing": lambda: frozen("mixing")[1],
    }[name]()


@pytest.mark.parametrize("short", [True, False], ids=["padded", "whole"])
@pytest.mark.parametrize("name", ["softmax", "table", "logsum", "relu", "padding", "mixing"])
def test_a_text_encoder_is_near_the_integers_at_any_length(name: str, short: bool) -> None:
    graph = whole(name)
    longest = graph.max_sequence
    inputs = random_inputs(np.random.default_rng(5), graph)
    twin = build_float_twin(graph, longest - 2 if short else longest)
    found = twin_tensors(graph, twin, real_results(graph, twin, inputs), inputs)
    last = graph.outputs[0].tensor
    # Each sentence by itself: padding has no share here, and the least score in the integer network.
    for i, length in enumerate(inputs["attention_mask"].sum(axis=1)):
        alone = {name: value[i : i + 1, :length] for name, value in inputs.items()}
        expected = execute(graph, feed(graph, alone), [last])[last][0]
        row = found[last][i][:length] if expected.ndim == 2 else found[last][i]
        assert row.shape == expected.shape
        assert cosine(row, expected).mean() > (0.99 if name == "mixing" else 0.998)
    assert {op.op_type for op in twin.model.graph.node} <= {
        "MatMul", "Conv", "Add", "Mul", "Clip", "Reshape", "Transpose", "Concat", "Softmax", "Identity",
    }  # fmt: skip
    assert twin.model.opset_import[0].version == 16


@pytest.mark.parametrize(("kind", "attention"), [("cnn", "softmax"), ("vit", "relu"), ("dinov2", "relu")])
def test_image_classifiers_are_near_the_integers(kind: Any, attention: str) -> None:
    graph = image_graph(kind, Bits(8, 8), attention)
    inputs = {"pixel_values": images(4)["pixel_values"].numpy()}
    twin = build_float_twin(graph)
    name = graph.outputs[0].tensor
    found = twin_tensors(graph, twin, real_results(graph, twin, inputs), inputs)[name]
    expected = execute(graph, feed(graph, inputs))[name]
    scales = graph.outputs[0].scale
    assert cosine(found * scales, expected * scales).min() > 0.99
    assert "Slice" not in {op.op_type for op in twin.model.graph.node}


def test_what_has_no_float_form_is_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ArchNetError, match="OneHot has no form in float ONNX: a row of a one-hot") as caught:
        build_float_twin(tiny_encoder(rng, embedding="one_hot"))
    assert caught.value.fix == "convert with --embedding host (or gather)"
    with pytest.raises(ArchNetError, match=r"--seq-len 17 is not in 1 \.\. 16"):
        build_float_twin(tiny_encoder(rng), 17)
    graph = tiny_encoder(rng)
    twin = build_float_twin(graph, 5)
    with pytest.raises(ArchNetError, match="7 positions; the compiled network takes 5") as caught:
        twin_inputs(graph, twin, random_inputs(rng, graph))
    assert caught.value.fix == "truncate, or compile with a greater --seq-len"
