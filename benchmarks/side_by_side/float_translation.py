"""An encoder-decoder's float graphs in ONNX: the encoder, and the decoder over a whole prefix."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from archnet.export.float_onnx import OPSET
from archnet.sources.source import Source

STATES = "states"


class _Encoder(nn.Module):
    """Token ids and mask, (batch, source tokens) -> states (batch, source tokens, width)."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.encoder = model.get_encoder()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        states: Tensor = self.encoder(input_ids=input_ids, attention_mask=attention_mask)[0]
        return states


class _Decoder(nn.Module):
    """States, their mask, the prefix (batch, target tokens) -> logits (batch, target tokens, vocabulary)."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, states: Tensor, attention_mask: Tensor, decoder_input_ids: Tensor) -> Tensor:
        result = self.model(
            encoder_outputs=(states,),
            attention_mask=attention_mask,
            decoder_input_ids=decoder_input_ids,
            use_cache=False,
        )
        logits: Tensor = result.logits
        return logits


def export_translation(source: Source, place: Path) -> None:
    """Write encoder.onnx and decoder.onnx, with dynamic batch and lengths."""
    model: Any = source.module.get_submodule("model")
    model.set_attn_implementation("eager")  # plain products and softmax, which every tool knows
    ids = torch.zeros((2, 7), dtype=torch.int64)
    mask = torch.ones_like(ids)
    batch = torch.export.Dim("batch", min=1, max=4096)
    tokens, prefix = (torch.export.Dim(n, min=1, max=source.max_length) for n in ("tokens", "prefix"))
    sides = {0: batch, 1: tokens}
    encoder = _Encoder(model).eval()
    with torch.no_grad():
        states = encoder(ids, mask)
    source_inputs = {"input_ids": ids, "attention_mask": mask}
    _export(encoder, source_inputs, dict.fromkeys(source_inputs, sides), STATES, place / "encoder.onnx")
    inputs = {STATES: states, "attention_mask": mask, "decoder_input_ids": ids[:, :5]}
    shapes = {STATES: sides, "attention_mask": sides, "decoder_input_ids": {0: batch, 1: prefix}}
    _export(_Decoder(model).eval(), inputs, shapes, "logits", place / "decoder.onnx")


def _export(
    module: nn.Module, inputs: Mapping[str, Tensor], shapes: Mapping[str, Any], output: str, file: Path
) -> None:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with torch.no_grad(), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module,
            (),
            kwargs=dict(inputs),
            dynamic_shapes=dict(shapes),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=[output],
        )
    assert program is not None
    file.write_bytes(program.model_proto.SerializeToString())
