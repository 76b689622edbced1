"""QuantizedGraph -> a float ONNX file of the same real numbers: batch 1, fixed sizes, operator set 16.

For compilers that read no integers of ours and calibrate themselves. Weights and tables are dequantized; an
activation is a real number, limited by a Clip to what its integers can hold, so that what saturates in the
integer network saturates here. Roundings are left out: they are the compiler's to choose.

The host's part is that of `archnet.export.host_split`; how it feeds the file is in `archnet.backends.twin`.
`LIMIT_INPUT`, `SHARE_INPUT` and `TOKENS_INPUT` are made of the attention mask, where a network needs them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx

from archnet.atomic import write_bytes
from archnet.export.float_twin_operators import lower_node
from archnet.export.float_twin_state import (
    LIMIT_INPUT,
    SHARE_INPUT,
    TOKENS_INPUT,
    TwinLowering,
)
from archnet.export.host_split import Split, file_outputs, split, static_length
from archnet.graph import QuantizedGraph
from archnet.operators import Op

OPSET = 16
"""What nncase 2.11 reads."""

IR_VERSION = 8

MASK = "attention_mask"

NO_SHARE = 16.0
"""How far below the least score that of padding is: exp(-16) is a ten-millionth."""


@dataclass(frozen=True, slots=True)
class FloatTwin:
    """A float file and what is in it.

    Attributes:
        model: its content.
        sequence: its sequence length.
        inputs: names in the file's order: activations and inputs made of the mask.
        shapes: of the inputs.
        outputs: activations in the file's order.
        output_shapes: of the outputs.
        limit: what LIMIT_INPUT has for padding; 0 without it.
    """

    model: onnx.ModelProto
    sequence: int
    inputs: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    outputs: tuple[str, ...]
    output_shapes: tuple[tuple[int, ...], ...]
    limit: float


def build_float_twin(graph: QuantizedGraph, sequence: int | None = None) -> FloatTwin:
    """The network as float ONNX.

    Args:
        sequence: its sequence length; the network's greatest when None. Images have none.

    Raises:
        ArchNetError: an operator has no such form, or the length is not the network's.
    """
    length = static_length(graph, sequence)
    state, parts = TwinLowering(graph, length), split(graph)
    parts.require_body(graph)
    _add_inputs(state, parts)
    for node in parts.body:
        if node.output not in state.replaced:
            lower_node(state, node)
    outputs = file_outputs(graph, parts)
    shapes = tuple(tuple(state.shape(name)) for name in outputs)
    for name, shape in zip(outputs, shapes, strict=True):
        # An Identity keeps the file's names apart from those of inputs that are handed through.
        state.onnx.node("Identity", [state.values[name]], f"out:{name}")
        state.onnx.output(f"out:{name}", "float32", shape)
    model = state.onnx.build(graph.name, {}, opset=OPSET, ir_version=IR_VERSION)
    onnx.checker.check_model(model, full_check=True)
    given = [value.name for value in model.graph.input]
    sizes = tuple(tuple(d.dim_value for d in value.type.tensor_type.shape.dim) for value in model.graph.input)
    return FloatTwin(model, length, tuple(given), sizes, outputs, shapes, state.limit)


def _add_inputs(state: TwinLowering, parts: Split) -> None:
    """Define what the host gives."""
    graph = state.graph
    for name in [s.name for s in graph.inputs if s.dtype != "int64"] + [n.output for n in parts.before]:
        state.onnx.input(name, "float32", state.shape(name))
        state.values[name] = name
    known = {node.inputs[0] for node in parts.before} | {MASK}
    unread = {s.name for s in graph.inputs if s.dtype == "int64"} - known
    for node in parts.body:
        if unread & set(node.inputs):
            lower_node(state, node)  # names the operator that reads ids, and why it cannot
    length = state.sequence
    masked = [n for n in parts.body if n.op is Op.MASK]
    if masked:
        spans = [state.high(n.inputs[0]) - state.low(n.inputs[0]) for n in masked]
        state.limit = -float(max(spans) + NO_SHARE)
        _mask_input(state, LIMIT_INPUT, [1, 1, length])
    reading = {n.op for n in parts.body if MASK in n.inputs}
    if Op.MEAN_MATMUL in reading:
        _mask_input(state, SHARE_INPUT, [1, 1, 1])
    if reading & {Op.MEAN_MATMUL, Op.ZERO_PAD}:
        _mask_input(state, TOKENS_INPUT, [1, length, 1])


def _mask_input(state: TwinLowering, name: str, shape: list[int]) -> None:
    state.onnx.input(name, "float32", shape)
    state.values[name] = name


def export_float_twin(graph: QuantizedGraph, path: Path, sequence: int | None = None) -> FloatTwin:
    """Write `build_float_twin` to a file; the file appears whole or not at all.

    Raises:
        ArchNetError: see `build_float_twin`, or the file cannot be written.
    """
    twin = build_float_twin(graph, sequence)
    write_bytes(path, twin.model.SerializeToString())
    return twin
