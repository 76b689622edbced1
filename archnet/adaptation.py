"""Small layers between a student's states and what they are compared with; training leaves them behind.

Residual Feature Adaptation (arXiv 2111.01135): a state x need not be the teacher's, it must only lead there,

    adapted = x + A(x)

A is three layers without activations: for tokens fully connected ones of widths d, d / 16, d / 16, d, for
maps convolutions 1x1, 3x3, 1x1 without bias. With Teacher Attention (journal version), for t the teacher's
state averaged over its tokens or pixels,

    adapted = x + A(x * sigmoid(W2 relu(W1 t)))

with W1 to d / 24. Both are taken from the code that the authors published; there Teacher Attention is for
maps only, here for tokens too, over the valid ones. There A starts at random. Here its last layer starts at
0, as the student starts as the teacher.

What the user gets is never adapted: an output is compared as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from archnet.checkpoint import load_tensors, save_tensors
from archnet.executor import mean_pool

NARROWER = 16
"""How many times narrower the middle of an adaptation of tokens is."""

ATTENTION_NARROWER = 24
"""How many times narrower the middle of a Teacher Attention is."""

_FILE = "adaptation.safetensors"

T = TypeVar("T")


class Adaptation(nn.Module):
    """The adaptation of one state.

    Args:
        channels: features of a token, or channels of a map.
        maps: whether states are maps.
        attention: whether the teacher weighs the channels.
    """

    def __init__(self, channels: int, *, maps: bool, attention: bool) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(_convolutions(channels) if maps else _connected(channels)))
        for parameter in self.layers[-1].parameters():
            nn.init.zeros_(parameter)
        narrow = max(1, channels // ATTENTION_NARROWER)
        self.gate: nn.Module | None = None
        if attention:
            self.gate = nn.Sequential(
                nn.Linear(channels, narrow), nn.ReLU(), nn.Linear(narrow, channels), nn.Sigmoid()
            )

    def forward(self, state: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
        """The adapted state.

        Args:
            state: float32 (batch, tokens, features), or (batch, channels, height, width).
            teacher: the same of the teacher.
            mask: int64 (batch, tokens), or None.
        """
        weighed = state
        if self.gate is not None:
            maps = teacher.dim() == 4
            shares = self.gate(teacher.mean((2, 3)) if maps else _mean(teacher, mask))
            weighed = state * (shares[:, :, None, None] if maps else shares[:, None, :])
        adapted: Tensor = state + self.layers(weighed)
        return adapted


def _connected(channels: int) -> list[nn.Module]:
    narrow = max(1, channels // NARROWER)
    return [nn.Linear(channels, narrow), nn.Linear(narrow, narrow), nn.Linear(narrow, channels)]


def _convolutions(channels: int) -> list[nn.Module]:
    return [nn.Conv2d(channels, channels, size, padding=size // 2, bias=False) for size in (1, 3, 1)]


def _mean(tokens: Tensor, mask: Tensor | None) -> Tensor:
    return tokens.mean(1) if mask is None else mean_pool(tokens, mask)


class Adaptations(nn.Module):
    """The adaptations of several states, by name.

    Args:
        shapes: state -> the shape of its value, batch first.
        attention: whether the teacher weighs the channels.
    """

    def __init__(self, shapes: Mapping[str, torch.Size], *, attention: bool) -> None:
        super().__init__()
        self.parts = nn.ModuleDict()
        for name, shape in shapes.items():
            maps = len(shape) == 4
            part = Adaptation(shape[1] if maps else shape[-1], maps=maps, attention=attention)
            self.parts[_key(name)] = part

    def __contains__(self, name: str) -> bool:
        return _key(name) in self.parts

    def forward(self, name: str, state: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
        """The adapted state of that name (see `Adaptation`)."""
        adapted: Tensor = self.parts[_key(name)](state, teacher, mask)
        return adapted


def _key(name: str) -> str:
    """Module containers do not allow dots in names."""
    return name.replace(".", "|")


@dataclass(frozen=True, slots=True)
class Learned(Generic[T]):
    """A stage's result, and the adaptation that goes on in the next stage.

    Attributes:
        result: what the stage is for.
        adaptation: the tensors of `Adaptations`; none without it.
    """

    result: T
    adaptation: Mapping[str, Tensor]


def save_learned(save: Callable[[T, Path], None]) -> Callable[[Learned[T], Path], None]:
    """How a stage saves its result with the adaptation, given how it saves the result."""

    def both(learned: Learned[T], folder: Path) -> None:
        save(learned.result, folder)
        if learned.adaptation:
            save_tensors(folder / _FILE, learned.adaptation)

    return both


def load_learned(load: Callable[[Path], T]) -> Callable[[Path], Learned[T]]:
    """How it reads both back."""

    def both(folder: Path) -> Learned[T]:
        file = folder / _FILE
        return Learned(load(folder), load_tensors(file) if file.is_file() else {})

    return both
