"""The float original -> ONNX through torch.export, with dynamic batch and sequence."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from archnet.atomic import replacing
from archnet.errors import ArchNetError
from archnet.sources.source import Source, example_inputs, named_outputs, one_line
from archnet.sources.traceable import masks_as_given

OPSET = 20
"""The newest opset whose LayerNormalization and Gelu the peers of our comparison all read."""

SENTENCE_OUTPUT = "sentence_embedding"


class _Text(nn.Module):
    """The module with a sentence encoder's pooling and normalisation; outputs as a tuple."""

    def __init__(self, source: Source) -> None:
        super().__init__()
        self.module, self.pooling, self.normalize = source.module, source.pooling, source.normalize

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        outputs = named_outputs(self.module(input_ids=input_ids, attention_mask=attention_mask))
        if self.pooling is None:
            return tuple(outputs.values())
        tokens = next(iter(outputs.values()))
        if self.pooling == "cls":
            pooled = tokens[:, 0]
        else:
            mask = attention_mask.unsqueeze(-1).to(tokens.dtype)
            pooled = (tokens * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
        return (nn.functional.normalize(pooled, dim=-1) if self.normalize else pooled), tokens


class _Image(nn.Module):
    """The module with its outputs as a tuple."""

    def __init__(self, source: Source) -> None:
        super().__init__()
        self.module = source.module

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        return tuple(named_outputs(self.module(pixel_values=pixel_values)).values())


def export_float_onnx(source: Source, path: Path) -> None:
    """Write the float original as one ONNX file; the file appears whole or not at all.

    A sentence encoder has the outputs "sentence_embedding" (batch, width) and the tokens' states, float32;
    other models have those that they return, by name.

    Raises:
        ArchNetError: PyTorch cannot export the module, or the file cannot be written.
    """
    model = build_float_onnx(source)
    with replacing(path, model.ByteSize()) as temporary:
        temporary.write_bytes(model.SerializeToString())


def build_float_onnx(source: Source) -> onnx.ModelProto:
    """The float original as an ONNX model (see `export_float_onnx`)."""
    text = source.kind == "text"
    names = source.output_names if source.pooling is None else (SENTENCE_OUTPUT, source.output_names[0])
    inputs = example_inputs(
        source.module, source.kind, batch=2, sequence=min(8, source.max_length), images=source.images
    )
    batch = torch.export.Dim("batch", min=1, max=4096)
    dims: dict[int, Any] = {0: batch}
    if text:
        dims[1] = torch.export.Dim("sequence", min=2, max=source.max_length)
    try:
        with _plain_attention(source.module), _quiet(), masks_as_given(), torch.no_grad():
            program = torch.onnx.export(
                (_Text(source) if text else _Image(source)).eval(),
                (),
                kwargs=inputs,
                dynamic_shapes=dict.fromkeys(inputs, dims),
                dynamo=True,
                opset_version=OPSET,
                input_names=list(inputs),
                output_names=list(names),
            )
    except Exception as error:  # the exporter raises whatever the model's own code does
        raise ArchNetError(
            f"PyTorch cannot export {source.name} to ONNX: {one_line(error.__cause__ or error)}",
            fix="make the model's forward free of branches on tensor values",
        ) from error
    assert program is not None
    return _without_paths(program.model_proto)


def _without_paths(model: onnx.ModelProto) -> onnx.ModelProto:
    """Drop the notes on every node that name files of this machine."""
    del model.metadata_props[:]
    graph = model.graph
    for item in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del item.metadata_props[:]
        item.doc_string = ""
    del model.functions[:]
    return model


@contextlib.contextmanager
def _plain_attention(module: nn.Module) -> Iterator[None]:
    """Products and softmax instead of the fused attention operator, whose ONNX form is longer and slower."""
    change = getattr(module, "set_attn_implementation", None)
    before = getattr(getattr(module, "config", None), "_attn_implementation", None)
    if change is None or before is None:
        yield
        return
    change("eager")
    try:
        yield
    finally:
        change(before)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress and warnings about the user's model off the terminal."""
    loggers = [
        logging.getLogger(name) for name in ("torch.export", "torch.onnx", "torch._dynamo", "onnxscript")
    ]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
