"""QuantizedGraph -> one ONNX file in clean QDQ form: batch 1, one sequence length, integer inputs.

What compilers of chips read: static shapes, one QuantizeLinear and one DequantizeLinear an activation,
weights with one scale an output channel, int32 biases, ReLU before the Quantize. At both ends the host has a
few integers to prepare, as with TFLite files:

    before   rows of the embedding table by token id, the mask as limits
    after    `MeanPool` and `Widen`, which belong to the dequantization: they give int32

`archnet.backends.static_qdq` does that for every runtime. The file for ONNX Runtime itself, with any batch
and length, is that of archnet/export/onnx.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from archnet.atomic import write_bytes
from archnet.export.host_split import Split, file_inputs, file_outputs, split, static_length, unsplit
from archnet.export.qdq_operators import lower_node
from archnet.export.qdq_state import QdqForm, QdqLowering, QdqTensor
from archnet.graph import QuantizedGraph, TensorSpec

OPSET, IR_VERSION = 16, 8
"""The oldest that has all we write: compilers are behind."""

WIDE_OPSET, WIDE_IR_VERSION = 21, 10
"""From here on QuantizeLinear takes 16 and 4 bits."""


@dataclass(frozen=True, slots=True)
class QdqModel:
    """A model and what is in it.

    Attributes:
        model: the ONNX model, checked.
        sequence: its sequence length.
        inputs: names in its order: activations, and what is made of masks (MaskInput).
        stored: activation -> where it is in the model, for all that are outputs of it.
        zero_points: of the inputs that are activations.
        form: how it is written.
    """

    model: onnx.ModelProto
    sequence: int
    inputs: tuple[str, ...]
    stored: dict[str, QdqTensor]
    zero_points: dict[str, int]
    form: QdqForm

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the inputs, by name."""
        return {
            value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
            for value in self.model.graph.input
        }

    @property
    def content(self) -> bytes:
        """The file."""
        return bytes(self.model.SerializeToString(deterministic=True))


def build_qdq(
    graph: QuantizedGraph, sequence: int | None = None, *, form: QdqForm | None = None, expose: bool = False
) -> QdqModel:
    """The network as a QDQ model.

    Args:
        sequence: its sequence length; the network's greatest when None. Images have none.
        form: what the compiler wants.
        expose: every activation is an output of the model, for comparisons.

    Raises:
        ArchNetError: an operator has no QDQ form, or the length is not the network's.
    """
    length = static_length(graph, sequence)
    state, parts = QdqLowering(graph, length, form or QdqForm()), split(graph)
    parts.require_body(graph)
    given = _inputs(state, parts)
    for node in parts.body:
        lower_node(state, node)
    for name in file_outputs(graph, parts):
        if name in state.values:
            state.integer(name)
    stored = _outputs(state, file_outputs(graph, parts), expose=expose)
    model = _model(state)
    return QdqModel(
        model,
        length,
        tuple(value.name for value in model.graph.input),
        stored,
        {spec.name: state.zero_point(spec.name) for spec in given},
        state.form,
    )


def export_qdq(
    graph: QuantizedGraph, path: Path, sequence: int | None = None, *, form: QdqForm | None = None
) -> QdqModel:
    """Write `build_qdq` to a file; the file appears whole or not at all.

    Raises:
        ArchNetError: see `build_qdq`, or the file cannot be written.
    """
    model = build_qdq(graph, sequence, form=form)
    write_bytes(path, model.content)
    return model


def _inputs(state: QdqLowering, parts: Split) -> list[TensorSpec]:
    """Define what the host gives as activations."""
    graph = state.graph
    names = file_inputs(graph, parts)
    for name in names:
        state.onnx.input(name, state.form.activations, state.shape(name))
        state.define(name, name, state.shape(name))
    for node in unsplit(graph, parts):
        lower_node(state, node)  # names the operator that reads ids, and why it cannot
    return [graph.tensors[name] for name in names]


def _outputs(state: QdqLowering, names: tuple[str, ...], *, expose: bool) -> dict[str, QdqTensor]:
    """Declare the model's outputs, and say where activations are in them."""
    found = state.stored()
    for name in names:
        if name in state.values:
            shape = state.shape(name)
            found[name] = QdqTensor(state.integer(name), shape, state.zero_point(name))
    if not expose:
        found = {name: found[name] for name in names}
    shown = dict.fromkeys([*(found[name].value for name in names), *(t.value for t in found.values())])
    shapes = {tensor.value: tensor.shape for tensor in found.values()}
    for value in shown:
        state.onnx.output(value, state.types[value], shapes[value])
    return found


def _model(state: QdqLowering) -> onnx.ModelProto:
    model = state.onnx.build(state.graph.name, {})
    newer = {TensorProto.INT4, TensorProto.UINT16}
    wide = any(tensor.data_type in newer for tensor in model.graph.initializer)
    opset, version = (WIDE_OPSET, WIDE_IR_VERSION) if wide else (OPSET, IR_VERSION)
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("", opset))
    model.ir_version = version
    onnx.checker.check_model(model, full_check=True)
    return model
