"""Groups of nodes that one kernel computes, found in the graph: attention, and layers over one-hot ids.

Fusion changes no integer: the tensors in between are the same numbers, only never written to memory.
A tensor that is an output of the network, or that something else reads too, is never fused away.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from archnet.graph import Node, QuantizedGraph
from archnet.operators import Op

_HEADS_FIRST = (0, 2, 1, 3)
_KEYS_LAST = (0, 2, 3, 1)


@dataclass(frozen=True, slots=True)
class AttentionGroup:
    """Reshape and Transpose to heads, MatMul, Minimum, Softmax, MatMul, Transpose and Reshape back.

    Attributes:
        query, key, value: tensors (batch, sequence, heads * width).
        mask: the attention mask, if there is a Minimum.
        table: softmax's constant.
        scores, softmax, context: the nodes whose numbers the kernel needs.
        nodes: outputs of all nodes of the group; the last is the group's output.
    """

    query: str
    key: str
    value: str
    mask: str | None
    table: str
    scores: Node
    softmax: Node
    context: Node
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class OneHotGroup:
    """A fully connected layer over one-hot ids: the layer's columns are rows of a table.

    Attributes:
        nodes: outputs of the two nodes; the last is the group's output.
    """

    ids: str
    linear: Node
    nodes: tuple[str, ...]


Group = AttentionGroup | OneHotGroup


def find_groups(graph: QuantizedGraph) -> list[Group]:
    """All groups of a graph; no node belongs to two."""
    finder = _Finder(graph)
    groups: list[Group] = []
    taken: set[str] = set()
    for node in graph.nodes:
        group = finder.attention(node) or finder.one_hot(node)
        if group is not None and taken.isdisjoint(group.nodes):
            groups.append(group)
            taken.update(group.nodes)
    return groups


class _Finder:
    def __init__(self, graph: QuantizedGraph) -> None:
        self._graph = graph
        self._makers = {node.output: node for node in graph.nodes}
        self._uses = Counter(name for node in graph.nodes for name in node.inputs)
        self._uses.update(output.tensor for output in graph.outputs)

    def one_hot(self, node: Node) -> OneHotGroup | None:
        """The group that ends with this node, if it is a fully connected layer over one-hot ids."""
        if node.op is not Op.LINEAR:
            return None
        hot = self._only(node.inputs[0], Op.ONE_HOT)
        return OneHotGroup(hot.inputs[0], node, (hot.output, node.output)) if hot else None

    def attention(self, node: Node) -> AttentionGroup | None:
        """The group that ends with this node, if it joins attention's heads."""
        back = self._only(node.inputs[0], Op.TRANSPOSE) if node.op is Op.RESHAPE else None
        context = self._only(back.inputs[0], Op.MATMUL) if back and _perm(back) == _HEADS_FIRST else None
        if back is None or context is None or context.attributes.get("transpose_b", False):
            return None
        softmax = self._only(context.inputs[0], Op.SOFTMAX, Op.TABLE_SOFTMAX)
        value = self._heads(context.inputs[1], _HEADS_FIRST)
        if softmax is None or value is None:
            return None
        mask = self._only(softmax.inputs[0], Op.MASK)
        scores = self._only(mask.inputs[0] if mask else softmax.inputs[0], Op.MATMUL)
        if scores is None:
            return None
        query = self._heads(scores.inputs[0], _HEADS_FIRST)
        transposed = bool(scores.attributes.get("transpose_b", False))
        key = self._heads(scores.inputs[1], _HEADS_FIRST if transposed else _KEYS_LAST)
        if query is None or key is None:
            return None
        sources = query[0].inputs[0], key[0].inputs[0], value[0].inputs[0]
        shapes = {self._graph.tensors[name].shape for name in sources}
        if shapes != {self._graph.tensors[node.output].shape}:
            return None
        members = [*query, *key, *value, scores, *([mask] if mask else []), softmax, context, back, node]
        return AttentionGroup(
            *sources,
            mask=mask.inputs[1] if mask else None,
            table=softmax.inputs[1],
            scores=scores,
            softmax=softmax,
            context=context,
            nodes=tuple(member.output for member in members),
        )

    def _heads(self, name: str, perm: tuple[int, ...]) -> tuple[Node, Node] | None:
        """Reshape (batch, sequence, C) -> (batch, sequence, heads, width), then this Transpose."""
        swap = self._only(name, Op.TRANSPOSE)
        split = self._only(swap.inputs[0], Op.RESHAPE) if swap and _perm(swap) == perm else None
        if swap is None or split is None:
            return None
        source, shape = self._graph.tensors.get(split.inputs[0]), self._graph.tensors[split.output].shape
        if source is None or source.dtype != "int8":
            return None
        if len(source.shape) != 3 or source.shape[0] != "batch" or shape[:2] != source.shape[:2]:
            return None
        return split, swap

    def _only(self, name: str, *ops: Op) -> Node | None:
        """The node that makes this tensor, if it is one of `ops` and nothing else reads the tensor."""
        node = self._makers.get(name)
        return node if node is not None and node.op in ops and self._uses[name] == 1 else None


def _perm(node: Node) -> object:
    return node.attributes["perm"]
