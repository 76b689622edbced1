"""Captured networks against the originals, and the texts of refusals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from archnet.capture import Capture, capture
from archnet.converters.softmax import HIDDEN
from archnet.curves import GRID, activation_of, is_rectifier
from archnet.errors import ArchNetError
from archnet.executor import NetworkModule
from archnet.operators import Op
from archnet.sources.pretrained import without_cache
from tests.hf_models import make_model
from tests.small_encoder import LENGTH, Layer, SmallEncoder, padded_batch, roughened

CONVERTIBLE = (
    *("bert", "distilbert", "roberta", "xlm-roberta", "electra", "albert", "mpnet", "deberta-v2"),
    *("modernbert", "nomic_bert", "roformer", "esm", "eurobert", "mobilebert", "squeezebert", "xlm"),
    *("arcee", "bloom", "gemma2", "gemma3_text", "gpt2", "gpt_neo", "llama", "mpt", "olmo2", "qwen3", "xglm"),
)


def ops(found: Capture) -> list[Op]:
    return [site.op for site in found.network.sites]


def reasons(found: Capture) -> list[tuple[str, str]]:
    return [(str(s.attributes["aten"]), str(s.attributes["reason"])) for s in found.unknown]


@pytest.mark.parametrize("family", CONVERTIBLE)
def test_captured_network_equals_the_original_on_padding(family: str) -> None:
    model = make_model(family, layers=1)
    without_cache(model)
    padding = int(model.config.pad_token_id)
    found = capture(model, max_sequence=16, padding_id=padding)
    assert found.unknown == ()
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(5, 90, (3, 11), generator=generator)
    mask = torch.ones_like(ids)
    mask[0, 7:] = 0
    mask[2, 3:] = 0
    ids[mask == 0] = padding
    with torch.no_grad():
        wanted = model(input_ids=ids, attention_mask=mask)
        got = NetworkModule(found.network)({"input_ids": ids, "attention_mask": mask})
    for name, site in found.network.outputs.items():
        a, b = wanted[name], got[site]
        if a.dim() == 3:
            a, b = a[mask.bool()], b[mask.bool()]
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("reach", [3, 9])  # 9 is more than the padded probe is long
def test_a_window_of_keys_is_a_bias_beside_the_padding(reach: int) -> None:
    model = make_model("modernbert", layers=2, local_attention=2 * reach)
    found = capture(model, max_sequence=16, padding_id=0)
    everywhere, near = (site for site in found.network.sites if site.op is Op.ATTENTION)
    assert "bias" not in everywhere.parameters
    place = torch.arange(16)
    seen = (place[:, None] - place).abs() <= reach
    bias = found.network.parameter(near, "bias")
    assert near.attributes["masked"]
    torch.testing.assert_close(bias[0], torch.where(seen, 0.0, HIDDEN))


def test_the_captured_network_is_compared_at_full_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("archnet.aten_attention._visibility_at_length", lambda *_: "padding")
    with pytest.raises(ArchNetError, match=r"differs from the original by .* on random tokens"):
        capture(make_model("modernbert", layers=2, local_attention=18), max_sequence=16, padding_id=0)


class Elementwise(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.words, self.up, self.down = nn.Embedding(30, 6), nn.Linear(6, 8), nn.Linear(8, 6)
        self.function = function

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        y: Tensor = self.down(self.function(self.up(self.words(input_ids))))
        return y


def gelu_new(x: Tensor) -> Tensor:
    return 0.5 * x * (1.0 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * torch.pow(x, 3.0))))


@pytest.mark.parametrize(
    ("function", "op", "attributes"),
    [
        pytest.param(gelu_new, Op.GELU, {"approximate": "tanh"}, id="gelu-new"),
        pytest.param(
            lambda x: x * 0.5 * (1 + torch.erf(x / 2**0.5)), Op.GELU, {"approximate": "none"}, id="erf"
        ),
        pytest.param(lambda x: x * torch.sigmoid(1.702 * x), Op.SILU, {"slope": 1.702}, id="quick-gelu"),
        pytest.param(lambda x: x * torch.sigmoid(x), Op.SILU, {}, id="silu"),
        pytest.param(lambda x: x.clamp(min=0), Op.RELU, {}, id="clamp"),
    ],
)
def test_elementwise_chain_is_named_by_what_it_computes(
    function: Callable[[Tensor], Tensor], op: Op, attributes: dict[str, object]
) -> None:
    found = capture(roughened(Elementwise(function)), max_sequence=8)
    assert ops(found) == [Op.EMBEDDING, Op.LINEAR, op, Op.LINEAR]
    assert dict(found.network.sites[2].attributes) == pytest.approx(attributes, abs=1e-6)
    assert found.error < 1e-5


RECTIFIERS: list[Any] = [
    pytest.param(function, id=function.__name__)
    for function in (F.softplus, F.mish, F.hardswish, F.elu, F.celu, F.selu, F.leaky_relu)
]


@pytest.mark.parametrize("function", RECTIFIERS)
def test_other_rectifiers_are_kept_by_their_samples(function: Callable[[Tensor], Tensor]) -> None:
    assert activation_of(function(GRID)) is None
    assert is_rectifier(function(GRID))
    module = roughened(Elementwise(function))
    with torch.no_grad():
        module.up.weight.mul_(30)  # far beyond the samples
    found = capture(module, max_sequence=8)
    assert ops(found)[-2:] == [Op.RECTIFIER, Op.LINEAR]
    assert found.error < 5e-4


@pytest.mark.parametrize(
    "function",
    [torch.zeros_like, torch.sin, torch.square, lambda x: x + F.gelu(x), lambda x: -x, torch.tanh],
)
def test_other_functions_are_no_rectifier(function: Callable[[Tensor], Tensor]) -> None:
    assert not is_rectifier(function(GRID))


def test_unknown_elementwise_chain_is_one_refusal() -> None:
    found = capture(Elementwise(lambda x: x * torch.exp(-x.square())), max_sequence=8)
    assert reasons(found) == [("aten.mul", "an elementwise function that no converter knows")]


def test_unknown_operator_is_listed() -> None:
    found = capture(Elementwise(lambda x: torch.cumsum(x, 1)), max_sequence=8)
    assert reasons(found) == [("aten.cumsum", "no converter knows this operator")]


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm])
@pytest.mark.parametrize("pre_norm", [False, True])
def test_positions_and_norms(norm: Callable[[int], nn.Module], pre_norm: bool) -> None:
    found = capture(roughened(SmallEncoder(norm=norm, pre_norm=pre_norm)), max_sequence=LENGTH)
    wanted = Op.RMS_NORM if norm is nn.RMSNorm else Op.LAYER_NORM
    assert ops(found).count(wanted) == 3
    assert found.error < 1e-5


class Pooled(nn.Module):
    def __init__(self, pool: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.words, self.out = nn.Embedding(30, 6), nn.Linear(6, 6)
        self.pool = pool

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.pool(self.out(self.words(input_ids)), attention_mask)


def mean_by_hand(x: Tensor, mask: Tensor) -> Tensor:
    weights = mask.unsqueeze(-1).expand(x.size()).float()
    return torch.sum(x * weights, 1) / torch.clamp(weights.sum(1), min=1e-9)


def test_mean_pooling_by_hand() -> None:
    module = roughened(Pooled(mean_by_hand))
    found = capture(module, max_sequence=8)
    assert ops(found) == [Op.EMBEDDING, Op.LINEAR, Op.MEAN_POOL]
    batch = padded_batch(length=7)
    batch["input_ids"] %= 30
    with torch.no_grad():
        got = NetworkModule(found.network)(batch)[found.network.outputs["output"]]
        torch.testing.assert_close(got, module(**batch))


def test_mean_pooling_with_filled_padding_and_normalisation() -> None:
    def pool(x: Tensor, mask: Tensor) -> Tensor:
        total = x.masked_fill(mask[..., None] == 0, 0.0).sum(dim=1)
        return F.normalize(total / mask.sum(1, keepdim=True), dim=-1)

    found = capture(roughened(Pooled(pool)), max_sequence=8)
    assert ops(found) == [Op.EMBEDDING, Op.LINEAR, Op.MEAN_POOL]
    assert found.network.normalized == {"output"}


def test_other_sums_over_tokens_are_refused() -> None:
    found = capture(
        roughened(Pooled(lambda x, mask: (x * mask[..., None]).sum(1) / x.shape[1])), max_sequence=8
    )
    assert reasons(found) == [
        ("aten.div", "a sum over tokens that is not divided by the number of valid ones")
    ]


def test_causal_attention_is_recognised_by_its_flag() -> None:
    def attend(x: Tensor) -> Tensor:
        heads = x.unflatten(-1, (2, -1)).transpose(1, 2)
        return F.scaled_dot_product_attention(heads, heads, heads, is_causal=True).transpose(1, 2).flatten(2)

    found = capture(Elementwise(attend), max_sequence=8)
    assert found.unknown == ()
    (site,) = (site for site in found.network.sites if site.op is Op.ATTENTION)
    # A decoder alone reads whole texts: what is still to come is hidden as by a window.
    assert "causal" not in site.attributes
    later = torch.ones(8, 8).triu(1).bool()
    torch.testing.assert_close(found.network.parameter(site, "bias")[0], torch.where(later, HIDDEN, 0.0))


def scored(rest: float, window: int) -> Callable[[Tensor], Tensor]:
    """Attention whose scores are replaced where a key is later, or too far before."""

    def attend(x: Tensor) -> Tensor:
        heads = x.unflatten(-1, (2, -1)).transpose(1, 2)
        scores = heads @ heads.transpose(-1, -2)
        place = torch.arange(x.shape[1])
        ahead = place[:, None] - place
        keep = ((ahead >= 0) & (ahead < window))[None, None]
        weights = torch.where(keep, scores, torch.tensor(rest)).softmax(-1)
        return (weights @ heads).transpose(1, 2).flatten(2)

    return attend


@pytest.mark.parametrize("window", [3, 9, 99])
def test_scores_that_a_mask_replaces_are_hidden(window: int) -> None:
    found = capture(Elementwise(scored(torch.finfo(torch.float32).min, window)), max_sequence=16)
    assert found.unknown == ()
    (site,) = (site for site in found.network.sites if site.op is Op.ATTENTION)
    place = torch.arange(16)
    ahead = place[:, None] - place
    seen = (ahead >= 0) & (ahead < window)
    torch.testing.assert_close(found.network.parameter(site, "bias")[0], torch.where(seen, 0.0, HIDDEN))


def test_scores_that_are_replaced_by_others_are_named() -> None:
    found = capture(Elementwise(scored(0.5, 99)), max_sequence=16)
    assert reasons(found)[0] == ("aten.where", "scores that are replaced by a number that hides no key")


@pytest.mark.parametrize("factor", [0.25, 0.5, 0.75])
def test_a_part_of_features_is_no_activation(factor: float) -> None:
    found = capture(Elementwise(lambda x: factor * x), max_sequence=8)
    assert found.unknown == ()
    assert ops(found) == [Op.EMBEDDING, Op.LINEAR, Op.LINEAR]


def test_a_product_with_a_matrix_is_a_fully_connected_layer() -> None:
    matrix = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
    found = capture(Elementwise(lambda x: (0.5 * x) @ matrix), max_sequence=8)
    assert found.unknown == ()
    _, layer, _ = (site for site in found.network.sites if site.op is Op.LINEAR)
    torch.testing.assert_close(found.network.parameter(layer, "weight"), 0.5 * matrix.T)
    assert not bool(found.network.parameter(layer, "bias").any())
    other = capture(Elementwise(lambda x: x @ matrix[None]), max_sequence=8)
    assert reasons(other)[0][1] == "a product with a constant that is no matrix"


def test_a_squared_relu_is_a_relu_times_itself() -> None:
    found = capture(Elementwise(lambda x: x.relu().square()), max_sequence=8)
    assert found.unknown == ()
    relu, square = (site for site in found.network.sites if site.op in (Op.RELU, Op.MUL))
    assert square.inputs == (relu.name, relu.name)
    other = capture(Elementwise(lambda x: x.relu().pow(3)), max_sequence=8)
    assert reasons(other) == [("aten.pow", "an elementwise function that no converter knows")]


def test_model_that_cannot_be_exported_is_one_error() -> None:
    def branch(x: Tensor) -> Tensor:
        return x if float(x.sum()) > 0 else -x

    with pytest.raises(ArchNetError, match=r"cannot be captured by torch\.export") as raised:
        capture(Elementwise(branch), max_sequence=8)
    assert "no data-dependent Python branches" in str(raised.value.fix)
    assert "\n" not in raised.value.problem


def test_model_without_embedding_is_refused() -> None:
    with pytest.raises(ArchNetError, match="the model has no Embedding, so it does not read token ids"):
        capture(nn.Linear(3, 3), max_sequence=8)


def test_model_whose_output_is_constant_is_refused() -> None:
    class Constant(Pooled):
        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            return self.out.weight + 0 * attention_mask.sum()

    with pytest.raises(ArchNetError, match="no output of the model depends on its tokens"):
        capture(Constant(mean_by_hand), max_sequence=8)


class ScaledLate(nn.Module):
    """Attention whose scores are divided after a bias of positions and the mask were added to them."""

    def __init__(self, divisor: float) -> None:
        super().__init__()
        self.encoder, self.divisor = SmallEncoder(), divisor
        self.bias = nn.Parameter(torch.randn(2, LENGTH + 20, LENGTH + 20))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        layer = self.encoder.layers[0]
        assert isinstance(layer, Layer)
        x = self.encoder.words(input_ids)
        batch, length, hidden = x.shape
        query, key, value = (
            f(x).view(batch, length, 2, hidden // 2).transpose(1, 2)
            for f in (layer.query, layer.key, layer.value)
        )
        hidden_keys = (1.0 - attention_mask[:, None, None, :].float()) * torch.finfo(torch.float32).min
        scores = query @ key.transpose(-1, -2) + self.bias[None, :, :length, :length]
        scores = (scores + hidden_keys) / self.divisor
        context = scores.softmax(-1) @ value
        return {"states": layer.out(context.transpose(1, 2).reshape(batch, length, hidden))}


def test_scores_may_be_scaled_after_their_mask_and_their_bias() -> None:
    model = ScaledLate(4.0).eval()
    found = capture(model, max_sequence=LENGTH)
    assert found.unknown == ()
    (site,) = [site for site in found.network.sites if site.op is Op.ATTENTION]
    assert site.attributes["masked"]
    bias = found.network.parameter(site, "bias")
    torch.testing.assert_close(bias, model.bias.detach()[:, : bias.shape[1], : bias.shape[2]] / 4)
    batch = padded_batch()
    with torch.no_grad():
        wanted = model(**batch)["states"]
        got = NetworkModule(found.network)(batch)[found.network.outputs["states"]]
    seen = batch["attention_mask"].bool()
    torch.testing.assert_close(got[seen], wanted[seen], rtol=1e-4, atol=1e-4)


def test_scores_that_are_turned_around_after_their_mask_are_refused() -> None:
    found = capture(ScaledLate(-4.0).eval(), max_sequence=LENGTH)
    assert (
        "aten.div",
        "attention is scaled after its softmax, or by a factor that is not positive",
    ) in reasons(found)
