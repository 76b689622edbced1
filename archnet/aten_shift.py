"""Handlers of the ATen nodes that put the features of neighbouring tokens side by side.

A token's neighbours are the same features moved along the sequence, with zeros where there is no neighbour:
sites of Op.SHIFT. Only features that a token has by itself are moved (its embedding, and what is computed
from that alone): what stands in place of padding would reach the last token, and of features that have read
other tokens nobody says what those are.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, fx

from archnet.aten_image import IMAGE_INPUT, concatenated
from archnet.network import Site
from archnet.operators import Op
from archnet.token_values import Known, Unknown, Value, node_kind

if TYPE_CHECKING:
    from archnet.aten import Translator

BY_ITSELF = frozenset((Op.EMBEDDING, Op.LINEAR, Op.ADD, Op.SHIFT, Op.CONCAT))
"""Operators that a token's features come from before they are moved."""


def slice_of(t: Translator, node: fx.Node) -> Known:
    """A slice that takes everything, or of the tokens all but some first or last ones."""
    source = node.all_input_nodes[0]
    before, after = t.shape(source), t.shape(node)
    if before == after:
        return t.known[source]
    axis, first = int(str(node.args[1])), before[1] - after[1]
    begin, end = (*node.args[2:], None, None)[:2]
    to_the_end = begin == first and end in (None, sys.maxsize)
    if axis != 1 or len(before) != 3 or node.args[4:] not in ((), (1,)):
        raise Unknown("a slice of token features")
    if t.inputs == (IMAGE_INPUT,):
        if begin in (0, None) and end == after[1]:
            return replace(t.value(source, "tokens"), layout="leading", first=after[1])
        if not to_the_end:
            raise Unknown("a slice of token features")
        x = t.value(source, "tokens", "later")
        return replace(x, layout="later", first=x.first + first)
    if to_the_end:
        return replace(t.value(source, "tokens"), layout="later", first=first)
    if begin not in (0, None) or end != -first:
        raise Unknown("a slice of token features")
    return replace(t.value(source, "tokens"), layout="earlier", first=first)


def padded(t: Translator, node: fx.Node) -> Known:
    """Zeros in place of the tokens that a slice has left out, at the other end: every token's neighbour."""
    widths = node.args[1]
    fill = node.args[-1] if len(node.args) > 2 and node.args[-1] != "constant" else 0.0
    constant = node_kind(node) == "constant_pad_nd" or (*node.args, "constant")[2] == "constant"
    assert isinstance(widths, Sequence)
    front, back = [int(str(w)) for w in (*widths, 0, 0, 0, 0)[2:4]]
    rest = [w for i, w in enumerate(widths) if i not in (2, 3)]
    x = t.value(node.args[0], "later", "earlier")
    ends = (0, x.first) if x.layout == "later" else (x.first, 0)
    if any(rest) or not constant or fill not in (0, 0.0, None) or (front, back) != ends:
        raise Unknown("tokens with something else than zeros in place of those left out")
    return shifted(t, node, replace(x, layout="tokens", first=0), front - back)


def shifted(t: Translator, node: fx.Node, x: Value, by: int) -> Value:
    """The features of the token so many places before each (negative: behind it), zeros where there is none.

    Raises:
        Unknown: they depend on other tokens.
    """
    if by == 0:
        return x
    sites, left = {site.name: site for site in t.sites}, [x.site]
    while left:
        site = sites.get(left.pop())
        if site is None:
            continue
        if site.op not in BY_ITSELF:
            raise Unknown("features of other tokens, which depend on more than those tokens' ids")
        left += site.inputs
    return replace(x, site=t.add_site(node, Op.SHIFT, (x.site,), attributes={"by": by}))


def side_by_side(t: Translator, node: fx.Node) -> Known:
    """The features of tokens and of their neighbours in one; other concatenations are another handler's."""
    parts, axis = node.args[0], node.args[1] if len(node.args) > 1 else 0
    assert isinstance(parts, Sequence)
    some = [part for part in parts if not _is_empty(t, part)]
    if len(some) == 1 and isinstance(some[0], fx.Node) and some[0] in t.known:
        return t.known[some[0]]
    found = [t.known.get(part) if isinstance(part, fx.Node) else None for part in parts]
    values = [x for x in found if isinstance(x, Value) and x.layout == "tokens" and x.gain == 1.0]
    sites = {site.name: site for site in t.sites}
    roots = {_root(sites, x.site) for x in values}
    alike = len(values) == len(parts) and len(roots) == 1 and len({x.site for x in values}) > 1
    if not alike or axis not in (2, -1):
        return concatenated(t, node)
    return replace(values[0], site=t.add_site(node, Op.CONCAT, tuple(x.site for x in values)))


def _is_empty(t: Translator, part: object) -> bool:
    """Whether a part of a concatenation holds nothing, as a cache does before the first token."""
    constant = isinstance(part, fx.Node) and part not in t.known and t.is_constant(part)
    return constant and t.tensor(part).numel() == 0


def _root(sites: dict[str, Site], name: str) -> str:
    """What a site moves along the sequence; itself if it moves nothing."""
    while name in sites and sites[name].op is Op.SHIFT:
        name = sites[name].inputs[0]
    return name


def convolution(t: Translator, node: fx.Node) -> Known:
    """A convolution over (batch, features, tokens): a layer over a token's features and its neighbours'.

    One that reads single tokens is a layer alone. Of groups the layer's weight has a block each.
    """
    weight = t.tensor(node.args[1])
    stride, pad, dilation = (_single(node, place, default) for place, default in ((3, 1), (4, 0), (5, 1)))
    groups = _single(node, 6, 1)
    taps = weight.shape[2]
    if stride != 1 or 2 * pad != dilation * (taps - 1):
        raise Unknown("a convolution that changes the number of tokens")
    x = t.value(node.args[0], "tokens_t")
    moved = [shifted(t, node, x, pad - dilation * tap).site for tap in range(taps)]
    blocks = [_block_diagonal(weight[:, :, tap], groups) for tap in range(taps)]
    source = moved[0] if taps == 1 else t.add_site(node, Op.CONCAT, tuple(moved))
    bias = node.args[2] if len(node.args) > 2 else None
    parameters = {
        "weight": torch.cat(blocks, 1),
        "bias": t.tensor(bias) if bias is not None else torch.zeros(len(weight)),
    }
    return replace(x, site=t.add_site(node, Op.LINEAR, (source,), parameters=parameters))


def _block_diagonal(weight: Tensor, groups: int) -> Tensor:
    """(outputs, inputs of a group) -> (outputs, inputs), zeros where an output reads another group."""
    whole: Tensor = torch.block_diag(*weight.chunk(groups))  # type: ignore[no-untyped-call]
    return whole


def _single(node: fx.Node, place: int, default: int) -> int:
    """An argument of a convolution over one axis, as a number.

    Raises:
        Unknown: it is a word, as padding may be.
    """
    value = node.args[place] if len(node.args) > place else default
    if isinstance(value, Sequence) and not isinstance(value, str):
        (value,) = value
    if not isinstance(value, int):
        raise Unknown(f"a convolution with padding {value!r}; give it in tokens")
    return value
