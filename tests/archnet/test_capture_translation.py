"""Captured encoder-decoders against transformers, and what is recognised in them."""

from __future__ import annotations

from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from archnet.capture import TRANSLATION_INPUTS, Capture, capture
from archnet.executor import NetworkModule
from archnet.operators import Op
from archnet.side_values import visibility_of
from archnet.sources.writer import TranslationModel
from tests.hf_writers import PAD, make_translation_model

FAMILIES = ("marian", "bart", "mbart", "t5", "m2m_100", "pegasus")
"""Post-LayerNorm with sinusoidal positions, learned ones with a norm behind, pre-LayerNorm with either, and
biases of positions."""


@cache
def model_of(family: str) -> TranslationModel:
    return TranslationModel(make_translation_model(family, layers=1, end_bias=1.5))


@cache
def captured(family: str) -> Capture:
    return capture(model_of(family), max_sequence=16, padding_id=PAD, inputs=TRANSLATION_INPUTS)


def batch() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    values = {}
    for side, length in (("", 9), ("decoder_", 7)):
        ids = torch.randint(5, 90, (3, length), generator=generator)
        mask = torch.ones_like(ids)
        mask[1, length - 2 :] = 0
        mask[2, 3:] = 0
        ids[mask == 0] = PAD
        values |= {f"{side}input_ids": ids, f"{side}attention_mask": mask}
    return values


@pytest.mark.parametrize("family", FAMILIES)
def test_captured_network_equals_the_original_on_padding(family: str) -> None:
    found = captured(family)
    assert found.unknown == ()
    inputs = batch()
    with torch.no_grad():
        wanted = model_of(family)(**inputs)["logits"]
        got = NetworkModule(found.network)(inputs)[found.network.outputs["logits"]]
    valid = inputs["decoder_attention_mask"].bool()
    torch.testing.assert_close(got[valid], wanted[valid], rtol=1e-4, atol=1e-4)


def test_each_attention_is_recognised_by_what_it_lets_see() -> None:
    sites = [site for site in captured("marian").network.sites if site.op is Op.ATTENTION]
    seen = [(site.inputs[3:], site.attributes.get("causal", False)) for site in sites]
    assert seen == [(("attention_mask",), False), ((), True), (("attention_mask",), False)]
    encoder, decoder, cross = sites
    assert "encoder" in encoder.inputs[1]
    assert "decoder" in decoder.inputs[1]
    key = captured("marian").network.site(cross.inputs[1])
    assert key.inputs == ("model.model.encoder.layers.0.final_layer_norm",)


def test_the_scale_of_words_and_the_bias_of_logits_are_folded() -> None:
    network, model = captured("marian").network, model_of("marian").model
    words = network.site("model.model.encoder")
    wanted = model.get_input_embeddings().weight * 32**0.5
    torch.testing.assert_close(network.parameter(words, "table"), wanted)
    logits = network.site(network.outputs["logits"])
    assert logits.op is Op.LINEAR
    assert network.parameter(logits, "bias")[2] == 1.5


def test_values_of_two_sequences_are_not_added() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.up = nn.Embedding(30, 6), nn.Linear(6, 30)

        def forward(self, input_ids: Tensor, attention_mask: Tensor, decoder_input_ids: Tensor,
                    decoder_attention_mask: Tensor) -> Tensor:  # fmt: skip
            length = decoder_input_ids.shape[1]
            source = F.pad(self.words(input_ids), (0, 0, 0, length))[:, :length]
            y: Tensor = self.up(self.words(decoder_input_ids) + source)
            return y

    found = capture(Mixed(), max_sequence=8, inputs=TRANSLATION_INPUTS)
    assert [site.attributes["aten"] for site in found.unknown][:1] == ["aten.pad"]


QUERIES = torch.tensor([[1, 1, 1], [1, 1, 0]])
KEYS = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]])


@pytest.mark.parametrize(
    ("mask", "keys", "wanted"),
    [
        pytest.param(KEYS.bool()[:, None, None, :], KEYS, "padding", id="padding"),
        pytest.param((1.0 - KEYS[:, None, None, :]) * -1e9, KEYS, "padding", id="additive-padding"),
        pytest.param(torch.ones(3, 3).tril().bool()[None, None], QUERIES, "causal", id="causal"),
        pytest.param(
            torch.ones(3, 3).tril().bool()[None, None] & QUERIES.bool()[:, None, None],
            QUERIES,
            "causal",
            id="causal-and-padding",
        ),
        pytest.param(torch.ones(3, 3).triu().bool()[None, None], QUERIES, None, id="backwards"),
        pytest.param(torch.eye(3).bool()[None, None], QUERIES, None, id="window"),
        pytest.param(torch.full((2, 1, 3, 4), -0.5), KEYS, None, id="bias"),
        pytest.param(torch.ones(2, 1, 5, 5).bool(), KEYS, None, id="other-shape"),
    ],
)
def test_visibility_is_named_by_what_valid_queries_see(
    mask: Tensor, keys: Tensor, wanted: str | None
) -> None:
    assert visibility_of(mask, QUERIES, keys) == wanted
