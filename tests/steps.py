"""Steps of tiny decoders, and what they are fed along texts, for the tests of every form and compiler."""

from __future__ import annotations

from functools import cache
from typing import Any

from numpy.typing import NDArray

from archnet.backends.reference import ReferenceBackend
from archnet.graph import QuantizedGraph
from archnet.integer_decoder import IntegerDecoder, along
from archnet.parts import DECODER, ENCODER
from tests.small_language import frozen_language, text_batch
from tests.small_translation import LENGTH, frozen_translation, pair_batch

FAMILIES = {"positions": "gpt2", "rotary": "llama", "windows": "gpt_neo"}

STEPS = (*FAMILIES, "translation")
"""Rows of a position table, gated layers with rotary positions, a bias by row, and two caches."""

TOKENS = 5


@cache
def walked(
    kind: str, attention: str = "softmax", levels: int = 255
) -> tuple[QuantizedGraph, tuple[dict[str, NDArray[Any]], ...]]:
    """A step's network, and what it is fed for the first tokens of three texts.

    Sources have as many places as files of one length have: what is added would have a share, if a small one.
    """
    if kind == "translation":
        graphs = frozen_translation(attention=attention, levels=levels)[1]
        encoder, inputs = ReferenceBackend(graphs[ENCODER]), pair_batch(8, source=LENGTH)
        graph = graphs[DECODER]
    else:
        encoder, inputs = None, text_batch(7)
        graph = frozen_language(FAMILIES[kind], attention=attention, levels=levels)[1]
    stepper = IntegerDecoder(encoder, ReferenceBackend(graph), graph)
    fed = [{name: value.copy() for name, value in step.items()} for step in along(stepper, inputs, TOKENS)]
    return graph, tuple(fed)
