"""The QDQ file of a build, for routes whose compilers read ONNX."""

from __future__ import annotations

from pathlib import Path

from archnet.export.qdq import QdqModel, export_qdq
from archnet.export.qdq_state import QdqForm
from archnet.routes import CompileJob, network_of, reads_tokens


def write_qdq(job: CompileJob, path: Path, form: QdqForm) -> tuple[QdqModel, int | None]:
    """Write the network of a job's build.

    Returns:
        The model, and its sequence length; None for networks that read no tokens.

    Raises:
        ArchNetError: the build has no QDQ form, or a sequence length was given for a network without one.
    """
    graph = network_of(job)
    model = export_qdq(graph, path, job.sequence, form=form)
    return model, model.sequence if reads_tokens(graph) else None
