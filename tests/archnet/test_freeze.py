"""The integer network agrees with the fake-quantized student that it is made of."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from archnet.backends.base import dequantize_output, feed
from archnet.blocks import find_blocks, with_blocks
from archnet.calibration.affine import sum_has_ties
from archnet.calibration.attention_balance import balance_attention
from archnet.calibration.equalization import equalize
from archnet.calibration.observers import round_weights
from archnet.calibration.rotation import outputs_apart, rotate
from archnet.capture import capture
from archnet.code_embedding import with_code_embedding
from archnet.config import Bits
from archnet.converters.fold import Folded, fold
from archnet.converters.homotopy import set_progress
from archnet.converters.layer_norm import NormCorrection
from archnet.executor import NetworkModule
from archnet.freeze import freeze
from archnet.graph import QuantizedGraph
from archnet.graph_check import validate_graph
from archnet.network import Network, Site
from archnet.operators import Op
from archnet.quantized_layers import QuantizedLinear, QuantizedTableMul
from archnet.quantized_student import QuantizedStudent, channel_statistics
from archnet.reference import execute, run_node
from archnet.rewrite import materialize, rewrite, token_statistics
from archnet.sources.pretrained import without_cache
from tests.hf_models import make_model
from tests.small_encoder import LENGTH, captured_encoder, padded_batch

MODELS: dict[str, Callable[[], Network]] = {
    "post-norm": lambda: captured_encoder(pooling="mean"),
    "pre-norm": lambda: captured_encoder(pre_norm=True, flipped=True),
    "head": lambda: captured_encoder(head=True),
    "corrected": lambda: captured_encoder(pre_norm=True),
    "post-norm corrected": lambda: captured_encoder(pooling="mean"),
    "rms": lambda: captured_encoder(norm=nn.RMSNorm, pooling="cls"),
    "rotary and gated": lambda: captured_family("nomic_bert"),
    "grouped heads": lambda: captured_family("eurobert"),
    "bias of positions": lambda: captured_family("mpnet"),
    "distances": lambda: captured_family("deberta-v2"),
    "distances of queries": lambda: captured_family("deberta-v2", pos_att_type=["c2p"]),
    "distances of keys": lambda: captured_family(
        "deberta-v2", pos_att_type=["p2c"], share_att_key=False, position_buckets=-1
    ),
    "bias of distances": lambda: captured_family("bloom"),
    "bounded scores": lambda: captured_family("gemma2"),
    "neighbours": lambda: captured_family("mobilebert"),
    "window": lambda: captured_family("modernbert", layers=2, local_attention=6),
}


def captured_family(family: str, layers: int = 1, **settings: object) -> Network:
    """The captured network of a tiny transformers model, with blocks."""
    module = make_model(family, layers=layers, pad_token_id=0, **settings)
    without_cache(module)
    network = capture(module, max_sequence=LENGTH, pooling="mean", padding_id=0).network
    return with_blocks(network, find_blocks(network))


@cache
def prepared(model: str) -> tuple[Network, Folded]:
    """An untrained student at progress 1, folded, evened out: the function does not matter here."""
    teacher = MODELS[model]()
    batches = [padded_batch(seed) for seed in range(3)]
    norms = "corrected" if "corrected" in model else "static"
    rewritten = rewrite(teacher, token_statistics(NetworkModule(teacher), batches), norms=norms)
    for module in rewritten.modules.values():
        if isinstance(module, NormCorrection):
            nn.init.normal_(module.back, std=0.1, generator=torch.Generator().manual_seed(0))
    student = rewritten.module()
    set_progress(student, 1.0)
    folded = outputs_apart(fold(materialize(rewritten.network, rewritten.modules, student.tensors())))
    statistics = channel_statistics(folded.network, batches)
    balanced = balance_attention(folded, statistics)
    return teacher, rotate(equalize(balanced, statistics, outputs=teacher.outputs.values()))


def quantized(model: str, form: str, bits: str = "w8a8") -> tuple[QuantizedStudent, QuantizedGraph, Folded]:
    teacher, folded = prepared(model)
    network = with_code_embedding(folded.network, seed=0) if form == "code" else folded.network
    student = QuantizedStudent(network, Bits.parse(bits))
    with torch.no_grad():
        student.calibrate([padded_batch(seed) for seed in range(3)])
    outputs = {name: folded.values[site] for name, site in teacher.outputs.items()}
    graph = freeze(student, outputs, name=model, max_sequence=LENGTH, embedding=form)
    return student, graph, folded


def integers(graph: QuantizedGraph, names: list[str] | None = None) -> dict[str, NDArray[np.generic]]:
    inputs = {name: value.numpy() for name, value in padded_batch(7).items()}
    return execute(graph, feed(graph, inputs), names)


@pytest.mark.parametrize("bits", ["w8a8", "w4a8"])
@pytest.mark.parametrize("model", MODELS)
def test_no_sum_has_two_nearest_integers(model: str, bits: str) -> None:
    """So that an Add is the same however it rounds a half; sums of scores are not chosen so."""
    graph = quantized(model, "gather", bits)[1]
    sums = [n for n in graph.nodes if n.op is Op.ADD and "scores" not in n.output and "/" not in n.output]
    assert sums
    for node in sums:
        factors = cast(int, node.attributes["multiplier_a"]), cast(int, node.attributes["multiplier_b"])
        left, right = (graph.tensors[name].range for name in node.inputs)
        # An operand that is next to nothing beside the other has too few factors to choose from.
        assert min(factors) < 100 or not sum_has_ties(factors, (left, right)), node.name


@pytest.mark.parametrize("bits", ["w8a8", "w4a8", "w4a4", "w2a6", "w3a4"])
@pytest.mark.parametrize("model", MODELS)
def test_every_site_agrees_with_the_student_on_its_integers(model: str, bits: str) -> None:
    """Site by site on the student's own integers, so that nothing adds up along the network."""
    student, graph, _ = quantized(model, "gather", bits)
    validate_graph(graph)
    batch = padded_batch(7)
    with torch.no_grad():
        values = student(batch)
    compared = 0
    for site in student.network.sites:
        spec = graph.tensors.get(site.name)
        if spec is None or spec.scale is None or site.op in (Op.MEAN_POOL, Op.EMBEDDING):
            continue
        got = run_site(graph, site, values, batch)
        wanted = values[site.name].numpy() / spec.scale
        difference = np.abs(got.astype(np.float64) - wanted)
        beyond = difference - most_off(student, graph, site, spec.scale, values)
        if difference.ndim == 3:
            valid = batch["attention_mask"].bool().numpy()
            difference, beyond = difference[valid], beyond[valid]
        assert beyond.max() <= 0, site.name
        assert difference.mean() <= 0.45, site.name
        compared += 1
    assert compared >= 10


def most_off(
    student: QuantizedStudent, graph: QuantizedGraph, site: Site, scale: float, values: dict[str, Tensor]
) -> NDArray[Any] | float:
    """By how much a site's integers may be off the student's values, in steps.

    Scales moved a little from the student's. A layer's weights, and tables that tokens are multiplied with,
    are rounded to theirs, which turns results by what that makes of the inputs. In attention a score may turn
    by a step, a probability p by p (1 - p) of it, and the result by that share of the reach of the values.
    """
    if site.op is Op.LINEAR:
        module = student.override(site.name)
        assert isinstance(module, QuantizedLinear)
        node = next(node for node in graph.nodes if node.output == site.name)
        step = module.quantizer.scale[:, None]
        trained = round_weights(module.weight / step, module.quantizer.bits) * step
        made = graph.constants[node.inputs[1]] * graph.constants[node.inputs[4]][:, None]
        moved = np.abs(made - trained.detach().numpy())
        return 2.01 + np.abs(values[site.inputs[0]].numpy()) @ moved.T / scale
    if site.op is Op.MUL and len(site.inputs) == 1:
        table = student.override(site.name)
        assert isinstance(table, QuantizedTableMul)
        trained = table.quantizer(table.table[:LENGTH]).numpy()
        made = graph.constants[f"{site.name}.table"][:LENGTH] * scale_of(graph, f"{site.name}/rows")
        tokens = values[site.inputs[0]].shape[1]
        return 2.01 + np.abs(values[site.inputs[0]].numpy() * (made - trained)[:tokens]) / scale
    if site.op is not Op.ATTENTION:
        return 2.01
    reach = 255 * scale_of(graph, site.inputs[2]) / scale
    return 2.01 + 0.25 * scale_of(graph, f"{site.name}/scores") * reach


@pytest.mark.parametrize("model", ["rotary and gated", "window", "bounded scores"])
def test_narrow_products_keep_the_steps_that_they_were_trained_with(model: str) -> None:
    """Their multipliers are about 30, of which the odd neighbours are a fifteenth away."""
    student, graph, _ = quantized(model, "gather", "w4a4")
    products = [site for site in student.network.sites if site.op is Op.MUL and len(site.inputs) == 2]
    assert products
    for site in products:
        observer = student.observer(site.name)
        assert observer is not None
        assert observer.bits == 4
        assert scale_of(graph, site.name) == pytest.approx(observer.scale, rel=1e-4)


def scale_of(graph: QuantizedGraph, name: str) -> float:
    """The scale of a site's integers."""
    scale = graph.tensors[name].scale
    assert scale is not None
    return scale


def run_site(
    graph: QuantizedGraph, site: Site, values: dict[str, Tensor], batch: dict[str, Tensor]
) -> NDArray[np.generic]:
    """The site's nodes on the integers that the student has before it."""
    arrays: dict[str, NDArray[Any]] = {name: value.numpy() for name, value in batch.items()}
    for name, spec in graph.tensors.items():
        if name in values and spec.scale is not None:
            low, high = spec.range
            integers_before = np.clip(np.rint(values[name].numpy() / spec.scale), low, high)
            arrays[name] = integers_before.astype(spec.dtype)
    dims = dict(zip(("batch", "sequence"), batch["input_ids"].shape, strict=True))
    for node in graph.nodes:
        if node.name == site.name or node.name.startswith(f"{site.name}/"):
            inputs = [arrays[n] if n in arrays else graph.constants[n] for n in node.inputs]
            arrays[node.output] = run_node(node, inputs, graph.tensors[node.output], dims)
    return arrays[site.name]


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
        # Drift reaches single values of this untrained model; a wrong gain or offset would reach the mean.
        assert np.abs(a - b).mean() < 0.02 * np.abs(a).max()


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


@pytest.mark.parametrize(("model", "role"), [("rotary and gated", "table"), ("window", "bias")])
def test_no_training_changes_rotary_tables_and_what_hides_keys(model: str, role: str) -> None:
    network = MODELS[model]()
    ops = (Op.MUL, Op.ATTENTION)
    sites = [site for site in network.sites if site.op in ops and role in site.parameters]
    assert sites
    module, student = NetworkModule(network), QuantizedStudent(prepared(model)[1].network, Bits(8, 8))
    for site in sites:
        assert not module.parameter(site, role).requires_grad
        assert not getattr(student.override(site.name), role).requires_grad


def test_a_learned_bias_of_positions_is_trained() -> None:
    network = MODELS["bias of positions"]()
    (site,) = (site for site in network.sites if site.op is Op.ATTENTION)
    assert NetworkModule(network).parameter(site, "bias").requires_grad
