"""QuantizedGraph -> C source: TVM's integer kernels, and a function that calls them one after the other.

For one sentence or picture of one size. The files need a C compiler and nothing else: no TVM, no operating
system, no floating point. What the network's inputs and outputs are stands in model.h; constants are a file
of their own, to be linked, mapped or burnt as the chip wants it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from archnet.atomic import disk_errors
from archnet.errors import ArchNetError
from archnet.export.tvm import import_tvm
from archnet.export.tvm_c_text import HEADER, MODEL, RUNTIME
from archnet.graph import Dim, QuantizedGraph, TensorSpec

KERNELS, SOURCE, INTERFACE, CONSTANTS = "kernels.c", "model.c", "model.h", "constants.bin"
_RUNTIME = "archnet_runtime.h"
_ALIGNMENT = 64
_VECTOR = re.compile(r"\bu?int\d+_t\d+\b")
_DTYPES = {"int8": (0, 8), "uint8": (1, 8), "int32": (0, 32), "int64": (0, 64), "float32": (2, 32)}
"""DLPack's code and bits. Kernels of convolutions in groups are given the weights' scales and ignore them."""


@dataclass(frozen=True, slots=True)
class CProgram:
    """What was written.

    Attributes:
        calls: kernels called in one inference.
        workspace_bytes: memory that one inference needs beside constants, inputs and outputs.
        constant_bytes: size of CONSTANTS.
        source_bytes: of the C files together.
        tvm: TVM's version.
    """

    calls: int
    workspace_bytes: int
    constant_bytes: int
    source_bytes: int
    tvm: str


@dataclass(frozen=True, slots=True)
class _Array:
    """An argument of a kernel: where it is, its shape and dtype."""

    place: str
    shape: tuple[int, ...]
    dtype: str


def write_c(graph: QuantizedGraph, folder: Path, sequence: int | None = None) -> CProgram:
    """Write the C files of a network into a folder that exists.

    Args:
        sequence: tokens of the sentence; `graph.max_sequence` when None.

    Raises:
        ArchNetError: TVM is not installed or has no kernel for an operator, or the length is none that the
            network takes.
    """
    version = import_tvm()
    length = graph.max_sequence if sequence is None else sequence
    if not 1 <= length <= graph.max_sequence:
        raise ArchNetError(
            f"--seq-len {length} is not in 1 .. {graph.max_sequence}",
            fix="give a length that the network takes",
        )
    fixed = bound(graph, {"batch": 1, "sequence": length})
    from tvm import relax

    from archnet.export.tvm_isa import SCALAR
    from archnet.export.tvm_module import ENTRY, build_module

    module = build_module(fixed, SCALAR, fuse=False)
    kernels = {name: f for name, f in module.functions.items() if not isinstance(f, relax.Function)}
    program = _Program(fixed)
    program.walk(module[ENTRY])
    files = {
        KERNELS: _kernel_source(kernels),
        _RUNTIME: RUNTIME,
        SOURCE: program.source(),
        INTERFACE: program.interface(length),
    }
    with disk_errors(folder):
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
        (folder / CONSTANTS).write_bytes(program.constants)
    size = sum(len(text.encode()) for text in files.values())
    return CProgram(len(program.calls), program.workspace, len(program.constants), size, version)


def bound(graph: QuantizedGraph, sizes: Mapping[str, int]) -> QuantizedGraph:
    """The graph with numbers in the place of its symbolic sizes."""

    def fixed(dims: Sequence[Dim]) -> tuple[Dim, ...]:
        return tuple(sizes[dim] if isinstance(dim, str) else dim for dim in dims)

    def spec(old: TensorSpec) -> TensorSpec:
        return replace(old, shape=fixed(old.shape))

    nodes = tuple(
        replace(
            node,
            attributes={
                key: fixed(value) if isinstance(value, tuple) else value
                for key, value in node.attributes.items()
            },
        )
        for node in graph.nodes
    )
    tensors = {name: spec(old) for name, old in graph.tensors.items()}
    return replace(graph, inputs=tuple(map(spec, graph.inputs)), nodes=nodes, tensors=tensors)


def _kernel_source(kernels: Mapping[Any, Any]) -> str:
    """TVM's C, with the few declarations that it needs in the place of TVM's headers."""
    import tvm

    with tvm.transform.PassContext(config={"tirx.disable_vectorize": True}):
        compiled = tvm.compile(tvm.IRModule(dict(kernels)), target=tvm.target.Target("c"))
    text = str(compiled.mod.inspect_source())
    found = _VECTOR.search(text)
    if found is not None:
        raise ArchNetError(
            f"TVM {tvm.__version__} writes the vector type {found[0]}, which is no C",
            fix="report it with the build folder; archnet compile --target tvm-x86-64 needs no C",
        )
    lines = [line for line in text.splitlines() if not line.startswith('#include "tvm/')]
    return "\n".join([f'#include "{_RUNTIME}"', *lines, ""])


class _Program:
    """The calls of a Relax function, and the memory that they work in."""

    def __init__(self, graph: QuantizedGraph) -> None:
        self.graph = graph
        self.calls: list[tuple[str, list[_Array]]] = []
        self.constants = b""
        self.workspace = 0
        self._made: dict[str, int] = {}
        """Activation -> its number of bytes."""
        self._arrays: dict[Any, _Array] = {}
        self._outputs: list[_Array] = []
        self._known: dict[bytes, int] = {}

    def walk(self, function: Any) -> None:
        """Read the bindings of the entry function."""
        for spec, parameter in zip(self.graph.inputs, function.params, strict=True):
            shape = tuple(int(size) for size in spec.shape)
            self._arrays[parameter] = _Array(f"inputs[{len(self._arrays)}]", shape, spec.dtype)
        pending: dict[Any, Any] = {}
        for block in function.body.blocks:
            for binding in block.bindings:
                self._binding(binding.var, binding.value, pending)
        results = self._resolve(function.body.body, pending)
        self._outputs = [self._arrays[field] for field in results.fields]
        self._plan()

    def _resolve(self, value: Any, pending: Mapping[Any, Any]) -> Any:
        while value in pending:
            value = pending[value]
        return value

    def _binding(self, var: Any, value: Any, pending: dict[Any, Any]) -> None:
        from tvm import relax

        if isinstance(value, (relax.Tuple, relax.Var)):
            if value in self._arrays:
                self._arrays[var] = self._arrays[value]
            else:
                pending[var] = value
            return
        shape = tuple(int(size) for size in var.ty.shape)
        dtype = str(var.ty.dtype)
        if value.op.name == "relax.reshape":
            self._arrays[var] = replace(self._arrays[value.args[0]], shape=shape)
            return
        place = f"activation {len(self.calls)}"
        self._made[place] = int(np.prod(shape)) * _DTYPES[dtype][1] // 8
        self._arrays[var] = _Array(place, shape, dtype)
        arguments = [self._argument(argument) for argument in value.args[1].fields]
        self.calls.append((value.args[0].name_hint, [*arguments, self._arrays[var]]))

    def _argument(self, value: Any) -> _Array:
        if value in self._arrays:
            return self._arrays[value]
        array = np.ascontiguousarray(value.value.numpy())
        content = array.tobytes()
        if content not in self._known:
            self._known[content] = len(self.constants)
            self.constants += content + bytes(-len(content) % _ALIGNMENT)
        return _Array(f"constants + {self._known[content]}", array.shape, str(array.dtype))

    def _plan(self) -> None:
        """Give every activation a place in the workspace, or that of an output.

        An activation takes the lowest place that is free from the call that makes it to the last that
        reads it.
        """
        last: dict[str, int] = {}
        for i, (_, arrays) in enumerate(self.calls):
            last.update((array.place, i) for array in arrays)
        outputs = {array.place: f"outputs[{i}]" for i, array in reversed(list(enumerate(self._outputs)))}
        taken: list[tuple[int, int, int]] = []  # first byte, end, last call
        places = dict(outputs)
        for i, (place, size) in enumerate(self._made.items()):
            if place in outputs:
                continue
            taken = sorted(entry for entry in taken if entry[2] >= i)
            start = 0
            for first, end, _ in taken:
                if start + size <= first:
                    break
                start = max(start, end)
            end = start + size + -size % _ALIGNMENT
            taken.append((start, end, last[place]))
            places[place] = f"workspace + {start}"
            self.workspace = max(self.workspace, end)
        self.calls = [
            (name, [replace(array, place=places.get(array.place, array.place)) for array in arrays])
            for name, arrays in self.calls
        ]

    def source(self) -> str:
        """model.c."""
        names = sorted({name for name, _ in self.calls})
        declared = "\n".join(f"int32_t __tvm_ffi_{n}(void*, void*, int32_t, void*);" for n in names)
        steps = []
        for name, arrays in self.calls:
            rows = ",\n".join(f"      {_tensor(array)}" for array in arrays)
            steps.append(
                f"  {{\n    const archnet_array a[] = {{\n{rows}}};\n"
                f"    if (archnet_call(__tvm_ffi_{name}, a, {len(arrays)})) return -1;\n  }}"
            )
        return MODEL.format(declared=declared, steps="\n".join(steps))

    def interface(self, length: int) -> str:
        """model.h."""
        lines = [f" *   inputs[{i}]: {s.name}, {_words(s)}" for i, s in enumerate(self.graph.inputs)]
        names = dict.fromkeys(output.tensor for output in self.graph.outputs)
        lines += [
            f" *   outputs[{i}]: {name}, {_words(self.graph.tensors[name])}" for i, name in enumerate(names)
        ]
        title = "".join(c if c.isalnum() or c in "-_. " else "_" for c in self.graph.name)
        return HEADER.format(
            name=title,
            lines="\n".join(lines),
            constants=len(self.constants),
            workspace=max(1, self.workspace),
        )


def _words(spec: TensorSpec) -> str:
    return f"{spec.dtype} ({', '.join(map(str, spec.shape))})"


def _tensor(array: _Array) -> str:
    """A row of archnet_array: data, kind, bits, rank, shape."""
    code, bits = _DTYPES[array.dtype]
    shape = ", ".join(map(str, array.shape)) or "1"
    return f"{{(void*)({array.place}), {code}, {bits}, {len(array.shape)}, {{{shape}}}}}"
