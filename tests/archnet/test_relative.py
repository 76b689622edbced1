"""Attention whose scores have terms of distances (DeBERTa): capture, numbers, and where it is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from archnet.calibration.attention_balance import balance_attention
from archnet.capture import LANGUAGE_INPUTS, TRANSLATION_INPUTS, Capture, capture
from archnet.config import Bits
from archnet.converters.fold import Affine, Folded, fold
from archnet.errors import ArchNetError
from archnet.executor import NetworkModule, relative_products
from archnet.export.onnx import build_onnx, build_static_onnx
from archnet.export.onnx_state import ActivationType
from archnet.graph import QuantizedGraph
from archnet.graph_check import validate_graph
from archnet.network import Network
from archnet.operators import Op
from archnet.plan import make_plan
from archnet.quantized_student import channel_statistics
from archnet.reference import execute
from archnet.single_network import SEQUENCE
from archnet.single_operators import random_inputs, single_operator
from archnet.targets import load_profile
from tests.hf_models import make_model
from tests.small_encoder import padded_batch

KINDS: dict[str, dict[str, object]] = {
    "the first version": {"family": "deberta"},
    "the first version, a limit": {"family": "deberta", "max_relative_positions": 5, "pos_att_type": ["p2c"]},
    "buckets, shared": {},
    "no buckets, layers of their own": {"position_buckets": -1, "share_att_key": False},
    "buckets and a limit": {"share_att_key": False, "max_relative_positions": 12},
    "a limit below the sequence": {"position_buckets": -1, "max_relative_positions": 5},
    "queries only": {"pos_att_type": ["c2p"], "norm_rel_ebd": "none"},
    "keys only": {"pos_att_type": ["p2c"], "position_biased_input": True},
}


@pytest.mark.parametrize("kind", KINDS)
def test_captured_network_equals_the_original_at_every_length(kind: str) -> None:
    model = make_model(**{"family": "deberta-v2", "layers": 1, **KINDS[kind]})  # type: ignore[arg-type]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("q_bias", "v_bias")):  # of the first version, 0 to begin with
                parameter.uniform_(-0.5, 0.5)
    found = capture(model, max_sequence=16, padding_id=0)
    assert found.unknown == ()
    assert found.error < 1e-5
    (site,) = (site for site in found.network.sites if site.op is Op.ATTENTION)
    roles = {"c2p": "relative_keys", "p2c": "relative_queries"}
    assert set(site.parameters) == {roles[name] for name in model.config.pos_att_type}
    assert site.attributes["masked"]
    for role in site.parameters:
        assert found.network.parameter(site, role).shape == (4, 31, 8)
    assert [s.op for s in found.network.sites].count(Op.LINEAR) == 6  # no layer of a constant alone
    for length in (1, 5, 16):
        ids = torch.randint(5, 90, (2, length), generator=torch.Generator().manual_seed(length))
        mask = torch.ones_like(ids)
        mask[1, (length + 1) // 2 :] = 0
        inputs = {"input_ids": ids, "attention_mask": mask}
        with torch.no_grad():
            wanted = model(**inputs).last_hidden_state
            got = NetworkModule(found.network)(inputs)[found.network.outputs["last_hidden_state"]]
        torch.testing.assert_close(got[mask.bool()], wanted[mask.bool()], rtol=1e-4, atol=1e-4)


class Gathered(nn.Module):
    """Attention of one head that adds q R to its scores, gathered by an index of pairs of places."""

    def __init__(self, by: str) -> None:
        super().__init__()
        self.words, self.by = nn.Embedding(40, 8), by
        self.query, self.key, self.value = (nn.Linear(8, 8) for _ in range(3))
        self.rows = nn.Parameter(torch.randn(9, 8))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(batch, sequence) -> (batch, sequence, 8)."""
        x = self.words(input_ids)
        q, k, v = (f(x).unflatten(-1, (2, 4)).transpose(1, 2) for f in (self.query, self.key, self.value))
        place = torch.arange(input_ids.shape[1])
        own, other = place[:, None], place[None, :]
        index = (other - own).clamp(-4, 4) + 4 if self.by != "product" else own * other % 9
        rows = self.rows.unflatten(-1, (2, 4)).permute(1, 2, 0)[None]
        scores = q @ k.transpose(-1, -2)
        if self.by == "bounded products":
            scores = 4.0 * torch.tanh(scores / 4.0)
        terms = (q if self.by != "values" else v) @ rows
        scores = scores + terms.gather(-1, index.expand(*scores.shape[:2], -1, -1))
        if self.by == "bias too":
            scores = scores + (own * other).float()
        if self.by == "bounded sums":
            scores = 4.0 * torch.tanh(scores / 4.0)
        hidden = (1.0 - attention_mask[:, None, None, :].float()) * -1e4
        return ((scores + hidden).softmax(-1) @ v).transpose(1, 2).flatten(-2)


def captured(by: str) -> Capture:
    torch.manual_seed(0)
    return capture(Gathered(by), max_sequence=16)


def test_products_gathered_by_distance_need_not_be_debertas() -> None:
    found = captured("distance")
    (site,) = (site for site in found.network.sites if site.op is Op.ATTENTION)
    assert found.error < 1e-5
    assert found.network.parameter(site, "relative_keys").shape == (2, 31, 4)


@pytest.mark.parametrize(
    ("by", "reason"),
    [
        ("product", "are gathered in another way than by distances of positions"),
        ("values", "scores between distances and something else than queries or keys"),
        ("bias too", "scores with distances beside a bias of positions, a window or a causal mask"),
        ("bounded products", "scores with distances that are bounded by a tanh"),
        ("bounded sums", "scores with distances that are bounded by a tanh"),
    ],
)
def test_other_terms_are_refused_by_name(by: str, reason: str) -> None:
    reasons = [str(site.attributes["reason"]) for site in captured(by).unknown]
    assert reasons
    assert reason in reasons[0]


class OfASource(nn.Module):
    """The same in what reads a source and a target, of which it needs the source alone."""

    def __init__(self) -> None:
        super().__init__()
        self.source = Gathered("distance")

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        decoder_input_ids: Tensor,
        decoder_attention_mask: Tensor,
    ) -> Tensor:
        """(batch, sequence) each -> (batch, sequence, 8)."""
        result: Tensor = self.source(input_ids, attention_mask)
        return result


def test_encoder_decoders_with_it_are_refused_by_name() -> None:
    found = capture(OfASource(), max_sequence=16, inputs=TRANSLATION_INPUTS)
    assert found.unknown[0].attributes["reason"] == "scores with distances in an encoder-decoder"


class Writer(nn.Module):
    """The same in what writes text."""

    def __init__(self) -> None:
        super().__init__()
        self.target = Gathered("distance")

    def forward(self, decoder_input_ids: Tensor, decoder_attention_mask: Tensor) -> Tensor:
        """(batch, sequence) each -> (batch, sequence, 8)."""
        result: Tensor = self.target(decoder_input_ids, decoder_attention_mask)
        return result


def test_language_models_with_it_are_refused_by_name() -> None:
    found = capture(Writer(), max_sequence=16, inputs=LANGUAGE_INPUTS)
    assert found.unknown[0].attributes["reason"] == "scores with distances in a language model"


def by_loops(x: NDArray[np.float64], table: NDArray[np.float64]) -> NDArray[np.float64]:
    """(batch, heads, tokens, width), (heads, 2 P - 1, width) -> (batch, heads, tokens, tokens)."""
    batch, heads, tokens, _ = x.shape
    middle = table.shape[1] // 2
    found = np.zeros((batch, heads, tokens, tokens))
    for b, h, i, j in np.ndindex(found.shape):
        found[b, h, i, j] = x[b, h, i] @ table[h, middle + j - i]
    return found


@pytest.mark.parametrize("tokens", [1, 4, 7])
def test_products_with_distances(tokens: int) -> None:
    rng = np.random.default_rng(0)
    x, table = rng.normal(size=(2, 3, tokens, 5)), rng.normal(size=(3, 13, 5))
    got = relative_products(torch.from_numpy(x), torch.from_numpy(table))
    np.testing.assert_allclose(got.numpy(), by_loops(x, table), atol=1e-12)


def in_integers(graph: QuantizedGraph, x: NDArray[np.int8]) -> NDArray[np.float64]:
    """What the definition of the operator says, in exact float64."""
    (node,) = graph.nodes
    multiplier = node.attributes["multiplier"]
    assert isinstance(multiplier, int)
    sums = by_loops(x.astype(np.float64), graph.constants["table"].astype(np.float64))
    return np.clip(np.rint(sums * multiplier / 2**16), *graph.tensors["y"].range)


@pytest.mark.parametrize("activations", ["mixed", "uint8", "int8"])
@pytest.mark.parametrize("bits", ["w8a8", "w8a4"])
def test_onnx_runtime_has_the_integers_of_the_reference(bits: str, activations: ActivationType) -> None:
    graph = single_operator(Op.RELATIVE_MATMUL, "rank 4", Bits.parse(bits))
    content = build_onnx(graph, activations=activations).SerializeToString()
    for level in (ort.GraphOptimizationLevel.ORT_DISABLE_ALL, ort.GraphOptimizationLevel.ORT_ENABLE_ALL):
        options = ort.SessionOptions()
        options.graph_optimization_level = level
        session = ort.InferenceSession(content, options)
        for tokens in (1, 2, 7, SEQUENCE):
            feeds = random_inputs(graph, 2, tokens)
            expected = in_integers(graph, feeds["x"])
            np.testing.assert_array_equal(execute(graph, feeds)["y"], expected)
            np.testing.assert_array_equal(session.run(None, feeds)[0], expected)


def test_of_one_size_the_shift_is_views_and_slices() -> None:
    graph = single_operator(Op.RELATIVE_MATMUL, "rank 4", Bits(8, 8))
    model = build_static_onnx(graph, "integer", 9)
    assert {"Gather", "GatherElements", "Shape"}.isdisjoint(node.op_type for node in model.graph.node)
    feeds = random_inputs(graph, 1, 9)
    (found,) = ort.InferenceSession(model.SerializeToString()).run(None, feeds)
    np.testing.assert_array_equal(found, in_integers(graph, feeds["x"]))


def test_tvm_has_the_integers_of_the_reference(tmp_path: Path) -> None:
    tvm = pytest.importorskip("tvm", reason="needs archnet[tvm]")
    from tvm import relax

    from archnet.export.tvm import compile_tvm

    graph = single_operator(Op.RELATIVE_MATMUL, "rank 4", Bits(8, 8))
    library = compile_tvm(graph, tmp_path)
    run = relax.VirtualMachine(tvm.runtime.load_module(str(library)), tvm.cpu())["main"]
    for tokens in (1, 7, SEQUENCE):
        feeds = random_inputs(graph, 2, tokens)
        (found,) = run(tvm.runtime.tensor(feeds["x"]))
        np.testing.assert_array_equal(found.numpy(), in_integers(graph, feeds["x"]))


@pytest.mark.parametrize(
    ("name", "value", "fault"),
    [
        ("table", np.ones((2, 29, 8), np.int8), "has 29 rows for the distances of 16 positions"),
        ("table", np.ones((2, 32, 8), np.int8), "has 32 rows for the distances of 16 positions"),
        ("table", np.ones((3, 31, 8), np.int8), r"has shape \(3, 31, 8\), not \(2, None, 8\)"),
        ("table_scale", np.zeros(1, np.float32), "its table's scale is not positive"),
        ("table_scale", np.ones(1, np.float32), "is not multiplier / 2"),
    ],
)
def test_tables_that_do_not_fit_are_no_graph(name: str, value: NDArray[np.generic], fault: str) -> None:
    graph = single_operator(Op.RELATIVE_MATMUL, "rank 4", Bits(8, 8))
    graph.constants[name] = value  # type: ignore[index]
    with pytest.raises(ArchNetError, match=fault):
        validate_graph(graph)


def deberta(**settings: object) -> Network:
    return capture(make_model("deberta-v2", layers=1, **settings), max_sequence=16, padding_id=0).network


def test_balanced_queries_and_keys_take_their_tables_along() -> None:
    """The scale of the scores, too, goes into one of both and into the other's table."""
    network = deberta()
    plain = {site.name: Affine(site.name) for site in network.sites}
    batches = [padded_batch(seed) for seed in range(2)]
    balanced = balance_attention(Folded(network, plain), channel_statistics(network, batches))
    (site,) = (site for site in network.sites if site.op is Op.ATTENTION)
    for role in ("relative_keys", "relative_queries"):
        before, after = (n.parameter(site, role) for n in (network, balanced.network))
        assert float((before - after).abs().max()) > 1e-3
    batch, mask = batches[0], batches[0]["attention_mask"].bool()
    name = network.outputs["last_hidden_state"]
    wanted, got = (NetworkModule(n)(batch)[name][mask] for n in (network, balanced.network))
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


def test_the_tables_are_trained() -> None:
    network = deberta()
    (site,) = (site for site in network.sites if site.op is Op.ATTENTION)
    module = NetworkModule(network)
    assert all(module.parameter(site, role).requires_grad for role in site.parameters)


@pytest.mark.parametrize(
    "target", ["archnet", "onnxruntime", "tvm", "ethos-u55", "ethos-u65", "ethos-u85", "sophgo"]
)
def test_targets_that_have_it(target: str) -> None:
    plan = make_plan(deberta(), load_profile(target), model="m", embedding="host")
    assert plan.refusals == ()
    (decision,) = (d for d in plan.decisions if d.op == "Attention")
    assert decision.becomes == (
        "MatMul, RelativeMatMul, RelativeMatMul, Transpose, Add, Add, Minimum, Softmax, MatMul in integers"
    )


@pytest.mark.parametrize(
    ("target", "missing"),
    [
        ("qualcomm-htp", "QNN was not asked to move products by the distances of tokens"),
        ("rockchip", "RKNN-Toolkit2 was not asked to move products by the distances of tokens"),
    ],
)
def test_targets_without_it_are_refused_before_any_training(target: str, missing: str) -> None:
    profile = load_profile(target)
    plan = make_plan(deberta(), profile, model="m", embedding=profile.embedding_forms[0])
    (reason,) = {d.reason for d in plan.refusals if d.op == "Attention"}
    assert reason.startswith("its scores have terms of distances (DeBERTa): ")
    assert missing in reason
    with pytest.raises(ArchNetError, match=missing) as caught:
        plan.require()
    assert caught.value.fix.startswith("choose another --target")


@pytest.mark.parametrize("form", ["relu", "mixing"])
def test_forms_of_attention_without_it_are_refused(form: str) -> None:
    plan = make_plan(deberta(), load_profile("archnet"), model="m", embedding="host", attention=form)
    (reason,) = {d.reason for d in plan.refusals}
    assert reason == f"its scores have terms of distances (DeBERTa), which {form} does not take"


def test_the_scale_of_scores_goes_into_the_other_table() -> None:
    network = deberta(position_buckets=-1)
    (site,) = (site for site in network.sites if site.op is Op.ATTENTION)
    only = Network(
        network.inputs,
        tuple(s for s in network.sites if s.op is not Op.LAYER_NORM),
        network.tensors,
        {"x": site.name},
    )
    sites = {s.name: s for s in network.sites}
    renamed = {s.name: s.inputs[0] for s in sites.values() if s.op is Op.LAYER_NORM}
    kept = tuple(
        type(s)(s.name, s.op, tuple(renamed.get(n, n) for n in s.inputs), s.parameters, s.attributes)
        for s in only.sites
    )
    before = Network(network.inputs, kept, network.tensors, {"x": site.name}).pruned()
    after = fold(before).network
    batch = padded_batch(1)
    mask = batch["attention_mask"].bool()
    wanted, got = (NetworkModule(n)(batch)[site.name][mask] for n in (before, after))
    assert after.site(site.name).attributes["scale"] == 1.0
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
