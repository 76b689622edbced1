"""TVM as a backend: the compiled library in TVM's Relax virtual machine."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from archnet.atomic import read_json, sha256_file
from archnet.backends.base import dequantize_outputs, feed
from archnet.errors import ArchNetError, nearest
from archnet.export.tvm import (
    FORMAT,
    LIBRARY,
    META,
    TENSORS_LIBRARY,
    compile_tensors,
    folder_name,
    graph_sha256,
    import_tvm,
)
from archnet.export.tvm_target import host_features
from archnet.graph import QuantizedGraph
from archnet.storage import load_graph

_EXPORT = "export it here: archnet export DIR --format tvm"


class TvmBackend:
    """Runs a compiled library: any batch, any sequence up to the network's greatest.

    Args:
        graph: the network that the library was compiled from.
        folder: holds model.so and meta.json.
        threads: by default one for each processor that this process may use. TVM has one pool of
            threads a process: the last backend opened decides, and never above the first.

    Raises:
        ArchNetError: TVM is not installed; the library is missing, damaged, of another network, or
            for another processor.
    """

    name = "tvm"

    def __init__(self, graph: QuantizedGraph, folder: Path, *, threads: int | None = None) -> None:
        import_tvm()
        self.graph = graph
        self.folder = folder
        _check(graph, folder)
        _use_threads(threads)
        self._machine = _Machine(folder / LIBRARY)
        self._tensors_machine: _Machine | None = None

    @classmethod
    def open(cls, build_dir: Path, *, threads: int | None = None) -> Self:
        """The network of a build folder, as compiled for this machine."""
        return cls(load_graph(build_dir / "graph"), build_dir / "tvm" / folder_name(), threads=threads)

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The outputs by name (see Backend)."""
        return dequantize_outputs(self.graph, self.run_integers(inputs), inputs)

    def run_integers(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The integer tensors of graph.outputs by tensor name, as the deployed library computes them."""
        names = tuple(dict.fromkeys(output.tensor for output in self.graph.outputs))
        return self._machine.run(self.graph, inputs, names)

    def tensors(
        self, inputs: Mapping[str, NDArray[Any]], names: Sequence[str] | None = None
    ) -> dict[str, NDArray[Any]]:
        """Integer activations by name; by default those of every node.

        They come from tensors.so, which is compiled from the same graph without fusion and is written
        at the first use; the outputs' tensors come from the library that is deployed.
        """
        every = tuple(node.output for node in self.graph.nodes)
        wanted = every if names is None else tuple(names)
        for name in wanted:
            if name not in every:
                raise ArchNetError(f"the TVM library does not compute {name!r}", fix=nearest(name, every))
        results = self.run_integers(inputs)
        if not results.keys() >= set(wanted):
            results = {**self._open_tensors().run(self.graph, inputs, every), **results}
        return {name: results[name] for name in wanted}

    def _open_tensors(self) -> _Machine:
        if self._tensors_machine is None:
            path = self.folder / TENSORS_LIBRARY
            if not path.is_file():
                compile_tensors(self.graph, path)
            self._tensors_machine = _Machine(path)
        return self._tensors_machine


class _Machine:
    """A library loaded into a virtual machine."""

    def __init__(self, library: Path) -> None:
        import tvm
        from tvm import relax

        try:
            self._run = relax.VirtualMachine(tvm.runtime.load_module(str(library)), tvm.cpu())["main"]
        except Exception as error:  # the classes of its errors are not public
            raise ArchNetError(
                f"TVM {tvm.__version__} cannot load {library}: {str(error).strip().splitlines()[-1]}",
                fix=_EXPORT,
            ) from error

    def run(
        self, graph: QuantizedGraph, inputs: Mapping[str, NDArray[Any]], names: Sequence[str]
    ) -> dict[str, NDArray[Any]]:
        """The library's results under these names."""
        import tvm

        fed = feed(graph, inputs)
        results = self._run(
            *(tvm.runtime.tensor(np.ascontiguousarray(fed[spec.name])) for spec in graph.inputs)
        )
        return {name: result.numpy() for name, result in zip(names, results, strict=True)}


def _check(graph: QuantizedGraph, folder: Path) -> None:
    """Refuse a library that this process cannot run, or must not."""
    path = folder / META
    if not path.is_file() or not (folder / LIBRARY).is_file():
        raise ArchNetError(f"{folder} holds no TVM library", fix=_EXPORT)
    meta = read_json(path)
    if meta.get("format") != FORMAT:
        raise ArchNetError(f"{path} has format {meta.get('format')!r}, not {FORMAT}", fix=_EXPORT)
    here, there = platform.machine(), meta.get("architecture")
    if there != here:
        raise ArchNetError(f"{folder / LIBRARY} is compiled for {there}, this machine is {here}", fix=_EXPORT)
    needed = meta.get("features")
    has = host_features()
    absent = [str(name) for name in needed if not has.get(str(name))] if isinstance(needed, list) else []
    if absent:
        raise ArchNetError(
            f"{folder / LIBRARY} is compiled for a processor with {', '.join(absent)}, which this one lacks",
            fix=_EXPORT,
        )
    if meta.get("graph_sha256") != graph_sha256(graph):
        raise ArchNetError(f"{folder / LIBRARY} is compiled from another network", fix=_EXPORT)
    if meta.get("library_sha256") != sha256_file(folder / LIBRARY):
        raise ArchNetError(
            f"{folder / LIBRARY} is damaged: its checksum is not the one in {META}", fix=_EXPORT
        )


def _use_threads(threads: int | None) -> None:
    import tvm

    available = len(os.sched_getaffinity(0))
    # Read when the pool is made, at the first parallel loop: TVM's own choice is half the processors,
    # each thread bound to one, where it waits while another process has it.
    os.environ.setdefault("TVM_NUM_THREADS", str(max(available, threads or 0)))
    os.environ.setdefault("TVM_BIND_THREADS", "0")
    any_core = 1
    tvm.get_global_func("runtime.config_threadpool")(any_core, threads or available)
