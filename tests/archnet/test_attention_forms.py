"""The other forms of attention: float formulas, integers, backends, and what is refused."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from archnet.agreement import IntegerComparison
from archnet.attention_statistics import attention_statistics
from archnet.backends.base import dequantize_output, feed
from archnet.backends.onnxruntime import OnnxRuntimeBackend
from archnet.backends.tvm import TvmBackend
from archnet.calibration.equalization import equalize
from archnet.config import Bits
from archnet.converters.base import Statistics
from archnet.converters.fold import Folded, fold
from archnet.converters.homotopy import set_progress
from archnet.executor import NetworkModule
from archnet.export.onnx import build_onnx, emulated_places
from archnet.export.tvm import compile_tvm
from archnet.freeze import freeze
from archnet.graph import Node, QuantizedGraph, TensorSpec
from archnet.graph_check import validate_graph
from archnet.network import Network
from archnet.operators import Op
from archnet.quantized_layers import QuantizedAttention
from archnet.quantized_student import QuantizedStudent, channel_statistics, with_share_levels
from archnet.reference import execute, run_node
from archnet.rewrite import materialize, rewrite, token_statistics
from tests.attention_graphs import (
    with_log_sum_softmax,
    with_padding,
    with_relu_attention,
    with_table_softmax,
)
from tests.graphs import random_inputs, tiny_encoder
from tests.small_encoder import LENGTH, captured_encoder, padded_batch

BATCHES = [padded_batch(seed) for seed in range(3)]


def converted(form: str) -> tuple[Network, Folded]:
    """An untrained student at progress 1, folded and equalized."""
    teacher = captured_encoder(pooling="mean")
    module = NetworkModule(teacher)
    statistics: dict[str, Statistics] = {**token_statistics(module, BATCHES)}
    statistics |= attention_statistics(module, BATCHES, LENGTH)
    rewritten = rewrite(teacher, statistics, attention=form)
    student = rewritten.module()
    set_progress(student, 1.0)
    folded = fold(materialize(rewritten.network, rewritten.modules, student.tensors()))
    channels = channel_statistics(folded.network, BATCHES)
    return teacher, equalize(folded, channels, outputs=teacher.outputs.values())


def frozen(form: str, levels: int = 255) -> tuple[QuantizedStudent, QuantizedGraph]:
    """The student with quantizers, and its integer network."""
    teacher, folded = converted(form)
    student = QuantizedStudent(with_share_levels(folded.network, levels), Bits.parse("w8a8"))
    with torch.no_grad():
        student.calibrate(BATCHES)
    outputs = {name: folded.values[site] for name, site in teacher.outputs.items()}
    graph = freeze(student, outputs, name=form, max_sequence=LENGTH, embedding="gather")
    validate_graph(graph)
    return student, graph


def integers(graph: QuantizedGraph, names: list[str] | None = None) -> dict[str, NDArray[Any]]:
    inputs = {name: value.numpy() for name, value in padded_batch(7).items()}
    return execute(graph, feed(graph, inputs), names)


@pytest.mark.parametrize("masked", [True, False])
def test_mean_matmul_is_the_mean_over_seen_keys(masked: bool) -> None:
    rng = np.random.default_rng(3)
    a = rng.integers(0, 256, (2, 2, 3, 4), dtype=np.uint8)
    b = rng.integers(-128, 128, (2, 2, 4, 5), dtype=np.int8)
    mask = np.array([[1, 0, 7, 0], [0, 0, 0, 0]])
    multipliers = np.array([9000, 4500, 3001, 2250, 9], np.int32)
    extra = (mask,) if masked else ()
    node = Node(Op.MEAN_MATMUL, "n", tuple("abcd"[: 3 + len(extra)]), "y")
    spec = TensorSpec("y", ("batch", 2, 3, 5), "int8", 8, 1.0)
    y = run_node(node, (a, b, multipliers, *extra), spec, {"batch": 2, "sequence": 4})
    for batch, head, row, column in np.ndindex(2, 2, 3, 5):
        keys = [k for k in range(4) if not masked or mask[batch, k]]
        total = sum(int(a[batch, head, row, k]) * int(b[batch, head, k, column]) for k in keys)
        exact = round(Fraction(total * int(multipliers[max(len(keys), 1) - 1]), 2**16))
        assert y[batch, head, row, column] == min(max(exact, -128), 127)


@pytest.mark.parametrize("form", ["softmax", "table", "logsum", "relu", "mixing"])
@torch.no_grad()
def test_padding_changes_nothing(form: str) -> None:
    _, folded = converted(form)
    batch = padded_batch(7)
    outputs = folded.network.outputs.values()
    whole = NetworkModule(folded.network)(batch, keep=outputs)
    length = int(batch["attention_mask"][1].sum())
    alone = NetworkModule(folded.network)({k: v[1:2, :length] for k, v in batch.items()}, keep=outputs)
    for name in outputs:
        expected = whole[name][1:2, :length] if whole[name].dim() == 3 else whole[name][1:2]
        torch.testing.assert_close(alone[name], expected, rtol=1e-4, atol=1e-4)


def attention_inputs(student: QuantizedStudent, batch: dict[str, Tensor]) -> tuple[list[Tensor], Tensor, str]:
    (site,) = [s for s in student.network.sites if s.op is Op.ATTENTION]
    with torch.no_grad():
        values = student(batch)
    return [values[name] for name in site.inputs[:3]], values[site.name], site.name


def test_relu_attention_in_integers_is_the_formula_in_floats() -> None:
    student, graph = frozen("relu")
    batch = padded_batch(7)
    (q, k, v), _, name = attention_inputs(student, batch)
    split = [x.unflatten(-1, (2, -1)).transpose(1, 2).double() for x in (q, k, v)]
    keep = batch["attention_mask"].bool()[:, None, None, :]
    scores = (split[0] @ split[1].transpose(-1, -2)).relu() * keep
    wanted = (scores @ split[2] / keep.sum(-1, keepdim=True)).transpose(1, 2).flatten(-2).numpy()
    feeds: dict[str, NDArray[Any]] = {n: x.numpy() for n, x in batch.items()}
    got = execute(graph, feed(graph, feeds), [name])[name] * graph.tensors[name].scale
    valid = batch["attention_mask"].bool().numpy()
    step = graph.tensors[name].scale
    assert step is not None
    difference = np.abs(got - wanted)[valid] / step
    assert difference.mean() < 1.0
    assert {node.op for node in graph.nodes}.isdisjoint({Op.SOFTMAX, Op.TABLE_SOFTMAX, Op.MASK})


def test_table_form_has_the_integers_of_softmax() -> None:
    soft, table = frozen("softmax")[1], frozen("table")[1]
    assert [n.op for n in table.nodes if n.op is Op.TABLE_SOFTMAX]
    assert not [n.op for n in table.nodes if n.op is Op.SOFTMAX]
    assert emulated_places(soft)
    assert {place.op for place in emulated_places(table)} == {Op.MASK}
    wanted, got = integers(soft), integers(table)
    for name, value in wanted.items():
        np.testing.assert_array_equal(got[name], value)


@torch.no_grad()
def test_log_sum_in_integers_is_what_was_trained() -> None:
    student, graph = frozen("logsum")
    (node,) = [n for n in graph.nodes if n.op is Op.LOG_SUM_SOFTMAX]
    assert {n.op for n in graph.nodes}.isdisjoint({Op.SOFTMAX, Op.TABLE_SOFTMAX})
    (module,) = [m for m in student.modules() if isinstance(m, QuantizedAttention)]
    scale = graph.tensors[node.inputs[0]].scale
    assert scale is not None
    scores = integers(graph, [node.inputs[0]])[node.inputs[0]]
    shares = integers(graph, [node.output])[node.output]
    given = torch.from_numpy(scores).float() * scale
    trained = module._rounded(given, torch.softmax(given, -1)) * module.levels
    # The scale of the frozen scores is a few float32 steps from that of the student.
    assert np.mean(np.abs(trained.numpy() - shares).max(-1) > 1) < 0.02


@torch.no_grad()
def test_probabilities_in_units_of_256_are_cut_off_at_255_in_student_and_integers() -> None:
    student, graph = frozen("softmax", levels=256)
    (shares,) = [graph.tensors[n.output] for n in graph.nodes if n.op is Op.SOFTMAX]
    assert (shares.scale, shares.levels, shares.range) == (1 / 256, 256, (0, 255))
    (module,) = [m for m in student.modules() if isinstance(m, QuantizedAttention)]
    alone = torch.tensor([[1, 0, 0]])
    value = torch.full((1, 3, 16), 256.0)
    attended = module(torch.zeros(1, 3, 16), torch.zeros(1, 3, 16), value, alone)
    torch.testing.assert_close(attended, torch.full_like(attended, 255.0))
    single = {"input_ids": np.array([[3]]), "attention_mask": np.array([[1]])}
    assert execute(graph, feed(graph, single), [shares.name])[shares.name].tolist() == [[[[255]]] * 2]


@torch.no_grad()
def test_attention_statistics_are_mean_weights_of_pairs() -> None:
    teacher = captured_encoder()
    (site,) = [s for s in teacher.sites if s.op is Op.ATTENTION]
    found = attention_statistics(NetworkModule(teacher), BATCHES, LENGTH)[site.name].weights
    assert found.shape == (2, LENGTH, LENGTH)
    total, count = torch.zeros(2), 0
    for values in [NetworkModule(teacher)(batch) for batch in BATCHES]:
        query, key = (values[name].reshape(6, 9, 2, 8) for name in site.inputs[:2])
        mask = values["attention_mask"].bool()
        for row in [row for row in range(6) if bool(mask[row, 4])]:
            scores = torch.einsum("hd,khd->hk", query[row, 4], key[row, mask[row]]) / 8**0.5
            total += torch.softmax(scores, -1)[:, 2]
            count += 1
    assert count
    torch.testing.assert_close(found[:, 4, 2], total / count)
    assert bool((found[:, 11, 10] > 0).all()), "a pair that never occurs gets what its diagonal has"


def test_token_mixing_in_integers_is_the_formula_in_floats() -> None:
    student, graph = frozen("mixing")
    ops = {node.op for node in graph.nodes}
    assert ops.isdisjoint({Op.MATMUL, Op.SOFTMAX, Op.MASK, Op.MEAN_MATMUL, Op.TABLE_SOFTMAX})
    batch = padded_batch(7)
    with torch.no_grad():
        values = student(batch)
    (mix,) = [s for s in student.network.sites if s.op is Op.TOKEN_MIX]
    weight, bias = (student.network.parameter(mix, role).double() for role in ("weight", "bias"))
    value, mask = values[mix.inputs[0]].double(), batch["attention_mask"]
    wanted = torch.zeros_like(value)
    for head in range(2):
        part = slice(8 * head, 8 * head + 8)
        for t in range(9):
            terms = [weight[head, t, s] * value[:, s, part] * mask[:, s, None] for s in range(9)]
            wanted[:, t, part] = torch.stack(terms).sum(0) + bias[head, t]
    feeds: dict[str, NDArray[Any]] = {n: x.numpy() for n, x in batch.items()}
    spec = graph.tensors[mix.name]
    assert spec.scale is not None
    got = execute(graph, feed(graph, feeds), [mix.name])[mix.name] * spec.scale
    difference = np.abs(got - wanted.numpy())[mask.bool().numpy()] / spec.scale
    assert difference.mean() < 0.6
    joined = next(n for n in graph.nodes if n.op is Op.CONCAT and mix.name in n.inputs)
    assert {graph.tensors[name].scale for name in joined.inputs} == {graph.tensors[joined.output].scale}


GRAPHS = {
    "table": lambda: with_table_softmax(tiny_encoder(np.random.default_rng(5), layers=2)),
    "table-256": lambda: with_table_softmax(tiny_encoder(np.random.default_rng(5), share_levels=256)),
    "logsum": lambda: with_log_sum_softmax(tiny_encoder(np.random.default_rng(5), layers=2)),
    "logsum-256": lambda: with_log_sum_softmax(tiny_encoder(np.random.default_rng(5), share_levels=256)),
    "logsum-4": lambda: with_log_sum_softmax(tiny_encoder(np.random.default_rng(5), activation_bits=4)),
    "logsum-frozen": lambda: frozen("logsum")[1],
    "relu": lambda: with_relu_attention(tiny_encoder(np.random.default_rng(5), layers=2)),
    "padding": lambda: with_padding(tiny_encoder(np.random.default_rng(5))),
    "mixing": lambda: frozen("mixing")[1],
    "relu-unmasked": lambda: with_relu_attention(tiny_encoder(np.random.default_rng(5)), masked=False),
}


@pytest.mark.parametrize("form", GRAPHS)
def test_onnxruntime_has_the_reference_integers(form: str) -> None:
    graph = GRAPHS[form]()
    validate_graph(graph)
    compare(graph, OnnxRuntimeBackend(graph, build_onnx(graph), threads=1))


@pytest.mark.parametrize("form", GRAPHS)
def test_tvm_has_the_reference_integers(form: str, tmp_path: Path) -> None:
    graph = GRAPHS[form]()
    compile_tvm(graph, tmp_path)
    compare(graph, TvmBackend(graph, tmp_path, threads=1))
    inputs = random_inputs(np.random.default_rng(2), graph, batch=4, sequence=11)
    found = TvmBackend(graph, tmp_path, threads=1).run(inputs)
    for output in graph.outputs:
        expected = dequantize_output(execute(graph, feed(graph, inputs))[output.tensor], output)
        np.testing.assert_array_equal(found[output.name], expected)


def compare(graph: QuantizedGraph, backend: Any) -> None:
    """Every tensor that the backend shows is the reference's."""
    comparison = IntegerComparison(graph, backend)
    comparison.add(random_inputs(np.random.default_rng(1), graph))
    comparison.add(random_inputs(np.random.default_rng(1), graph, sequence=1))  # a share of 1
    agreement = comparison.agreement()
    assert len(agreement) >= len(graph.nodes) // 2
    assert [(a.tensor, a.max_lsb) for a in agreement if a.max_lsb] == []
