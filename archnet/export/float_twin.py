"""QuantizedGraph -> a float ONNX file of the same real numbers: batch 1, fixed sizes, operator set 16.

For compilers that read no integers of ours and calibrate themselves. Weights and tables are dequantized; an
activation is a real number, limited by a Clip to what its integers can hold, so that what saturates in the
integer network saturates here. Roundings are left out: they are the compiler's to choose.

The host's part is that of `archnet.export.host_split`; how it feeds the file is in `archnet.backends.twin`.
Of a mask the host makes, where a network needs them: limits, added to scores, 0 for tokens that count and
`FloatTwin.limit` for others; the share of a token, 1 over how many count; and tokens, 1 or 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx

from archnet.atomic import write_bytes
from archnet.export.float_twin_operators import lower_node
from archnet.export.float_twin_state import TwinLowering
from archnet.export.host_split import (
    MaskInput,
    Split,
    file_inputs,
    file_outputs,
    masks,
    split,
    static_length,
    unsplit,
)
from archnet.graph import QuantizedGraph
from archnet.operators import Op

OPSET = 16
"""What nncase 2.11 reads."""

IR_VERSION = 8

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
        limit: what limits have for padding; 0 without them.
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
    for name in file_inputs(graph, parts):
        state.onnx.input(name, "float32", state.shape(name))
        state.values[name] = name
    for node in unsplit(graph, parts):
        lower_node(state, node)  # names the operator that reads ids, and why it cannot
    masked = [n for n in parts.body if n.op is Op.MASK]
    if masked:
        spans = [state.high(n.inputs[0]) - state.low(n.inputs[0]) for n in masked]
        state.limit = -float(max(spans) + NO_SHARE)
    for mask in masks(graph):
        reading = {n.op for n in parts.body if mask in n.inputs}
        if Op.MASK in reading:
            _mask_input(state, MaskInput(mask, "limit"))
        if Op.MEAN_MATMUL in reading:
            _mask_input(state, MaskInput(mask, "share"))
        if reading & {Op.MEAN_MATMUL, Op.ZERO_PAD}:
            _mask_input(state, MaskInput(mask, "tokens"))


def _mask_input(state: TwinLowering, given: MaskInput) -> None:
    keys = given.keys(state.graph, state.sequence)
    shape = {"limit": [1, 1, keys], "share": [1, 1, 1]}.get(given.kind, [1, keys, 1])
    state.onnx.input(given.name, "float32", shape)
    state.values[given.name] = given.name


def export_float_twin(graph: QuantizedGraph, path: Path, sequence: int | None = None) -> FloatTwin:
    """Write `build_float_twin` to a file; the file appears whole or not at all.

    Raises:
        ArchNetError: see `build_float_twin`, or the file cannot be written.
    """
    twin = build_float_twin(graph, sequence)
    write_bytes(path, twin.model.SerializeToString())
    return twin
