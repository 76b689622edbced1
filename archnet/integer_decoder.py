"""A deployed decoder as a Stepper: its integer network, its encoder's, and the cache between their calls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from archnet.backends.base import Backend
from archnet.graph import QuantizedGraph


class IntegerDecoder:
    """Runs the step network of a build token by token, on any backend.

    The caches are what `archnet/freeze_translation.py` says: after every step the host writes the token's
    own keys and values into their place.

    Args:
        encoder: what runs the encoder; None for a language model.
        decoder: what runs the decoder's step.
        graph: of the decoder's step.
    """

    def __init__(self, encoder: Backend | None, decoder: Backend, graph: QuantizedGraph) -> None:
        self.encoder, self.decoder, self.graph = encoder, decoder, graph
        self.caches = {s.name: s for s in graph.inputs if s.name.startswith(("cache_key", "cache_value"))}
        self.memory: dict[str, NDArray[Any]] = {}
        self.past: dict[str, NDArray[Any]] = {}
        self.position = 0

    def start(self, input_ids: Tensor, attention_mask: Tensor, *, beams: int, max_length: int) -> None:
        """Read the sources (see `archnet.search.Stepper`)."""
        mask = attention_mask.numpy()
        self.memory = {}
        if self.encoder is not None:
            handed = self.encoder.run({"input_ids": input_ids.numpy(), "attention_mask": mask})
            handed = {**handed, "attention_mask": mask}
            self.memory = {name: np.repeat(value, beams, axis=0) for name, value in handed.items()}
        rows = len(mask) * beams
        self.past = {
            name: np.zeros((rows, *(int(n) for n in spec.shape[1:])), spec.dtype)
            for name, spec in self.caches.items()
        }
        self.position = 0

    def inputs(self, tokens: Tensor) -> dict[str, NDArray[Any]]:
        """What the step network is fed for a token a row."""
        rows = len(tokens)
        seen = np.zeros((rows, self.graph.max_sequence), np.int64)
        seen[:, : self.position] = 1
        seen[:, -1] = 1
        return {
            **self.memory,
            **self.past,
            "decoder_input_ids": tokens.numpy()[:, None],
            "position": np.full((rows, 1), self.position),
            "cache_mask": seen,
        }

    def step(self, tokens: Tensor) -> Tensor:
        """Give every row a token; float32 logits of the next one (rows, vocabulary)."""
        outputs = self.decoder.run(self.inputs(tokens))
        self.remember(outputs)
        return torch.from_numpy(outputs["logits"][:, 0])

    def remember(self, outputs: Mapping[str, NDArray[Any]]) -> None:
        """Write a step's keys and values into the caches; the last place of all is never needed again."""
        if self.position < self.graph.max_sequence - 1:
            for name, cache in self.past.items():
                cache[:, :, self.position] = outputs[name.replace("cache_", "self_")][:, :, 0]
        self.position += 1

    def select(self, rows: Tensor) -> None:
        """Go on with these rows."""
        chosen = rows.numpy()
        self.memory = {name: value[chosen] for name, value in self.memory.items()}
        self.past = {name: value[chosen] for name, value in self.past.items()}
