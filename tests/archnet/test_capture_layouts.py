"""Features before tokens, and what else libraries do to the axes of a text: captured as every layer is."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from archnet.capture import Capture, capture
from archnet.converters.softmax import HIDDEN
from archnet.operators import Op
from tests.small_encoder import LENGTH, Layer, roughened

FEATURES = 16


class Convolved(nn.Module):
    """Two convolutions over (batch, features, tokens), added to what they read and normalised."""

    def __init__(self, kernel: int = 1, groups: int = 4) -> None:
        super().__init__()
        self.words, self.norm = nn.Embedding(30, FEATURES), nn.LayerNorm(FEATURES)
        self.up = nn.Conv1d(FEATURES, 2 * FEATURES, kernel, groups=groups, padding=kernel // 2)
        self.down = nn.Conv1d(2 * FEATURES, FEATURES, 1, groups=groups, bias=False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = self.words(input_ids).transpose(1, 2)
        x = x + self.down(F.gelu(self.up(x)))
        y: Tensor = self.norm(x.permute(0, 2, 1))
        return y


def captured(module: nn.Module) -> Capture:
    """The capture, which compares itself with the original on padded text."""
    found = capture(roughened(module), max_sequence=LENGTH)
    assert found.unknown == ()
    assert found.error < 1e-5
    return found


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_a_convolution_of_single_tokens_is_a_layer_of_blocks(groups: int) -> None:
    module = Convolved(groups=groups)
    network = captured(module).network
    ops = [site.op for site in network.sites]
    assert ops == [Op.EMBEDDING, Op.LINEAR, Op.GELU, Op.LINEAR, Op.ADD, Op.LAYER_NORM]
    weight = network.parameter(network.sites[1], "weight")
    wanted = torch.zeros(2 * FEATURES, FEATURES)
    rows, columns = 2 * FEATURES // groups, FEATURES // groups
    for group in range(groups):
        own = slice(group * rows, (group + 1) * rows)
        wanted[own, group * columns : (group + 1) * columns] = module.up.weight[own, :, 0]
    assert torch.equal(weight, wanted)


@pytest.mark.parametrize(("kernel", "groups"), [(3, 1), (5, 2)])
def test_a_convolution_over_several_tokens_is_a_layer_over_neighbours(kernel: int, groups: int) -> None:
    network = captured(Convolved(kernel, groups)).network
    moved = [site.attributes["by"] for site in network.sites if site.op is Op.SHIFT]
    assert moved == [by for by in range(kernel // 2, -kernel // 2, -1) if by]
    (joined,) = (site for site in network.sites if site.op is Op.CONCAT)
    assert len(joined.inputs) == kernel


@pytest.mark.parametrize(("stride", "padding", "words"), [(2, 1, "the number"), (1, "same", "in tokens")])
def test_other_convolutions_are_named(stride: int, padding: int | str, words: str) -> None:
    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(30, FEATURES)
            self.convolution = nn.Conv1d(FEATURES, FEATURES, 3, stride=stride, padding=padding)

        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            y: Tensor = self.convolution(self.words(input_ids).transpose(1, 2)).transpose(1, 2)
            return y

    found = capture(roughened(Other()), max_sequence=LENGTH)
    assert words in str(found.unknown[0].attributes["reason"])


class Neighbours(nn.Module):
    """Every token's features beside those of the token behind and of the token before it."""

    def __init__(self, fill: float = 0.0, before: nn.Module | None = None) -> None:
        super().__init__()
        self.words, self.out = nn.Embedding(30, FEATURES), nn.Linear(3 * FEATURES, FEATURES)
        self.fill, self.before = fill, before

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = self.words(input_ids)
        if self.before is not None:
            x = self.before(x, attention_mask)
        behind = F.pad(x[:, 1:], (0, 0, 0, 1), value=self.fill)
        y: Tensor = self.out(torch.cat((behind, x, F.pad(x[:, :-1], (0, 0, 1, 0), value=self.fill)), 2))
        return y


def test_neighbours_are_moved_features_side_by_side() -> None:
    network = captured(Neighbours()).network
    ops = [site.op for site in network.sites]
    assert ops == [Op.EMBEDDING, Op.SHIFT, Op.SHIFT, Op.CONCAT, Op.LINEAR]
    assert [site.attributes["by"] for site in network.sites[1:3]] == [-1, 1]


def test_neighbours_in_other_ways_are_named() -> None:
    found = capture(roughened(Neighbours(fill=1.0)), max_sequence=LENGTH)
    wanted = "tokens with something else than zeros in place of those left out"
    assert found.unknown[0].attributes["reason"] == wanted
    attended = Layer(FEATURES, nn.LayerNorm, pre_norm=False, flipped=False)
    found = capture(roughened(Neighbours(before=attended)), max_sequence=LENGTH)
    wanted = "features of other tokens, which depend on more than those tokens' ids"
    assert found.unknown[0].attributes["reason"] == wanted


class Gained(nn.Module):
    """Gains and shifts of a sum, which another sum reads, or a function that they do not fold into."""

    def __init__(self, reads: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.words, self.out = nn.Embedding(30, FEATURES), nn.Linear(FEATURES, FEATURES)
        self.weight, self.bias = (nn.Parameter(torch.rand(FEATURES) + 0.5) for _ in range(2))
        self.reads = reads

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = self.words(input_ids)
        x = self.reads((x + self.out(x)) * self.weight + self.bias)
        y: Tensor = x + self.out(x)
        return y


def test_gains_of_a_sum_are_a_site_that_folds() -> None:
    module = Gained(lambda x: x)
    network = captured(module).network
    ops = [site.op for site in network.sites]
    assert ops == [Op.EMBEDDING, Op.LINEAR, Op.ADD, Op.BATCH_NORM, Op.LINEAR, Op.ADD]
    for role in ("weight", "bias"):
        assert torch.equal(network.parameter(network.sites[3], role), getattr(module, role))


def test_gains_that_do_not_fold_are_a_layer() -> None:
    module = Gained(F.gelu)
    network = captured(module).network
    ops = [site.op for site in network.sites]
    assert ops == [Op.EMBEDDING, Op.LINEAR, Op.ADD, Op.LINEAR, Op.GELU, Op.LINEAR, Op.ADD]
    assert torch.equal(network.parameter(network.sites[3], "weight"), torch.diag(module.weight))


HEADS, WIDTH = 4, 4
SLOPES = 2.0 ** -torch.arange(1.0, HEADS + 1)


class Biased(nn.Module):
    """Causal attention with a bias that grows with distance, its batch and heads in one axis."""

    def __init__(self, places: Callable[[Tensor], Tensor], scale: float = 0.5) -> None:
        super().__init__()
        self.words, self.packed = nn.Embedding(30, FEATURES), nn.Linear(FEATURES, 3 * FEATURES)
        self.places, self.scale = places, scale

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        batch, length = input_ids.shape
        packed = (
            self.packed(self.words(input_ids)).view(batch, length, 3, HEADS, WIDTH).permute(2, 0, 3, 1, 4)
        )
        query, key, value = (x.reshape(batch * HEADS, length, WIDTH) for x in packed.unbind(0))
        places = (SLOPES[:, None, None] * self.places(attention_mask)[:, None, None]).flatten(0, 1)
        scores = places.baddbmm(query, key.transpose(1, 2), alpha=self.scale)
        later = torch.ones(length, length, dtype=torch.bool).triu(1)
        hidden = later | (attention_mask == 0)[:, None, None]
        scores = scores.view(batch, HEADS, length, length).masked_fill(hidden, -1e9).flatten(0, 1)
        found = torch.bmm(scores.softmax(-1), value).view(batch, HEADS, length, WIDTH)
        return found.transpose(1, 2).flatten(2)


def from_the_start(mask: Tensor) -> Tensor:
    return (mask.cumsum(-1) - 1) * mask


def from_the_end(mask: Tensor) -> Tensor:
    return torch.arange(1 - mask.shape[1], 1).expand_as(mask)


@pytest.mark.parametrize("places", [from_the_start, from_the_end])
def test_a_slope_of_places_is_a_bias_of_distances(places: Callable[[Tensor], Tensor]) -> None:
    network = captured(Biased(places)).network
    (attention,) = (site for site in network.sites if site.op is Op.ATTENTION)
    assert (attention.attributes["heads"], attention.attributes["scale"]) == (HEADS, 0.5)
    distance = torch.arange(LENGTH)[None] - torch.arange(LENGTH)[:, None]
    wanted = torch.where(distance > 0, HIDDEN, SLOPES[:, None, None] * distance)
    torch.testing.assert_close(network.parameter(attention, "bias"), wanted)


def test_places_of_the_tokens_themselves_are_named() -> None:
    class Worded(Biased):
        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            return super().forward(input_ids, input_ids)

    found = capture(roughened(Worded(lambda ids: ids)), max_sequence=LENGTH)
    assert found.unknown[0].attributes["reason"] == "its attention mask depends on the tokens"


class Capped(nn.Module):
    """Attention with scores that are bounded before the mask, or behind it."""

    def __init__(self, *, mask_first: bool = False) -> None:
        super().__init__()
        self.words, self.packed = nn.Embedding(30, FEATURES), nn.Linear(FEATURES, 3 * FEATURES)
        self.mask_first = mask_first

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        packed = self.packed(self.words(input_ids)).unflatten(-1, (3, HEADS, WIDTH))
        query, key, value = packed.permute(2, 0, 3, 1, 4).unbind(0)
        scores = query @ key.transpose(-1, -2) * 0.5
        mask = (1 - attention_mask[:, None, None]) * -1e9
        if self.mask_first:
            scores = torch.tanh((scores + mask) / 1.5) * 1.5
        else:
            scores = torch.tanh(scores / 1.5) * 1.5 + mask
        return (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)


def test_bounded_scores_are_an_attribute_of_attention() -> None:
    (attention,) = (s for s in captured(Capped()).network.sites if s.op is Op.ATTENTION)
    assert attention.attributes["cap"] == pytest.approx(1.5)
    assert attention.attributes["scale"] == pytest.approx(0.5)
    assert attention.attributes["masked"]


def test_bounded_masks_are_named() -> None:
    found = capture(roughened(Capped(mask_first=True)), max_sequence=LENGTH)
    assert found.unknown[0].attributes["reason"] == "a tanh of scores that something was added to"
