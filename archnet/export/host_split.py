"""What a static file for a chip leaves to the host, and the inputs that it has for the mask."""

from __future__ import annotations

from dataclasses import dataclass

from archnet.errors import ArchNetError
from archnet.graph import Node, QuantizedGraph
from archnet.operators import Op

MASK = "attention_mask"


HOST_ONLY: dict[Op, tuple[str, str]] = {
    Op.ONE_HOT: (
        "a row of a one-hot matrix is as wide as the vocabulary",
        "convert with --embedding host (or gather)",
    ),
    Op.EMBEDDING: (
        "only rows by the network's own input can be looked up by the host",
        "convert with --embedding host",
    ),
    Op.SHIFT: ("no chip's compiler was asked about it", "convert for onnxruntime or tvm"),
    Op.MEAN_POOL: ("it is no output of the network", "convert again"),
    Op.WIDEN: ("it is no output of the network", "convert again"),
}
"""What no static file has, mostly because the host does it: why it is refused elsewhere, and what to do."""

UNSHIFTED = (
    "its products are moved by the distances of tokens, which no compiler behind this format was asked about",
    "export it as onnx or tvm",
)
"""Why static files refuse attention with terms of distances, and what to do."""


UNWINDOWED = (
    "no compiler behind this format was asked about tokens in the order of windows",
    "export it as onnx, tvm or tflite, or compile it for a Sophgo chip",
)
"""Why most static files refuse windows of images, and what to do."""


class NothingLeft(ArchNetError):
    """A network all of whose outputs are constants or the host's has no file."""


@dataclass(frozen=True, slots=True)
class Split:
    """Which nodes the host runs before and after the file."""

    before: tuple[Node, ...]
    body: tuple[Node, ...]
    after: tuple[Node, ...]

    def require_body(self, graph: QuantizedGraph) -> None:
        """Refuse a network that is the host's alone, or constants (NothingLeft)."""
        moving = {spec.name for spec in graph.inputs} | {node.output for node in self.before}
        if not any(moving & set(node.inputs) for node in self.body):
            raise NothingLeft(
                f"the network {graph.name} leaves nothing to a compiler: it is the host's, or constants",
                fix="run it with --backend reference",
            )


def split(graph: QuantizedGraph) -> Split:
    """Embedding rows by a network's input are the host's, and so is what makes an output's int32."""
    inputs = {spec.name for spec in graph.inputs}
    outputs = {output.tensor for output in graph.outputs}
    before = [n for n in graph.nodes if n.op is Op.EMBEDDING and n.inputs[0] in inputs]
    after = [n for n in graph.nodes if n.op in (Op.MEAN_POOL, Op.WIDEN) and n.output in outputs]
    body = [n for n in graph.nodes if n not in before and n not in after]
    return Split(tuple(before), tuple(body), tuple(after))


def file_outputs(graph: QuantizedGraph, parts: Split) -> tuple[str, ...]:
    """The activations that the file gives: the outputs, and what the host's last nodes read."""
    made = {node.output for node in parts.body}
    read = [node.inputs[0] for node in parts.after]
    names = [*read, *(output.tensor for output in graph.outputs)]
    return tuple(dict.fromkeys(name for name in names if name in made))


def static_length(graph: QuantizedGraph, sequence: int | None) -> int:
    """The sequence length of a static file: the network's greatest when None.

    Raises:
        ArchNetError: the network does not take it.
    """
    length = graph.max_sequence if sequence is None else sequence
    if not 1 <= length <= graph.max_sequence:
        raise ArchNetError(
            f"--seq-len {length} is not in 1 .. {graph.max_sequence}, which the network takes",
            fix="give another --seq-len",
        )
    return length
