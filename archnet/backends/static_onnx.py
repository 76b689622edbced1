"""Backends of compilers that take an ONNX file of one size: rows of a batch one after the other, padded.

The compiler's runtime is in a toolchain's own environment, so its driver runs in a process that stays open.
`run` uses what `archnet compile` made. `tensors`, which is there to compare integers, compiles the network
once more, for the length at hand and with every activation as an output.
"""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import onnx
from numpy.typing import NDArray

from archnet.atomic import read_json
from archnet.backends.base import feed
from archnet.backends.onnxruntime import read_model, restored, shown_values, views_of, with_outputs
from archnet.errors import ArchNetError, nearest
from archnet.export.onnx import StaticForm, build_static_onnx, stored_tensors
from archnet.export.onnx_model import SATURATING
from archnet.graph import QuantizedGraph
from archnet.onnx_session import adds_in_16_bits
from archnet.operators import Op
from archnet.reference import bind_dims
from archnet.storage import load_graph
from archnet.targets.toolchain import find_toolchain
from archnet.targets.worker import Worker

Array = NDArray[Any]

MODEL = "model.onnx"
"""What the compiler was given, beside what it made of it."""

_SECONDS = 1800.0


@dataclass(frozen=True, slots=True)
class StaticRuntime:
    """A compiler with its runtime.

    Attributes:
        name: of the backend, of the target of `archnet compile`, and of the toolchain.
        driver: module of `archnet.targets.drivers`.
        binary: the compiled file, which the driver's `load` opens.
        form: of the ONNX file.
    """

    name: str
    driver: str
    binary: str
    form: StaticForm

    def worker(self, log: Path) -> Worker:
        """Its driver in a process."""
        fix = "try another --seq-len; report the log to the compiler's makers if it crashed"
        return Worker(find_toolchain(self.name), self.driver, log=log, fix=fix)


OPENVINO = StaticRuntime("openvino", "openvino_cpu", "model.xml", "units")
"""OpenVINO joins Dequantize, Gemm and Quantize into its byte kernels; integer operators are float there."""

IREE = StaticRuntime("iree", "iree_cpu", "model.vmfb", "integer")
"""IREE runs Quantize and Dequantize as they stand, and integer operators in integers."""


class StaticOnnxBackend:
    """Runs what a compiler made of an ONNX file of one size.

    Attributes:
        runtime: the compiler, of each subclass.

    Args:
        graph: the network that was compiled.
        folder: DIR/compiled/NAME.
        threads: of one operator; the runtime's choice when None.

    Raises:
        ArchNetError: no toolchain, or no compiled file of this network.
    """

    runtime: ClassVar[StaticRuntime]

    def __init__(self, graph: QuantizedGraph, folder: Path, *, threads: int | None = None) -> None:
        runtime = self.runtime
        self.name, self.graph = runtime.name, graph
        self._threads = threads
        find_toolchain(runtime.name).require()
        self._model = _deployed(runtime, folder)
        self._sequence = _sequence(graph, self._model)
        self._folder = tempfile.TemporaryDirectory(prefix="archnet-")
        self._worker = runtime.worker(folder.parent / f"{runtime.name}.run.log")
        self._end = weakref.finalize(self, self._worker.close)
        self._load("deployed", folder / runtime.binary, self._model)
        self._exposed: tuple[int | None, onnx.ModelProto] | None = None

    @classmethod
    def open(cls, build_dir: Path, *, threads: int | None = None) -> Self:
        """The network of a build folder (see the class)."""
        folder = build_dir / "compiled" / cls.runtime.name
        return cls(load_graph(build_dir / "graph"), folder, threads=threads)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs by name (see Backend).

        Raises:
            ArchNetError: a sentence is longer than the compiled length, or the runtime fails.
        """
        fed = feed(self.graph, inputs)
        dims = bind_dims(self.graph, fed)
        length = dims.get("sequence")
        if length is not None and self._sequence is not None and length > self._sequence:
            raise ArchNetError(
                f"the input has {length} positions; the network is compiled for {self._sequence}",
                fix=f"truncate, or archnet compile DIR --target {self.name} with a greater --seq-len",
            )
        found = self._infer("deployed", self._padded(fed, self._sequence))
        return {
            output.name: self._cropped(output.tensor, found[output.name], dims)
            for output in self.graph.outputs
        }

    def tensors(self, inputs: Mapping[str, Array], names: Sequence[str] | None = None) -> dict[str, Array]:
        """Integer activations by name; by default all that the file shows.

        They come from the same form compiled with them as further outputs, which may keep the compiler
        from joining some operators.
        """
        fed = feed(self.graph, inputs)
        dims = bind_dims(self.graph, fed)
        model = self._expose(dims.get("sequence"))
        stored = stored_tensors(model)
        views = views_of(self.graph, stored)
        known = [n.output for n in self.graph.nodes if n.output in stored or n.output in views]
        wanted = known if names is None else list(names)
        for name in wanted:
            if name not in known:
                raise ArchNetError(f"the ONNX file does not show {name!r}", fix=nearest(name, known))
        found = self._infer("exposed", self._padded(fed, None))
        one = {**dims, "batch": 1}
        rows = [
            restored(self.graph, stored, wanted, {k: v[i] for k, v in found.items()}, one)
            for i in range(dims["batch"])
        ]
        return {
            name: np.concatenate([row[name] for row in rows])
            if "batch" in self.graph.tensors[name].shape
            else rows[0][name]
            for name in wanted
        }

    def _expose(self, sequence: int | None) -> onnx.ModelProto:
        if self._exposed is None or self._exposed[0] != sequence:
            model = build_static_onnx(self.graph, self.runtime.form, sequence)
            stored = stored_tensors(model)
            views = views_of(self.graph, stored)
            every = [n.output for n in self.graph.nodes if n.output in stored or n.output in views]
            shown = with_outputs(model, shown_values(stored, views, every))
            place = Path(self._folder.name)
            source, binary = place / MODEL, place / self.runtime.binary
            source.write_bytes(shown.SerializeToString())
            request = {"model": str(source), "binary": str(binary), "threads": self._threads}
            self._worker.call("compile_model", request, seconds=_SECONDS)
            self._load("exposed", binary, shown)
            self._exposed = sequence, shown
        return self._exposed[1]

    def _load(self, name: str, binary: Path, model: onnx.ModelProto) -> None:
        request = {
            "as": name,
            "path": str(binary.absolute()),
            "inputs": [i.name for i in model.graph.input],
            "outputs": [o.name for o in model.graph.output],
            "threads": self._threads,
        }
        self._worker.call("load", request, seconds=_SECONDS)

    def _infer(self, name: str, rows: Mapping[str, Array]) -> dict[str, Array]:
        """Arrays of (rows, 1, ...) through the driver."""
        place = Path(self._folder.name)
        given, made = place / "inputs.npz", place / "outputs.npz"
        np.savez(given, **dict(rows))  # type: ignore[arg-type]
        self._worker.call(
            "infer", {"name": name, "inputs": str(given), "outputs": str(made)}, seconds=_SECONDS
        )
        with np.load(made) as file:
            return {key: file[key] for key in file.files}

    def _padded(self, fed: Mapping[str, Array], sequence: int | None) -> dict[str, Array]:
        """(batch, ...) -> (batch, 1, ...), filled up with zeros to a length."""
        rows = {}
        for spec in self.graph.inputs:
            value = fed[spec.name]
            if sequence is not None:
                value = np.pad(
                    value,
                    [
                        (0, sequence - size if dim == "sequence" else 0)
                        for dim, size in zip(spec.shape, value.shape, strict=True)
                    ],
                )
            rows[spec.name] = value[:, None]
        return rows

    def _cropped(self, tensor: str, value: Array, dims: Mapping[str, int]) -> Array:
        """(batch, 1, ...) -> (batch, ...) of the user's length."""
        value = value[:, 0]
        shape = self.graph.tensors[tensor].shape
        if value.ndim != len(shape):  # pooled on the way out
            return value
        return value[tuple(slice(0, dims[d]) if isinstance(d, str) else slice(None) for d in shape)]


class OpenVinoBackend(StaticOnnxBackend):
    """OpenVINO's runtime for processors (see the base class).

    Raises:
        ArchNetError: this processor is an x86-64 without VNNI, and the network has weights of 8 bits, or
            products of two activations: OpenVINO (2026.4) adds two products of bytes in 16 bits there, which
            saturate.
    """

    runtime = OPENVINO

    def __init__(self, graph: QuantizedGraph, folder: Path, *, threads: int | None = None) -> None:
        if adds_in_16_bits() and (layer := _wide_layer(graph)) is not None:
            raise ArchNetError(
                f"this processor has no VNNI: OpenVINO adds its products of bytes in 16 bits, where those of "
                f"{layer} saturate",
                fix="take another --backend here (onnxruntime, tvm, iree)",
            )
        super().__init__(graph, folder, threads=threads)


def _wide_layer(graph: QuantizedGraph) -> str | None:
    """An operator two of whose products may be more than 16 bits hold."""
    for node in graph.nodes:
        if node.op in (Op.MATMUL, Op.MEAN_MATMUL, Op.RELATIVE_MATMUL):
            return node.name
        if node.op in (Op.LINEAR, Op.CONV):
            weight = graph.constants[node.inputs[1]]
            if weight.min() < -SATURATING or weight.max() >= SATURATING:
                return node.name
    return None


class IreeBackend(StaticOnnxBackend):
    """IREE's runtime for processors (see the base class)."""

    runtime = IREE


def _deployed(runtime: StaticRuntime, folder: Path) -> onnx.ModelProto:
    """What was compiled.

    Raises:
        ArchNetError: nothing was, or by another version.
    """
    fix = f"archnet compile DIR --target {runtime.name}"
    if not (folder / runtime.binary).is_file() or not (folder / "summary.json").is_file():
        raise ArchNetError(f"{folder} holds nothing that {runtime.name} compiled", fix=fix)
    tool = read_json(folder / "summary.json").get("tool")
    wanted = find_toolchain(runtime.name).tool
    if tool != wanted:
        raise ArchNetError(f"{folder} was compiled by {tool}, the toolchain is {wanted}", fix=fix)
    return read_model(folder / MODEL)


def _sequence(graph: QuantizedGraph, model: onnx.ModelProto) -> int | None:
    """The tokens of a sentence that a file takes; None for networks that read none."""
    sizes = {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim] for i in model.graph.input}
    for spec in graph.inputs:
        if "sequence" in spec.shape and spec.name in sizes:
            return int(sizes[spec.name][spec.shape.index("sequence")])
    return None
