"""Models that write text token by token, each called in one way only, and what they say of their search."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from archnet.errors import ArchNetError
from archnet.generation import GenerationSettings

NOT_FOLLOWED = {
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "min_length": 0,
    "min_new_tokens": None,
    "num_beam_groups": 1,
    "diversity_penalty": 0.0,
    "do_sample": False,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "sequence_bias": None,
    "exponential_decay_length_penalty": None,
}
"""Settings of transformers' generate that are left out, with the values at which they do nothing."""


class Writer(nn.Module):
    """A model that gives scores of the next token, wrapped so that nothing else comes out of it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.config = getattr(model, "config", None)
        takes = inspect.signature(model.forward).parameters
        self.extra: dict[str, Any] = {"use_cache": False} if "use_cache" in takes else {}

    def get_input_embeddings(self) -> nn.Module | None:
        """The table of the words that are read, where the model names it."""
        named = getattr(self.model, "get_input_embeddings", None)
        table = named() if callable(named) else None
        return table if isinstance(table, nn.Module) else None

    def set_attn_implementation(self, name: str) -> None:
        """Pass the request on to the model."""
        change = getattr(self.model, "set_attn_implementation", None)
        if callable(change):
            change(name)

    def logits(self, **inputs: Tensor) -> dict[str, Tensor]:
        """{"logits": (batch, tokens, vocabulary)} of the model, whatever it returns beside them."""
        result = self.model(**inputs, **self.extra)
        logits = result["logits"] if isinstance(result, Mapping) else result
        return {"logits": logits[0] if isinstance(logits, (tuple, list)) else logits}


class TranslationModel(Writer):
    """An encoder-decoder called with both sides' tokens; gives {"logits": (batch, tokens, vocabulary)}."""

    main_input_name = "input_ids"

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        decoder_input_ids: Tensor,
        decoder_attention_mask: Tensor,
    ) -> dict[str, Tensor]:
        """All int64: (batch, source tokens) twice, (batch, target tokens) twice."""
        return self.logits(
            input_ids=input_ids,
            attention_mask=attention_mask,
            decoder_input_ids=decoder_input_ids,
            decoder_attention_mask=decoder_attention_mask,
        )


class LanguageModel(Writer):
    """A decoder alone, called with a text's tokens; gives {"logits": (batch, tokens, vocabulary)}.

    Its inputs have the names of a decoder's, because it is one: a token sees itself and those before it.
    """

    main_input_name = "decoder_input_ids"

    def forward(self, decoder_input_ids: Tensor, decoder_attention_mask: Tensor) -> dict[str, Tensor]:
        """Both int64 (batch, tokens), padded on the right."""
        return self.logits(input_ids=decoder_input_ids, attention_mask=decoder_attention_mask)


def writes_alone(module: nn.Module) -> bool:
    """Whether a module that reads one text says of itself that it goes on with it (`can_generate`)."""
    says = getattr(module, "can_generate", None)
    return callable(says) and bool(says())


def as_writer(
    module: nn.Module, *, alone: bool, name: str
) -> tuple[Writer, GenerationSettings, tuple[str, ...]]:
    """The wrapped model, how it searches, and notes on what of its settings is not followed.

    Args:
        alone: whether it is a decoder alone.

    Raises:
        ArchNetError: as `generation_settings` does.
    """
    writer = LanguageModel(module) if alone else TranslationModel(module)
    return writer, *generation_settings(writer, name)


def generation_settings(module: nn.Module, name: str) -> tuple[GenerationSettings, tuple[str, ...]]:
    """How a model searches, from its generation_config, and what of that is not followed.

    Raises:
        ArchNetError: an encoder-decoder does not say with which token a translation starts or ends, or the
            model names a token that it does not have.
    """
    alone = isinstance(module, LanguageModel)
    model = module.model if isinstance(module, Writer) else module
    given = getattr(model, "generation_config", None) or getattr(model, "config", None)
    known: dict[str, Any] = given.to_dict() if given is not None else {}
    config = getattr(model, "config", None)
    first = "bos_token_id" if alone else "decoder_start_token_id"
    for key in (first, "eos_token_id", "pad_token_id"):
        if known.get(key) is None:
            known[key] = getattr(config, key, None)
    if not alone and (known[first] is None or known["eos_token_id"] is None):
        raise ArchNetError(
            f"{name} does not say with which token a translation starts and ends",
            fix="set decoder_start_token_id and eos_token_id in its generation_config.json",
        )
    ends = known["eos_token_id"] if isinstance(known["eos_token_id"], list) else [known["eos_token_id"]]
    ends = [end for end in ends if end is not None]
    _check_tokens(known, first, ends, config, name)
    words = known.get("bad_words_ids") or []
    left = [k for k, v in NOT_FOLLOWED.items() if known.get(k) is not None and known[k] != v]
    if any(len(word) != 1 for word in words):
        left.append("bad_words_ids of several tokens")
    notes = (f"generate does not follow {', '.join(left)} of the model's settings",) if left else ()
    start = next((token for token in (known[first], *ends) if token is not None), 0)
    return (
        GenerationSettings(
            start=int(start),
            ends=tuple(int(end) for end in ends),
            pad=int(known["pad_token_id"] if known["pad_token_id"] is not None else 0),
            forbidden=tuple(int(word[0]) for word in words if len(word) == 1),
            forced_end=known.get("forced_eos_token_id"),
            renormalize=bool(known.get("renormalize_logits")),
            num_beams=int(known.get("num_beams") or 1),
            length_penalty=float(1.0 if known.get("length_penalty") is None else known["length_penalty"]),
            early_stopping=bool(known.get("early_stopping")),
            forced_first=known.get("forced_bos_token_id"),
        ),
        notes,
    )


def _check_tokens(known: Mapping[str, Any], first: str, ends: list[int], config: object, name: str) -> None:
    """Refuse a token that the table does not have, such as a family's default of another one."""
    count = getattr(config, "decoder_vocab_size", None) or getattr(config, "vocab_size", None)
    given = [(first, known[first])]
    given += [("eos_token_id", end) for end in ends]
    given += [(key, known.get(key)) for key in ("pad_token_id", "forced_bos_token_id")]
    wrong = [(key, token) for key, token in given if count and token is not None and not 0 <= token < count]
    if wrong:
        raise ArchNetError(
            f"{name} has {count} words, but its {wrong[0][0]} is {wrong[0][1]}",
            fix=f"set {', '.join(dict.fromkeys(key for key, _ in wrong))} in its generation_config.json",
        )
