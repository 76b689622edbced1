"""The other forms of attention in encoder-decoders: float steps, integer steps, backends, formulas."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from archnet.agreement import IntegerComparison, emulated_places
from archnet.attention_statistics import attention_statistics
from archnet.backends.onnxruntime import OnnxRuntimeBackend
from archnet.backends.reference import ReferenceBackend
from archnet.converters.homotopy import set_progress
from archnet.executor import NetworkModule
from archnet.export.onnx import build_onnx
from archnet.graph import QuantizedGraph
from archnet.graph_check import validate_graph
from archnet.incremental import IncrementalDecoder
from archnet.integer_decoder import IntegerDecoder
from archnet.operators import Op
from archnet.parts import DECODER, ENCODER
from archnet.reference import execute
from archnet.rewrite import rewrite, token_statistics
from archnet.search import Stepper, generate
from tests.small_translation import (
    LENGTH,
    SETTINGS,
    captured_translation,
    folded_translation,
    frozen_translation,
    pair_batch,
)

FORMS = ("table", "logsum", "relu", "mixing")
SOFTMAX_OPS = {Op.SOFTMAX, Op.TABLE_SOFTMAX, Op.MASK}
Arrays = dict[str, NDArray[Any]]


def stepped(of: Stepper, batch: dict[str, Tensor]) -> Tensor:
    """Logits of every given target token, (batch, target tokens, vocabulary)."""
    targets = batch["decoder_input_ids"]
    of.start(batch["input_ids"], batch["attention_mask"], beams=1, max_length=LENGTH)
    return torch.stack([of.step(targets[:, i]) for i in range(targets.shape[1])], 1)


def graphs_of(form: str, bits: str = "w8a8") -> dict[str, QuantizedGraph]:
    return frozen_translation("marian", bits, "gather", form)[1]


def reference(form: str, bits: str = "w8a8") -> IntegerDecoder:
    graphs = graphs_of(form, bits)
    return IntegerDecoder(
        ReferenceBackend(graphs[ENCODER]), ReferenceBackend(graphs[DECODER]), graphs[DECODER]
    )


def steps_of(form: str, count: int = 5) -> list[tuple[Arrays, Arrays]]:
    """What the decoder's step is fed, and all its integers, at the first tokens of a batch."""
    of, graph, batch, found = reference(form), graphs_of(form)[DECODER], pair_batch(7), []
    of.start(batch["input_ids"], batch["attention_mask"], beams=1, max_length=LENGTH)
    for i in range(count):
        tokens = batch["decoder_input_ids"][:, i]
        feeds = of.inputs(tokens)
        found.append((feeds, execute(graph, feeds, [*graph.tensors])))
        of.step(tokens)
    return found


@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_float_steps_give_what_the_whole_target_gives(form: str) -> None:
    module = NetworkModule(folded_translation("marian", form).network)
    batch = pair_batch(7)
    whole = module(batch)[module.network.outputs["logits"]]
    steps = stepped(IncrementalDecoder(module), batch)
    valid = batch["decoder_attention_mask"].bool()
    torch.testing.assert_close(steps[valid], whole[valid], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_a_student_starts_as_its_teacher_and_is_causal_in_between(form: str) -> None:
    teacher = captured_translation()
    module = NetworkModule(teacher)
    batches = [pair_batch(seed) for seed in range(3)]
    statistics = {**token_statistics(module, batches), **attention_statistics(module, batches, LENGTH)}
    rewritten = rewrite(teacher, statistics, attention=form)
    student, batch, logits = rewritten.module(), pair_batch(7), teacher.outputs["logits"]
    valid = batch["decoder_attention_mask"].bool()
    torch.testing.assert_close(student(batch)[logits][valid], module(batch)[logits][valid])
    set_progress(student, 0.4)
    shorter = {k: v[:, :4] if k.startswith("decoder") else v for k, v in batch.items()}
    torch.testing.assert_close(student(batch)[logits][:, :4], student(shorter)[logits], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("family", "bits", "form"),
    [("marian", "w8a8", "table"), ("marian", "w8a8", "relu"), ("marian", "w8a8", "mixing"),
     ("mbart", "w8a8", "relu"), ("bart", "w8a8", "mixing"), ("marian", "w4a4", "relu"),
     ("marian", "w4a4", "mixing")],
)  # fmt: skip
def test_integer_steps_give_what_the_student_gives_for_the_whole_target(
    family: str, bits: str, form: str
) -> None:
    student, graphs = frozen_translation(family, bits, "gather", form)
    for graph in graphs.values():
        validate_graph(graph)
    batch = pair_batch(7)
    with torch.no_grad():
        wanted = student(batch)[student.network.outputs["logits"]]
    encoder, step = (ReferenceBackend(graphs[name]) for name in (ENCODER, DECODER))
    got = stepped(IntegerDecoder(encoder, step, graphs[DECODER]), batch)
    valid = batch["decoder_attention_mask"].bool()
    error = (got - wanted)[valid].square().mean() / wanted[valid].var()
    assert float(error) < (0.002 if bits == "w8a8" else 0.1)


def test_which_operators_are_left() -> None:
    relu, mixing = graphs_of("relu"), graphs_of("mixing")
    for graph in (*relu.values(), mixing[DECODER]):
        ops = [node.op for node in graph.nodes]
        assert SOFTMAX_OPS.isdisjoint(ops)
        assert ops.count(Op.MEAN_MATMUL) == (2 if graph in (relu[DECODER], mixing[DECODER]) else 1)
    ops = {node.op for node in mixing[ENCODER].nodes}
    assert ops.isdisjoint({*SOFTMAX_OPS, Op.MATMUL, Op.MEAN_MATMUL})
    assert {Op.ZERO_PAD, Op.CROP, Op.CONCAT} <= ops
    keys = [node.name for node in mixing[ENCODER].nodes if "encoder.layers.0.self_attn.k_proj" in node.name]
    assert keys == []


def test_the_table_form_has_the_integers_of_softmax() -> None:
    ops = {node.op for graph in graphs_of("table").values() for node in graph.nodes}
    assert Op.TABLE_SOFTMAX in ops
    assert Op.SOFTMAX not in ops
    for (_, soft), (_, table) in zip(steps_of("softmax"), steps_of("table"), strict=True):
        for name, value in soft.items():
            np.testing.assert_array_equal(table[name], value, err_msg=name)


def real(graph: QuantizedGraph, name: str, values: NDArray[Any]) -> NDArray[np.float64]:
    scale = graph.tensors[name].scale
    assert scale is not None
    return values.astype(np.float64) * scale


def mean_of_seen(
    query: NDArray[np.float64], keys: NDArray[np.float64], values: NDArray[np.float64], seen: NDArray[Any]
) -> NDArray[np.float64]:
    """max(q k, 0) v over n seen keys: one row and head at a time, (batch, 1, heads * width)."""
    rows, heads, _, width = query.shape
    result = np.zeros((rows, 1, heads * width))
    for row, head in np.ndindex(rows, heads):
        places = np.flatnonzero(seen[row])
        weights = np.maximum(keys[row, head, places] @ query[row, head, 0], 0.0)
        part = slice(head * width, head * width + width)
        result[row, 0, part] = weights @ values[row, head, places] / len(places)
    return result


@pytest.mark.parametrize("kind", ["self_attn", "encoder_attn"])
def test_relu_attention_in_a_step_is_the_formula_in_floats(kind: str) -> None:
    graph = graphs_of("relu")[DECODER]
    site = f"model.model.decoder.layers.0.{kind}.attention"
    out = graph.tensors[site]
    assert out.scale is not None
    for step, (feeds, found) in enumerate(steps_of("relu")):
        query = real(graph, f"{site}/query_heads", found[f"{site}/query_heads"])
        if kind == "self_attn":
            parts = [
                np.concatenate([feeds[f"cache_{part}_0"][:, :, :step], found[f"{site}/{part}_heads"]], 2)
                for part in ("key", "value")
            ]
            keys, values = (
                real(graph, f"cache_{name}_0", p) for name, p in zip(("key", "value"), parts, strict=True)
            )
            seen = np.ones((3, step + 1))
        else:
            keys, values = (real(graph, f"cross_{p}_0", feeds[f"cross_{p}_0"]) for p in ("key", "value"))
            seen = feeds["attention_mask"]
        wanted = mean_of_seen(query, keys, values, seen)
        low, high = (limit * out.scale for limit in out.range)
        difference = np.abs(real(graph, site, found[site]) - np.clip(wanted, low, high)) / out.scale
        assert np.abs(wanted).max() > 10 * out.scale
        assert difference.mean() < 1.0


BACKENDS = [
    "onnxruntime",
    pytest.param("tvm", marks=pytest.mark.skipif(not find_spec("tvm"), reason="no TVM")),
]


def opened(graph: QuantizedGraph, backend: str, folder: Path) -> Any:
    if backend == "onnxruntime":
        return OnnxRuntimeBackend(graph, build_onnx(graph), threads=1)
    from archnet.backends.tvm import TvmBackend
    from archnet.export.tvm import compile_tvm

    compile_tvm(graph, folder)
    return TvmBackend(graph, folder, threads=1)


@pytest.mark.parametrize(
    ("form", "bits"), [("table", "w8a8"), ("relu", "w8a8"), ("relu", "w4a4"), ("mixing", "w8a8")]
)
@pytest.mark.parametrize("backend", BACKENDS)
def test_backends_have_the_reference_integers(backend: str, form: str, bits: str, tmp_path: Path) -> None:
    graphs = graphs_of(form, bits)
    encoder, step = (opened(graphs[name], backend, tmp_path / name) for name in (ENCODER, DECODER))
    batch = pair_batch(5)
    of = IntegerDecoder(encoder, step, graphs[DECODER])
    assert torch.equal(stepped(of, batch), stepped(reference(form, bits), batch))
    first, second = IntegerComparison(graphs[ENCODER], encoder), IntegerComparison(graphs[DECODER], step)
    first.add({name: batch[name].numpy() for name in ("input_ids", "attention_mask")})
    of.start(batch["input_ids"], batch["attention_mask"], beams=1, max_length=LENGTH)
    for i in range(3):
        tokens = batch["decoder_input_ids"][:, i]
        second.add(of.inputs(tokens))
        of.step(tokens)
    rows = (*first.agreement(), *second.agreement())
    assert len(rows) > 20
    assert [(row.tensor, row.max_lsb) for row in rows if row.differing] == []


@pytest.mark.parametrize("form", ["relu", "mixing"])
def test_nothing_is_computed_in_float(form: str) -> None:
    assert [emulated_places(graph, ["onnxruntime"]) for graph in graphs_of(form).values()] == [(), ()]


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("form", FORMS)
def test_search_runs_to_the_greatest_length(form: str, beams: int) -> None:
    batch = pair_batch(3)
    found = generate(
        reference(form), batch["input_ids"], batch["attention_mask"], SETTINGS,
        max_length=LENGTH, num_beams=beams,
    )  # fmt: skip
    assert 1 < found.shape[1] <= LENGTH
    assert int(found.min()) >= 0
    of = reference(form)
    of.start(batch["input_ids"], batch["attention_mask"], beams=1, max_length=LENGTH)
    for _ in range(LENGTH):
        assert bool(torch.isfinite(of.step(torch.tensor([5, 6, 7]))).all())


def test_only_the_attention_that_mixing_replaces_is_measured() -> None:
    module = NetworkModule(captured_translation())
    found = attention_statistics(module, [pair_batch(0)], LENGTH)
    (site,) = found
    assert "encoder.layers.0.self_attn" in site
    assert found[site].weights.shape == (4, LENGTH, LENGTH)
