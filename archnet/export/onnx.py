"""QuantizedGraph -> one ONNX file in QDQ form: QuantizeLinear / DequantizeLinear around each operator.

The scales are such that a runtime which fuses Q, DQ and operator computes in integers what
archnet/reference.py defines (see calibration/affine.py). Fully connected layers are Gemm on
(tokens, features), or 1x1 convolutions on (1, features, 1, tokens): the same integers, and ONNX Runtime's
convolution kernel keeps the accumulators in registers, where its Gemm writes them to memory.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import onnx
import onnxsim

from archnet.atomic import write_bytes
from archnet.errors import ArchNetError
from archnet.export.onnx_integer import INTEGER_LOWERINGS
from archnet.export.onnx_model import own_weights
from archnet.export.onnx_operators import LOWERINGS, Lower, lower_input, lower_node, lower_output
from archnet.export.onnx_packing import pack_initializers
from archnet.export.onnx_state import (
    ActivationType,
    LinearForm,
    Lowering,
    StoredTensor,
    attention_operands,
)
from archnet.export.onnx_units import in_units, unit_lowerings
from archnet.graph import QuantizedGraph
from archnet.operators import Op
from archnet.packed_constants import packed_constants

StaticForm = Literal["convolution", "units", "integer"]
"""Of a file of one size: what `build_onnx` writes, `archnet.export.onnx_units`, `onnx_integer`."""

DEPLOYED_LEVEL = "ORT_ENABLE_ALL"
"""The optimisation level that the file is meant for: at it every operator but Softmax runs in integers."""

UNFUSED_LEVELS = ("ORT_DISABLE_ALL", "ORT_ENABLE_BASIC")

METADATA_LEVEL = "archnet.onnxruntime.graph_optimization_level"
METADATA_TENSORS = "archnet.tensors"
METADATA_EMULATED = "archnet.emulated"
METADATA_FORMAT = "archnet.format"
METADATA_PACKED = "archnet.packed"
FORMAT_VERSION = "1"


@dataclass(frozen=True, slots=True)
class EmulatedPlace:
    """An operator that the runtime computes in float between a DequantizeLinear and a QuantizeLinear."""

    node: str
    op: Op
    tensor: str
    reason: str


def emulated_places(graph: QuantizedGraph, level: str = DEPLOYED_LEVEL) -> tuple[EmulatedPlace, ...]:
    """The operators that ONNX Runtime computes in float at an optimisation level, each with its reason."""
    reasons = {
        Op.SOFTMAX: "ONNX has no integer softmax; ONNX Runtime's own QLinearSoftmax also divides in float32 "
        "and takes ten times as long as Dequantize, Softmax and Quantize",
        Op.MASK: "the minimum with the mask is taken on the dequantized scores on their way to the softmax; "
        "it is exact, because it only selects",
        Op.REQUANTIZE: "a change of scale is a Dequantize and a Quantize in float: exact below 8 bits, and "
        "at 8 bits no value of some thousand scales differed",
    }
    if level in UNFUSED_LEVELS:
        unfused = "at this level ONNX Runtime does not fuse Dequantize, operator and Quantize"
        reasons |= dict.fromkeys((Op.LINEAR, Op.MATMUL, Op.ADD, Op.MUL), unfused)
    return tuple(
        EmulatedPlace(node.name, node.op, node.output, reasons[node.op])
        for node in graph.nodes
        if node.op in reasons
    )


def build_onnx(
    graph: QuantizedGraph, *, linear: LinearForm = "convolution", activations: ActivationType = "mixed"
) -> onnx.ModelProto:
    """The graph as an ONNX model, checked and simplified.

    Args:
        linear: the operator for fully connected layers. "convolution" is the faster one in ONNX
            Runtime, "gemm" the one that more compilers take.
        activations: how signed activations are stored; uint8 with zero point 128 is the same arithmetic
            as int8 with zero point 0. On x86, ONNX Runtime is fast with uint8 and turns int8 into it
            where a tensor has one reader; OpenVINO is fast when the operands of attention's products are
            int8. "mixed" is right for both, and means "uint8" where constants are packed: from opset 21
            on ONNX Runtime (1.31) refuses int8 activations behind a Transpose or Reshape. "int8" is for
            Arm and for other compilers; its constants stay int8 for that reason.

    Raises:
        ArchNetError: an operator has no ONNX form.
    """
    packings = packed_constants(graph) if activations != "int8" else {}
    stored_as: ActivationType = "uint8" if packings else activations
    state = Lowering(graph, linear, stored_as, attention_operands(graph), packings=packings)
    model = _simplified(_built(state, LOWERINGS))
    return _described(model, state, pack_initializers(model, state.packed))


def _built(state: Lowering, lowerings: Mapping[Op, Lower]) -> onnx.ModelProto:
    graph = state.graph
    for spec in graph.inputs:
        lower_input(state, spec)
    for node in graph.nodes:
        lower_node(state, node, lowerings)
    for output in graph.outputs:
        lower_output(state, output)
    return state.onnx.build(graph.name, {})


def _described(model: onnx.ModelProto, state: Lowering, packed: Mapping[str, int]) -> onnx.ModelProto:
    """The model with what `stored_tensors` and others read, checked."""
    values = {name for node in model.graph.node for name in node.output} | {i.name for i in model.graph.input}
    stored = {k: dataclasses.asdict(v) for k, v in state.stored.items() if v.value in values}
    metadata = {
        METADATA_FORMAT: FORMAT_VERSION,
        METADATA_LEVEL: DEPLOYED_LEVEL,
        METADATA_TENSORS: json.dumps(stored),
        METADATA_PACKED: json.dumps({name: f"INT{width}" for name, width in packed.items()}),
        METADATA_EMULATED: json.dumps([dataclasses.asdict(p) for p in emulated_places(state.graph)]),
    }
    onnx.helper.set_model_props(model, metadata)
    onnx.checker.check_model(model, full_check=True)
    return model


def build_static_onnx(
    graph: QuantizedGraph, form: StaticForm, sequence: int | None = None
) -> onnx.ModelProto:
    """The graph as an ONNX model for one sentence or picture of one size, for compilers that want that.

    Args:
        form: "convolution" as in `build_onnx`; "units", Gemm with scales of 1 (`archnet.export.onnx_units`);
            "integer", integer operators (`archnet.export.onnx_integer`).
        sequence: tokens of the sentence; `graph.max_sequence` when None. Of no meaning for images.

    Raises:
        ArchNetError: an operator has no ONNX form, or the network does not take such a sequence.
    """
    length = graph.max_sequence if sequence is None else sequence
    if not 1 <= length <= graph.max_sequence:
        raise ArchNetError(
            f"--seq-len {length} is not in 1 .. {graph.max_sequence}",
            fix="give a length that the network takes",
        )
    lowerings: Mapping[Op, Lower] = LOWERINGS
    if form == "convolution":
        state = Lowering(graph, "convolution", "mixed", attention_operands(graph))
    elif form == "units":
        state = Lowering(in_units(graph), "gemm", "mixed", attention_operands(graph))
        lowerings = unit_lowerings(graph)
    else:
        state, lowerings = Lowering(graph, "gemm", "int8"), INTEGER_LOWERINGS
    model = _built(state, lowerings)
    sizes = {"batch": 1, "sequence": length}
    shapes = {
        spec.name: [sizes[dim] if isinstance(dim, str) else dim for dim in spec.shape]
        for spec in graph.inputs
    }
    return _described(_simplified(model, shapes), state, {})


def export_onnx(
    graph: QuantizedGraph,
    path: Path,
    *,
    linear: LinearForm = "convolution",
    activations: ActivationType = "mixed",
) -> None:
    """Write `build_onnx` to a file; the file appears whole or not at all.

    Raises:
        ArchNetError: an operator has no ONNX form, or the file cannot be written.
    """
    model = build_onnx(graph, linear=linear, activations=activations)
    write_bytes(path, model.SerializeToString())


def stored_tensors(model: onnx.ModelProto) -> dict[str, StoredTensor]:
    """Where each activation of the integer network is found in an exported model."""
    properties = {p.key: p.value for p in model.metadata_props}
    if METADATA_TENSORS not in properties:
        raise ArchNetError(
            "the ONNX file does not say where its integer tensors are",
            fix="write it with archnet export DIR --format onnx",
        )
    return {
        name: StoredTensor(
            record["value"],
            record["zero_point"],
            tuple(record["dims"]),
            tuple(record["permutation"]),
            record["scale"],
        )
        for name, record in json.loads(properties[METADATA_TENSORS]).items()
    }


def _simplified(model: onnx.ModelProto, shapes: Mapping[str, list[int]] | None = None) -> onnx.ModelProto:
    """Without what can be known beforehand; of these input shapes where they are given."""
    simple: onnx.ModelProto
    simple, same = onnxsim.simplify(model, overwrite_input_shapes=shapes)
    if not same:
        raise ArchNetError(
            "onnxsim changed what the network computes", fix="report this with the build folder's graph.json"
        )
    own_weights(simple)
    return simple
