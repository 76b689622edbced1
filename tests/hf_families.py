"""The architectures of tiny Hugging Face models: how each one's configuration differs from the common one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

MAX_POSITIONS = 64
HIDDEN = 32
HEADS = 4


@dataclass(frozen=True)
class Family:
    """How a family's tiny configuration differs from the common one."""

    model_type: str
    tokenizer: str = "wordpiece"
    attention: str = "sdpa"
    size_names: tuple[str, str, str, str] = (
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
    )
    extra: tuple[tuple[str, Any], ...] = ()


_PLAIN_TOKENS = (("pad_token_id", 0), ("max_position_embeddings", MAX_POSITIONS))
_ROBERTA_TOKENS = (
    ("pad_token_id", 1),
    ("bos_token_id", 0),
    ("eos_token_id", 2),
    ("max_position_embeddings", MAX_POSITIONS + 2),
)
_ENDS = (("bos_token_id", 2), ("eos_token_id", 3))
_GROUPED = (("num_key_value_heads", 2), ("head_dim", 8), *_ENDS)
_PICTURES = (("image_size", 16), ("patch_size", 4), ("num_channels", 3))
_STAGES = (
    *(("image_size", 16), ("patch_size", 2), ("num_channels", 3), ("window_size", 4)),
    *(("depths", [2, 1]), ("num_heads", [2, 4]), ("mlp_ratio", 2.0)),
)
_REDUCED = (
    *(("image_size", 16), ("num_encoder_blocks", 2), ("depths", [1, 1]), ("hidden_sizes", [16, 32])),
    *(("num_attention_heads", [2, 4]), ("mlp_ratios", [2, 2]), ("sr_ratios", [2, 1])),
    *(("patch_sizes", [7, 3]), ("strides", [2, 2])),
)

FAMILIES: dict[str, Family] = {
    "bert": Family("bert", extra=_PLAIN_TOKENS),
    "distilbert": Family(
        "distilbert", size_names=("dim", "n_layers", "n_heads", "hidden_dim"), extra=_PLAIN_TOKENS
    ),
    "roberta": Family("roberta", "bpe", extra=(*_ROBERTA_TOKENS, ("type_vocab_size", 1))),
    "xlm-roberta": Family("xlm-roberta", "bpe", extra=(*_ROBERTA_TOKENS, ("type_vocab_size", 1))),
    "electra": Family("electra", extra=(*_PLAIN_TOKENS, ("embedding_size", 16))),
    "deberta": Family(
        "deberta",
        attention="eager",
        extra=(*_PLAIN_TOKENS, ("relative_attention", True), ("pos_att_type", ["c2p", "p2c"])),
    ),
    "deberta-v2": Family(
        "deberta-v2",
        attention="eager",
        extra=(
            *_PLAIN_TOKENS,
            ("relative_attention", True),
            ("pos_att_type", ["p2c", "c2p"]),
            ("position_buckets", 8),
            ("norm_rel_ebd", "layer_norm"),
            ("share_att_key", True),
            ("position_biased_input", False),
            ("type_vocab_size", 0),
        ),
    ),
    "mpnet": Family("mpnet", "bpe", "eager", extra=_ROBERTA_TOKENS),
    "albert": Family("albert", extra=(*_PLAIN_TOKENS, ("embedding_size", 16))),
    "modernbert": Family(
        "modernbert",
        extra=(
            *_PLAIN_TOKENS,
            ("cls_token_id", 2),
            ("sep_token_id", 3),
            ("bos_token_id", 2),
            ("eos_token_id", 3),
            ("local_attention", 16),
            ("global_attn_every_n_layers", 2),
        ),
    ),
    "nomic_bert": Family("nomic_bert", extra=_PLAIN_TOKENS),
    "mobilebert": Family(
        "mobilebert", extra=(*_PLAIN_TOKENS, ("embedding_size", 16), ("intra_bottleneck_size", 16))
    ),
    "squeezebert": Family(
        "squeezebert", attention="eager", extra=(*_PLAIN_TOKENS, ("embedding_size", HIDDEN))
    ),
    "xlm": Family(
        "xlm", attention="eager", size_names=("emb_dim", "n_layers", "n_heads", ""), extra=_PLAIN_TOKENS
    ),
    "roformer": Family("roformer", attention="eager", extra=_PLAIN_TOKENS),
    "esm": Family("esm", extra=(*_PLAIN_TOKENS, ("position_embedding_type", "rotary"), ("mask_token_id", 4))),
    "gpt2": Family(
        "gpt2",
        size_names=("n_embd", "n_layer", "n_head", "n_inner"),
        extra=(("pad_token_id", 0), ("n_positions", MAX_POSITIONS), *_ENDS),
    ),
    "gpt_neo": Family(
        "gpt_neo",
        attention="eager",
        size_names=("hidden_size", "num_layers", "num_heads", "intermediate_size"),
        extra=(*_PLAIN_TOKENS, *_ENDS, ("window_size", 4)),
    ),
    "bloom": Family(
        "bloom",
        attention="eager",
        size_names=("hidden_size", "n_layer", "n_head", ""),
        extra=(("pad_token_id", 0), *_ENDS),
    ),
    "mpt": Family(
        "mpt",
        attention="eager",
        size_names=("d_model", "n_layers", "n_heads", ""),
        extra=(("pad_token_id", 0), ("max_seq_len", MAX_POSITIONS), *_ENDS),
    ),
    "xglm": Family(
        "xglm",
        attention="eager",
        size_names=("d_model", "num_layers", "attention_heads", "ffn_dim"),
        extra=(*_PLAIN_TOKENS, *_ENDS),
    ),
    "arcee": Family("arcee", extra=(*_PLAIN_TOKENS, ("num_key_value_heads", 2), *_ENDS)),
    "gemma2": Family(
        "gemma2",
        attention="eager",
        extra=(
            *(*_PLAIN_TOKENS, *_GROUPED, ("sliding_window", 8)),
            *(("attn_logit_softcapping", 2.0), ("final_logit_softcapping", 1.5)),
            ("query_pre_attn_scalar", 8),
        ),
    ),
    "gemma3_text": Family("gemma3_text", extra=(*_PLAIN_TOKENS, *_GROUPED, ("sliding_window", 8))),
    "olmo2": Family("olmo2", extra=(*_PLAIN_TOKENS, *_GROUPED[:1], *_GROUPED[2:])),
    "qwen3": Family("qwen3", extra=(*_PLAIN_TOKENS, *_GROUPED)),
    "llama": Family(
        "llama",
        extra=(*_PLAIN_TOKENS, ("num_key_value_heads", 2), *_ENDS),
    ),
    "eurobert": Family("eurobert", extra=(*_PLAIN_TOKENS, ("num_key_value_heads", 2))),
    "vit": Family("vit", "none", extra=_PICTURES),
    "deit": Family("deit", "none", extra=(*_PICTURES, ("architectures", ["DeiTForImageClassification"]))),
    "beit": Family("beit", "none", extra=(*_PICTURES, ("use_relative_position_bias", True))),
    "dinov2": Family("dinov2", "none", extra=(*_PICTURES, ("mlp_ratio", 2))),
    "dinov2_with_registers": Family("dinov2_with_registers", "none", extra=(*_PICTURES, ("mlp_ratio", 2))),
    "dinov3_vit": Family("dinov3_vit", "none", extra=(*_PICTURES, ("num_register_tokens", 2))),
    "ijepa": Family("ijepa", "none", extra=_PICTURES),
    **{
        name: Family(name, "none", attention, size_names=("embed_dim", "", "", ""), extra=_STAGES)
        for name, attention in (("swin", "sdpa"), ("swinv2", "eager"))
    },
    **{
        name: Family(name, "none", "eager", size_names=("", "", "", ""), extra=_REDUCED)
        for name in ("pvt_v2", "segformer")
    },
    "convnext": Family(
        *("convnext", "none", "eager", ("", "", "", "")),
        extra=(
            *(("image_size", 16), ("num_stages", 2), ("hidden_sizes", [16, 32]), ("depths", [2, 1])),
            ("layer_scale_init_value", 1.0),
        ),
    ),
    "mobilevit": Family(
        *("mobilevit", "none", "eager", ("", "", "", "")),
        extra=(
            *(("image_size", 64), ("patch_size", 2), ("num_attention_heads", 2)),
            *(("hidden_sizes", [8, 16, 16]), ("neck_hidden_sizes", [8, 8, 8, 8, 16, 16, 32])),
        ),
    ),
    "levit": Family(
        *("levit", "none", "eager", ("", "", "", "")),
        extra=(
            *(("image_size", 64), ("hidden_sizes", [8, 16, 24]), ("num_attention_heads", [2, 2, 2])),
            *(("depths", [1, 1, 1]), ("key_dim", [4, 4, 4])),
            ("architectures", ["LevitForImageClassification"]),
        ),
    ),
    "mobilenet_v2": Family(
        *("mobilenet_v2", "none", "eager", ("", "", "", "")),
        extra=(("image_size", 16), ("depth_multiplier", 0.25)),
    ),
}
"""The families that `make_model_folder` (tests/hf_models.py) knows."""

IMAGE_FAMILIES = tuple(name for name, family in FAMILIES.items() if "image_size" in dict(family.extra))
TEXT_FAMILIES = tuple(name for name in FAMILIES if name not in IMAGE_FAMILIES)
