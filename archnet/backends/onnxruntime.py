"""ONNX Runtime as a backend: the exported QDQ file at the optimisation level that it names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from archnet.backends.base import feed
from archnet.errors import ArchNetError, nearest
from archnet.export.onnx import METADATA_LEVEL, stored_tensors
from archnet.export.onnx_state import StoredTensor
from archnet.graph import Node, QuantizedGraph, TensorSpec
from archnet.onnx_session import session_options
from archnet.operators import Op
from archnet.reference import bind_dims, run_node
from archnet.storage import load_graph

LEVELS = ("ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_LAYOUT", "ORT_ENABLE_ALL")

VIEWS = (Op.RESHAPE, Op.TRANSPOSE)
"""Their outputs are rearrangements of what another node computes; the file need not hold them as integers."""


class OnnxRuntimeBackend:
    """Runs an exported ONNX file.

    Args:
        graph: the network that the file was exported from.
        model: the file's content.
        level: one of LEVELS; by default the one in the file's metadata.
        threads: of one operator; by default ONNX Runtime's choice.
    """

    name = "onnxruntime"

    def __init__(
        self,
        graph: QuantizedGraph,
        model: onnx.ModelProto,
        *,
        level: str | None = None,
        threads: int | None = None,
    ) -> None:
        self.graph = graph
        self.level = level or _level_of(model)
        if self.level not in LEVELS:
            raise ArchNetError(
                f"there is no optimisation level {self.level!r}", fix=nearest(self.level, LEVELS)
            )
        self._model = model
        self._threads = threads
        self._session = self._open(model)
        self._exposing: tuple[tuple[str, ...], ort.InferenceSession] | None = None

    @classmethod
    def open(cls, build_dir: Path, *, threads: int | None = None, level: str | None = None) -> Self:
        """The network of a build folder.

        Raises:
            ArchNetError: there is no ONNX file, or it cannot be read.
        """
        path = build_dir / "onnx" / "model.onnx"
        return cls(load_graph(build_dir / "graph"), read_model(path), threads=threads, level=level)

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The outputs by name (see Backend)."""
        names = [output.name for output in self.graph.outputs]
        values = self._session.run(names, feed(self.graph, inputs))
        return dict(zip(names, values, strict=True))

    def tensors(
        self, inputs: Mapping[str, NDArray[Any]], names: Sequence[str] | None = None
    ) -> dict[str, NDArray[Any]]:
        """Integer activations by name, from the same file with them as further outputs.

        The level is the same, and every operator runs in the kernel that it runs in when deployed
        (see `exposing`).
        """
        stored = stored_tensors(self._model)
        views = views_of(self.graph, stored)
        if names is None:
            names = [n.output for n in self.graph.nodes if n.output in stored or n.output in views]
        unknown = sorted(set(names) - set(stored) - set(views))
        if unknown:
            raise ArchNetError(
                f"the ONNX file does not show the tensor {', '.join(unknown)}",
                fix=nearest(unknown[0], stored),
            )
        fed = feed(self.graph, inputs)
        values = shown_values(stored, views, names)
        if self._exposing is None or self._exposing[0] != values:
            self._exposing = values, self._open(exposing(self._model, values))
        results = dict(zip(values, self._exposing[1].run(list(values), fed), strict=True))
        return restored(self.graph, stored, names, results, bind_dims(self.graph, fed))

    def _open(self, model: onnx.ModelProto) -> ort.InferenceSession:
        options = session_options(self._threads)
        options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, self.level)
        try:
            return ort.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # the classes of its errors are not public
            raise ArchNetError(
                f"ONNX Runtime {ort.__version__} cannot open the network: {str(error).splitlines()[0]}",
                fix="write the file again with archnet export DIR --format onnx",
            ) from error


def views_of(graph: QuantizedGraph, stored: Mapping[str, StoredTensor]) -> dict[str, Node]:
    """The nodes whose outputs a file does not hold, because they only rearrange what it holds, by output.

    What they rearrange may be gone too: equal look-ups in equal tables are one node of the file.
    """
    views: dict[str, Node] = {}
    for n in graph.nodes:
        if n.op in VIEWS and n.output not in stored and (n.inputs[0] in stored or n.inputs[0] in views):
            views[n.output] = n
    return views


def shown_values(
    stored: Mapping[str, StoredTensor], views: Mapping[str, Node], names: Sequence[str]
) -> tuple[str, ...]:
    """The ONNX values that these tensors are made of."""
    return tuple(dict.fromkeys(stored[_root(views, name)].value for name in names))


def restored(
    graph: QuantizedGraph,
    stored: Mapping[str, StoredTensor],
    names: Sequence[str],
    results: Mapping[str, NDArray[Any]],
    dims: Mapping[str, int],
) -> dict[str, NDArray[Any]]:
    """Integer activations by name, from the ONNX values that `shown_values` names."""
    views = views_of(graph, stored)

    def restore(name: str) -> NDArray[Any]:
        spec = graph.tensors[name]
        if name in views:
            return run_node(views[name], [restore(views[name].inputs[0])], spec, dims)
        return _restore(results[stored[name].value], stored[name], dims, spec)

    return {name: restore(name) for name in names}


def _root(views: Mapping[str, Node], name: str) -> str:
    """The tensor that a chain of Reshapes and Transposes starts from."""
    while name in views:
        name = views[name].inputs[0]
    return name


def read_model(path: Path) -> onnx.ModelProto:
    """Read an ONNX file.

    Raises:
        ArchNetError: there is no such file, or it is damaged.
    """
    fix = "write it with archnet export DIR --format onnx"
    try:
        model = onnx.load(str(path))
    except FileNotFoundError as error:
        raise ArchNetError(f"{path} does not exist", fix=fix) from error
    except OSError as error:
        raise ArchNetError(f"{path} cannot be read: {error.strerror}", fix=fix) from error
    except Exception as error:  # protobuf's errors have no common public class
        raise ArchNetError(f"{path} is no ONNX file, or it is damaged", fix=fix) from error
    if not model.graph.node:
        raise ArchNetError(f"{path} is no ONNX file, or it is damaged", fix=fix)
    return model


def _level_of(model: onnx.ModelProto) -> str:
    for entry in model.metadata_props:
        if entry.key == METADATA_LEVEL:
            return str(entry.value)
    raise ArchNetError(
        "the ONNX file does not name its optimisation level",
        fix="write it with archnet export DIR --format onnx",
    )


def exposing(model: onnx.ModelProto, values: Sequence[str]) -> onnx.ModelProto:
    """The model with internal values as further outputs.

    On x86, ONNX Runtime turns int8 activations with one reader into uint8 (plus 128), which its fast kernels
    take, but not those that are outputs. Here they are turned beforehand, so that showing them changes
    no kernel.
    """
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    zero = numpy_helper.from_array(np.array(128, dtype=np.uint8), "exposed/zero_point")
    shown.graph.initializer.append(zero)
    types = {i.name: i.data_type for i in shown.graph.initializer}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in shown.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for node in shown.graph.node:
        if node.op_type != "QuantizeLinear" or types.get(node.input[2]) != TensorProto.INT8:
            continue
        after = readers.get(node.output[0], [])
        if node.output[0] in values and [reader.op_type for reader in after] == ["DequantizeLinear"]:
            node.input[2] = after[0].input[2] = zero.name
    return with_outputs(shown, values)


def with_outputs(model: onnx.ModelProto, values: Sequence[str]) -> onnx.ModelProto:
    """The model with these internal values as further outputs, as it stands."""
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    del shown.graph.value_info[:]
    known = {output.name for output in shown.graph.output}
    inferred = onnx.shape_inference.infer_shapes(shown)
    infos = {v.name: v for v in (*inferred.graph.value_info, *inferred.graph.output, *inferred.graph.input)}
    shown.graph.output.extend(infos[value] for value in values if value not in known)
    return shown


def _restore(
    value: NDArray[Any], stored: StoredTensor, dims: Mapping[str, int], spec: TensorSpec
) -> NDArray[Any]:
    if stored.scale is not None:
        integers = np.rint(value / np.float32(stored.scale)).astype(np.int64)
    elif value.dtype == np.uint8 and spec.dtype == "int8":
        integers = value.astype(np.int64) - 128
    else:
        integers = value.astype(np.int64) - stored.zero_point
    integers = integers.reshape([dims[d] if isinstance(d, str) else d for d in stored.dims])
    if stored.permutation:
        integers = integers.transpose(stored.permutation)
    return integers.astype(spec.dtype)
