"""One spelling for operators of which PyTorch has several, before a graph is translated.

A product may be written as matmul, einsum, tensordot or inner, a transposition as mT, swapaxes or movedim, a
concatenation under three names. Each of these becomes the one form that `archnet/aten_handlers.py` knows, so
that no handler has to know another; what a form cannot be said in stays as it is, and is named there.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from archnet.token_values import node_kind

aten = torch.ops.aten

SAME = {
    "concat": "cat",
    "concatenate": "cat",
    "multiply": "mul",
    "divide": "div",
    "true_divide": "div",
    "subtract": "sub",
}
"""Names of one operator with the same arguments."""


def spelled_alike(graph: fx.GraphModule) -> None:
    """Put other spellings into one, in place."""
    for node in list(graph.graph.nodes):
        if node.op != "call_function":
            continue
        kind = node_kind(node)
        if kind in SAME:
            node.target = getattr(getattr(aten, SAME[kind]), node.target._overloadname)
        elif kind in SPELLINGS:
            _spell(graph.graph, node, SPELLINGS[kind])
    graph.graph.lint()
    graph.recompile()


def _spell(graph: fx.Graph, node: fx.Node, spelling: Callable[[_Writer], fx.Node | None]) -> None:
    """Put what a spelling writes in a node's place; arguments that it does not expect leave it as it is."""
    writer = _Writer(graph, node)
    try:
        with graph.inserting_before(node):
            made = spelling(writer)
    except (AssertionError, IndexError, KeyError, TypeError, ValueError):
        for begun in reversed(writer.written):
            graph.erase_node(begun)
        return
    if made is None:
        return
    if "val" not in made.meta:  # it is new: its size and module are those of the other
        made.meta = dict(node.meta)
    node.replace_all_uses_with(made)
    graph.erase_node(node)


class _Writer:
    """Writes nodes in front of one that they stand for."""

    def __init__(self, graph: fx.Graph, node: fx.Node) -> None:
        self.graph, self.node, self.args = graph, node, node.args
        self.written: list[fx.Node] = []

    def call(self, target: Callable[..., Any], *args: Any, **kwargs: Any) -> fx.Node:
        """A node that is named after the same module."""
        made = self.graph.call_function(target, args, kwargs)
        made.meta = {k: v for k, v in self.node.meta.items() if k in ("nn_module_stack", "stack_trace")}
        self.written.append(made)
        return made

    def given(self, place: int, name: str, default: Any) -> Any:
        """An argument by its place or name."""
        return self.args[place] if len(self.args) > place else self.node.kwargs.get(name, default)

    def permuted(self, x: fx.Node, order: Sequence[int]) -> fx.Node:
        """Axes in this order."""
        alike = list(order) == list(range(len(order)))
        return x if alike else self.call(aten.permute.default, x, list(order))

    def joined(self, x: fx.Node, first: int, count: int) -> fx.Node:
        """So many axes from one on in one."""
        return x if count == 1 else self.call(aten.flatten.using_ints, x, first, first + count - 1)


def rank_of(node: object) -> int:
    """The number of axes of what a node holds."""
    assert isinstance(node, fx.Node)
    return int(node.meta["val"].dim())


def _softmax(w: _Writer) -> fx.Node:
    return w.call(aten.softmax.int, *w.args, **w.node.kwargs)


def _turned(w: _Writer) -> fx.Node:
    """mT, mH and adjoint: the last two axes."""
    return w.call(aten.transpose.int, w.args[0], -2, -1)


def _swapped(w: _Writer) -> fx.Node:
    return w.call(aten.transpose.int, *w.args[:3])


def _moved(w: _Writer) -> fx.Node:
    """movedim and moveaxis: some axes elsewhere, the others in their order."""
    x, rank = w.args[0], rank_of(w.args[0])
    before, after = ([int(i) % rank for i in _listed(a)] for a in w.args[1:3])
    rest = iter(i for i in range(rank) if i not in before)
    places = dict(zip(after, before, strict=True))
    return w.permuted(x, [places[i] if i in places else next(rest) for i in range(rank)])  # type: ignore[arg-type]


def _listed(axes: Any) -> list[int]:
    return [axes] if isinstance(axes, int) else list(axes)


def _tensordot(w: _Writer) -> fx.Node | None:
    """Products of two tensors over some axes of each."""
    a, b, left, right = w.args[:4]
    first, second = _named("a", a), _named("b", b)
    for i, j in zip(_listed(left), _listed(right), strict=True):
        second[j] = first[i]
    return _product(w, (a, b), first, second, [c for c in (*first, *second) if (c in first) != (c in second)])


def _inner(w: _Writer) -> fx.Node | None:
    """Products of two tensors over the last axis of each."""
    a, b = w.args[:2]
    first, second = _named("a", a), _named("b", b)
    second[-1] = first[-1]
    return _product(w, (a, b), first, second, [*first[:-1], *second[:-1]])


def _named(letter: str, x: object) -> list[str]:
    return [f"{letter}{i}" for i in range(rank_of(x))]


def _einsum(w: _Writer) -> fx.Node | None:
    """An einsum of one tensor or two."""
    equation, operands = w.args[:2]
    assert isinstance(equation, str)
    assert isinstance(operands, Sequence)
    left, arrow, right = equation.replace(" ", "").partition("->")
    names = left.split(",")
    if not arrow or len(names) != len(operands) or len(operands) > 2:
        return None
    pairs = list(zip(names, operands, strict=True))
    others = [rank_of(x) - len(name) + 3 if "..." in name else 0 for name, x in pairs]
    axes = [_axes(name, count) for name, count in zip(names, others, strict=True)]
    kept, order = _axes(right, max(others)), axes[0]
    if len(operands) == 2:
        return _product(w, operands, order, axes[1], kept)
    if sorted(order) != sorted(kept) or len(set(order)) != len(order):
        return None
    return w.permuted(operands[0], [order.index(c) for c in kept])  # type: ignore[arg-type]


def _axes(name: str, others: int) -> list[str]:
    """The axes of one operand; those of an ellipsis are counted from its end."""
    before, dots, after = name.partition("...")
    return [*before, *(f".{i}" for i in range(others if dots else 0, 0, -1)), *after]


def _product(
    w: _Writer, operands: Sequence[Any], first: Sequence[str], second: Sequence[str], kept: Sequence[str]
) -> fx.Node | None:
    """A matrix product of two tensors whose axes have these names; None where it is none.

    Of several matrices (axes that both have and that are kept) one axis of each is left, and one summed over.
    """
    (a, b), alike = operands, [len(set(axes)) == len(axes) for axes in (first, second, kept)]
    if a.op == "get_attr" and b.op != "get_attr":  # a layer's weights stand on the right
        a, b, first, second = b, a, second, first
    batch = [c for c in kept if c in first and c in second]
    over = [c for c in first if c in second and c not in kept]
    left, right = [c for c in kept if c not in second], [c for c in kept if c not in first]
    whole = set(first) == {*batch, *left, *over} and set(second) == {*batch, *over, *right}
    several = batch and (len(left), len(over), len(right)) != (1, 1, 1)
    if not all(alike) or not whole or not over or not left or not right or several:
        return None
    sizes = [b.meta["val"].shape[second.index(c)] for c in right]
    if len(right) > 1 and not all(isinstance(size, int) for size in sizes):
        return None
    a = w.permuted(a, [first.index(c) for c in (*batch, *left, *over)])
    b = w.permuted(b, [second.index(c) for c in (*batch, *over, *right)])
    a = w.joined(a, len(batch) + len(left), len(over))
    b = w.joined(w.joined(b, len(batch), len(over)), len(batch) + 1, len(right))
    made = w.call(aten.matmul.default, a, b)
    if len(right) > 1:
        made = w.call(aten.unflatten.int, made, -1, sizes)
    order = (*batch, *left, *right)
    return w.permuted(made, [order.index(c) for c in kept])


def _glu(w: _Writer) -> fx.Node:
    """One half of the features times the sigmoid of the other."""
    halves = w.call(aten.chunk.default, w.args[0], 2, w.given(1, "dim", -1))
    value, gate = (w.call(operator.getitem, halves, i) for i in (0, 1))
    return w.call(aten.mul.Tensor, value, w.call(aten.sigmoid.default, gate))


def _addcmul(w: _Writer) -> fx.Node:
    """x + value * a * b."""
    x, a, b = w.args[:3]
    product, value = w.call(aten.mul.Tensor, a, b), w.given(3, "value", 1)
    if value != 1:
        product = w.call(aten.mul.Scalar, product, value)
    return w.call(aten.add.Tensor, x, product)


def _with_alpha(w: _Writer) -> fx.Node | None:
    """A sum or difference whose second operand is multiplied by alpha."""
    alpha, target = w.node.kwargs.get("alpha", 1), w.node.target
    if alpha == 1 or not isinstance(w.args[1], fx.Node) or not callable(target):
        return None
    return w.call(target, w.args[0], w.call(aten.mul.Scalar, w.args[1], alpha))


def _div(w: _Writer) -> fx.Node | None:
    """(g * x) / d = g * (x / d), where d is one number a token: a norm's weights behind it."""
    product, by = w.args[:2]
    if not isinstance(by, fx.Node) or not isinstance(product, fx.Node):
        return None
    value = by.meta.get("val")
    one = isinstance(value, Tensor) and value.dim() > 1 and value.shape[-1] == 1
    if not one or node_kind(product) != "mul" or len(product.users) > 1:
        return None
    weights, x = sorted(product.args[:2], key=lambda a: getattr(a, "op", "") != "get_attr")
    if getattr(weights, "op", "") != "get_attr" or w.given(2, "rounding_mode", None) is not None:
        return None
    return w.call(aten.mul.Tensor, w.call(aten.div.Tensor, x, by), weights)


def _variance(w: _Writer) -> fx.Node | None:
    """The variance of a token's features as the mean of their squared distances from their mean."""
    found = _moments(w)
    return None if found is None else found[0]


def _deviation(w: _Writer) -> fx.Node | None:
    """Its square root."""
    found = _moments(w)
    return None if found is None else w.call(aten.sqrt.default, found[0])


def _both(w: _Writer) -> None:
    """The variance and the mean of a token's features, which are read one by one."""
    found = _moments(w)
    if found is None:
        return
    for user in list(w.node.users):
        user.replace_all_uses_with(found[int(str(user.args[1]))])
        w.graph.erase_node(user)
    w.graph.erase_node(w.node)


def _moments(w: _Writer) -> tuple[fx.Node, fx.Node] | None:
    """The variance and the mean over the last axis, which stays with one element; None over other axes."""
    x, axes = w.args[0], w.given(1, "dim", None)
    assert isinstance(x, fx.Node)
    size = x.meta["val"].shape[-1]
    if axes is None or _listed(axes) not in ([-1], [rank_of(x) - 1]) or not isinstance(size, int):
        return None
    if not w.given(3, "keepdim", False):
        return None
    correction = w.node.kwargs.get("correction", w.given(2, "unbiased", True))
    less = 1.0 if correction is None else float(correction)
    mean = w.call(aten.mean.dim, x, [-1], True)
    square = w.call(aten.pow.Tensor_Scalar, w.call(aten.sub.Tensor, x, mean), 2)
    variance = w.call(aten.mean.dim, square, [-1], True)
    if less:
        variance = w.call(aten.mul.Scalar, variance, size / (size - less))
    return variance, mean


SPELLINGS: dict[str, Callable[[_Writer], fx.Node | None]] = {
    "special_softmax": _softmax,
    **dict.fromkeys(("mT", "mH", "adjoint"), _turned),
    **dict.fromkeys(("swapaxes", "swapdims"), _swapped),
    **dict.fromkeys(("movedim", "moveaxis"), _moved),
    "einsum": _einsum,
    "tensordot": _tensordot,
    "inner": _inner,
    "glu": _glu,
    "addcmul": _addcmul,
    **dict.fromkeys(("add", "sub"), _with_alpha),
    "div": _div,
    "var": _variance,
    "std": _deviation,
    "var_mean": _both,
}
"""What writes an operator in other ones; None leaves it as it is, or has put others in its place already."""
