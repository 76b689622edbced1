"""Greedy and beam search over the captured float network against transformers' generate."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from archnet.capture import TRANSLATION_INPUTS, capture
from archnet.executor import NetworkModule
from archnet.incremental import IncrementalDecoder
from archnet.search import generate
from archnet.sources.writer import TranslationModel, generation_settings
from tests.hf_writers import PAD, make_translation_model

MAX_LENGTH = 14


@cache
def model_of(family: str) -> Any:
    if family == "pad-0":
        return make_translation_model(layers=1, end_bias=2.0, pad_token_id=0, decoder_start_token_id=0)
    return make_translation_model(family, layers=1, end_bias=2.0)


@cache
def decoder_of(family: str) -> IncrementalDecoder:
    wrapped = TranslationModel(model_of(family))
    found = capture(wrapped, max_sequence=16, padding_id=PAD, inputs=TRANSLATION_INPUTS)
    return IncrementalDecoder(NetworkModule(found.network).eval())


def sources() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(11)
    ids = torch.randint(5, 90, (6, 9), generator=generator)
    mask = torch.ones_like(ids)
    for row, length in enumerate((9, 7, 4, 9, 2, 6)):
        mask[row, length:] = 0
    ids[mask == 0] = PAD
    return ids, mask


SEARCHES: list[Any] = [
    pytest.param({}, {}, id="greedy"),
    pytest.param({"num_beams": 4}, {}, id="beams"),
    pytest.param({"num_beams": 4, "length_penalty": 0.6}, {}, id="short"),
    pytest.param({"num_beams": 3, "length_penalty": 2.0}, {"early_stopping": True}, id="early"),
    pytest.param({"num_beams": 2}, {"renormalize_logits": True, "forced_eos_token_id": 2}, id="forced"),
    pytest.param({}, {"forced_eos_token_id": 2}, id="greedy-forced"),
    pytest.param({}, {"forced_bos_token_id": 17}, id="greedy-language"),
    pytest.param({"num_beams": 3}, {"forced_bos_token_id": 17}, id="language"),
]


@pytest.mark.parametrize(("arguments", "configured"), SEARCHES)
@pytest.mark.parametrize("family", ["marian", "bart", "t5", "pad-0"])
def test_search_gives_what_transformers_gives(
    family: str, arguments: dict[str, Any], configured: dict[str, Any]
) -> None:
    model = model_of(family)
    ids, mask = sources()
    before = {name: getattr(model.generation_config, name) for name in configured}
    try:
        for name, value in configured.items():
            setattr(model.generation_config, name, value)
        wanted = model.generate(input_ids=ids, attention_mask=mask, max_length=MAX_LENGTH, **arguments)
        settings, notes = generation_settings(model, "tiny")
    finally:
        for name, value in before.items():
            setattr(model.generation_config, name, value)
    assert notes == ()
    found = generate(decoder_of(family), ids, mask, settings, max_length=MAX_LENGTH, **arguments)
    torch.testing.assert_close(found, wanted)


def test_sentences_end_at_different_lengths_in_these_tests() -> None:
    ids, mask = sources()
    settings, _ = generation_settings(model_of("marian"), "tiny")
    found = generate(decoder_of("marian"), ids, mask, settings, max_length=MAX_LENGTH)
    lengths = (found != PAD).sum(1)
    assert len(set(lengths.tolist())) > 1


def test_a_step_gives_the_logits_of_the_whole_sentence() -> None:
    decoder = decoder_of("marian")
    ids, mask = sources()
    targets = torch.randint(5, 90, (6, 5), generator=torch.Generator().manual_seed(1))
    decoder.start(ids, mask, beams=1, max_length=8)
    steps = torch.stack([decoder.step(targets[:, i]) for i in range(5)], 1)
    inputs = {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": targets}
    with torch.no_grad():
        whole = decoder.module({**inputs, "decoder_attention_mask": torch.ones_like(targets)})
    torch.testing.assert_close(steps, whole[decoder.logits], rtol=1e-4, atol=1e-4)


def test_settings_that_are_not_followed_are_noted() -> None:
    model = model_of("marian")
    model.generation_config.no_repeat_ngram_size = 3
    try:
        _, notes = generation_settings(model, "tiny")
    finally:
        model.generation_config.no_repeat_ngram_size = 0
    assert notes == ("generate does not follow no_repeat_ngram_size of the model's settings",)
