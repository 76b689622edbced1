"""How a model that writes searches: the settings that its model folder gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class GenerationSettings:
    """What greedy and beam search need to know beside the network; names of Hugging Face in brackets.

    Attributes:
        start: first token that the decoder reads (decoder_start_token_id; bos_token_id of a language model,
            whose tokenizer writes it where texts begin with it).
        ends: tokens that end a translation or text (eos_token_id); none where the model names none.
        pad: fills ended rows (pad_token_id).
        forbidden: tokens that are never chosen (bad_words_ids of one token).
        forced_first: the token behind the first one, or None (forced_bos_token_id): where a model has many
            languages, the one that it is to write.
        forced_end: the token at the greatest length, or None (forced_eos_token_id).
        renormalize: log-probabilities are normalised again after that (renormalize_logits).
        num_beams, length_penalty, early_stopping: of beam search, unless the caller says otherwise.
    """

    start: int
    ends: tuple[int, ...]
    pad: int
    forbidden: tuple[int, ...] = ()
    forced_end: int | None = None
    renormalize: bool = False
    num_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool = False
    forced_first: int | None = None

    def to_json(self) -> dict[str, Any]:
        """As JSON; `from_json` reads it back."""
        return {**asdict(self), "ends": list(self.ends), "forbidden": list(self.forbidden)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote (KeyError or TypeError when it is something else)."""
        return cls(**{**value, "ends": tuple(value["ends"]), "forbidden": tuple(value["forbidden"])})
