"""Operators between a token and others at a distance, in files of one length: what formats have alike.

The products of S tokens with 2 S rows, for the distances from -(S - 1) on and one more row that no token
reads, are (S, 2 S). Token i wants, of its row, the columns from S - 1 - i on, which in all rows behind each
other begin at i (2 S - 1) + S - 1. So they are the columns from S - 1 on of rows of 2 S - 1 (relative shift,
arXiv 1809.04281, section 3.4.1), and such rows are what is there without the last S elements. No axis holds
all elements, whose number is more than some compilers take.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from archnet.errors import ArchNetError
from archnet.export.host_split import split
from archnet.graph import Node, QuantizedGraph


class Move(NamedTuple):
    """A step from products by distance to products by token.

    Attributes:
        part: its name.
        shape: of its result.
        starts: of a slice; None for another shape of the same elements.
    """

    part: str
    shape: tuple[int, ...]
    starts: tuple[int, ...] | None = None


def distance_moves(heads: int, tokens: int) -> tuple[Move, ...]:
    """(1, heads, tokens, 2 * tokens) by distance -> (1, heads, tokens, tokens) by token."""
    return (
        Move("in_tokens", (1, heads, 2 * tokens, tokens)),
        Move("without_last", (1, heads, 2 * tokens - 1, tokens), (0, 0, 0, 0)),
        Move("in_distances", (1, heads, tokens, 2 * tokens - 1)),
        Move("by_token", (1, heads, tokens, tokens), (0, 0, 0, tokens - 1)),
    )


def distance_rows(table: NDArray[Any], tokens: int) -> NDArray[Any]:
    """The rows of the distances that so many tokens have, and a row of zeros: (1, heads, 2 * tokens, width).

    Args:
        table: (heads, 2 * positions - 1, width), of the distances from -(positions - 1) on.
    """
    middle = (table.shape[1] + 1) // 2
    rows = table[:, middle - tokens : middle + tokens - 1]
    return np.ascontiguousarray(np.pad(rows, ((0, 0), (0, 1), (0, 0)))[None])


def neighbour_pads(graph: QuantizedGraph, node: Node) -> tuple[int, int]:
    """How many tokens of zeros a Shift puts before a sentence, and how many behind it; one is 0.

    The host fills a sentence up with rows of zeros, so that behind its last token there is nothing, as in
    the integer network. What is computed from such rows need not be zeros, and is not moved to the front.

    Raises:
        ArchNetError: it moves computed features of tokens to those before.
    """
    by = cast(int, node.attributes["by"])
    given = {spec.name for spec in graph.inputs} | {made.output for made in split(graph).before}
    if by < 0 and node.inputs[0] not in given:
        raise ArchNetError(
            f"{node.name}: {node.op} moves features that are computed first, which are not zeros behind the "
            "last token of a sentence that is filled up to a file's length",
            fix="convert for onnxruntime or tvm",
        )
    return max(by, 0), max(-by, 0)
