"""OpenVINO: the network as Quantize, Gemm and Dequantize, made IR; what its CPU plugin runs in bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from archnet.backends.static_onnx import OPENVINO
from archnet.graph import QuantizedGraph
from archnet.operators import Op
from archnet.routes import CompileJob, OriginalJob
from archnet.routes.static_onnx import compile_static, compile_static_original, counted, length
from archnet.targets.chips import CompileSummary
from archnet.targets.toolchain import find_toolchain

_BYTES = frozenset(("i8", "u8", "int8_t", "uint8_t"))
_FLOAT = frozenset(("f32", "f16", "bf16"))

_NAMED = frozenset(("FullyConnected", "MatMul", "Convolution"))

PRODUCTS = frozenset((Op.LINEAR, Op.CONV, Op.MATMUL, Op.RELATIVE_MATMUL))
"""What must run in bytes: the profile gives these operators widths, and nothing makes them float again."""


def compile_chip(job: CompileJob) -> CompileSummary:
    """Write model.onnx and model.xml with model.bin (see `archnet.routes`)."""
    graph, binary, said = compile_static(job, OPENVINO)
    fallbacks, others = floats(graph, said["nodes"])
    return CompileSummary(
        target=job.chip.name,
        tool=find_toolchain(OPENVINO.name).tool,
        native_operators=len(said["nodes"]) - len(fallbacks),
        fallback_operators=len(fallbacks),
        fallbacks=fallbacks,
        binary=binary.name,
        binary_bytes=binary.stat().st_size + binary.with_suffix(".bin").stat().st_size,
        sequence=length(graph, job.sequence),
        configuration="CPU plugin, reals in f32; operators are nodes of its runtime model",
        float_operators=others,
    )


def compile_original(job: OriginalJob) -> CompileSummary:
    """Write model.onnx and model.xml with model.bin of the float original (see `archnet.routes`)."""
    binary, said = compile_static_original(job, OPENVINO)
    return CompileSummary(
        target=job.chip.name,
        tool=find_toolchain(OPENVINO.name).tool,
        native_operators=len(said["nodes"]),
        fallback_operators=0,
        fallbacks=(),
        binary=binary.name,
        binary_bytes=binary.stat().st_size + binary.with_suffix(".bin").stat().st_size,
        sequence=job.sequence,
        configuration="CPU plugin, float32 as it is; operators are nodes of its runtime model",
        float_operators=counted(n["kind"] for n in said["nodes"] if n["precision"] in _FLOAT),
    )


def floats(
    graph: QuantizedGraph, nodes: Iterable[Mapping[str, Any]]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Which nodes of a runtime model compute in float.

    Args:
        nodes: "kind", "precision", "inputs" and "names" of each (the driver's `compile_model`).

    Returns:
        Products of the integer network that read floats, by name; and the other nodes, counted by kind.
    """
    products = {f"{node.output}/exact" for node in graph.nodes if node.op in PRODUCTS}
    fallbacks: list[str] = []
    others: Counter[str] = Counter()
    for node in nodes:
        if node["precision"] not in _FLOAT:
            continue
        found = [name for name in node["names"] if name.removesuffix(f"/{name.split('/')[-1]}") in products]
        if found and node["kind"] != "Subgraph":
            fallbacks.append(f"{node['kind']} ({found[0]})")
        else:
            places = ", ".join(name for name in node["names"] if "/" in name)
            others[f"{node['kind']} ({places})" if places and node["kind"] in _NAMED else node["kind"]] += 1
    return tuple(fallbacks), tuple(f"{count} {kind}" for kind, count in sorted(others.items()))
