"""Handlers of the ATen nodes that turn maps to pixels with their features last and back, and pad them.

ConvNeXt and its kind normalise and multiply each pixel's channels by themselves. With these as the last axis
the pixels are tokens like any others, whose layers, norms and activations are known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, fx

from archnet.network import SiteAttribute
from archnet.operators import Op
from archnet.token_values import Curve, Known, Moved, Unknown, Value, node_kind

if TYPE_CHECKING:
    from archnet.aten import Translator

Handler = Callable[["Translator", fx.Node], Known]

TO_GRID, TO_MAP = (0, 2, 3, 1), (0, 3, 1, 2)
"""Orders of axes that make pixels with their features last of a map, and a map of these."""


def features_last(otherwise: Handler) -> Handler:
    """(batch, channels, height, width) <-> (batch, height, width, channels); other orders are another's."""

    def handle(t: Translator, node: fx.Node) -> Known:
        if isinstance(t.known[node.all_input_nodes[0]], Moved):
            return otherwise(t, node)  # tokens that may become a map, or stay tokens
        found = t.settled(node.args[0])
        if (
            not isinstance(found, Value)
            or found.layout not in ("map", "grid")
            or node_kind(node) != "permute"
        ):
            return otherwise(t, node)
        axes = node.args[1]
        assert isinstance(axes, Sequence)
        order = tuple(int(str(axis)) % 4 for axis in axes)
        if (found.layout, order) == ("map", TO_GRID):
            return Value(t.add_site(node, Op.TO_TOKENS, (found.site,)), "grid")
        if (found.layout, order) == ("grid", TO_MAP):
            x = t.value(node.args[0], "grid")
            height, width = t.shape(node)[2:]
            size: dict[str, SiteAttribute] = {"height": height, "width": width}
            return Value(t.add_site(node, Op.TO_MAP, (x.site,), attributes=size), "map")
        raise Unknown(f"a transposition {order} of a map")

    return handle


def padded_map(otherwise: Handler) -> Handler:
    """Zeros around a map, which the convolution that reads it counts with its own; others are another's."""

    def handle(t: Translator, node: fx.Node) -> Known:
        known = t.known[node.all_input_nodes[0]]
        base = known.base if isinstance(known, Curve) else known
        if not isinstance(base, Value) or base.layout != "map":
            return otherwise(t, node)
        widths = node.args[1]
        assert isinstance(widths, Sequence)
        sizes = [int(str(width)) for width in widths]
        if not any(sizes):
            return known
        mode = "constant" if node_kind(node) == "constant_pad_nd" else (*node.args, "constant")[2]
        fill = node.args[-1] if len(node.args) > 2 and node.args[-1] != "constant" else 0.0
        if len(sizes) != 4 or min(sizes) < 0 or mode != "constant" or fill not in (0, 0.0, None):
            raise Unknown("a map with something else than zeros around it")
        left, right, top, bottom = sizes
        x = t.value(node.args[0], "map")
        return replace(x, layout="padded", pads=(top, left, bottom, right))

    return handle


def evenly_padded(weight: Tensor, pads: tuple[int, int, int, int]) -> tuple[Tensor, tuple[int, int]]:
    """A kernel for as many zeros at both ends of an axis, with zeros of its own for those that are too many.

    Args:
        weight: (channels, inputs, height, width).
        pads: zeros around the map: top, left, bottom, right.

    Returns:
        The kernel, and the zeros at both ends of (height, width).
    """
    top, left, bottom, right = pads
    down, across = max(top, bottom), max(left, right)
    return F.pad(weight, (across - left, across - right, down - top, down - bottom)), (down, across)
