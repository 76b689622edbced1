"""A tiny Transformer encoder in plain PyTorch, so that tests need no library of models."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from archnet.blocks import find_blocks, with_blocks
from archnet.capture import capture
from archnet.network import Network

VOCABULARY = 40
LENGTH = 12


class Layer(nn.Module):
    """One Transformer layer, LayerNorm behind or in front of its two halves."""

    def __init__(
        self, hidden: int, norm: Callable[[int], nn.Module], *, pre_norm: bool, flipped: bool
    ) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(hidden, hidden) for _ in range(4))
        self.up, self.down = nn.Linear(hidden, 2 * hidden), nn.Linear(2 * hidden, hidden)
        self.norm_1, self.norm_2 = norm(hidden), norm(hidden)
        self.pre_norm, self.flipped = pre_norm, flipped

    def attend(self, x: Tensor, mask: Tensor) -> Tensor:
        """Two heads."""
        batch, length, hidden = x.shape
        query, key, value = (
            f(x).view(batch, length, 2, hidden // 2).transpose(1, 2)
            for f in (self.query, self.key, self.value)
        )
        context = F.scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None, None, :].bool())
        result: Tensor = self.out(context.transpose(1, 2).reshape(batch, length, hidden))
        return result

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(batch, sequence, hidden) -> the same."""
        if not self.pre_norm:
            x = self.norm_1(x + self.attend(x, mask))
            y: Tensor = self.norm_2(x + self.down(F.gelu(self.up(x))))
            return y
        branch = self.attend(self.norm_1(x), mask)
        x = branch + x if self.flipped else x + branch
        branch = self.down(F.gelu(self.up(self.norm_2(x))))
        return branch + x if self.flipped else x + branch


class SmallEncoder(nn.Module):
    """Words and positions, some layers; with `head` a tanh layer on the first token."""

    def __init__(
        self,
        *,
        layers: int = 1,
        hidden: int = 16,
        pre_norm: bool = False,
        flipped: bool = False,
        head: bool = False,
        norm: Callable[[int], nn.Module] = nn.LayerNorm,
    ) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, hidden)
        self.positions = nn.Embedding(LENGTH + 20, hidden)
        self.norm = norm(hidden)
        self.layers = nn.ModuleList(
            [Layer(hidden, norm, pre_norm=pre_norm, flipped=flipped) for _ in range(layers)]
        )
        self.head = nn.Linear(hidden, hidden) if head else None

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        """int64 (batch, sequence) twice -> "states" (batch, sequence, hidden), "head" (batch, hidden)."""
        length = input_ids.shape[1]
        x = self.norm(self.words(input_ids) + self.positions(torch.arange(length, device=input_ids.device)))
        for layer in self.layers:
            x = layer(x, attention_mask)
        if self.head is None:
            return {"states": x}
        return {"states": x, "head": torch.tanh(self.head(x[:, 0]))}


def roughened(module: nn.Module, seed: int = 0) -> nn.Module:
    """Weights as spread as after training; norms' gains of both signs, biases that are not 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() == 1:
                parameter.copy_((1.0 if name.endswith("weight") else 0.0) + 0.2 * noise)
                if name.endswith("weight"):
                    parameter[1] *= -1.0
            else:
                parameter.copy_(0.3 * noise)
    return module.eval()


def captured_encoder(
    *,
    layers: int = 1,
    pre_norm: bool = False,
    flipped: bool = False,
    head: bool = False,
    pooling: str | None = None,
    norm: Callable[[int], nn.Module] = nn.LayerNorm,
) -> Network:
    """The captured network of a rough SmallEncoder, with blocks."""
    module = SmallEncoder(layers=layers, pre_norm=pre_norm, flipped=flipped, head=head, norm=norm)
    network = capture(roughened(module), max_sequence=LENGTH, pooling=pooling, normalize=True).network
    return with_blocks(network, find_blocks(network))


def padded_batch(seed: int = 0, batch: int = 6, length: int = 9) -> dict[str, Tensor]:
    """Random tokens; every row but the first is padded."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(VOCABULARY, (batch, length), generator=generator)
    lengths = torch.tensor([length - i % (length - 2) for i in range(batch)])
    mask = (torch.arange(length)[None] < lengths[:, None]).long()
    return {"input_ids": ids, "attention_mask": mask}
