"""A decoder without a cache for the searches of `archnet.search`: it reads the whole prefix each time."""

from __future__ import annotations

import torch
from torch import Tensor

from side_by_side.subject import Run


class PrefixDecoder:
    """Steps through a float or quantized encoder and decoder graph.

    Args:
        encoder: input_ids, attention_mask -> states.
        decoder: states, attention_mask, decoder_input_ids -> logits (batch, target tokens, vocabulary).
    """

    def __init__(self, encoder: Run, decoder: Run) -> None:
        self._encoder, self._decoder = encoder, decoder
        self._states = self._mask = self._prefix = torch.zeros(0)

    def start(self, input_ids: Tensor, attention_mask: Tensor, *, beams: int, max_length: int) -> None:
        """Read the sources (see `archnet.search.Stepper`)."""
        fed = {"input_ids": input_ids.numpy(), "attention_mask": attention_mask.numpy()}
        states = torch.from_numpy(self._encoder(fed)["states"].copy())
        self._states = states.repeat_interleave(beams, 0)
        self._mask = attention_mask.repeat_interleave(beams, 0)
        self._prefix = torch.zeros((len(self._mask), 0), dtype=torch.int64)

    def step(self, tokens: Tensor) -> Tensor:
        """Give every row a token; float32 logits of the next one (rows, vocabulary)."""
        self._prefix = torch.cat([self._prefix, tokens[:, None]], 1)
        logits = self._decoder(
            {
                "states": self._states.numpy(),
                "attention_mask": self._mask.numpy(),
                "decoder_input_ids": self._prefix.numpy(),
            }
        )["logits"]
        return torch.from_numpy(logits[:, -1].copy())

    def select(self, rows: Tensor) -> None:
        """Go on with these rows."""
        self._states, self._mask, self._prefix = (
            values[rows] for values in (self._states, self._mask, self._prefix)
        )
