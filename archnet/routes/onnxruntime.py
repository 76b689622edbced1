"""ONNX Runtime: a static ONNX file, and what its CPU provider makes of it as an ORT file.

Manual: ONNX Runtime 1.31, "ORT model format" (session.save_model_format) and "Graph optimizations".
"""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import onnx
import onnxruntime as ort

from archnet.errors import ArchNetError
from archnet.export.onnx import DEPLOYED_LEVEL, emulated_places
from archnet.graph import QuantizedGraph
from archnet.onnx_session import session_options
from archnet.operators import Op
from archnet.routes import CompileJob, OriginalJob
from archnet.routes.static_onnx import counted, length, write_original, write_static
from archnet.targets.chips import CompileSummary

BINARY = "model.ort"

_FUSED = frozenset((Op.LINEAR, Op.CONV, Op.MATMUL, Op.ADD))
"""What the profile gives widths: ONNX Runtime must join it with its Quantize and Dequantize."""

_MOVES = frozenset(
    ("Reshape", "Transpose", "Gather", "GatherND", "Cast", "And", "Unsqueeze", "Squeeze", "Expand", "Concat")
)
"""What moves numbers, or computes on indices, and so is in no type of its own."""


def compile_chip(job: CompileJob) -> CompileSummary:
    """Write model.onnx and model.ort (see `archnet.routes`)."""
    graph, model = write_static(job, "convolution")
    binary = job.folder / BINARY
    nodes = _compiled(model, binary, job.log)
    fallbacks = unfused(graph, nodes)
    emulated = Counter(str(place.op) for place in emulated_places(graph))
    return CompileSummary(
        target=job.chip.name,
        tool=f"onnxruntime {ort.__version__}",
        native_operators=len(nodes) - len(fallbacks),
        fallback_operators=len(fallbacks),
        fallbacks=fallbacks,
        binary=BINARY,
        binary_bytes=binary.stat().st_size,
        sequence=length(graph, job.sequence),
        configuration=f"CPU provider at {DEPLOYED_LEVEL}, for this machine's processor",
        float_operators=(
            *(f"{count} {op}" for op, count in sorted(emulated.items())),
            "the outputs' scale",
        ),
    )


def compile_original(job: OriginalJob) -> CompileSummary:
    """Write model.onnx and model.ort of the float original (see `archnet.routes`)."""
    binary = job.folder / BINARY
    nodes = _compiled(write_original(job), binary, job.log)
    return CompileSummary(
        target=job.chip.name,
        tool=f"onnxruntime {ort.__version__}",
        native_operators=len(nodes),
        fallback_operators=0,
        fallbacks=(),
        binary=BINARY,
        binary_bytes=binary.stat().st_size,
        sequence=job.sequence,
        configuration=f"CPU provider at {DEPLOYED_LEVEL}, float32 as it is",
        float_operators=counted(node.op_type for node in nodes if node.op_type not in _MOVES),
    )


def unfused(graph: QuantizedGraph, nodes: list[onnx.NodeProto]) -> tuple[str, ...]:
    """The operators of an optimized file that still compute on what is dequantized: kind and name.

    What was joined has a name of its own kind: QLinearConv, QLinearMatMul, QLinearAdd, QGemm.
    """
    names = {f"{node.output}/exact" for node in graph.nodes if node.op in _FUSED}
    return tuple(
        f"{node.op_type} ({node.name})"
        for node in nodes
        if node.name.rpartition("/")[0] in names and not node.op_type.startswith("Q")
    )


def _compiled(model: Path, binary: Path, log: Path) -> list[onnx.NodeProto]:
    """Write the ORT file, and the log; the nodes that are in it."""
    _optimize(model, binary, "ORT")
    with tempfile.TemporaryDirectory(prefix="archnet-") as folder:
        optimized = Path(folder) / "optimized.onnx"
        _optimize(model, optimized, "ONNX")
        nodes = list(onnx.load(str(optimized)).graph.node)
    kinds = Counter(node.op_type for node in nodes)
    said = "".join(f"{count} {kind}\n" for kind, count in sorted(kinds.items()))
    log.write_text(f"ONNX Runtime {ort.__version__}, CPUExecutionProvider:\n{said}", encoding="utf-8")
    return nodes


def _optimize(model: Path, path: Path, form: str) -> None:
    options = session_options()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, DEPLOYED_LEVEL)
    options.optimized_model_filepath = str(path)
    options.add_session_config_entry("session.save_model_format", form)
    try:
        ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the classes of its errors are not public
        raise ArchNetError(
            f"ONNX Runtime {ort.__version__} cannot compile the network: {str(error).splitlines()[0]}",
            fix="archnet export DIR --format onnx writes the file that it runs uncompiled",
        ) from error
