"""A build for a chip: its TFLite file, and what the chip's own compiler makes of it."""

from __future__ import annotations

from pathlib import Path

from archnet.errors import ArchNetError
from archnet.parts import is_translation
from archnet.storage import load_graph


def write_tflite(build_dir: Path, path: Path, sequence: int | None = None) -> None:
    """Write the network of a build folder as a TFLite file.

    Args:
        sequence: its sequence length; the network's greatest when None.

    Raises:
        ArchNetError: ai-edge-litert is not installed, the build has no TFLite form, or a sequence length was
            given for a network without one.
    """
    try:
        from archnet.export.tflite import export_tflite
    except ImportError as error:
        raise ArchNetError(
            f"writing TFLite needs ai-edge-litert ({error})", fix="pip install 'archnet[ethos]'"
        ) from error
    if is_translation(build_dir):
        raise ArchNetError(
            f"{build_dir} translates: TFLite files are written for text encoders and image classifiers",
            fix="export --format onnx or tvm",
        )
    graph = load_graph(build_dir / "graph")
    if sequence is not None and not any("sequence" in spec.shape for spec in graph.inputs):
        raise ArchNetError(f"{build_dir} reads no tokens, so it has no --seq-len", fix="leave it out")
    export_tflite(graph, path, sequence)
