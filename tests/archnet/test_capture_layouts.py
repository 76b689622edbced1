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
from tests.small_encoder import LENGTH, roughened

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


def test_a_convolution_over_several_tokens_is_named() -> None:
    found = capture(roughened(Convolved(kernel=3)), max_sequence=LENGTH)
    assert found.unknown[0].attributes["aten"] == "aten.conv1d"
    assert found.unknown[0].attributes["reason"] == "a convolution over several tokens"


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
