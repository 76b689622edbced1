"""LiteRT as a backend: the exported TFLite file in the interpreter that phones and microcontrollers have.

The file has batch 1 and one sequence length. `run` pads every sentence to that length, as a device does.
`tensors`, which is there to compare integers, writes the network once more for the length at hand.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from numpy.typing import NDArray

from archnet.backends.base import dequantize_outputs, feed
from archnet.errors import ArchNetError, nearest
from archnet.export.host_split import MASK, split
from archnet.export.tflite import TfliteModel, build_tflite, is_map, read_tflite
from archnet.export.tflite_operators import LIMIT_INPUT, TOKENS_INPUT
from archnet.graph import Node, QuantizedGraph
from archnet.reference import bind_dims, run_node
from archnet.storage import load_graph

Array = NDArray[Any]
Kernels = Literal["xnnpack", "optimized", "reference"]

_RESOLVERS = {
    "xnnpack": OpResolverType.BUILTIN,
    "optimized": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    "reference": OpResolverType.BUILTIN_REF,
}


class LiteRtBackend:
    """Runs a TFLite file.

    Args:
        graph: the network that it was exported from.
        model: the file.
        kernels: "xnnpack", LiteRT's default; "optimized" or "reference", its own fixed-point ones.
        threads: of one operator; LiteRT's choice when None.
    """

    name = "litert"

    def __init__(
        self,
        graph: QuantizedGraph,
        model: TfliteModel,
        *,
        kernels: Kernels = "xnnpack",
        threads: int | None = None,
    ) -> None:
        self.graph = graph
        self._split = split(graph)
        self._kernels, self._threads = kernels, threads
        self._model = model
        self._deployed = self._open(model)
        self._exposed: tuple[TfliteModel, Interpreter] | None = None

    @classmethod
    def open(cls, build_dir: Path, *, threads: int | None = None) -> Self:
        """The network of a build folder.

        Raises:
            ArchNetError: there is no TFLite file of this network.
        """
        graph = load_graph(build_dir / "graph")
        return cls(graph, read_tflite(build_dir / "tflite" / "model.tflite", graph), threads=threads)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs by name (see Backend).

        Raises:
            ArchNetError: a sentence is longer than the file's sequence length.
        """
        fed = feed(self.graph, inputs)
        dims = bind_dims(self.graph, fed)
        length = dims.get("sequence", self._model.sequence)
        if length > self._model.sequence:
            raise ArchNetError(
                f"the input has {length} positions; the TFLite file takes {self._model.sequence}",
                fix="truncate, or export with a greater --seq-len",
            )
        values = self._execute(self._model, self._deployed, fed, dims)
        return dequantize_outputs(self.graph, self._finish(values, fed, dims), inputs)

    def tensors(self, inputs: Mapping[str, Array], names: Sequence[str] | None = None) -> dict[str, Array]:
        """Integer activations by name; by default all but constants.

        SOFTMAX's are in units of 1/256, not 1/255 (see `archnet.export.tflite.emulated_places`).
        """
        fed = feed(self.graph, inputs)
        dims = bind_dims(self.graph, fed)
        length = dims.get("sequence", self._model.sequence)
        if self._exposed is None or self._exposed[0].sequence != length:
            model = build_tflite(self.graph, length, expose=True)
            self._exposed = model, self._open(model)
        values = self._finish(self._execute(*self._exposed, fed, dims), fed, dims)
        made = [node.output for node in self.graph.nodes if node.output in values]
        wanted = made if names is None else list(names)
        for name in wanted:
            if name not in made:
                raise ArchNetError(f"the TFLite file does not show {name!r}", fix=nearest(name, made))
        return {name: values[name] for name in wanted}

    def _execute(
        self, model: TfliteModel, interpreter: Interpreter, fed: Mapping[str, Array], dims: Mapping[str, int]
    ) -> dict[str, Array]:
        """Activations of a batch, row by row, at the lengths of the user's input."""
        values = self._host(self._split.before, dict(fed), dims)
        rows = [self._row(model, interpreter, values, i) for i in range(dims["batch"])]
        found = {}
        for name in rows[0]:
            # The file's lengths are its own: what is stacked is cut to the user's.
            shape = [dims[d] if isinstance(d, str) else d for d in self.graph.tensors[name].shape]
            joined = np.concatenate([row[name] for row in rows])
            found[name] = joined[tuple(slice(0, size) for size in shape)]
        return {**values, **found}

    def _row(
        self, model: TfliteModel, interpreter: Interpreter, values: Mapping[str, Array], i: int
    ) -> dict[str, Array]:
        for name, detail in zip(model.inputs, interpreter.get_input_details(), strict=True):
            given = self._given(name, values, i)
            missing = [(0, size - have) for size, have in zip(detail["shape"], given.shape, strict=True)]
            padding = -128 if name == LIMIT_INPUT else int(detail["quantization"][1])
            filled = np.pad(given, missing, constant_values=padding)
            interpreter.set_tensor(detail["index"], np.ascontiguousarray(filled, dtype=np.int8))
        interpreter.invoke()
        shown = {detail["index"]: detail for detail in interpreter.get_output_details()}
        results: dict[str, Array] = {}
        for name, stored in model.stored.items():
            if stored.index in shown:
                value = interpreter.get_tensor(stored.index).astype(np.int64)
                value = np.moveaxis(value, -1, 1) if stored.last else value
                results[name] = self._restored(name, value + stored.offset, shown[stored.index])
        return results

    def _given(self, name: str, values: Mapping[str, Array], i: int) -> Array:
        """One of the file's inputs for row i, at the user's length."""
        if name == LIMIT_INPUT:
            return np.asarray(np.where(values[MASK][i] != 0, 127, -128).reshape(1, 1, 1, -1))
        if name == TOKENS_INPUT:
            return np.asarray((values[MASK][i] != 0).astype(np.int64).reshape(1, -1, 1))
        spec = self.graph.tensors[name]
        row = values[name][i : i + 1] if spec.shape[0] == "batch" else values[name]
        value = row.astype(np.int64) - (128 if spec.dtype == "uint8" else 0)
        return np.asarray(np.moveaxis(value, 1, -1) if is_map(self.graph, name) else value)

    def _restored(self, name: str, value: Array, detail: Mapping[str, Any]) -> Array:
        """Stored integers as those of the graph: int16 logits back to accumulators, one scale a class."""
        spec = self.graph.tensors[name]
        if spec.dtype == "int32":
            scales = next(output.scale for output in self.graph.outputs if output.tensor == name)
            value = np.rint(value * float(detail["quantization"][0]) / scales.astype(np.float64))
        return value.astype(spec.dtype)

    def _finish(
        self, values: dict[str, Array], fed: Mapping[str, Array], dims: Mapping[str, int]
    ) -> dict[str, Array]:
        """The host's last nodes."""
        return self._host(self._split.after, {**values, **fed}, dims)

    def _host(
        self, nodes: Iterable[Node], values: dict[str, Array], dims: Mapping[str, int]
    ) -> dict[str, Array]:
        for node in nodes:
            inputs = [values[n] if n in values else self.graph.constants[n] for n in node.inputs]
            values[node.output] = run_node(node, inputs, self.graph.tensors[node.output], dims)
        return values

    def _open(self, model: TfliteModel) -> Interpreter:
        try:
            interpreter = Interpreter(
                model_content=model.content,
                num_threads=self._threads,
                experimental_op_resolver_type=_RESOLVERS[self._kernels],
            )
            interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            raise ArchNetError(
                f"LiteRT cannot open the network: {str(error).strip().splitlines()[-1]}",
                fix="write the file again with archnet export DIR --format tflite",
            ) from error
        return interpreter
