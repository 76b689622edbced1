"""Loading the module of a Hugging Face folder with transformers, without what it does silently."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import nn

from archnet.errors import ArchNetError, nearest
from archnet.sources.quiet import quiet_transformers
from archnet.sources.source import one_line

_TASK_HEADS = {
    "ForSequenceClassification": "AutoModelForSequenceClassification",
    "ForTokenClassification": "AutoModelForTokenClassification",
    "ForImageClassification": "AutoModelForImageClassification",
    "ForCausalLM": "AutoModelForCausalLM",
    "LMHeadModel": "AutoModelForCausalLM",
}


def load_pretrained(folder: Path, config: dict[str, Any]) -> tuple[nn.Module, tuple[str, ...]]:
    """Load with transformers, and refuse every tensor that it would fill with random numbers."""
    module, info = _from_pretrained(folder, config)
    mismatched = [tuple(m) for m in info.get("mismatched_keys", ())]
    if mismatched:
        shown = "; ".join(
            f"{m[0]} is {list(m[1])}, config.json makes it {list(m[2])}" for m in sorted(mismatched)[:3]
        )
        raise ArchNetError(
            f"{len(mismatched)} tensors of {folder} do not fit its config.json: {shown}",
            fix="use the config.json that belongs to these weights",
        )
    missing = sorted(str(k) for k in info.get("missing_keys", ()))
    notes = []
    pooler = [k for k in missing if k.startswith("pooler.")]
    if pooler and len(pooler) == len(missing) and getattr(module, "pooler", None) is not None:
        # Encoders saved without a pooler (RoBERTa, masked-language models) are whole without it:
        # transformers would invent one at random and return its output, so it is taken out.
        setattr(module, "pooler", None)  # noqa: B010 - an assignment is refused by the type checker
        notes.append("the weights have no pooler, so there is no pooler_output")
        missing = []
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise ArchNetError(
            f"the weights of {folder} lack {len(missing)} tensors of its architecture: "
            f"{', '.join(missing[:3])}{more}",
            fix="use the config.json that belongs to these weights, or save the whole model again",
        )
    unused = sorted(str(k) for k in info.get("unexpected_keys", ()))
    if unused:
        heads = sorted({key.split(".")[0] for key in unused})
        notes.append(
            f"{len(unused)} tensors are not part of the encoder and are left out: {', '.join(heads[:5])}"
        )
    without_cache(module)
    return module.to(torch.float32).eval(), tuple(notes)


def without_cache(module: nn.Module) -> None:
    """Let a decoder alone return no cache: it reads whole texts here."""
    config: Any = getattr(module, "config", None)
    if getattr(config, "use_cache", False) and not getattr(config, "is_encoder_decoder", False):
        config.use_cache = False


def _from_pretrained(folder: Path, config: dict[str, Any]) -> tuple[nn.Module, dict[str, Any]]:
    try:
        with quiet_transformers():
            import transformers
    except ImportError as error:
        raise ArchNetError(
            "opening a Hugging Face folder needs the package transformers, which is not installed",
            fix="pip install 'archnet[hf]'",
        ) from error
    ends = [
        auto
        for a in config.get("architectures") or []
        for end, auto in _TASK_HEADS.items()
        if str(a).endswith(end)
    ]
    if config.get("is_encoder_decoder"):
        ends = ["AutoModelForSeq2SeqLM"]
    auto_class = getattr(transformers, ends[0] if ends else "AutoModel")
    try:
        with quiet_transformers():
            try:
                return _call_from_pretrained(auto_class, folder, "sdpa")
            except ValueError as error:
                if "scaled_dot_product_attention" not in str(error):
                    raise
                # A few architectures (MPNet) write their attention out; capture finds it there too.
                return _call_from_pretrained(auto_class, folder, "eager")
    except ArchNetError:
        raise
    except Exception as error:  # transformers raises nearly every type for a bad config
        raise _explain(folder, config, error) from error


def _call_from_pretrained(auto_class: Any, folder: Path, attention: str) -> tuple[nn.Module, dict[str, Any]]:
    module, info = auto_class.from_pretrained(
        str(folder),
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=False,
        attn_implementation=attention,
        dtype=torch.float32,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
    )
    return module, dict(info)


def _explain(folder: Path, config: dict[str, Any], error: Exception) -> ArchNetError:
    kind = config.get("model_type")
    text = str(error)
    if kind is None:
        return ArchNetError(
            f"{folder / 'config.json'} does not name its model_type",
            fix="use the config.json that save_pretrained wrote for this model",
        )
    if "does not recognize this architecture" in text or "Unrecognized" in text:
        from transformers import CONFIG_MAPPING

        close = nearest(str(kind), CONFIG_MAPPING.keys()).split("known:")[0].strip()
        return ArchNetError(
            f"{folder / 'config.json'}: the installed transformers has no architecture {str(kind)!r}",
            fix=f"{close} Else update transformers, or load it yourself as path/to/file.py:factory".strip(),
        )
    shape = re.search(r"size mismatch for ([\w.]+)", text)
    where = f" (tensor {shape.group(1)})" if shape else ""
    return ArchNetError(
        f"transformers cannot build the {kind} model of {folder}{where}: {one_line(error)}",
        fix="check the sizes in config.json, or save the model again with save_pretrained",
    )
