"""The integer network agrees with the fake-quantized student that it is made of."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from archnet.backends.base import dequantize_output, feed
from archnet.calibration.equalization import equalize
from archnet.code_embedding import with_code_embedding
from archnet.config import Bits
from archnet.converters.fold import Folded, fold
from archnet.converters.homotopy import set_progress
from archnet.executor import NetworkModule
from archnet.freeze import freeze
from archnet.graph import QuantizedGraph
from archnet.graph_check import validate_graph
from archnet.network import Network
from archnet.operators import Op
from archnet.quantized_student import QuantizedStudent, channel_statistics
from archnet.reference import execute
from archnet.rewrite import materialize, rewrite, token_statistics
from tests.small_encoder import LENGTH, captured_encoder, padded_batch

MODELS: dict[str, Callable[[], Network]] = {
    "post-norm": lambda: captured_encoder(pooling="mean"),
    "pre-norm": lambda: captured_encoder(pre_norm=True, flipped=True),
    "head": lambda: captured_encoder(head=True),
    "rms": lambda: captured_encoder(norm=nn.RMSNorm, pooling="cls"),
}


@cache
def prepared(model: str) -> tuple[Network, Folded]:
    """An untrained student at progress 1, folded and equalized: the function does not matter here."""
    teacher = MODELS[model]()
    batches = [padded_batch(seed) for seed in range(3)]
    rewritten = rewrite(teacher, token_statistics(NetworkModule(teacher), batches))
    student = rewritten.module()
    set_progress(student, 1.0)
    folded = fold(materialize(rewritten.network, rewritten.modules, student.tensors()))
    statistics = channel_statistics(folded.network, batches)
    return teacher, equalize(folded, statistics, outputs=teacher.outputs.values())


def quantized(model: str, form: str) -> tuple[QuantizedStudent, QuantizedGraph, Folded]:
    teacher, folded = prepared(model)
    network = with_code_embedding(folded.network, seed=0) if form == "code" else folded.network
    student = QuantizedStudent(network, Bits.parse("w8a8"))
    with torch.no_grad():
        student.calibrate([padded_batch(seed) for seed in range(3)])
    outputs = {name: folded.values[site] for name, site in teacher.outputs.items()}
    graph = freeze(student, outputs, name=model, max_sequence=LENGTH, embedding=form)
    return student, graph, folded


def integers(graph: QuantizedGraph, names: list[str] | None = None) -> dict[str, NDArray[np.generic]]:
    inputs = {name: value.numpy() for name, value in padded_batch(7).items()}
    return execute(graph, feed(graph, inputs), names)


UNEXPLAINED = pytest.mark.xfail(
    reason="the hard tanh's model leaves these bounds; not yet known whether by drift or by a mistake"
)


@pytest.mark.parametrize("model", [pytest.param(m, marks=UNEXPLAINED) if m == "head" else m for m in MODELS])
def test_integers_agree_with_the_student(model: str) -> None:
    student, graph, _ = quantized(model, "gather")
    validate_graph(graph)
    batch = padded_batch(7)
    with torch.no_grad():
        values = student(batch)
    valid = batch["attention_mask"].bool().numpy()
    sites = [s.name for s in student.network.sites if s.name in graph.tensors and s.op is not Op.MEAN_POOL]
    got = integers(graph, sites)
    for name in sites:
        scale = graph.tensors[name].scale
        assert scale is not None
        wanted = values[name].numpy() / scale
        difference = np.abs(got[name].astype(np.float64) - wanted)
        difference = difference[valid] if difference.ndim == 3 else difference
        # Moved weight scales turn some roundings, and this model's steep softmax amplifies them behind it.
        first = name.endswith((".query", ".key", ".value"))
        assert difference.max() <= (1.01 if first else 8.0), name
        assert difference.mean() <= (0.25 if first else 1.0), name


@pytest.mark.parametrize("model", MODELS)
def test_outputs_are_what_they_stand_for(model: str) -> None:
    student, graph, folded = quantized(model, "gather")
    teacher, _ = prepared(model)
    batch = padded_batch(7)
    with torch.no_grad():
        values = student(batch)
    valid = batch["attention_mask"].bool().numpy()
    result = integers(graph)
    for output in graph.outputs:
        affine = folded.values[teacher.outputs[output.name]]
        wanted = affine.apply(values[affine.carrier])
        if output.normalize:
            wanted = torch.nn.functional.normalize(wanted, dim=-1)
        got = dequantize_output(result[output.tensor], output)
        a, b = wanted.numpy(), got
        a, b = (a[valid], b[valid]) if a.ndim == 3 else (a, b)
        cosine = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
        assert cosine.min() > 0.99, output.name
        assert np.abs(a - b).max() < 0.08 * np.abs(a).max()


def test_a_hard_tanh_saturates_at_1() -> None:
    student, graph, _ = quantized("head", "gather")
    (clip,) = [site for site in student.network.sites if site.op is Op.CLIP]
    (name,) = [n.output for n in graph.nodes if n.op is Op.LINEAR and n.output == clip.name]
    scale = graph.tensors[name].scale
    assert scale is not None
    assert 127 * scale <= 1.001
    assert np.abs(integers(graph, [name])[name].astype(int)).max() >= 127  # the rough weights do saturate


def test_look_up_one_hot_and_host_table_give_the_same_integers() -> None:
    results = [integers(quantized("post-norm", form)[1]) for form in ("gather", "one-hot", "host")]
    for other in results[1:]:
        for name, value in results[0].items():
            np.testing.assert_array_equal(other[name], value)


def test_one_hot_network_has_no_look_up() -> None:
    graph = quantized("post-norm", "one-hot")[1]
    ops = {node.op for node in graph.nodes}
    assert ops.isdisjoint({Op.EMBEDDING, Op.LAYER_NORM, Op.BATCH_NORM, Op.GELU})
    validate_graph(graph)


def test_code_embedding_agrees_with_its_student() -> None:
    student, graph, _ = quantized("post-norm", "code")
    validate_graph(graph)
    batch = padded_batch(7)
    (site,) = [s.name for s in student.network.sites if s.op is Op.EMBEDDING]
    with torch.no_grad():
        wanted = student(batch)[site].numpy() / graph.tensors[site].scale
    got = integers(graph, [site])[site]
    assert np.abs(got - wanted).max() <= 1.01
