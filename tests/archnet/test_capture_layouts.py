"""Features before tokens, and what else libraries do to the axes of a text: captured as every layer is."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from archnet.capture import Capture, capture
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
