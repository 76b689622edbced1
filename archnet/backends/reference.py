"""The reference executor as a backend: NumPy, integers only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from numpy.typing import NDArray

from archnet.backends.base import dequantize_outputs, feed
from archnet.graph import QuantizedGraph
from archnet.reference import execute
from archnet.storage import load_graph


class ReferenceBackend:
    """Runs a QuantizedGraph by archnet.reference, the definition of its results."""

    name = "reference"

    def __init__(self, graph: QuantizedGraph) -> None:
        self.graph = graph

    @classmethod
    def open(cls, build_dir: Path, *, threads: int | None = None) -> Self:
        """The network of a build folder; threads are NumPy's business."""
        return cls(load_graph(build_dir / "graph"))

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The outputs by name (see Backend)."""
        return dequantize_outputs(self.graph, execute(self.graph, feed(self.graph, inputs)), inputs)

    def tensors(
        self, inputs: Mapping[str, NDArray[Any]], names: Sequence[str] | None = None
    ) -> dict[str, NDArray[Any]]:
        """Integer activations by name: those asked for, or the outputs of all nodes."""
        if names is None:
            names = [node.output for node in self.graph.nodes]
        return execute(self.graph, feed(self.graph, inputs), names)
