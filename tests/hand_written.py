"""A text encoder as people write them by hand: einsum, its own LayerNorm, gates, one head without an axis."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn

from tests.hf_models import make_tokenizer

WIDTH, HEADS, LONGEST = 32, 4, 64


class Norm(nn.Module):
    """The Annotated Transformer's: the deviation of a sample, and eps added to it."""

    def __init__(self) -> None:
        super().__init__()
        self.gain, self.shift = nn.Parameter(torch.ones(WIDTH)), nn.Parameter(torch.zeros(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        """(..., WIDTH) -> the same."""
        mean, deviation = x.mean(-1, keepdim=True), x.std(-1, keepdim=True)
        return self.gain * (x - mean) / (deviation + 1e-6) + self.shift


class Heads(nn.Module):
    """Attention whose every product is an einsum."""

    def __init__(self) -> None:
        super().__init__()
        shape = (WIDTH, HEADS, WIDTH // HEADS)
        self.query, self.key, self.value = (nn.Parameter(torch.randn(shape) * 0.2) for _ in range(3))
        self.join = nn.Parameter(torch.randn(HEADS, WIDTH // HEADS, WIDTH) * 0.2)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x (batch, tokens, WIDTH), mask (batch, tokens) -> like x."""
        q, k, v = (torch.einsum("btd,dhk->bhtk", x, w) for w in (self.query, self.key, self.value))
        scores = torch.einsum("bhqk,bhsk->bhqs", q, k) * (WIDTH // HEADS) ** -0.5
        scores = scores.masked_fill(mask[:, None, None, :] == 0, float("-inf"))
        mixed = torch.einsum("bhqs,bhsk->bqhk", scores.softmax(-1), v)
        return torch.einsum("bqhk,hkd->bqd", mixed, self.join)


class OneHead(nn.Module):
    """Attention over (batch, tokens, WIDTH) as it stands."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x (batch, tokens, WIDTH), mask (batch, tokens) -> like x."""
        scores = self.query(x) @ self.key(x).mT * WIDTH**-0.5
        scores = scores + (1 - mask[:, None, :].float()) * -1e4
        return scores.softmax(-1) @ self.value(x)


class Encoder(nn.Module):
    """Token ids to features of tokens."""

    def __init__(self, words: int) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(words, WIDTH), nn.Parameter(torch.randn(LONGEST, WIDTH) * 0.3)
        self.norms = nn.ModuleList(Norm() for _ in range(4))
        self.heads, self.one = Heads(), OneHead()
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)
        self.gated, self.back = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)
        self.both = nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Both int64 (batch, tokens) -> (batch, tokens, WIDTH)."""
        first = self.words(input_ids) + self.places[: input_ids.shape[1]]
        x = first + self.heads(self.norms[0](first), attention_mask)
        x = x + self.down(F.hardswish(self.up(self.norms[1](x))))
        x = x - self.one(self.norms[2](x), attention_mask)
        x = x + self.back(F.glu(self.gated(x)))
        y: Tensor = self.norms[3](self.both(torch.concat([x, first], -1)))
        return y


def make() -> tuple[nn.Module, Tokenizer]:
    """What `archnet convert tests/hand_written.py:make` calls."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer("bert")
    return Encoder(tokenizer.get_vocab_size()).eval(), tokenizer
