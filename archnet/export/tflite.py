"""QuantizedGraph -> one int8 TFLite file: batch 1, one sequence length, int8 inputs.

The file holds what an NPU is to run. At both ends the host has a few integers to prepare:

    before   rows of the embedding table by token id, the mask as limits; pixels with channels last
    after    `MeanPool` and `Widen`, which belong to the dequantization: they give int32

What computes differently from archnet/reference.py is listed by `emulated_places`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from archnet.atomic import write_bytes
from archnet.calibration.affine import sum_has_ties
from archnet.errors import ArchNetError
from archnet.export.host_split import (
    MaskInput,
    NothingLeft,
    Split,
    file_inputs,
    file_outputs,
    masks,
    split,
    static_length,
    unsplit,
)
from archnet.export.tflite_model import Quantization, read_metadata
from archnet.export.tflite_operators import lower_node
from archnet.export.tflite_state import SHARE_LEVELS, Layout, StoredTensor, TfliteLowering
from archnet.graph import Node, QuantizedGraph
from archnet.operators import Op

METADATA = "archnet"
FORMAT = "archnet-tflite-1"
FIX = "write it with archnet export DIR --format tflite"


@dataclass(frozen=True, slots=True)
class TfliteModel:
    """A written file and what is in it.

    Attributes:
        content: the file.
        sequence: its sequence length.
        inputs: in the file's order: activations by name, and what the host makes of masks (MaskInput: 127 and
            -128, or 1 and 0).
        stored: activation -> where it is in the file.
        outputs: activations in the file's order.
        shown: indices of the file's outputs in its order.
        operators: TFLite operators in execution order.
    """

    content: bytes
    sequence: int
    inputs: tuple[str, ...]
    stored: dict[str, StoredTensor]
    outputs: tuple[str, ...]
    shown: tuple[int, ...]
    operators: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EmulatedPlace:
    """An operator that TFLite computes otherwise than the reference executor."""

    node: str
    op: Op
    tensor: str
    reason: str


def is_map(graph: QuantizedGraph, name: str) -> bool:
    """Whether an input is read by convolutions or pooling, so that the file takes it channels last."""
    return any(node.inputs[0] == name and node.op in (Op.CONV, Op.MAX_POOL) for node in graph.nodes)


def emulated_places(graph: QuantizedGraph) -> tuple[EmulatedPlace, ...]:
    """The operators whose integers TFLite's arithmetic cannot give exactly, each with the reason."""
    made = {node.output: node for node in graph.nodes}
    found = []
    for node in graph.nodes:
        before = made.get(node.inputs[0])
        if node.op is Op.SOFTMAX and _in_tflite_units(graph, node):
            reason = "TFLite adds up exponentials of other precision: a share next to a half may be one off"
        elif node.op is Op.SOFTMAX:
            reason = "TFLite's int8 softmax has units of 1/256, the integer network's of 1/255"
        elif (
            node.op is Op.MATMUL
            and before is not None
            and before.op is Op.SOFTMAX
            and not _in_tflite_units(graph, before)
        ):
            reason = (
                "the shares that it reads are in units of 1/256, so its factor is 255/256 of the network's"
            )
        elif node.op is Op.LINEAR and graph.tensors[node.output].dtype == "int32":
            reason = "logits are int16 in one scale for all classes: TFLite has no int32 output"
        elif node.op is Op.ADD and _has_ties(graph, node):
            reason = "of two nearest integers TFLite takes the greater, the integer network the even one"
        elif node.op is Op.REQUANTIZE:
            reason = "a change of scale has a factor of few bits in XNNPACK, and two roundings elsewhere"
        else:
            continue
        found.append(EmulatedPlace(node.name, node.op, node.output, reason))
    return tuple(found)


def _has_ties(graph: QuantizedGraph, node: Node) -> bool:
    """Whether some sum of an Add lies in the middle between two integers."""
    first, second = (cast(int, node.attributes[name]) for name in ("multiplier_a", "multiplier_b"))
    left, right = (graph.tensors[name].range for name in node.inputs)
    return sum_has_ties((first, second), (left, right))


def fixed_point_places(graph: QuantizedGraph) -> tuple[EmulatedPlace, ...]:
    """`emulated_places`, and what multiplies in TFLite's fixed point, which rounds twice (TOSA, Ethos-U)."""
    reason = "the factor is applied in fixed point, rounded twice: a value just below a half may go up"
    products = (Op.LINEAR, Op.CONV, Op.MATMUL, Op.RELATIVE_MATMUL, Op.MUL, Op.ADD, Op.LOG_SUM_SOFTMAX)
    named = emulated_places(graph)
    known = {place.node for place in named}
    more = [
        EmulatedPlace(node.name, node.op, node.output, reason)
        for node in graph.nodes
        if node.op in products and node.name not in known
    ]
    return (*named, *more)


def _in_tflite_units(graph: QuantizedGraph, softmax: Node) -> bool:
    """Whether the network was converted for TFLite's probabilities (`Profile.softmax_levels`)."""
    return graph.tensors[softmax.output].levels == SHARE_LEVELS


def build_tflite(graph: QuantizedGraph, sequence: int | None = None, *, expose: bool = False) -> TfliteModel:
    """The network as a TFLite model.

    Args:
        sequence: its sequence length; the network's greatest when None. Images have none.
        expose: every activation is an output of the file, for comparisons.

    Raises:
        ArchNetError: an operator has no int8 form in TFLite, or the length is not the network's.
    """
    length = static_length(graph, sequence)
    state, parts = TfliteLowering(graph, length), split(graph)
    inputs = _inputs(state, parts)
    for node in parts.body:
        lower_node(state, node)
    outputs = file_outputs(graph, parts)
    if not outputs or any(state.get(name) in state.file.constants for name in outputs):
        raise NothingLeft(
            f"the network {graph.name} leaves nothing to TFLite: its outputs are constants or the host's",
            fix="run it with --backend reference",
        )
    stored = {name: s for name, s in state.stored().items() if name not in inputs}
    logical = {name: replace(stored[name], index=state.get(name), last=False) for name in outputs}
    given = [
        state.values[name, "logical" if (name, "logical") in state.values else "last"] for name in inputs
    ]
    shown = [logical[name].index for name in outputs]
    if expose:
        stored = {**stored, **logical}
        shown = list(dict.fromkeys([*shown, *(s.index for s in stored.values() if s.index not in given)]))
    else:
        stored = logical
    about = {"format": FORMAT, "sequence": length, "inputs": list(inputs), "outputs": list(outputs)}
    content = state.file.build(graph.name, given, shown, {METADATA: json.dumps(about).encode()})
    return TfliteModel(content, length, inputs, stored, outputs, tuple(shown), tuple(state.file.operators))


def _inputs(state: TfliteLowering, parts: Split) -> tuple[str, ...]:
    """Define what the host gives."""
    graph, names = state.graph, []
    for name in file_inputs(graph, parts):
        layout: Layout = "last" if is_map(graph, name) else "logical"
        state.pass_on(name, state.new(name, layout), layout)
        names.append(name)
    for node in unsplit(graph, parts):
        lower_node(state, node)  # names the operator that reads ids, and why it cannot
    for mask in masks(graph):
        reading = [node for node in parts.body if mask in node.inputs]
        scales = [state.spec(n.inputs[0]).scale or 0.0 for n in reading if n.op is Op.MASK]
        made = []
        if scales:
            # Twice the greatest: what is quantized to a scale of the scores then always saturates.
            made.append((MaskInput(mask, "limit"), 2 * max(scales)))
        if any(node.op is Op.ZERO_PAD for node in reading):
            made.append((MaskInput(mask, "tokens"), 1.0))
        for given, scale in made:
            shape = list(given.shape(graph, state.sequence))
            state.pass_on(given.name, state.file.tensor(given.name, shape, "int8", Quantization(scale)))
            names.append(given.name)
    return tuple(names)


def export_tflite(graph: QuantizedGraph, path: Path, sequence: int | None = None) -> TfliteModel:
    """Write `build_tflite` to a file; the file appears whole or not at all.

    Raises:
        ArchNetError: see `build_tflite`, or the file cannot be written.
    """
    model = build_tflite(graph, sequence)
    write_bytes(path, model.content)
    return model


def read_tflite(path: Path, graph: QuantizedGraph) -> TfliteModel:
    """The file that was exported from this graph.

    Raises:
        ArchNetError: there is no such file, it is damaged, or it is of another network.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ArchNetError(f"{path} cannot be read: {reason}", fix=FIX) from error
    try:
        about = json.loads(read_metadata(content, METADATA) or b"{}")
        known, sequence = about.get("format") == FORMAT, int(about.get("sequence", 0))
    except Exception as error:  # flatbuffers reads wherever damaged offsets lead
        raise ArchNetError(f"{path} is no TFLite file, or it is damaged", fix=FIX) from error
    if not known:
        raise ArchNetError(f"{path} is no TFLite file of this version of Arch-Net", fix=FIX)
    if sequence <= graph.max_sequence:
        model = build_tflite(graph, sequence)
        if model.content == content:
            return model
    raise ArchNetError(f"{path} is damaged, or exported from another network", fix=FIX)
