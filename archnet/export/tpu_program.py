"""QuantizedGraph -> a program of integer operators, for TPU-MLIR's TpuLang (Sophgo): batch 1, fixed sizes.

TpuLang (tpu-mlir 1.30) takes networks that are integers already: products give int32, and a BinaryShift
multiplies by an integer and shifts, rounding half to even, so that every operator here is the reference's
without a difference. The compiler lives in an environment of its own; a program is a file for its driver
(archnet/targets/drivers/sophgo.py), which makes one call of TpuLang of each operation.

The host's part is that of `archnet.export.host_split`; what it makes of masks is said by
`TpuLowering.mask_input`.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from archnet.atomic import write_bytes
from archnet.export.host_split import file_inputs, file_outputs, split, static_length, unsplit
from archnet.export.tpu_operators import lower_node
from archnet.export.tpu_state import Operation, TpuInput, TpuLowering, Value
from archnet.graph import QuantizedGraph

VERSION = 1


@dataclass(frozen=True, slots=True)
class TpuProgram:
    """A program and what is in it.

    Attributes:
        sequence: its sequence length.
        inputs: in the program's order.
        operations: in the order of execution.
        constants: by name.
        outputs: names of values, in the program's order, none twice.
        stored: activation -> the value that holds its elements, for all that are outputs.
    """

    sequence: int
    inputs: tuple[TpuInput, ...]
    operations: tuple[Operation, ...]
    constants: Mapping[str, NDArray[Any]]
    outputs: tuple[str, ...]
    stored: Mapping[str, Value] = field(default_factory=dict)

    @property
    def content(self) -> bytes:
        """The file: .npz with the operations as JSON in bytes, and the constants by their number."""
        names = list(self.constants)
        text = json.dumps(
            {
                "version": VERSION,
                "inputs": [[i.name, i.dtype, list(i.shape)] for i in self.inputs],
                "operations": [operation.to_json() for operation in self.operations],
                "constants": names,
                "outputs": list(self.outputs),
            },
            sort_keys=True,
        )
        buffer = io.BytesIO()
        arrays = {str(i): self.constants[name] for i, name in enumerate(names)}
        np.savez(buffer, program=np.frombuffer(text.encode(), np.uint8), **arrays)  # type: ignore[arg-type]
        return buffer.getvalue()


def build_tpu_program(
    graph: QuantizedGraph, sequence: int | None = None, *, expose: bool = False
) -> TpuProgram:
    """The network as a program.

    Args:
        sequence: its sequence length; the network's greatest when None. Images have none.
        expose: every activation is an output, for comparisons.

    Raises:
        ArchNetError: an operator has no such form, or the length is not the network's.
    """
    length = static_length(graph, sequence)
    state, parts = TpuLowering(graph, length), split(graph)
    parts.require_body(graph)
    for name in file_inputs(graph, parts):
        state.input(name, state.spec(name).dtype, state.shape(name))
        state.values[name] = Value(name, state.shape(name))
    for node in unsplit(graph, parts):
        lower_node(state, node)  # names the operator that reads ids, and why it cannot
    for node in parts.body:
        lower_node(state, node)
    wanted: Sequence[str] = file_outputs(graph, parts)
    if expose:
        wanted = [node.output for node in parts.body]
    made = {operation.output for operation in state.operations}
    stored = {name: state.values[name] for name in wanted if state.values[name].name in made}
    for name in file_outputs(graph, parts):
        stored.setdefault(name, _copied(state, name))
    outputs = tuple(dict.fromkeys(value.name for value in stored.values()))
    return TpuProgram(length, tuple(state.inputs), tuple(state.operations), state.constants, outputs, stored)


def _copied(state: TpuLowering, name: str) -> Value:
    """An output that no operation makes, an input or a constant, by one that changes nothing."""
    value, dtype = state.values[name], state.spec(name).dtype
    made = state.emit("multiply", [value.name], f"{name}/copy", dtype, value.shape, factor=1, shift=0)
    return Value(made, value.shape)


def export_tpu_program(graph: QuantizedGraph, path: Path, sequence: int | None = None) -> TpuProgram:
    """Write `build_tpu_program` to a file; the file appears whole or not at all.

    Raises:
        ArchNetError: see `build_tpu_program`, or the file cannot be written.
    """
    program = build_tpu_program(graph, sequence)
    write_bytes(path, program.content)
    return program
