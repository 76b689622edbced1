"""The paper's strict family: every conversion for it holds nothing else, and computes the same integers."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from archnet.agreement import IntegerComparison
from archnet.attention_statistics import attention_statistics
from archnet.backends.onnxruntime import OnnxRuntimeBackend
from archnet.backends.reference import ReferenceBackend
from archnet.backends.tvm import TvmBackend
from archnet.blocks import find_blocks, with_blocks
from archnet.calibration.equalization import equalize
from archnet.capture import capture_image
from archnet.code_embedding import with_code_embedding
from archnet.config import Bits
from archnet.converters.base import Statistics
from archnet.converters.fold import Folded, fold
from archnet.converters.homotopy import set_progress
from archnet.converters.residual import adds_as_concats
from archnet.executor import NetworkModule
from archnet.export.onnx import build_onnx, emulated_places
from archnet.export.tvm import compile_tvm
from archnet.freeze import freeze
from archnet.graph import QuantizedGraph
from archnet.graph_check import validate_graph
from archnet.network import Network, Site
from archnet.operators import Op
from archnet.plan import make_plan
from archnet.plan_strict import strict_refusals
from archnet.quantized_student import QuantizedStudent, channel_statistics
from archnet.rewrite import materialize, rewrite, token_statistics
from archnet.storage import load_graph, save_graph
from archnet.strict_maps import as_strict_maps
from archnet.targets import load_profile
from tests.image_graphs import SIZE, Kind, image_model, images
from tests.small_encoder import LENGTH, captured_encoder, padded_batch

FAMILY = {Op.LINEAR, Op.CONCAT, Op.CONV, Op.MAX_POOL}
"""Convolution, max-pooling, fully connected, concatenation; BatchNorm and ReLU are never nodes."""

AROUND_IT = {
    Op.ONE_HOT, Op.REQUANTIZE, Op.WIDEN, Op.RESHAPE, Op.TRANSPOSE, Op.SLICE, Op.SELECT, Op.ZERO_PAD, Op.CROP,
    Op.PREPEND, Op.SHIFT,
}  # fmt: skip
"""Ids as vectors, quantization, and data movement."""

MODELS = {
    "post-norm": lambda: captured_encoder(layers=2, pooling="mean"),
    "pre-norm": lambda: captured_encoder(pre_norm=True, flipped=True),
    "head": lambda: captured_encoder(head=True),
}

BATCHES = [padded_batch(seed) for seed in range(3)]


@cache
def folded(model: str) -> tuple[Network, Folded]:
    """The teacher, and an untrained student at progress 1, folded and equalized."""
    teacher = MODELS[model]()
    module = NetworkModule(teacher)
    statistics: dict[str, Statistics] = {**token_statistics(module, BATCHES)}
    statistics |= attention_statistics(module, BATCHES, LENGTH)
    rewritten = rewrite(teacher, statistics, attention="mixing")
    student = rewritten.module()
    set_progress(student, 1.0)
    plain = fold(materialize(rewritten.network, rewritten.modules, student.tensors()))
    channels = channel_statistics(plain.network, BATCHES)
    return teacher, equalize(plain, channels, outputs=teacher.outputs.values())


def frozen(
    model: str, bits: str = "w8a8", embedding: str = "one-hot"
) -> tuple[QuantizedStudent, QuantizedGraph]:
    teacher, plain = folded(model)
    network = with_code_embedding(plain.network, seed=0) if embedding == "code" else plain.network
    student = QuantizedStudent(adds_as_concats(network), Bits.parse(bits))
    with torch.no_grad():
        student.calibrate(BATCHES)
        student.raise_fine_steps()
    outputs = {name: plain.values[site] for name, site in teacher.outputs.items()}
    graph = freeze(student, outputs, name=model, max_sequence=LENGTH, embedding=embedding, pool_on_host=True)
    validate_graph(graph)
    return student, graph


@pytest.mark.parametrize("embedding", ["one-hot", "code", "host"])
@pytest.mark.parametrize("model", MODELS)
def test_the_integer_network_holds_only_the_family(model: str, embedding: str) -> None:
    graph = frozen(model, embedding=embedding)[1]
    ops = {node.op for node in graph.nodes}
    assert ops <= FAMILY | AROUND_IT
    assert ops <= set(load_profile("archnet5").operators)


def test_the_profile_is_the_family() -> None:
    profile = load_profile("archnet5")
    assert set(profile.operators) <= FAMILY | AROUND_IT | {Op.BATCH_NORM, Op.RELU}
    assert {Op.LINEAR, Op.CONCAT, Op.BATCH_NORM, Op.RELU} <= set(profile.operators)
    assert profile.choose_attention() == "mixing"


@torch.no_grad()
@pytest.mark.parametrize("model", MODELS)
def test_concatenation_and_identity_weights_are_an_add(model: str) -> None:
    network = folded(model)[1].network
    strict = adds_as_concats(network)
    assert Op.ADD in {site.op for site in network.sites}
    assert Op.ADD not in {site.op for site in strict.sites}
    wanted, got = NetworkModule(network)(BATCHES[0]), NetworkModule(strict)(BATCHES[0])
    for site in network.sites:
        torch.testing.assert_close(got[site.name], wanted[site.name], rtol=1e-5, atol=1e-5)


def test_the_same_tensor_twice_and_a_part_of_two_sums() -> None:
    tensors = {"w": torch.randn(4, 4), "b": torch.randn(4)}
    sites = (
        Site("x", Op.LINEAR, ("input",), {"weight": "w", "bias": "b"}),
        Site("y", Op.ADD, ("x", "x")),
        Site("z", Op.ADD, ("x", "y")),
    )
    network = Network(("input",), sites, tensors, {"output": "z"})
    strict = adds_as_concats(network)
    x = {"input": torch.randn(2, 3, 4)}
    torch.testing.assert_close(NetworkModule(strict)(x)["z"], NetworkModule(network)(x)["z"])
    joined = [site.inputs for site in strict.sites if site.op is Op.CONCAT]
    parts = [name for names in joined for name in names]
    assert len(set(parts)) == len(parts) == 4


@pytest.mark.parametrize("bits", ["w8a8", "w2a4"])
def test_residual_sums_are_added_without_weights_of_their_own(bits: str) -> None:
    """Integer by integer: round((a + b) m / 2**16), whatever the widths of the other layers."""
    graph = frozen("post-norm", bits)[1]
    rng = np.random.default_rng(0)
    sums = [
        (node, joined)
        for node in graph.nodes
        for joined in graph.nodes
        if node.op is Op.LINEAR and joined.op is Op.CONCAT and node.inputs[0] == joined.output
        and len(joined.inputs) == 2 and joined.name.endswith(".parts")
    ]  # fmt: skip
    assert len(sums) == 5  # two a layer, and the positions
    for node, joined in sums:
        weight, bias, multiplier = (graph.constants[name] for name in node.inputs[1:4])
        half = weight.shape[0]
        np.testing.assert_array_equal(weight, np.tile(np.eye(half, dtype=np.int8), 2))
        assert not bias.any()
        assert len(set(multiplier.tolist())) == 1
        a, b = rng.integers(-128, 128, (2, 5, half))
        y = np.concatenate([a, b], -1) @ weight.T.astype(np.int64) * int(multiplier[0])
        np.testing.assert_array_equal(y, (a + b) * int(multiplier[0]))
        assert {graph.tensors[name].bits for name in joined.inputs} == {8}


@torch.no_grad()
@pytest.mark.parametrize("model", MODELS)
def test_integers_agree_with_the_student(model: str) -> None:
    teacher, plain = folded(model)
    student, graph = frozen(model)
    batch = padded_batch(7)
    values = student(batch)
    valid = batch["attention_mask"].bool().numpy()
    inputs = {name: value.numpy() for name, value in batch.items()}
    outputs = ReferenceBackend(graph).run(inputs)
    for output in graph.outputs:
        affine = plain.values[teacher.outputs[output.name]]
        wanted = affine.apply(values[affine.carrier])
        if output.normalize:
            wanted = torch.nn.functional.normalize(wanted, dim=-1)
        a, b = wanted.numpy(), outputs[output.name]
        a, b = (a[valid], b[valid]) if a.ndim == 3 else (a, b)
        cosine = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
        assert cosine.min() > 0.99, output.name


def test_backends_have_the_reference_integers(tmp_path: Path) -> None:
    graph = frozen("post-norm")[1]
    inputs: dict[str, NDArray[Any]] = {name: value.numpy() for name, value in padded_batch(7).items()}
    save_graph(graph, tmp_path)
    assert load_graph(tmp_path).outputs[0].pool == "attention_mask"
    expected = ReferenceBackend(graph).run(inputs)
    compile_tvm(graph, tmp_path / "tvm")
    onnx = OnnxRuntimeBackend(graph, build_onnx(graph), threads=1)
    for backend in (onnx, TvmBackend(graph, tmp_path / "tvm", threads=1)):
        comparison = IntegerComparison(graph, backend)
        comparison.add(inputs)
        assert [(a.tensor, a.max_lsb) for a in comparison.agreement() if a.max_lsb] == []
        for name, value in backend.run(inputs).items():
            np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-6)
    assert emulated_places(graph) == ()


def test_the_plan_names_what_stands_for_what() -> None:
    profile = load_profile("archnet5")
    plan = make_plan(folded("post-norm")[0], profile, model="tiny", embedding="one-hot", attention="mixing")
    assert plan.refusals == ()
    decided = {(d.op, d.action, d.becomes) for d in plan.decisions}
    assert ("Add", "replace", "Concat, fully connected with identity weights") in decided
    assert ("MeanPool", "host", "mean over valid tokens, part of the output's dequantization") in decided


def image_student(kind: Kind, bits: str) -> tuple[Network, Folded, QuantizedGraph]:
    """A tiny image network for the strict family, with the integer network before its maps are strict."""
    network = capture_image(image_model(kind), SIZE).network
    network = with_blocks(network, find_blocks(network))
    module, batches = NetworkModule(network), [images(8, seed) for seed in range(2)]
    statistics: dict[str, Statistics] = {**token_statistics(module, batches)}
    statistics |= attention_statistics(module, batches, LENGTH)
    rewritten = rewrite(network, statistics, attention="mixing")
    student = rewritten.module()
    set_progress(student, 1.0)
    plain = fold(materialize(rewritten.network, rewritten.modules, student.tensors()))
    channels = channel_statistics(plain.network, batches)
    plain = equalize(plain, channels, outputs=network.outputs.values())
    quantized = QuantizedStudent(adds_as_concats(plain.network), Bits.parse(bits))
    quantized.calibrate(batches)
    quantized.raise_fine_steps()
    outputs = {name: plain.values[site] for name, site in network.outputs.items()}
    graph = freeze(quantized, outputs, name=kind, max_sequence=64, embedding="gather", size=SIZE)
    return network, plain, graph


@pytest.mark.parametrize("kind", ["cnn", "vit", "dinov2"])
def test_image_networks_hold_only_the_family(kind: Kind, tmp_path: Path) -> None:
    network, plain, graph = image_student(kind, "w8a8")
    strict = as_strict_maps(graph)
    validate_graph(strict)
    assert {node.op for node in strict.nodes} <= FAMILY | AROUND_IT
    assert {node.op for node in strict.nodes} <= set(load_profile("archnet5").operators)
    assert {node.attributes["kernel"] for node in strict.nodes if node.op is Op.MAX_POOL} <= {(2, 2)}
    kernels = {strict.constants[n.inputs[1]].shape[2:] for n in strict.nodes if n.op is Op.CONV}
    assert kernels == {(3, 3)}
    inputs: dict[str, NDArray[Any]] = {name: v.numpy() for name, v in images(4, seed=5).items()}
    wanted = ReferenceBackend(graph).run(inputs)["logits"]
    np.testing.assert_array_equal(ReferenceBackend(strict).run(inputs)["logits"], wanted)
    with torch.no_grad():
        values = NetworkModule(plain.network)(images(4, seed=5))
    affine = plain.values[network.outputs["logits"]]
    real = affine.apply(values[affine.carrier]).numpy()
    assert np.abs(real - wanted).mean() < 0.1 * np.abs(real).mean()
    compile_tvm(strict, tmp_path)
    for backend in (
        OnnxRuntimeBackend(strict, build_onnx(strict), threads=1),
        TvmBackend(strict, tmp_path, threads=1),
    ):
        comparison = IntegerComparison(strict, backend)
        comparison.add(inputs)
        assert [(a.tensor, a.max_lsb) for a in comparison.agreement() if a.max_lsb] == []


def test_images_that_cannot_be_cut_into_blocks_are_refused_before_training() -> None:
    network = capture_image(image_model("cnn"), SIZE).network
    assert strict_refusals(network, SIZE) == ()
    refused = strict_refusals(network, (3, 17, 17))
    assert refused[0].op == "Conv"
    assert refused[0].reason == "its map is no whole number of blocks, or it shrinks the map at its edges"
