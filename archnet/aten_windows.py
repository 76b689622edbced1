"""Tokens of a picture in another order (archnet/windows.py): recognised by where each comes from.

How a library writes windows does not matter: reshapes, rolls, slices and paddings run on the tokens' numbers
(archnet/aten_moved.py), and where their features are used, the order is one of windows or is refused.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, fx

from archnet.aten_image import window
from archnet.converters.softmax import HIDDEN
from archnet.network import SiteAttribute
from archnet.operators import Op
from archnet.token_values import Moved, Unknown, Value
from archnet.windows import every_other, windows_of

if TYPE_CHECKING:
    from archnet.aten import Translator

ORDER = "features in an order that no operator takes"


def in_windows(t: Translator, node: fx.Node, m: Moved) -> Value:
    """The sites that put the tokens of pictures into windows or back, neighbours side by side, or into a map.

    Raises:
        Unknown: their order is another one.
    """
    if m.terms[0][0].dim() == 4:
        return _as_map(t, node, m)
    order, beside, within = _order(m)
    tokens = m.sizes[0] * m.sizes[1] // m.pictures
    site = m.base.site
    if not np.array_equal(order, np.arange(tokens)):
        if (windows := windows_of(order, tokens)) is not None:
            site = t.add_site(node, Op.WINDOWS, (site,), attributes=windows.attributes())
        elif (some := every_other(order, tokens)) is not None:
            site = _strided(t, node, site, m.sizes[2], *some)
        else:
            raise Unknown("tokens of an image in an order that is not that of windows")
    if beside > 1:
        site = t.add_site(node, Op.RESHAPE, (site,), attributes={"beside": beside})
    return Value(site, tokens=m.base.tokens, window=within)


def _strided(
    t: Translator, node: fx.Node, site: str, channels: int, size: tuple[int, int], stride: tuple[int, int]
) -> str:
    """Every other row and column of a map: a convolution of each channel by itself that skips the rest."""
    whole: dict[str, SiteAttribute] = {"height": size[0], "width": size[1]}
    grid = t.add_site(node, Op.TO_MAP, (site,), attributes=whole)
    parameters = {"weight": torch.ones(channels, 1, 1, 1), "bias": torch.zeros(channels)}
    attributes = {**window(stride, (0, 0)), "groups": channels}
    some = t.add_site(node, Op.CONV, (grid,), parameters=parameters, attributes=attributes)
    return t.add_site(node, Op.TO_TOKENS, (some,))


def _as_map(t: Translator, node: fx.Node, m: Moved) -> Value:
    """(batch, channels, height, width) of tokens, whose features are the channels."""
    height, width = m.terms[0][0].shape[2:]
    rows = replace(m, terms=tuple((i.flatten(2).mT, g.flatten(2).mT) for i, g in m.terms))
    tokens = in_windows(t, node, rows)
    if tokens.window or rows.terms[0][0].shape[2] != m.sizes[2]:
        raise Unknown(ORDER)
    size: dict[str, SiteAttribute] = {"height": height, "width": width}
    return Value(t.add_site(node, Op.TO_MAP, (tokens.site,), attributes=size), "map")


def _order(m: Moved) -> tuple[np.ndarray[tuple[int], np.dtype[np.int64]], int, int]:
    """Of the tokens of a picture: where each place's comes from (-1: zeros), how many stand side by side, and
    the tokens of a window that is a row of the batch (0: the whole picture is one).
    """
    if len(m.terms) != 1 or m.terms[0][0].dim() != 3:
        raise Unknown(ORDER)
    (index, gain), features, pictures = m.terms[0], m.sizes[2], m.pictures
    rows, places, width = index.shape
    if rows % pictures or width % features or (width > features and rows > pictures):
        raise Unknown(ORDER)
    index, gain = (x.reshape(pictures, -1, features) for x in (index, gain))
    if not bool(((gain == 1) | (gain == 0)).all()) or not torch.equal(gain, gain[:1, :, :1].expand_as(gain)):
        raise Unknown(ORDER)
    own = torch.arange(pictures)[:, None, None] * (m.sizes[0] * m.sizes[1] // pictures * features)
    tokens = torch.where(gain == 0, -1, (index - own - torch.arange(features)) // features)
    exact = torch.where(gain == 0, index, own + tokens * features + torch.arange(features))
    same = tokens[:1, :, :1].expand_as(tokens)
    if not torch.equal(exact, index) or not torch.equal(tokens, same):
        raise Unknown(ORDER)
    return tokens[0, :, 0].numpy(), width // features, places if rows > pictures else 0


def bias_of_windows(value: Tensor, pictures: int, heads: int) -> Tensor:
    """A mask or bias on a probe, for every window or for each its own, as a bias of heads and windows.

    Args:
        value: (windows of all pictures or 1, heads or 1, queries, keys), or pictures and windows in two axes;
            a bool mask is True for what is seen.

    Returns:
        float32 (heads, queries, keys) alike for all windows, or (heads * windows of a picture, queries,
        keys), the windows of a head one after the other; HIDDEN where nothing is left of a key.

    Raises:
        Unknown: it is not the same for every picture.
    """
    if value.dtype == torch.bool:
        value = torch.where(value, 0.0, HIDDEN)
    value = torch.where(value <= HIDDEN / 2, HIDDEN, value.float())
    if value.dim() == 5:
        value = value.expand(pictures, -1, -1, -1, -1).flatten(0, 1)
    value = value.expand(-1, heads, -1, -1)
    if len(value) == 1:
        return value[0].contiguous()
    if len(value) % pictures:
        raise Unknown("a bias of attention for another number of windows than there are")
    apart = value.reshape(pictures, -1, *value.shape[1:])
    if not torch.equal(apart, apart[:1].expand_as(apart)):
        raise Unknown("its attention mask depends on the image")
    return apart[0].transpose(0, 1).flatten(0, 1).contiguous()
