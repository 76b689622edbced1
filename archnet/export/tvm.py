"""QuantizedGraph -> a shared library that TVM's runtime runs: integers only, any batch and sequence.

DIR/tvm/<target>/model.so holds a Relax module with integer TensorIR kernels and the constants;
meta.json beside it says what it is. Sizes are symbolic: one library takes any batch, and any sequence
up to the network's greatest. tensors.so, written on request, returns every activation.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from archnet.atomic import disk_errors, replacing, sha256_file, write_json
from archnet.errors import ArchNetError
from archnet.export.tvm_target import HOST, TARGETS, Processor, find_processor, folder_name, linker
from archnet.graph import QuantizedGraph

__all__ = ["FORMAT", "HOST", "LIBRARY", "META", "TARGETS", "TENSORS_LIBRARY", "compile_tvm", "folder_name"]

LIBRARY = "model.so"
TENSORS_LIBRARY = "tensors.so"
META = "meta.json"
FORMAT = 1
"""Version of meta.json and of the libraries' interface."""


def compile_tvm(graph: QuantizedGraph, out_dir: Path, *, target: str = HOST, tensors: bool = False) -> Path:
    """Compile a network with TVM and LLVM.

    Args:
        out_dir: DIR/tvm/<folder_name(target)>, made if it is not there.
        target: "host" for this machine's processor, or one of TARGETS.
        tensors: also write tensors.so, which returns every activation.

    Returns:
        out_dir/model.so.

    Raises:
        ArchNetError: TVM or a linker is not installed, unknown target, folder not writable.
    """
    folder_name(target)
    tvm_version = import_tvm()
    processor = find_processor(target)
    link = linker(processor.architecture)
    with disk_errors(out_dir):
        out_dir.mkdir(parents=True, exist_ok=True)
    isa = _compile(graph, processor, out_dir / LIBRARY, link, tensors=False)
    if tensors:
        _compile(graph, processor, out_dir / TENSORS_LIBRARY, link, tensors=True)
    else:
        (out_dir / TENSORS_LIBRARY).unlink(missing_ok=True)
    write_json(out_dir / META, _describe(graph, processor, isa, tvm_version, out_dir))
    return out_dir / LIBRARY


def compile_tensors(graph: QuantizedGraph, path: Path) -> None:
    """Write the library that returns every activation, for this machine."""
    import_tvm()
    processor = find_processor(HOST)
    _compile(graph, processor, path, linker(processor.architecture), tensors=True)


def graph_sha256(graph: QuantizedGraph) -> str:
    """A checksum of all that a library is compiled from, to tell a library of another network."""
    digest = hashlib.sha256()
    for spec in (*graph.inputs, *(graph.tensors[node.output] for node in graph.nodes)):
        digest.update(repr((spec.name, spec.shape, spec.dtype, spec.bits)).encode())
    for node in graph.nodes:
        attributes = sorted(node.attributes.items())
        digest.update(repr((str(node.op), node.inputs, node.output, attributes)).encode())
    digest.update(repr([output.tensor for output in graph.outputs]).encode())
    for name, value in sorted(graph.constants.items()):
        digest.update(repr((name, value.shape, str(value.dtype))).encode())
        digest.update(np.ascontiguousarray(value).data)
    return digest.hexdigest()


def import_tvm() -> str:
    """Import TVM and return its version.

    Raises:
        ArchNetError: it is not installed, or not the one that the exporter is written for.
    """
    fix = "pip install 'archnet[tvm]'"
    try:
        import tvm
    except ImportError as error:
        raise ArchNetError(f"TVM is not installed here ({error})", fix=fix) from error
    try:
        from tvm.tirx.script.builder import ir  # noqa: F401
    except ImportError as error:
        raise ArchNetError(f"TVM {tvm.__version__} is not the version wanted", fix=fix) from error
    return str(tvm.__version__)


def _compile(graph: QuantizedGraph, processor: Processor, path: Path, link: Any, *, tensors: bool) -> str:
    """Write one library whole or not at all; returns the name of the kernels' instruction set."""
    import tvm

    from archnet.export.tvm_isa import choose_isa
    from archnet.export.tvm_module import build_module

    target = tvm.target.Target(processor.tvm_target())
    isa = choose_isa(target)
    executable = tvm.compile(build_module(graph, isa, tensors=tensors), target=target)
    with disk_errors(path), replacing(path) as unfinished:

        def link_files(library: str, objects: list[str], **_options: Any) -> None:
            link(library, objects)

        executable.export_library(str(unfinished), fcompile=link_files)
    return isa.name


def _describe(
    graph: QuantizedGraph, processor: Processor, kernels: str, tvm_version: str, folder: Path
) -> dict[str, object]:
    from archnet.export.tvm_module import ENTRY, result_names

    return {
        "format": FORMAT,
        "library_sha256": sha256_file(folder / LIBRARY),
        "graph_sha256": graph_sha256(graph),
        "tvm": tvm_version,
        "architecture": processor.architecture,
        "triple": processor.triple,
        "cpu": processor.cpu,
        "features": list(processor.features),
        "kernels": kernels,
        "entry": ENTRY,
        "max_sequence": graph.max_sequence,
        "inputs": [
            {"name": spec.name, "shape": list(spec.shape), "dtype": spec.dtype} for spec in graph.inputs
        ],
        "outputs": [
            {"name": name, "shape": list(graph.tensors[name].shape), "dtype": graph.tensors[name].dtype}
            for name in result_names(graph, tensors=False)
        ],
    }
