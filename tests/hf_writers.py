"""Makers of tiny Hugging Face models that write, with random weights: encoder-decoders and decoders alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, processors
from torch import nn

from tests.hf_families import FAMILIES, HEADS, HIDDEN, MAX_POSITIONS
from tests.hf_models import make_bpe_tokenizer, roughen

# Translation models --------------------------------------------------------------------------------

END, PAD = 2, 1
"""Token ids of `make_translation_tokenizer`: </s> and <pad>, which also starts a translation."""


def make_translation_tokenizer() -> Tokenizer:
    """The byte-level tokenizer of `make_bpe_tokenizer` that ends sentences with </s>, as Marian's do."""
    tokenizer = make_bpe_tokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", END)])
    return tokenizer


def make_translation_model(
    family: str = "marian",
    *,
    seed: int = 0,
    layers: int = 2,
    hidden: int = HIDDEN,
    end_bias: float = 0.0,
    **overrides: Any,
) -> nn.Module:
    """A tiny encoder-decoder with a shared embedding in eval mode, float32.

    Args:
        family: "marian" (post-LayerNorm, sinusoidal positions), "bart" (learned ones, LayerNorm behind the
            embedding), "mbart", "pegasus" or "m2m_100" (pre-LayerNorm; those two with sinusoidal
            positions), "t5" (RMSNorm, biases of positions, gated layers).
        end_bias: added to the logit of </s>, so that random translations end; T5 has no such bias.
    """
    from transformers import AutoConfig, AutoModelForSeq2SeqLM

    settings: dict[str, Any] = {
        "vocab_size": make_translation_tokenizer().get_vocab_size(),
        "d_model": hidden,
        **{f"{side}_layers": layers for side in ("encoder", "decoder")},
        **{f"{side}_attention_heads": HEADS for side in ("encoder", "decoder")},
        **{f"{side}_ffn_dim": 2 * hidden for side in ("encoder", "decoder")},
        "activation_function": "relu",
        "max_position_embeddings": MAX_POSITIONS,
        "scale_embedding": True,
        "pad_token_id": PAD,
        "eos_token_id": END,
        "bos_token_id": 0,
        "decoder_start_token_id": PAD,
        "forced_eos_token_id": None,
    }
    if family == "t5":
        kept = {name: settings[name] for name in ("vocab_size", "d_model", "pad_token_id", "eos_token_id")}
        sizes = {"d_kv": hidden // HEADS, "d_ff": 2 * hidden, "num_layers": layers, "num_heads": HEADS}
        settings = kept | sizes | {"feed_forward_proj": "gated-gelu", "decoder_start_token_id": PAD}
    config = AutoConfig.for_model(family, **(settings | overrides))
    torch_state = torch.get_rng_state()
    try:
        torch.manual_seed(seed)
        way = "eager" if family == "t5" else "sdpa"
        model: Any = AutoModelForSeq2SeqLM.from_config(config, attn_implementation=way)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "embed_positions" not in name:
                    centre = 1.0 if parameter.dim() == 1 and name.endswith("weight") else 0.0
                    parameter.copy_(centre + 0.2 * torch.randn_like(parameter))
                if name.endswith(".q.weight"):  # T5 scales no scores: its queries are trained to be small
                    parameter.mul_((hidden // HEADS) ** -0.5)
            if hasattr(model, "final_logits_bias"):
                model.final_logits_bias[0, END] = end_bias
    finally:
        torch.set_rng_state(torch_state)
    model.generation_config.bad_words_ids = [[PAD]]
    return model.eval()  # type: ignore[no-any-return]


def make_translation_folder(folder: Path, family: str = "marian", **settings: Any) -> Path:
    """Write the folder of a tiny encoder-decoder (see `make_translation_model`) and return it."""
    from transformers.utils import logging as transformers_logging

    folder.mkdir(parents=True, exist_ok=True)
    transformers_logging.disable_progress_bar()
    model: Any = make_translation_model(family, **settings)
    model.save_pretrained(folder)
    make_translation_tokenizer().save(str(folder / "tokenizer.json"))
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    record = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": MAX_POSITIONS, **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(record, indent=1))
    return folder


# Language models -----------------------------------------------------------------------------------


def make_language_tokenizer() -> Tokenizer:
    """The byte-level tokenizer of `make_bpe_tokenizer` that begins texts with <s>, as Llama's do."""
    tokenizer = make_bpe_tokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return tokenizer


def make_language_model(family: str = "gpt2", *, seed: int = 0, layers: int = 2, **overrides: Any) -> Any:
    """A tiny decoder alone with its output layer in eval mode, float32.

    Args:
        family: a decoder of `FAMILIES`: "gpt2", "llama" (gated layers, rotary positions, fewer key heads),
            "gpt_neo" (a window of 4 tokens), ...
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    entry = FAMILIES[family]
    sizes = dict(zip(entry.size_names, (HIDDEN, layers, HEADS, 2 * HIDDEN), strict=True))
    tokens = {
        "vocab_size": make_language_tokenizer().get_vocab_size(),
        "bos_token_id": 0,
        "eos_token_id": END,
        "pad_token_id": PAD,
    }
    windows = {"attention_types": [[["local"], layers]]} if family == "gpt_neo" else {}
    settings = {**sizes, **dict(entry.extra), **tokens, **windows, **overrides}
    config = AutoConfig.for_model(entry.model_type, **settings)
    torch_state = torch.get_rng_state()
    try:
        torch.manual_seed(seed)
        model: Any = AutoModelForCausalLM.from_config(config, attn_implementation=entry.attention)
        roughen(model)
    finally:
        torch.set_rng_state(torch_state)
    return model.eval()


def make_language_folder(folder: Path, family: str = "gpt2", **settings: Any) -> Path:
    """Write the folder of a tiny language model (see `make_language_model`) and return it."""
    from transformers.utils import logging as transformers_logging

    folder.mkdir(parents=True, exist_ok=True)
    transformers_logging.disable_progress_bar()
    make_language_model(family, **settings).save_pretrained(folder)
    make_language_tokenizer().save(str(folder / "tokenizer.json"))
    names = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    record = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": MAX_POSITIONS, **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(record, indent=1))
    return folder
