"""A model of your own: a function that returns a torch.nn.Module.

    archnet inspect examples/factory.py:make --target archnet

This one is a small Transformer encoder with random weights. A real one would load its weights from
safetensors, and return (module, tokenizer) so that text can be fed to it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

VOCABULARY, WIDTH, HEADS, LAYERS, LONGEST = 1000, 64, 4, 2, 128


class Layer(nn.Module):
    """Post-LayerNorm attention and feed-forward."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(WIDTH, WIDTH)
        self.key = nn.Linear(WIDTH, WIDTH)
        self.value = nn.Linear(WIDTH, WIDTH)
        self.join = nn.Linear(WIDTH, WIDTH)
        self.up = nn.Linear(WIDTH, 4 * WIDTH)
        self.down = nn.Linear(4 * WIDTH, WIDTH)
        self.norm_1 = nn.LayerNorm(WIDTH)
        self.norm_2 = nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x (batch, sequence, WIDTH), mask bool (batch, 1, 1, sequence) -> like x."""
        batch, sequence, _ = x.shape
        query, key, value = (
            part(x).view(batch, sequence, HEADS, WIDTH // HEADS).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        context = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        context = context.transpose(1, 2).reshape(batch, sequence, WIDTH)
        x = self.norm_1(x + self.join(context))
        y: Tensor = self.norm_2(x + self.down(functional.gelu(self.up(x))))
        return y


class Encoder(nn.Module):
    """Token ids to one vector a token."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, WIDTH)
        self.positions = nn.Embedding(LONGEST, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        """Both int64 (batch, sequence) -> {"last_hidden_state": (batch, sequence, WIDTH)}."""
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)[None]
        x = self.norm(self.words(input_ids) + self.positions(positions))
        mask = attention_mask[:, None, None, :] != 0
        for layer in self.layers:
            x = layer(x, mask)
        return {"last_hidden_state": x}


def make() -> nn.Module:
    """What `examples/factory.py:make` names."""
    torch.manual_seed(0)
    return Encoder().eval()
