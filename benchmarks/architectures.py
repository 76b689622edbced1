"""Which architectures of transformers are captured: tiny networks with random weights against the originals.

No data and no training: a network of two layers is made of each configuration, captured, and compared with
the original on padded text or random pictures, as every conversion does first. Decoders alone are captured
twice: as encoders of whole texts, and with their output layer as language models. What is not captured is
named with the first operator that is not known. docs/convert_your_model.md has the list.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from archnet.capture import LANGUAGE_INPUTS, TRANSLATION_INPUTS, Capture, capture, capture_image
from archnet.errors import ArchNetError
from archnet.sources.pretrained import without_cache
from archnet.sources.quiet import quiet_transformers
from archnet.sources.writer import LanguageModel, TranslationModel

SEQUENCE, PICTURE = 48, 32

TOKENS = {"vocab_size": 100, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
TEXT = {
    **TOKENS,
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "max_position_embeddings": 64,
}  # fmt: skip
SHORT = {**TOKENS, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
GROUPED = {**TEXT, "num_key_value_heads": 2}
PAIR = {
    **TOKENS, "d_model": 32, "decoder_start_token_id": 0, "forced_eos_token_id": None,
    **{f"{side}_{what}": n for side in ("encoder", "decoder")
       for what, n in (("layers", 2), ("attention_heads", 4), ("ffn_dim", 64))},
    "max_position_embeddings": 64,
}  # fmt: skip
PATCHES = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "image_size": PICTURE, "patch_size": 8,
}  # fmt: skip
REDUCED = {
    "image_size": PICTURE, "num_encoder_blocks": 2, "depths": [1, 1], "hidden_sizes": [16, 32],
    "num_attention_heads": [2, 4], "mlp_ratios": [2, 2], "strides": [4, 2],
}  # fmt: skip
STAGES = {"hidden_sizes": [16, 32], "depths": [1, 1], "embedding_size": 16}


def alike(names: str, settings: Mapping[str, Any], **more: Any) -> dict[str, Mapping[str, Any]]:
    """The same settings for several architectures."""
    return {name: {**settings, **more} for name in names.split()}


TEXTS = {
    **alike("albert bert camembert data2vec-text distilbert electra ernie gte megatron-bert rembert", TEXT),
    **alike("roberta roberta-prelayernorm xlm-roberta xlm-roberta-xl nomic_bert roformer convbert", TEXT),
    **alike("jina_embeddings_v3 luke bert-generation dpr splinter", TEXT),
    **alike("big_bird", TEXT, attention_type="original_full"),
    **alike("xlm flaubert", TOKENS, emb_dim=32, n_layers=2, n_heads=4, max_position_embeddings=64),
    **alike("eurobert", GROUPED),
    **alike("mpnet", TEXT, pad_token_id=1),  # its positions begin behind 1, whatever its padding is
    **alike("mobilebert", TEXT, embedding_size=16, intra_bottleneck_size=16),
    **alike("squeezebert", TEXT, embedding_size=32),
    **alike("modernbert", TEXT, cls_token_id=2, sep_token_id=3, local_attention=16),
    **alike("esm", TEXT, position_embedding_type="rotary", mask_token_id=4),
    **alike("deberta", TEXT, relative_attention=True, pos_att_type=["p2c", "c2p"]),
    **alike(
        "deberta-v2",
        {**TEXT, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "share_att_key": True},
        position_buckets=8,
        norm_rel_ebd="layer_norm",
    ),
}
DECODERS = {
    **alike("gpt2 gptj codegen gpt_bigcode", SHORT, rotary_dim=4),
    **alike(
        "gpt_neo",
        {**TEXT, "num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]]},
        window_size=16,
    ),
    **alike("ctrl gpt-sw3", SHORT, dff=64),
    **alike("biogpt gpt_neox gpt_neox_japanese modernbert-decoder persimmon phi", TEXT),
    **alike("arcee cohere granite llama mistral olmo olmo2 qwen2 smollm3 stablelm", GROUPED),
    **alike("starcoder2", GROUPED),
    **alike("cohere2 ernie4_5 exaone4 gemma gemma2 gemma3_text glm helium ministral", GROUPED, head_dim=8),
    **alike("hunyuan_v1_dense nemotron olmo3 phi3 qwen3 seed_oss", GROUPED, head_dim=8),
    **alike("cwm glm4 hyperclovax internlm3 iquestcoder jais2", GROUPED, head_dim=8),
    **alike("ministral3 nanochat vaultgemma", GROUPED, head_dim=8),
    **alike("falcon", TOKENS, hidden_size=32, num_hidden_layers=2, num_attention_heads=4),
    **alike("opt", TEXT, ffn_dim=64, word_embed_proj_dim=32),
    **alike("bloom", TOKENS, hidden_size=32, n_layer=2, n_head=4),
    **alike("mpt", TOKENS, d_model=32, n_layers=2, n_heads=4, max_seq_len=64),
    **alike(
        "xglm", TOKENS, d_model=32, num_layers=2, attention_heads=4, ffn_dim=64, max_position_embeddings=64
    ),
}
TRANSLATORS = {
    **alike("bart blenderbot blenderbot-small m2m_100 marian mbart mvp pegasus plbart", PAIR),
    **alike("bigbird_pegasus", PAIR, attention_type="original_full"),
    **alike(
        *("mt5 t5 umt5", TOKENS),
        **{"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4},
        decoder_start_token_id=0,
    ),
    "t5gemma": {"encoder": {**GROUPED, "head_dim": 8}, "decoder": {**GROUPED, "head_dim": 8}, **TOKENS},
}
PICTURES = {
    **alike("beit data2vec-vision deit dinov2 dinov2_with_registers ijepa vit vit_msn", PATCHES),
    **alike("clip siglip", {"vision_config": PATCHES}),
    **alike("resnet", STAGES, layer_type="basic"),
    **alike("regnet", STAGES, layer_type="x", groups_width=8),
    **alike("convnext", STAGES, image_size=PICTURE, num_stages=2, layer_scale_init_value=1.0),
    **alike("mobilenet_v1 mobilenet_v2", {"image_size": PICTURE, "depth_multiplier": 0.25}),
    **alike("textnet", {"image_size": [PICTURE, PICTURE]}),
    **alike(
        "donut-swin swin swinv2",
        {"image_size": PICTURE, "patch_size": 2, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4]},
        window_size=4,
    ),
    **alike(
        "mobilevit",
        {"image_size": 64, "num_attention_heads": 2, "hidden_sizes": [8, 16, 16]},
        neck_hidden_sizes=[8, 8, 8, 8, 16, 16, 32],
    ),
    **alike(
        "levit",
        {"image_size": 64, "hidden_sizes": [16, 32, 48], "num_attention_heads": [2, 4, 4]},
        depths=[1, 1, 1],
        key_dim=[8, 8, 8],
    ),
    **alike("pvt", {**REDUCED, "sequence_reduction_ratios": [2, 1]}, patch_sizes=[4, 2]),
    **alike("pvt_v2 segformer", {**REDUCED, "sr_ratios": [2, 1]}, patch_sizes=[7, 3]),
}

LARGER = {"levit": 64, "mobilevit": 64}
"""Sides of pictures of networks that halve them more often."""


def model_of(kind: str, settings: Mapping[str, Any], auto: str) -> torch.nn.Module:
    """The network, spread as training spreads it."""
    with quiet_transformers(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import transformers

        torch.manual_seed(0)
        chosen = {"deit": "DeiT", "levit": "Levit"}  # of two classifiers each
        names = {"architectures": [f"{chosen[kind]}ForImageClassification"]} if kind in chosen else {}
        config = transformers.AutoConfig.for_model(kind, **settings, **names)
        model: torch.nn.Module = getattr(transformers, auto).from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, 0.15)
    without_cache(model)
    return model.eval()


def captured(kind: str, *, writes: bool = False) -> Capture:
    """The capture of an architecture.

    Args:
        writes: a decoder with its output layer.

    Raises:
        ArchNetError: it cannot be traced, or the captured network computes something else.
    """
    if kind in PICTURES:
        model = model_of(kind, {**PICTURES[kind], "num_labels": 10}, "AutoModelForImageClassification")
        side = LARGER.get(kind, PICTURE)
        return capture_image(model, (3, side, side))
    if kind in TRANSLATORS:
        pair = TranslationModel(model_of(kind, TRANSLATORS[kind], "AutoModelForSeq2SeqLM"))
        return capture(pair, max_sequence=SEQUENCE, padding_id=0, inputs=TRANSLATION_INPUTS)
    settings = DECODERS[kind] if kind in DECODERS else TEXTS[kind]
    padding = settings["pad_token_id"]
    if writes:
        writer = LanguageModel(model_of(kind, settings, "AutoModelForCausalLM"))
        return capture(writer, max_sequence=SEQUENCE, padding_id=padding, inputs=LANGUAGE_INPUTS)
    model = model_of(kind, settings, "AutoModel")
    return capture(model, max_sequence=SEQUENCE, padding_id=padding)


def row_of(kind: str) -> dict[str, Any]:
    """What came of an architecture; of a decoder alone, as which of the two it is captured less well."""
    rows = [_row_of(kind, writes=writes) for writes in ((True, False) if kind in DECODERS else (False,))]
    return max(rows, key=lambda row: row.get("error", float("inf")))


def _row_of(kind: str, *, writes: bool) -> dict[str, Any]:
    try:
        found = captured(kind, writes=writes)
    except (ArchNetError, ValueError, TypeError) as error:
        problem = error.problem if isinstance(error, ArchNetError) else str(error)
        return {"architecture": kind, "captured": False, "reason": problem.splitlines()[0]}
    if found.unknown:
        site = found.unknown[0]
        return {
            "architecture": kind,
            "captured": False,
            "reason": f"{site.name}: {site.attributes['reason']}",
            "unknown": len(found.unknown),
        }
    return {"architecture": kind, "captured": True, "error": found.error}


def main(command: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").strip(), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known = [*TEXTS, *DECODERS, *TRANSLATORS, *PICTURES]
    parser.add_argument("names", nargs="*", default=known, help="some of them, by model_type (default: all)")
    parser.add_argument("--json", type=Path, help="write everything to this file")
    arguments = parser.parse_args(command)
    if unknown := [name for name in arguments.names if name not in known]:
        parser.error(f"no architecture {unknown[0]!r}; choose among {', '.join(known)}")
    rows = [row_of(kind) for kind in arguments.names]
    table = Table("architecture", "captured", "largest relative error, or why not")
    for row in rows:
        table.add_row(
            row["architecture"],
            "yes" if row["captured"] else "no",
            f"{row['error']:.1e}" if row["captured"] else row["reason"],
        )
    Console().print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
