"""The QDQ file of a build, for routes whose compilers read ONNX."""

from __future__ import annotations

from pathlib import Path

from archnet.errors import ArchNetError
from archnet.export.qdq import QdqModel, export_qdq
from archnet.export.qdq_state import QdqForm
from archnet.parts import is_translation
from archnet.routes import CompileJob
from archnet.storage import load_graph


def write_qdq(job: CompileJob, path: Path, form: QdqForm) -> tuple[QdqModel, int | None]:
    """Write the network of a job's build.

    Returns:
        The model, and its sequence length; None for networks that read no tokens.

    Raises:
        ArchNetError: the build has no QDQ form, or a sequence length was given for a network without one.
    """
    if is_translation(job.build.path):
        raise ArchNetError(
            f"{job.build.path} translates: chips' compilers get text encoders and image classifiers",
            fix="export --format onnx or tvm",
        )
    graph = load_graph(job.build.graph_dir)
    reads_tokens = any("sequence" in spec.shape for spec in graph.inputs)
    if job.sequence is not None and not reads_tokens:
        raise ArchNetError(f"{job.build.path} reads no tokens, so it has no --seq-len", fix="leave it out")
    model = export_qdq(graph, path, job.sequence, form=form)
    return model, model.sequence if reads_tokens else None
