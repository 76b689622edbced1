"""Handlers of the ATen nodes of image models: convolutions, pooling, and the way from maps to tokens.

A BatchNorm in inference is an affine map a channel: it folds into the convolution before it, or, where
there is none of its own, becomes a depthwise convolution with a kernel of 1 x 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, fx

from archnet.aten_maps import evenly_padded
from archnet.aten_pooling import feature_mean
from archnet.network import SiteAttribute
from archnet.operators import Op
from archnet.side_values import side_constant
from archnet.token_values import Known, Unknown, Value, node_kind

if TYPE_CHECKING:
    from archnet.aten import Translator

IMAGE_INPUT = "pixel_values"

Handler = Callable[["Translator", fx.Node], Known]

FLAT = ("map", "pooled", "column")
"""Layouts that reshapes make rows of."""

_CONVOLUTION = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_WINDOW = ("input", "kernel_size", "stride", "padding")


def arguments_of(node: fx.Node, names: Sequence[str]) -> dict[str, object]:
    """The node's arguments by name."""
    positional: dict[str, object] = dict(zip(names, node.args, strict=False))
    return positional | dict(node.kwargs)


def _pair(value: object, default: int) -> tuple[int, int]:
    """An argument that says the same or something else for height and width."""
    if value is None or value == []:
        return default, default
    if isinstance(value, int):
        return value, value
    if isinstance(value, Sequence) and all(isinstance(v, int) for v in value) and len(value) in (1, 2):
        return int(value[0]), int(value[-1])
    raise Unknown(f"its window is given as {value!r}")


def window(stride: tuple[int, int], pad: tuple[int, int]) -> dict[str, SiteAttribute]:
    """Stride and padding (the same at both ends of an axis) as attributes of a site."""
    return {"stride_y": stride[0], "stride_x": stride[1], "pad_y": pad[0], "pad_x": pad[1]}


def convolution(t: Translator, node: fx.Node) -> Known:
    """A convolution over a map, dense or in groups."""
    given = arguments_of(node, _CONVOLUTION)
    if node_kind(node) == "convolution":  # its seventh argument says whether it is transposed
        if node.args[6]:
            raise Unknown("a transposed convolution")
        given["groups"] = node.args[8]
    x = t.value(given["input"], "map", "padded")
    if _pair(given.get("dilation"), 1) != (1, 1):
        raise Unknown("a convolution with dilation")
    if isinstance(given.get("padding"), str):
        raise Unknown(f"a convolution with padding '{given['padding']}'; give it in pixels")
    weight = t.tensor(given["weight"])
    if weight.dim() != 4:
        raise Unknown("a convolution over another number of axes than two")
    bias = t.tensor(given["bias"]) if given.get("bias") is not None else torch.zeros(weight.shape[0])
    groups = given.get("groups", 1)
    assert isinstance(groups, int)
    down, across = _pair(given.get("padding"), 0)
    top, left, bottom, right = x.pads
    weight, pad = evenly_padded(weight, (top + down, left + across, bottom + down, right + across))
    attributes = window(_pair(given.get("stride"), 1), pad)
    parameters = {"weight": weight, "bias": bias}
    site = t.add_site(
        node, Op.CONV, (x.site,), parameters=parameters, attributes={**attributes, "groups": groups}
    )
    return Value(site, "map")


def _pool(t: Translator, node: fx.Node, op: Op) -> Known:
    given = arguments_of(node, _WINDOW)
    x = t.value(given["input"], "map")
    kernel = _pair(given["kernel_size"], 1)
    stride, pad = _pair(given.get("stride"), 0), _pair(given.get("padding"), 0)
    stride = kernel if stride == (0, 0) else stride
    size = t.shape(node)
    before = t.shape(given["input"]) if isinstance(given["input"], fx.Node) else size
    expected = tuple((before[2 + i] + 2 * pad[i] - kernel[i]) // stride[i] + 1 for i in range(2))
    if size[2:] != expected:
        raise Unknown("pooling with dilation, or that rounds its size up (ceil_mode)")
    attributes = {**window(stride, pad), "kernel_y": kernel[0], "kernel_x": kernel[1]}
    return Value(t.add_site(node, op, (x.site,), attributes=attributes), "map")


def max_pool(t: Translator, node: fx.Node) -> Known:
    """Maximum over windows."""
    return _pool(t, node, Op.MAX_POOL)


def average_pool(t: Translator, node: fx.Node) -> Known:
    """Mean over windows; a window's padding counts as zeros."""
    rest = node.args[4:]
    pad = _pair(node.args[3] if len(node.args) > 3 else None, 0)
    if (len(rest) > 1 and rest[1] is False and pad != (0, 0)) or (len(rest) > 2 and rest[2] is not None):
        raise Unknown("average pooling that does not count its padding, or with a divisor of its own")
    return _pool(t, node, Op.AVG_POOL)


def global_pool(t: Translator, node: fx.Node) -> Known:
    """Mean over equal parts of a map, or over all of it; or the mean of tokens."""
    source = node.args[0]
    assert isinstance(source, fx.Node)
    before, after = t.shape(source), t.shape(node)
    found = t.settled(source)
    if isinstance(found, Value) and found.layout == "tokens":
        raise Unknown("a mean that is no mean over the valid tokens")
    x = t.value(source, "map")
    if len(after) == 2 and after == before[:2]:
        after = (*after, 1, 1)
    if len(after) != 4 or after[:2] != before[:2] or before[2] % after[2] or before[3] % after[3]:
        raise Unknown(f"a mean from {before} to {after}")
    kernel = (before[2] // after[2], before[3] // after[3])
    attributes = {**window(kernel, (0, 0)), "kernel_y": kernel[0], "kernel_x": kernel[1]}
    site = t.add_site(node, Op.AVG_POOL, (x.site,), attributes=attributes)
    if len(t.shape(node)) == 2:
        return Value(t.add_site(node, Op.FLATTEN, (site,)), "row")
    return Value(site, "pooled" if after[2:] == (1, 1) else "map")


def token_pool(t: Translator, node: fx.Node) -> Known:
    """The mean over the tokens of an image, (batch, features, tokens) -> (batch, features, 1)."""
    source, size = node.args[:2]
    assert isinstance(source, fx.Node)
    if t.inputs != (IMAGE_INPUT,) or size not in (1, [1]):
        raise Unknown("a mean that is no mean over the valid tokens")
    x = t.value(source, "tokens_t")
    return replace(
        x, site=t.add_site(node, Op.TOKEN_MEAN, (x.site,), attributes={"first": 0}), layout="column"
    )


def mean(t: Translator, node: fx.Node) -> Known:
    """The mean over height and width, or over the tokens of an image; other means are unknown."""
    axes = node.args[1] if len(node.args) > 1 else None
    source = node.all_input_nodes[0]
    rank = len(t.shape(source))
    if axes in ([-1], [rank - 1]) and t.shape(node) == (*t.shape(source)[:-1], 1):
        return feature_mean(t, source)
    if t.inputs == (IMAGE_INPUT,) and rank == 3 and axes in ([1], [-2]) and len(t.shape(node)) == 2:
        x = t.value(source, "tokens", "later")
        return Value(t.add_site(node, Op.TOKEN_MEAN, (x.site,), attributes={"first": x.first}), "row")
    if not isinstance(axes, Sequence) or rank != 4 or sorted(int(str(a)) % rank for a in axes) != [2, 3]:
        raise Unknown("a mean that is no mean over the valid tokens or over a whole map")
    return global_pool(t, node)


def concatenated(t: Translator, node: fx.Node) -> Known:
    """Constant tokens (a class token) in front of the others: rows of zeros, and a table that is added.

    Or pooled rows, maps or features of tokens side by side.
    """
    parts = node.args[0]
    axis = node.args[1] if len(node.args) > 1 else 0
    assert isinstance(parts, Sequence)
    if axis in (1, -1) and all(_is_in(t, part, "row") for part in parts):
        return _joined(t, node, parts, "row")
    if axis in (1, -3) and all(_is_in(t, part, "map") for part in parts):
        return _joined(t, node, parts, "map")
    if axis in (2, -1) and all(_is_in(t, part, "tokens") for part in parts):
        return _joined(t, node, parts, "tokens")
    if (inserted := _inserted(t, node, parts)) is not None:
        return inserted
    *constants, last = parts
    if not constants or not isinstance(last, fx.Node) or last not in t.known:
        raise Unknown("a concatenation of other things than constant tokens and tokens")
    x, size = t.value(last, "tokens"), t.shape(node)
    if axis not in (1, -2):
        raise Unknown("a concatenation along another axis than the sequence")
    rows = size[1] - t.shape(last)[1]
    table = torch.zeros(size[1], size[2])
    table[:rows] = torch.cat([_constant_rows(t, part, size[2]) for part in constants])
    longer = t.add_site(node, Op.PREPEND, (x.site,), attributes={"rows": rows})
    return Value(t.add_site(node, Op.ADD, (longer,), parameters={"table": table}))


def _inserted(t: Translator, node: fx.Node, parts: Sequence[object]) -> Known | None:
    """Constant tokens (registers) between those in front and the rest: more in front, and one table of all.

    What was in front is undone: it was there for the two slices that stand around the new ones.
    """
    first, *constants, rest = parts
    ends = [t.known.get(part) if isinstance(part, fx.Node) else None for part in (first, rest)]
    if [end.layout if isinstance(end, Value) else None for end in ends] != ["leading", "later"]:
        return None
    before, behind = (end for end in ends if isinstance(end, Value))
    size, sites = t.shape(node), {site.name: site for site in t.sites}
    table, at, undone = torch.zeros(1, size[2]), sites[before.site], {before.site}
    while at.op is Op.ADD and "table" in at.parameters:
        table, at = table + t.tensors[at.parameters["table"]], sites[at.inputs[0]]
        undone.add(at.name)
    count = before.first
    alike = behind.site == before.site and behind.first == count
    if not alike or at.op is not Op.PREPEND or at.attributes["rows"] != count:
        raise Unknown("tokens are put between others that do not begin with as many constant ones")
    same = {n for n, found in t.known.items() if isinstance(found, Value) and found.site == before.site}
    readers = {user for found in same for user in found.users} - same - {node}
    if any(not node_kind(user).startswith("sym_") for user in readers):
        raise Unknown("tokens are put between others that are read besides")
    added = torch.cat([_constant_rows(t, part, size[2]) for part in constants])
    t.sites[:] = [site for site in t.sites if site.name not in undone]
    rows = count + len(added)
    longer = t.add_site(node, Op.PREPEND, at.inputs, attributes={"rows": rows})
    joined = torch.cat([table[:count], added, table[count:]])
    return Value(t.add_site(node, Op.ADD, (longer,), parameters={"table": joined}))


def _is_in(t: Translator, node: object, layout: str) -> bool:
    found = t.settled(node) if isinstance(node, fx.Node) and node in t.known else None
    return isinstance(found, Value) and found.layout == layout and found.site not in t.refused


def _joined(t: Translator, node: fx.Node, parts: Sequence[object], layout: str) -> Known:
    """Each through a layer of its own, which takes in what has to be alike in a concatenation.

    Of maps it is a convolution of each channel by itself.
    """
    values, made = [t.value(part, layout) for part in parts], []
    if len({(x.tokens, x.window) for x in values}) > 1:
        raise Unknown("a concatenation of features of different sequences or windows")
    for part, x in zip(parts, values, strict=True):
        assert isinstance(part, fx.Node)
        width = t.shape(part)[1 if layout == "map" else -1]
        same = {"weight": torch.eye(width), "bias": torch.zeros(width)}
        if layout == "map":
            same["weight"] = torch.ones(width, 1, 1, 1)
            attributes = {**window((1, 1), (0, 0)), "groups": width}
            made.append(t.add_site(node, Op.CONV, (x.site,), parameters=same, attributes=attributes))
        else:
            made.append(t.add_site(node, Op.LINEAR, (x.site,), parameters=same))
    return replace(values[0], site=t.add_site(node, Op.CONCAT, tuple(made)), heads=1)


def _constant_rows(t: Translator, node: object, features: int) -> Tensor:
    """(rows, features): the tokens of a node, alike for every picture."""
    if not isinstance(node, fx.Node) or node in t.known:
        raise Unknown("a concatenation of other things than constant tokens and tokens")
    if node.op == "get_attr":
        return t.tensor(node).reshape(-1, features)
    token = side_constant(t.recorded[0][node], t.recorded[1][node], batched_rank=3)
    if token is None:
        raise Unknown("a concatenation with tokens that are not constant")
    return token.reshape(-1, features)


def flattened(otherwise: Handler) -> Handler:
    """Reshapes of maps; those of tokens and heads are another handler's."""

    def handle(t: Translator, node: fx.Node) -> Known:
        source = node.args[0]
        found = t.settled(source) if source in t.known else None
        if not isinstance(found, Value) or found.layout not in FLAT or found.gain != 1.0:
            return otherwise(t, node)
        assert isinstance(source, fx.Node)
        before, after = t.shape(source), t.shape(node)
        if before == after:
            return found
        if found.layout == "column" and after == before[:2]:
            return replace(found, layout="row")
        if len(after) == 2 and after[0] == before[0]:
            return Value(t.add_site(node, Op.FLATTEN, (found.site,)), "row")
        if len(after) == 3 and after[:2] == before[:2]:
            return Value(found.site, "flat")
        raise Unknown(f"a reshape of a map from {before} to {after}")

    return handle


def to_tokens(otherwise: Handler) -> Handler:
    """(batch, channels, positions) -> tokens; transposes of heads are another handler's."""

    def handle(t: Translator, node: fx.Node) -> Known:
        source = node.all_input_nodes[0]
        found = t.settled(source)
        if not isinstance(found, Value) or found.layout != "flat":
            return otherwise(t, node)
        before, after = t.shape(source), t.shape(node)
        swapped = (before[0], before[2], before[1])
        axes = node.args[1:] if node_kind(node) == "transpose" else node.args[1]
        assert isinstance(axes, Sequence)
        order = [int(str(a)) % 3 for a in axes]
        if after != swapped or order not in ([1, 2], [2, 1], [0, 2, 1]):
            raise Unknown("a transpose of a map that does not make tokens of its positions")
        return Value(t.add_site(node, Op.TO_TOKENS, (found.site,)))

    return handle


def _no_squeeze(t: Translator, node: fx.Node) -> Known:
    raise Unknown("axes of one element are dropped of something else than a pooled map")


IMAGE_HANDLERS: dict[str, Handler] = {
    "conv2d": convolution,
    "convolution": convolution,
    "max_pool2d": max_pool,
    "max_pool2d_with_indices": max_pool,
    "avg_pool2d": average_pool,
    "adaptive_avg_pool1d": token_pool,
    "adaptive_avg_pool2d": global_pool,
    "mean": mean,
    "cat": concatenated,
    "squeeze": flattened(_no_squeeze),
}
