"""Features that a graph splits, reorders and turns before it uses them, followed element by element.

Packed queries, keys and values, the halves of a gated layer, repeated key heads and rotary position
embeddings are all the same thing: at every place of a tensor stands a sum of elements of one earlier
tensor, each times a number. Views, splits, joins and sign changes run as they are on the elements' numbers,
so no library's way of writing them is special. Where the features are used, what came of them is written as
operators that every network has: rows of the fully connected layer that made them, and for numbers that
depend on the position a product with a constant table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx

from archnet.aten_image import IMAGE_INPUT
from archnet.aten_rows import features_of, rows_of
from archnet.aten_windows import in_windows
from archnet.operators import Op
from archnet.token_values import Curve, Moved, MovedParts, Unknown, Value, node_kind

if TYPE_CHECKING:
    from archnet.aten import Translator

RESHAPES = frozenset(
    "view reshape _unsafe_view unflatten flatten squeeze unsqueeze view_as reshape_as".split()
)
"""Views whose result has a known shape."""

MOVES = frozenset(
    "transpose permute slice select cat stack chunk split split_with_sizes unbind narrow repeat_interleave "
    "index index_select flip roll".split()
)
"""Operators that move elements and change none."""

PADS = frozenset(("pad", "constant_pad_nd"))
"""Operators that put other numbers around features."""

TAKES = frozenset(("index", "index_select"))
"""Of these, those that are told where to take elements."""

SCALING = frozenset(("neg", "mul", "div"))
"""Operators that only change what elements are multiplied with, given a constant."""

MERGED = {"merged": "heads", "merged_t": "heads_t"}
"""Layouts with batch and heads in one axis -> those with two."""

ORDERS: dict[str, tuple[int, ...]] = {
    "tokens": (0, 1, 2),
    "tokens_t": (0, 2, 1),
    "stacked": (0, 1, 2),
    "turned": (1, 0, 2),
    "split": (0, 1, 2, 3),
    "heads": (0, 2, 1, 3),
    "heads_t": (0, 3, 1, 2),
    "merged": (0, 2, 1, 3),
    "merged_t": (0, 3, 1, 2),
}
"""The order of axes that makes (batch, tokens, ...) of a layout, once batch and heads are apart."""

OTHER_TOKENS = "features of other tokens than its own"

Term = tuple[Tensor, Tensor]


def moved(t: Translator, node: fx.Node) -> Moved | MovedParts | None:
    """What a node makes of features that are moved; None where it does something else with them."""
    kind = node_kind(node).rstrip("_")
    sources = [source for source in node.all_input_nodes if source in t.known]
    if kind in RESHAPES:
        sources = sources[:1]  # another one only lends its shape
    if kind == "getitem":
        parts = t.known[sources[0]]
        return parts.parts[int(str(node.args[1]))] if isinstance(parts, MovedParts) else None
    found = {source: as_moved(t, source) for source in sources}
    known = {source: m for source, m in found.items() if m is not None}
    if not known or len(known) < len(found) or len({m.base for m in known.values()}) > 1:
        return None
    if kind == "add" and len(known) == 2 and not node.kwargs:
        return _sum(t, node, [*known.values()])
    if len(known) == 1 and kind in SCALING:
        return _scaled(t, node, kind, *known.items())
    if kind in RESHAPES or kind == "expand":
        (m,) = known.values()
        shape = t.shape(node)
        terms = [
            tuple(x.expand(shape) if kind == "expand" else x.reshape(shape) for x in term) for term in m.terms
        ]
        return _checked(m, terms)
    padded = kind in PADS and all(m.pictures for m in known.values()) and _pads_zeros(node)
    return _run(t, node, known) if kind in MOVES or padded else None


def _pads_zeros(node: fx.Node) -> bool:
    """Whether what is put around features are zeros: elements times 0."""
    mode = "constant" if node_kind(node) == "constant_pad_nd" else (*node.args, "constant")[2]
    fill = node.args[-1] if len(node.args) > 2 and node.args[-1] != "constant" else 0
    return mode == "constant" and fill in (0, 0.0, None)


def as_moved(t: Translator, node: fx.Node) -> Moved | None:
    """What is known of a node as moved features, if it is features."""
    found = t.known[node]
    if isinstance(found, Moved):
        return found
    if isinstance(found, Curve):
        found = t.settled(node)
    if isinstance(found, Value) and found.layout == "map" and t.inputs == (IMAGE_INPUT,):
        image = node.op == "placeholder"
        shape = t.probes[0].values[IMAGE_INPUT].shape if image else t.shape(node)
        return None if found.site in t.refused else _places(found, shape)
    if not isinstance(found, Value) or found.layout not in ORDERS:
        return None
    if found.site in t.refused:  # nothing is known of its layout
        return None
    shape, order = t.shape(node), ORDERS[found.layout]
    apart = (shape[0] // found.heads, found.heads, *shape[1:]) if found.layout in MERGED else shape
    if len(shape) == 2:
        apart = _apart(found.layout, shape, t.batch)
    sizes = [apart[i] for i in order]
    index = torch.arange(torch.Size(sizes).numel()).reshape(sizes)
    back = [order.index(i) for i in range(len(order))]
    features = torch.Size(sizes[2:]).numel()
    gain = torch.full(shape, found.gain)
    base = Value(found.site, tokens=found.tokens, window=found.window)
    pictures = len(t.probes[0].values[IMAGE_INPUT]) if t.inputs == (IMAGE_INPUT,) else 0
    terms = ((index.permute(back).reshape(shape), gain),)
    return Moved(base, (sizes[0], sizes[1], features), terms, pictures)


def _apart(layout: str, shape: Sequence[int], batch: int) -> tuple[int, int, int]:
    """The shape of tokens in one axis with those of a row, or the rows of a token, in one of their own."""
    others = shape[0] // batch
    return (others, batch, shape[1]) if layout == "turned" else (batch, others, shape[1])


def _places(image: Value, shape: Sequence[int]) -> Moved:
    """A map, or what an image model reads, (batch, channels, height, width), as tokens of its places."""
    batch, channels, height, width = shape
    count = batch * channels * height * width
    index = torch.arange(count).reshape(batch, height, width, channels).movedim(-1, 1)
    term = index, torch.full(index.shape, image.gain)
    return Moved(replace(image, gain=1.0), (batch, height * width, channels), (term,), batch)


def _sum(t: Translator, node: fx.Node, parts: Sequence[Moved]) -> Moved | None:
    if any(term[0].shape != t.shape(node) for m in parts for term in m.terms):
        return None
    return replace(parts[0], terms=tuple(term for m in parts for term in m.terms))


def _scaled(t: Translator, node: fx.Node, kind: str, item: tuple[fx.Node, Moved]) -> Moved | None:
    """Times -1, or times or divided by a constant that may depend on the position."""
    source, m = item
    factor: Any = -1.0
    if kind != "neg":
        others = [argument for argument in node.args if argument is not source]
        if len(others) != 1 or (kind == "div" and node.args[0] is not source):
            return None
        factor = others[0]
        if isinstance(factor, fx.Node):
            if not t.is_constant(factor):
                return None
            factor = t.tensor(factor).float()
        factor = 1 / factor if kind == "div" else factor
    shape = t.shape(node)
    return replace(m, terms=tuple((i.expand(shape), (g * factor).expand(shape)) for i, g in m.terms))


def _run(t: Translator, node: fx.Node, known: dict[fx.Node, Moved]) -> Moved | MovedParts | None:
    """A move of every term, to places that are constants.

    A tensor with fewer terms than another has further ones times 0.
    """
    places = {source: t.tensor(source) for source in node.all_input_nodes if source not in known}
    if places and node_kind(node) not in TAKES:
        return None
    count = max(len(m.terms) for m in known.values())
    first = next(iter(known.values()))
    results = [[_moved_term(node, known, places, k, part) for part in (0, 1)] for k in range(count)]
    if isinstance(results[0][0], Tensor):
        return _checked(first, [tuple(pair) for pair in results])
    parts = []
    for place in range(len(results[0][0])):
        part = _checked(first, [(index[place], gain[place]) for index, gain in results])
        if part is None:
            return None
        parts.append(part)
    return MovedParts(tuple(parts))


def _moved_term(
    node: fx.Node, known: dict[fx.Node, Moved], places: dict[fx.Node, Tensor], k: int, part: int
) -> Any:
    def taken(source: fx.Node) -> Tensor:
        if source in places:
            return places[source]
        terms = known[source].terms
        if k < len(terms):
            return terms[k][part]
        return terms[0][part] if part == 0 else torch.zeros_like(terms[0][part])

    assert callable(node.target)
    return node.target(*fx.node.map_arg(node.args, taken), **fx.node.map_arg(dict(node.kwargs), taken))


def _checked(m: Moved, terms: Sequence[Any]) -> Moved | None:
    """The same features moved on, if every element is still one of its own token's.

    What the tokens of a picture come to shows where they are used.
    """
    made = replace(m, terms=tuple((index, gain) for index, gain in terms))
    return made if made.pictures or _axes(made) is not None or _stacked(made) else None


def _stacked(m: Moved) -> str:
    """The layout of tokens in one axis: row by row, or token by token; "" where they are in no such order."""
    batch, sequence, features = m.sizes
    if m.terms[0][0].dim() != 2 or len(m.terms[0][0]) != batch * sequence:
        return ""
    place = torch.arange(batch * sequence)
    orders = {"stacked": place, "turned": place.reshape(batch, sequence).T.flatten()}
    return next(
        (
            name
            for name, row in orders.items()
            if all(torch.equal(i // features, row[:, None].expand_as(i)) for i, _ in m.terms)
        ),
        "",
    )


def _axes(m: Moved) -> tuple[int, int] | None:
    """The axes along which the rows of the batch and the tokens stand; None when there are no such ones.

    The axis of the rows may be that of what each of them has so many of (heads), too.
    """
    batch, sequence, features = m.sizes
    shape = m.terms[0][0].shape
    for rows, places in permutations(range(len(shape)), 2):
        times, rest = divmod(shape[rows], batch)
        if rest or shape[places] != sequence:
            continue
        row = _along(rows, shape[rows], len(shape)) // times * sequence
        row = row + _along(places, sequence, len(shape))
        if all(bool((index // features == row).all()) for index, _ in m.terms):
            return rows, places
    return None


def _along(axis: int, size: int, rank: int) -> Tensor:
    """0, 1, ... along an axis, of size 1 along the others."""
    return torch.arange(size).reshape([size if i == axis else 1 for i in range(rank)])


LAYOUTS: dict[tuple[int, tuple[int, int] | None], str] = {
    (3, (0, 1)): "tokens",
    (3, (0, 2)): "tokens_t",
    (4, (0, 1)): "split",
    (4, (0, 2)): "heads",
    (4, (0, 3)): "heads_t",
}
"""(rank, axes of the batch and of the tokens) -> layout."""


def _layout(m: Moved) -> tuple[str, Moved]:
    """The layout of moved features, and the same with batch and heads apart.

    Raises:
        Unknown: they are in no layout that an operator takes.
    """
    shape, batch = m.terms[0][0].shape, m.sizes[0]
    if len(shape) == 3 and shape[1] == batch and _axes(m) == (1, 0):
        return "turned", m
    merged = shape[0] > batch and len(shape) == 3
    if merged:
        apart = (batch, -1, *shape[1:])
        m = replace(m, terms=tuple((i.reshape(apart), g.reshape(apart)) for i, g in m.terms))
    if one := _stacked(m):
        apart = _apart(one, shape, batch)
        return one, replace(m, terms=tuple((i.reshape(apart), g.reshape(apart)) for i, g in m.terms))
    layout = LAYOUTS.get((m.terms[0][0].dim(), _axes(m)))
    if merged:
        layout = next((name for name, of in MERGED.items() if of == layout), None)
    if layout is None:
        raise Unknown("features in an order that no operator takes")
    return layout, m


def named(t: Translator, node: fx.Node, m: Moved) -> Value:
    """The sites that compute moved features.

    Raises:
        Unknown: they are in no layout that an operator takes.
    """
    if m.base.layout == "map":
        if _is_map(m):
            return m.base
        m = replace(m, base=Value(t.add_site(node, Op.TO_TOKENS, (m.base.site,))))
    if m.pictures and _axes(m) is None and not _stacked(m):
        return in_windows(t, node, m)
    layout, m = _layout(m)
    rank, order = m.terms[0][0].dim(), ORDERS[layout]
    sites: list[str] = []
    tables: list[str] = []
    heads = 1
    for index, gain in m.terms:
        index, gain = index.permute(order), gain.permute(order)
        heads = index.shape[2] if rank == 4 else 1
        table = gain.flatten(2)
        rows = features_of(index.flatten(2) % m.sizes[2], table)
        if rows is None or not bool((table == table[:1]).all()):
            raise Unknown(OTHER_TOKENS)
        if not bool(table.any()):
            continue
        alike = bool((table[0] == table[0, :1]).all())
        site = rows_of(t, node, m, rows, table[0, 0] if alike else torch.ones(len(rows)))
        if not alike:
            parameters = {"table": table[0].float().contiguous()}
            site = t.add_site(node, Op.MUL, (site,), parameters=parameters)
            tables.append(site)
        sites.append(site)
    total = sites[0]
    for site in sites[1:]:
        total = t.add_site(node, Op.ADD, (total, site))
    if tables and len(tables) == len(sites):
        t.turned[total] = tuple(tables)
    return Value(total, layout, heads, tokens=m.base.tokens, window=m.base.window)


def _is_map(m: Moved) -> bool:
    """Whether a map's places stand where they were, so that they can go into a convolution."""
    shape = m.terms[0][0].shape
    if len(m.terms) != 1 or len(shape) != 4 or shape[1] != m.sizes[2]:
        return False
    whole = _places(m.base, shape)
    return all(torch.equal(a, b) for a, b in zip(m.terms[0], whole.terms[0], strict=True))


def shifted_heads(t: Translator, node: fx.Node, x: Value, constant: Tensor) -> Value:
    """Features of heads plus a constant each: in the bias of the layer that alone makes them, or a layer."""
    shape = t.shape(node)
    added = constant.float().expand(shape).transpose(1, 2 if x.layout == "heads" else 1).flatten(2)
    if not torch.equal(added, added[:1, :1].expand_as(added)):
        raise Unknown("features of heads plus a constant that depends on the position")
    bias = added[0, 0] / x.gain
    producer = next(site for site in t.sites if site.name == x.site)
    if producer.op is Op.LINEAR and _read_in_one_place(t, x.site):
        t.picked = {key: site for key, site in t.picked.items() if site != x.site}
        name = producer.parameters["bias"]
        t.tensors[name] = t.tensors[name] + bias
        return x
    parameters = {"weight": torch.eye(len(bias)), "bias": bias}
    return replace(x, site=t.add_site(node, Op.LINEAR, (x.site,), parameters=parameters))


def _read_in_one_place(t: Translator, site: str) -> bool:
    """Whether nothing has read a site yet, and the graph passes its value on along one chain only."""
    placed = [n for n, v in t.named.items() if v.site == site]
    chain = [n for n, v in t.known.items() if isinstance(v, Value) and v.site == site]
    single = len(placed) < 2 and all(len(n.users) == 1 for n in (*placed, *chain))
    return single and not any(site in reader.inputs for reader in t.sites)


def scaled_queries(t: Translator, query: str, scale: float) -> float:
    """The scale that attention is left with, where the tables of turned queries take it in."""
    for table in t.turned.get(query, ()):
        key = next(site for site in t.sites if site.name == table).parameters["table"]
        t.tensors[key] = t.tensors[key] * scale
    return 1.0 if query in t.turned else scale
