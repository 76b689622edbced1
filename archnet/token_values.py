"""What the translation of a captured graph knows of each token-dependent tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, fx


@dataclass(frozen=True, slots=True)
class Value:
    """A float tensor that depends on the tokens.

    layout: "map" (batch, channels, height, width) of an image; "flat" (batch, channels, height * width);
    "padded" a map with zeros around it; "grid" (batch, height, width, features), whose pixels are tokens;
    "pooled" (batch, channels, 1, 1); "column" (batch, features, 1), a mean of tokens;
    "tokens" (batch, sequence, features); "tokens_t" (batch, features, sequence);
    "stacked" (batch * sequence, features); "turned" (sequence, batch, features) or these two in one axis;
    "split" (batch, sequence, heads, width); "heads" (batch, heads, sequence, width);
    "heads_t" (batch, heads, width, sequence); "merged" (batch * heads, sequence, width);
    "merged_t" (batch * heads, width, sequence); "row" (batch, features). On the way to a pooled output:
    "masked", tokens with 0 in place of padding; "sum", their sum over the sequence; "norm", the L2 norm of a
    row; "normalized", a row divided by it; "leading", the first `first` tokens of an image, "later", the
    tokens from `first` on, and "earlier", all but the last `first`. On the way to a norm: "average", "moment"
    and "variance" (batch, sequence, 1), the means of features, of their squares, and of the squares of
    "centred" ones; of a norm within heads a "moment" for each head.
    tokens: the mask of the sequence that it runs over, the source's or the target's.
    first: where a slice ends ("leading") or begins ("later"), or how many it leaves out ("earlier").
    window: of an image in windows, the tokens of each; the windows of all images are rows of the batch here,
        and one after the other along the sequence in the site. 0 for none.
    pads: how many zeros stand around a "padded" map: top, left, bottom, right.
    """

    site: str
    layout: str = "tokens"
    heads: int = 1
    gain: float = 1.0
    tokens: str = "attention_mask"
    first: int = 0
    window: int = 0
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)


HEADS = ("split", "heads")
"""Layouts whose last axis are the features of one head."""

FEATURES = ("tokens", "row", "stacked", "turned", "grid")
"""Layouts whose last axis are all features of a token, row or place."""

PER_HEAD = (*HEADS, "heads_t", "merged", "merged_t")
"""Layouts of what attention multiplies, whose gains its scores take in."""


LIKE = frozenset("expand_as view_as reshape_as type_as zeros_like ones_like".split())
"""Operators that take no more of their last tensor than its shape or type."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Products of queries and keys on their way to an attention site.

    scale: of the products.
    addends: what is added to them, each with the factor that it was multiplied by afterwards.
    hidden: masks of those that count for nothing.
    cap: c of c * tanh(scale * product), to which they are bounded before anything is added; 0 for none.
    relative: products of queries or keys with constants of distances, already in them.
    """

    query: Value
    key: Value
    scale: float
    addends: tuple[tuple[fx.Node, float], ...] = ()
    probabilities: bool = False
    hidden: tuple[fx.Node, ...] = ()
    cap: float = 0.0
    relative: tuple[RelativeTerm, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class RelativeTerm:
    """Queries or keys times constants (archnet/aten_relative.py).

    Attributes:
        of: the queries or keys, in heads.
        table: (heads, rows, width) float32.
        form: "rows", a product with every row; or of each pair of tokens with the row of their distance, a
            row for each from -(positions - 1) on: (own, other) is "own first", (other, own) "own last".
    """

    of: Value
    table: Tensor
    form: Literal["rows", "own first", "own last"]


@dataclass(frozen=True, slots=True, eq=False)
class Relative:
    """A sum of such products, on its way to the scores of attention."""

    terms: tuple[RelativeTerm, ...]


@dataclass(frozen=True, slots=True)
class Curve:
    """An elementwise function of one value, not yet named.

    Attributes:
        base: the value that it is a function of.
        samples: the function at every point of `archnet.curves.GRID`.
        node: the last operator of the chain.
    """

    base: Value
    samples: Tensor
    node: fx.Node


@dataclass(frozen=True, slots=True, eq=False)
class Moved:
    """Features of a site in another order, times numbers (archnet/aten_moved.py).

    Attributes:
        base: what they are features of, in the layout "tokens".
        sizes: batch, sequence and features of the base on the first probe.
        terms: (index, gain) shaped like the tensor on that probe: which element of the base stands at each
            place, int64, and what it is multiplied with, float32; the tensor is their sum.
        pictures: how many the first probe has, whose tokens may move, too; 0 for text, whose tokens stay.
    """

    base: Value
    sizes: tuple[int, int, int]
    terms: tuple[tuple[Tensor, Tensor], ...]
    pictures: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class MovedParts:
    """What an operator with several results makes of moved features."""

    parts: tuple[Moved, ...]


Known = Value | Scores | Relative | Curve | Moved | MovedParts


class Unknown(Exception):
    """This node has no site; the reason is the message."""


def node_kind(node: fx.Node) -> str:
    schema = getattr(node.target, "_schema", None)
    if schema is not None:
        return str(schema.name).split("::")[-1]
    return str(getattr(node.target, "__name__", node.target))


def scalar_of(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None
