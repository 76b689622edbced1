"""Packed projections, gated layers, repeated heads and rotary positions, however a library writes them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from archnet.capture import Capture, capture
from archnet.operators import Op
from tests.small_encoder import roughened

FEATURES, HEADS, WIDTH, LENGTH = 16, 2, 8, 12

Split = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]
Turn = Callable[[Tensor], Tensor]


def heads(x: Tensor) -> Tensor:
    return x.unflatten(-1, (-1, WIDTH)).transpose(1, 2)


def chunked(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    query, key, value = x.chunk(3, -1)
    return heads(query), heads(key), heads(value)


def unbound(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    query, key, value = x.unflatten(-1, (3, HEADS, WIDTH)).permute(2, 0, 3, 1, 4).unbind(0)
    return query, key, value


def interleaved(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A head's query, key and value side by side."""
    packed = x.unflatten(-1, (HEADS, 3, WIDTH))
    return (
        packed[..., 0, :].transpose(1, 2),
        packed[..., 1, :].transpose(1, 2),
        packed[..., 2, :].transpose(1, 2),
    )


def taken(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """By lists of numbers."""
    packed = x.unflatten(-1, (3 * HEADS, WIDTH))
    query, key, value = (packed[:, :, [part, part + 3]].transpose(1, 2) for part in range(3))
    return query, key, value


def grouped(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One key and value head for all query heads."""
    query, key, value = x.split((FEATURES, WIDTH, WIDTH), -1)

    def repeated(one: Tensor) -> Tensor:
        batch, _, length, width = heads(one).shape
        return (
            heads(one)[:, :, None].expand(batch, 1, HEADS, length, width).reshape(batch, HEADS, length, width)
        )

    return heads(query), repeated(key), repeated(value)


def lent(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One key and value head, which the attention itself lends to all query heads."""
    query, key, value = (heads(part) for part in x.split((FEATURES, WIDTH, WIDTH), -1))
    return query, key, value


def angles(length: int, width: int = WIDTH) -> Tensor:
    """(length, width): for each position, and for the first and the second half alike."""
    frequencies = 100.0 ** -(torch.arange(width // 2) / (width // 2))
    return torch.outer(torch.arange(length), frequencies).repeat(1, 2)


def turned_halves(x: Tensor) -> Tensor:
    angle = angles(x.shape[2])
    first, second = x.chunk(2, -1)
    return x * angle.cos() + torch.cat((-second, first), -1) * angle.sin()


def turned_pairs(x: Tensor) -> Tensor:
    angle = angles(x.shape[2])[:, : WIDTH // 2].repeat_interleave(2, -1)
    other = torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2)
    return x * angle.cos() + other * angle.sin()


def turned_in_part(x: Tensor) -> Tensor:
    angle = angles(x.shape[2], WIDTH // 2)
    part, rest = x[..., : WIDTH // 2], x[..., WIDTH // 2 :]
    first, second = part.chunk(2, -1)
    part = part * angle.cos() + torch.cat((-second, first), -1) * angle.sin()
    return torch.cat((part, rest), -1)


class Packed(nn.Module):
    """Attention from one layer, its queries and keys turned."""

    def __init__(self, split: Split, turn: Turn, rows: int = 3 * FEATURES) -> None:
        super().__init__()
        self.words, self.packed = nn.Embedding(30, FEATURES), nn.Linear(FEATURES, rows)
        self.out, self.split, self.turn = nn.Linear(FEATURES, FEATURES), split, turn

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        query, key, value = self.split(self.packed(self.words(input_ids)))
        mask = attention_mask[:, None, None, :].bool()
        found = F.scaled_dot_product_attention(self.turn(query), self.turn(key), value, attn_mask=mask)
        y: Tensor = self.out(found.transpose(1, 2).flatten(2))
        return y


def captured(module: nn.Module) -> Capture:
    """The capture, which compares itself with the original on padded text."""
    found = capture(roughened(module), max_sequence=LENGTH)
    assert found.unknown == ()
    assert found.error < 1e-5
    return found


def same(x: Tensor) -> Tensor:
    return x


@pytest.mark.parametrize("split", [chunked, unbound, interleaved, taken, grouped, lent])
@pytest.mark.parametrize("turn", [same, turned_halves, turned_pairs, turned_in_part])
def test_packed_projections_and_rotary_positions(split: Split, turn: Turn) -> None:
    rows = FEATURES + 2 * WIDTH if split in (grouped, lent) else 3 * FEATURES
    found = captured(Packed(split, turn, rows))
    ops = [site.op for site in found.network.sites]
    (attention,) = (site for site in found.network.sites if site.op is Op.ATTENTION)
    assert attention.attributes["heads"] == HEADS
    # Turned queries have taken the scale into their tables.
    assert attention.attributes["scale"] == (pytest.approx(WIDTH**-0.5) if turn is same else 1.0)
    assert ops.count(Op.MUL) == (0 if turn is same else 4)
    assert ops.count(Op.LINEAR) == (4 if turn is same else 6)


class NormedHeads(nn.Module):
    """A norm of the features of each head, before they are turned."""

    def __init__(self, written: Turn, turn: Turn) -> None:
        super().__init__()
        self.written, self.turn = written, turn
        self.weight = nn.Parameter(torch.rand(WIDTH) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.turn(self.written(x) * self.weight)


def rms_of_heads(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


def rms_before_heads(x: Tensor) -> Tensor:
    return rms_of_heads(x.transpose(1, 2)).transpose(1, 2)


@pytest.mark.parametrize(
    ("written", "op"),
    [
        (rms_of_heads, Op.RMS_NORM),
        (rms_before_heads, Op.RMS_NORM),
        (lambda x: F.rms_norm(x, (WIDTH,), eps=1e-6), Op.RMS_NORM),
        (lambda x: F.layer_norm(x, (WIDTH,)), Op.LAYER_NORM),
        (lambda x: F.layer_norm(x * 0.1, (WIDTH,)), Op.LAYER_NORM),
    ],
)
@pytest.mark.parametrize("split", [chunked, grouped, lent])
@pytest.mark.parametrize("turn", [same, turned_halves, turned_pairs])
def test_norms_within_heads_stay_behind_the_layer_that_makes_them(
    split: Split, turn: Turn, written: Turn, op: Op
) -> None:
    rows = FEATURES + 2 * WIDTH if split in (grouped, lent) else 3 * FEATURES
    network = captured(Packed(split, NormedHeads(written, turn), rows)).network
    norms = [site for site in network.sites if site.op is op]
    assert len(norms) == (2 if turn is same else 4)
    assert {site.attributes.get("groups", 1) for site in norms} <= {1, HEADS}
    assert all(network.site(site.inputs[0]).op is Op.LINEAR for site in norms)
    assert [site.op for site in network.sites].count(Op.LINEAR) == (4 if turn is same else 6)


@pytest.mark.parametrize("gate", [F.silu, F.gelu, torch.relu])
@pytest.mark.parametrize("halves", [lambda x: x.chunk(2, -1), lambda x: (x[..., ::2], x[..., 1::2])])
def test_gated_layers(gate: Turn, halves: Callable[[Tensor], tuple[Tensor, Tensor]]) -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.up = nn.Embedding(30, FEATURES), nn.Linear(FEATURES, 4 * FEATURES)
            self.down = nn.Linear(2 * FEATURES, FEATURES)

        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            left, right = halves(self.up(self.words(input_ids)))
            y: Tensor = self.down(gate(left) * right)
            return y

    ops = [site.op for site in captured(Gated()).network.sites]
    assert (ops.count(Op.LINEAR), ops.count(Op.MUL), len(ops)) == (3, 1, 6)


class Normed(nn.Module):
    """An RMSNorm in plain arithmetic."""

    def __init__(self, written: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.words, self.out = nn.Embedding(30, FEATURES), nn.Linear(FEATURES, FEATURES)
        self.weight, self.written = nn.Parameter(torch.rand(FEATURES) + 0.5), written

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        y: Tensor = self.out(self.written(self.words(input_ids), self.weight))
        return y


@pytest.mark.parametrize(
    "written",
    [
        lambda x, w: w * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)),
        lambda x, w: x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-3) * (1.0 + w),
    ],
)
def test_an_rms_norm_in_plain_arithmetic(written: Callable[[Tensor, Tensor], Tensor]) -> None:
    found = captured(Normed(written))
    assert [site.op for site in found.network.sites] == [Op.EMBEDDING, Op.RMS_NORM, Op.LINEAR]
    assert found.network.sites[1].attributes["eps"] in (pytest.approx(1e-6), pytest.approx(1e-3))


@pytest.mark.parametrize(
    "written",
    [
        lambda x, w: w * ((x - x.mean(-1, keepdim=True)) * torch.rsqrt(deviation(x) + 1e-5)),
        lambda x, w: (x - x.mean(-1, keepdim=True)) / torch.sqrt(deviation(x) + 1e-5) * w,
    ],
)
def test_a_layer_norm_in_plain_arithmetic(written: Callable[[Tensor, Tensor], Tensor]) -> None:
    found = captured(Normed(written))
    assert [site.op for site in found.network.sites] == [Op.EMBEDDING, Op.LAYER_NORM, Op.LINEAR]
    assert found.network.sites[1].attributes["eps"] == pytest.approx(1e-5)


def deviation(x: Tensor) -> Tensor:
    return (x - x.mean(-1, keepdim=True)).pow(2).mean(-1, keepdim=True)


def test_a_scaled_word_is_normed_by_its_own_mean_square() -> None:
    def written(x: Tensor, w: Tensor) -> Tensor:
        y = x * 4.0
        return y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-2) * w

    found = captured(Normed(written))
    assert [site.op for site in found.network.sites] == [Op.EMBEDDING, Op.RMS_NORM, Op.LINEAR]
    assert found.network.sites[1].attributes["eps"] == pytest.approx(1e-2)


@pytest.mark.parametrize("factor", [0.1, -2.0])
@pytest.mark.parametrize(("norm", "op"), [(F.layer_norm, Op.LAYER_NORM), (F.rms_norm, Op.RMS_NORM)])
def test_a_norm_of_scaled_features(factor: float, norm: Callable[..., Tensor], op: Op) -> None:
    def written(x: Tensor, w: Tensor) -> Tensor:
        return norm(F.linear(x, torch.diag(w)) * factor, (FEATURES,), eps=0.1)

    found = captured(Normed(written)).network.sites
    assert [site.op for site in found] == [Op.EMBEDDING, Op.LINEAR, op, Op.LINEAR]


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        (lambda x, w: x * torch.rsqrt(x.abs().mean(-1, keepdim=True) + 1e-6), "no part of a norm"),
        (lambda x, w: x * (x.pow(2).mean(-1, keepdim=True) + 1.0), "else than their root mean square"),
    ],
)
def test_what_is_no_rms_norm_is_named(written: Callable[[Tensor, Tensor], Tensor], reason: str) -> None:
    found = capture(roughened(Normed(written)), max_sequence=LENGTH)
    assert any(reason in str(site.attributes["reason"]) for site in found.unknown)


class Shifted(nn.Module):
    """Constants are added to queries and values in heads; keys are the queries without theirs."""

    def __init__(self, by_position: bool = False) -> None:
        super().__init__()
        self.words, self.by_position = nn.Embedding(40, FEATURES), by_position
        self.both, self.value = nn.Linear(FEATURES, FEATURES), nn.Linear(FEATURES, FEATURES)
        self.added = nn.Parameter(torch.randn(2, 1, HEADS, 1, WIDTH))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(batch, sequence) -> (batch, sequence, features)."""
        x = self.words(input_ids)
        key, value = heads(self.both(x)), heads(self.value(x)) + self.added[1]
        query = key + self.added[0]
        if self.by_position:
            query = query + torch.arange(x.shape[1])[:, None]
        mask = attention_mask[:, None, None, :].bool()
        context = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return context.transpose(1, 2).flatten(-2)


def test_constants_of_heads_are_biases_of_the_layers_that_only_they_read() -> None:
    found = captured(Shifted())
    assert [site.op for site in found.network.sites].count(Op.LINEAR) == 3  # one of it shifts the queries


def test_constants_of_heads_that_depend_on_the_position_are_named() -> None:
    found = capture(roughened(Shifted(by_position=True)), max_sequence=LENGTH)
    assert "plus a constant that depends on the position" in str(found.unknown[0].attributes["reason"])


@pytest.mark.parametrize(
    ("moved", "reason"),
    [
        (lambda x: x.roll(1, 1), "no converter knows this operator"),
        (lambda x: torch.cat((x[:, 1:], x[:, :1]), 1), "a slice of token features"),
        (lambda x: x.flip(1), "no converter knows this operator"),
    ],
)
def test_features_of_other_tokens_are_named(moved: Turn, reason: str) -> None:
    found = capture(roughened(Normed(lambda x, w: moved(x))), max_sequence=LENGTH)
    assert any(reason in str(site.attributes["reason"]) for site in found.unknown)
