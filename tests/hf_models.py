"""Makers of tiny Hugging Face model folders with random weights: for tests, no network, milliseconds each.

`make_model_folder(tmp_path / "bert", "bert")` writes config.json, model.safetensors, tokenizer.json and
tokenizer_config.json as `save_pretrained` would; with `pooling` it becomes a sentence-transformers folder.
Weights are larger than a fresh model's, and LayerNorms get weights and biases that are not 1 and 0, so that
a mistake in folding shows.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import nn

from tests.hf_families import FAMILIES, HEADS, HIDDEN, IMAGE_FAMILIES, MAX_POSITIONS

_WORDS_TEXT = (
    "a the an of in on and or is are was to with by for from at it he she they we one two three no not "
    "man woman boy girl child people dog cat horse bird ball car bike street house water field park table "
    "red blue green white black big small old young plays runs sits stands jumps eats reads rides holds "
    "playing running sitting standing quickly slowly near under over behind music guitar book food snow sand "
    "city country government market price company year day week said will may new first last news"
)
WORDS = tuple(_WORDS_TEXT.split())
"""The whole words of the WordPiece vocabulary; any other Latin word falls apart into letters."""

SENTENCES = (
    "A man is playing the guitar.",
    "Two dogs run quickly over the snow in the park.",
    "The woman sits near the water and reads a book.",
    "A boy in a red shirt jumps from the table!",
    "The government said prices will not fall this year.",
    "A black cat sleeps under the old car.",
    "Three children are playing with a ball on the street.",
    "No people are standing behind the white house.",
)
"""A handful of sentences that the tiny tokenizers know most words of."""


def make_wordpiece_tokenizer() -> Tokenizer:
    """A lower-casing WordPiece tokenizer of about 200 tokens: [PAD]=0 [UNK]=1 [CLS]=2 [SEP]=3 [MASK]=4."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *".,!?'-", *letters]
    tokens += [f"##{letter}" for letter in letters] + [word for word in WORDS if len(word) > 1]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    return tokenizer


def make_bpe_tokenizer() -> Tokenizer:
    """A byte-level BPE tokenizer as RoBERTa's, about 300 tokens: <s>=0 <pad>=1 </s>=2 <unk>=3 <mask>=4."""
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([" ".join(WORDS), *SENTENCES], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return tokenizer


def make_tokenizer(family: str) -> Tokenizer:
    """The tokenizer that `make_model_folder` saves for a text family."""
    return make_bpe_tokenizer() if FAMILIES[family].tokenizer == "bpe" else make_wordpiece_tokenizer()


def make_model(
    family: str, *, seed: int = 0, layers: int = 2, hidden: int = HIDDEN, labels: int = 0, **overrides: Any
) -> nn.Module:
    """A tiny transformers model in eval mode, float32; with `labels` > 0 its classifier (logits)."""
    from transformers import (
        AutoConfig,
        AutoModel,
        AutoModelForImageClassification,
        AutoModelForSequenceClassification,
    )

    entry = FAMILIES[family]
    sizes = dict(zip(entry.size_names, (hidden, layers, HEADS, 2 * hidden), strict=True))
    sizes.pop("", None)  # a width that follows from another
    settings: dict[str, Any] = {**sizes, **dict(entry.extra)}
    if entry.tokenizer != "none":
        settings["vocab_size"] = make_tokenizer(family).get_vocab_size()
    if labels:
        settings["num_labels"] = labels
    if family == "gpt_neo":
        settings["attention_types"] = [[["local"], layers]]
    settings.update(overrides)
    config = AutoConfig.for_model(entry.model_type, **settings)
    if not labels:
        auto = AutoModel
    else:
        auto = (
            AutoModelForImageClassification
            if family in IMAGE_FAMILIES
            else AutoModelForSequenceClassification
        )
    torch_state = torch.get_rng_state()
    try:
        torch.manual_seed(seed)
        model: nn.Module = auto.from_config(config, attn_implementation=entry.attention)
        roughen(model)
    finally:
        torch.set_rng_state(torch_state)
    return model.eval()


def roughen(model: nn.Module) -> None:
    """Spread matrices as training does, and move LayerNorms and biases away from 1 and 0."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                centre = 1.0 if name.endswith("weight") else 0.0
                parameter.copy_(centre + 0.2 * torch.randn_like(parameter))
            else:
                parameter.normal_(0.0, 0.15)


def make_model_folder(
    folder: Path,
    family: str = "bert",
    *,
    seed: int = 0,
    layers: int = 2,
    hidden: int = HIDDEN,
    labels: int = 0,
    pooling: str | None = None,
    normalize: bool = True,
    max_length: int = 48,
    **overrides: Any,
) -> Path:
    """Write a tiny model folder and return it.

    Args:
        family: a key of `FAMILIES`.
        labels: more than 0 gives a sequence (or image) classifier.
        pooling: "mean", "cls" or another sentence-transformers mode makes a sentence-transformers folder.
        normalize: with `pooling`, append a Normalize module.
        max_length: `max_seq_length` of the sentence-transformers folder.
        overrides: further settings of the transformers config.
    """
    from transformers.utils import logging as transformers_logging

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    model = make_model(family, seed=seed, layers=layers, hidden=hidden, labels=labels, **overrides)
    transformers_logging.disable_progress_bar()
    model.save_pretrained(folder)
    if FAMILIES[family].tokenizer != "none":
        save_tokenizer(folder, family)
    if pooling is not None:
        add_sentence_transformer(folder, hidden, pooling=pooling, normalize=normalize, max_length=max_length)
    return folder


def save_tokenizer(folder: Path, family: str) -> None:
    """Write tokenizer.json and tokenizer_config.json of a family."""
    make_tokenizer(family).save(str(folder / "tokenizer.json"))
    bpe = FAMILIES[family].tokenizer == "bpe"
    special = (
        ("<s>", "<pad>", "</s>", "<unk>", "<mask>") if bpe else ("[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]")
    )
    names = ("cls_token", "pad_token", "sep_token", "unk_token", "mask_token")
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": MAX_POSITIONS,
        **dict(zip(names, special, strict=True)),
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1))


def add_sentence_transformer(
    folder: Path, width: int = HIDDEN, *, pooling: str = "mean", normalize: bool = True, max_length: int = 48
) -> None:
    """Add what a sentence-transformers folder has: modules.json, 1_Pooling, sentence_bert_config.json."""
    chain = [("", "Transformer"), ("1_Pooling", "Pooling")] + [("2_Normalize", "Normalize")] * normalize
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(chain)
    ]
    (folder / "modules.json").write_text(json.dumps(modules, indent=1))
    (folder / "sentence_bert_config.json").write_text(
        json.dumps({"max_seq_length": max_length, "do_lower_case": False})
    )
    keys = {"cls": "cls_token", "mean": "mean_tokens", "max": "max_tokens", "lasttoken": "lasttoken"}
    config: dict[str, Any] = {"word_embedding_dimension": width}
    config.update({f"pooling_mode_{suffix}": mode == pooling for mode, suffix in keys.items()})
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(config, indent=1))


# Image models --------------------------------------------------------------------------------------

CLASS_NAMES = {0: "cat", 1: "dog", 2: "cow"}


def make_resnet(seed: int = 0, **overrides: Any) -> nn.Module:
    """A tiny ResNetForImageClassification of three blocks in eval mode, with used BatchNorm statistics."""
    from transformers import ResNetConfig, ResNetForImageClassification

    settings = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 2], "layer_type": "basic"}
    torch_state = torch.get_rng_state()
    try:
        torch.manual_seed(seed)
        model = ResNetForImageClassification(
            ResNetConfig(**{"id2label": CLASS_NAMES, **settings, **overrides})
        )
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.running_mean, std=0.3)
                nn.init.uniform_(module.running_var, 0.5, 2.0)
    finally:
        torch.set_rng_state(torch_state)
    return model.eval()


def make_image_folder(folder: Path, family: str = "resnet", *, size: int | None = None) -> Path:
    """Write the folder of a tiny image classifier of CLASS_NAMES, "resnet" or one of IMAGE_FAMILIES.

    Its pictures have the size that the family is made for, or 16.
    """
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    model: Any = (
        make_resnet() if family == "resnet" else make_model(family, layers=1, id2label=CLASS_NAMES, labels=3)
    )
    model.save_pretrained(folder)
    size = size or (16 if family == "resnet" else dict(FAMILIES[family].extra)["image_size"])
    settings = {
        "image_processor_type": "ViTImageProcessor",
        "size": {"height": size, "width": size},
        "resample": 2,
        "rescale_factor": 1 / 255,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.25, 0.25, 0.25],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


def write_pictures(folder: Path, each: int = 4, *, size: tuple[int, int] = (20, 24)) -> Path:
    """Random .png pictures, `each` in a folder a class of CLASS_NAMES."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for name in CLASS_NAMES.values():
        (folder / name).mkdir(parents=True)
        for number in range(each):
            pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder
