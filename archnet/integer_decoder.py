"""A deployed decoder as a Stepper: its integer network, its encoder's, and the cache between their calls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from archnet.backends import open_backend
from archnet.backends.base import Backend, user_inputs
from archnet.graph import QuantizedGraph
from archnet.graph_builder import POSITION
from archnet.parts import DECODER, ENCODER, part_names
from archnet.storage import load_graph


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
        self.wanted = user_inputs(graph)
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
        known = {
            **self.memory,
            **self.past,
            "decoder_input_ids": tokens.numpy()[:, None],
            POSITION: np.full((rows, 1), self.position),
            "cache_mask": seen,
        }
        return {name: known[name] for name in self.wanted}

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


def open_reference(folder: Path) -> IntegerDecoder:
    """The networks of a build folder in the reference executor."""
    exact = {part: open_backend("reference", folder / part) for part in part_names(folder)}
    return IntegerDecoder(exact.get(ENCODER), exact[DECODER], load_graph(folder / DECODER / "graph"))


def source_of(inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The sources and their mask; of a language model, which has none, what it reads."""
    side = "" if "input_ids" in inputs else "decoder_"
    return inputs[f"{side}input_ids"], inputs[f"{side}attention_mask"]


def along(
    stepper: IntegerDecoder, inputs: Mapping[str, Tensor], steps: int | None = None
) -> Iterator[dict[str, NDArray[Any]]]:
    """What the step network is fed for the first tokens of texts, on the caches of those before.

    Args:
        inputs: what the decoder reads, int64 (texts, tokens), of a translation model the sources too, with
            their masks.
        steps: how many tokens; all when None.
    """
    tokens = inputs["decoder_input_ids"]
    stepper.start(*source_of(inputs), beams=1, max_length=tokens.shape[1] + 1)
    for i in islice(range(tokens.shape[1]), steps):
        yield stepper.inputs(tokens[:, i])
        stepper.step(tokens[:, i])


def step_samples(stepper: IntegerDecoder, inputs: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
    """What the step network is fed, a row a text: each at another of its tokens, from the first to the last.

    Args:
        inputs: as of `along`.
    """
    lengths = inputs["decoder_attention_mask"].sum(1).tolist()
    places = [i * max(length - 1, 0) // max(len(lengths) - 1, 1) for i, length in enumerate(lengths)]
    rows: dict[int, dict[str, NDArray[Any]]] = {}
    for step, fed in enumerate(along(stepper, inputs, max(places) + 1)):
        rows |= {
            i: {name: value[i : i + 1].copy() for name, value in fed.items()}
            for i, place in enumerate(places)
            if place == step
        }
    return {name: np.concatenate([rows[i][name] for i in range(len(places))]) for name in rows[0]}
