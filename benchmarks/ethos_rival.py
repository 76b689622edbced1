"""The original encoder as an int8 TFLite file, by the route that PyTorch users are pointed to.

Runs in the environment `litert-torch` of side_by_side/environments.py, without Arch-Net: litert-torch
converts, ai-edge-quantizer quantizes (its recipe static_wi8_ai8: int8 weights a channel, int8 activations).
Its borders are those of Arch-Net's files: rows of the word table come in, the last features go out, and the
mask comes in as what is added to the scores.

    python ethos_rival.py MODEL SENTENCES LENGTH OUT.tflite
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from ai_edge_quantizer import quantizer, recipe
from litert_torch import convert
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer

CALIBRATED = 64
"""Sentences that the ranges of activations are taken from."""

MASKED = -30.0
"""Added to the scores of padding; more would only coarsen the mask's int8."""


class Body(nn.Module):
    """Everything of a BERT encoder behind the look-up of its words."""

    def __init__(self, bert: Any, length: int) -> None:
        super().__init__()
        self.norm, self.layers = bert.embeddings.LayerNorm, bert.encoder.layer
        rows = bert.embeddings.position_embeddings.weight[:length]
        self.rows: Tensor
        self.register_buffer("rows", (rows + bert.embeddings.token_type_embeddings.weight[0]).detach()[None])

    def forward(self, words: Tensor, mask: Tensor) -> Tensor:
        """(1, length, features), (1, 1, 1, length) -> (1, length, features)."""
        x: Tensor = self.norm(words + self.rows)
        for layer in self.layers:
            made = layer(x, mask)
            x = made[0] if isinstance(made, tuple) else made
        return x


def main(model: str, sentences: Path, length: int, out: Path) -> None:
    """Write the float file beside OUT, and OUT."""
    bert = AutoModel.from_pretrained(model, attn_implementation="sdpa").eval()
    tokenizer = AutoTokenizer.from_pretrained(model)

    def given(text: str) -> tuple[Tensor, Tensor]:
        batch = tokenizer(text, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
        words = bert.embeddings.word_embeddings(batch["input_ids"]).detach()
        return words, (1.0 - batch["attention_mask"].float())[:, None, None, :] * MASKED

    lines = [line for line in sentences.read_text(encoding="utf-8").splitlines() if line.strip()]
    body = Body(bert, length).eval()
    plain = out.with_suffix(".float.tflite")
    with torch.no_grad():
        edge = convert(body, given(lines[0]))
    edge.export(str(plain))
    made = quantizer.Quantizer(str(plain))
    made.load_quantization_recipe(recipe.static_wi8_ai8())
    samples = [dict(zip(("args_0", "args_1"), given(line), strict=True)) for line in lines[:CALIBRATED]]
    numpy = [{name: value.numpy() for name, value in sample.items()} for sample in samples]
    made.quantize(made.calibrate({"serving_default": numpy})).export_model(str(out), overwrite=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
