"""Handlers of the ATen nodes of disentangled attention: scores between contents and distances.

DeBERTa (arXiv 2006.03654, section 3.1, eq. 4) adds two terms to the products of queries and keys. Query i
is multiplied with a projection Kr of an embedding of the distance i - j, key j with another one, Qr:

    A[i, j] = q[i] k[j] + q[i] Kr[d(i, j)] + k[j] Qr[d(j, i)]

Kr and Qr do not depend on the tokens. All the products of a query with the rows of Kr are computed at once,
and those of its keys' distances are gathered. The graph's gathers are replaced by tables with a row for each
distance, whatever d makes of it: buckets and limits are gone.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING

import torch
from torch import Tensor, fx

from archnet.token_values import Relative, RelativeTerm, Scores, Unknown

if TYPE_CHECKING:
    from archnet.aten import Translator

GATHERED = "products with rows of a table that are gathered in another way than by distances of positions"


def times_rows(t: Translator, node: fx.Node, left: object, right: Tensor) -> Relative:
    """Queries or keys times the rows of a constant, the same for every sequence.

    Args:
        node: the product.
        left: heads of tokens.
        right: (batch * heads or heads or 1, width, rows), or with the batch as an axis of its own.
    """
    x = t.value(left, "heads", "merged")
    if right.dim() < 2 or right.shape[-1] != t.shape(node)[-1]:
        raise Unknown("a product of heads with a constant that is no matrix")
    rows = right.reshape(-1, *right.shape[-2:])
    if len(rows) == prod(t.shape(node)[:-2]):
        rows = rows.reshape(-1, x.heads, *rows.shape[1:])
        if not torch.equal(rows, rows[:1].expand_as(rows)):
            raise Unknown("a product with a constant that is another one for each sequence")
        rows = rows[0]
    if len(rows) not in (1, x.heads):
        raise Unknown("a product of heads with a constant that is none for each head")
    table = rows.transpose(1, 2).expand(x.heads, -1, -1).float()
    return Relative((RelativeTerm(replace(x, gain=1.0), table * x.gain, "rows"),))


def gather(t: Translator, node: fx.Node) -> Relative:
    """Of the products with all rows those of each pair of positions, by their distance.

    Raises:
        Unknown: which row it is depends on something else than the distance.
    """
    source, axis, places = node.args[:3]
    found = t.known.get(source) if isinstance(source, fx.Node) else None
    if not isinstance(found, Relative) or axis not in (-1, len(t.shape(node)) - 1):
        raise Unknown(GATHERED)
    (term,) = found.terms
    index = t.tensor(places)
    index = index.reshape(-1, *index.shape[-2:])
    length = t.shape(node)[-2]
    square = index.shape[1:] == (length, length) and torch.equal(index, index[:1].expand_as(index))
    if term.form != "rows" or not square or not torch.equal(index[0, 1:, 1:], index[0, :-1, :-1]):
        raise Unknown(GATHERED)
    by_distance = torch.cat([index[0, :, 0].flip(0), index[0, 0, 1:]])
    return Relative((replace(term, table=term.table[:, by_distance], form="own first"),))


def transposed(t: Translator, found: Relative, order: list[int]) -> Relative:
    """Keys' products as those of pairs of queries and keys."""
    *batch, rows, columns = order
    if batch != list(range(len(batch))) or rows != columns + 1 or len(found.terms) != 1:
        raise Unknown("scores between contents and distances in another order")
    (term,) = found.terms
    if term.form == "rows":
        raise Unknown("products with rows of a table that are not gathered")
    if term.form == "own first":
        return Relative((replace(term, form="own last"),))
    return Relative((replace(term, form="own first"),))


def scaled_relative(found: Relative, factor: float) -> Relative:
    """All terms times a number."""
    return Relative(tuple(replace(term, table=term.table * factor) for term in found.terms))


def added(left: Scores | Relative, right: Scores | Relative) -> Scores | Relative:
    """Scores and terms of distances, in any order."""
    if isinstance(left, Relative) and isinstance(right, Relative):
        return Relative((*left.terms, *right.terms))
    if isinstance(left, Relative):
        left, right = right, left
    if not isinstance(left, Scores) or not isinstance(right, Relative) or left.probabilities:
        raise Unknown("attention scores plus attention scores")
    return replace(left, relative=(*left.relative, *right.terms))


def tables_of(scores: Scores) -> dict[str, Tensor]:
    """The tables of an attention site: "relative_keys", what queries are multiplied with, and the queries.

    Returns:
        float32 (heads, 2 * positions - 1, width) each, in units in which the products of queries and keys
        are scaled. Row `positions - 1 + d` belongs to what stands d places behind the token itself.

    Raises:
        Unknown: a term multiplies something else than this attention's own queries or keys.
    """
    tables: dict[str, Tensor] = {}
    for term in scores.relative:
        own, role = (
            (scores.query, "relative_keys") if term.form == "own first" else (scores.key, "relative_queries")
        )
        if term.form == "rows" or (term.of.site, term.of.heads) != (own.site, own.heads):
            raise Unknown("scores between distances and something else than queries or keys")
        table = term.table / scores.scale
        tables[role] = tables[role] + table if role in tables else table
    return tables


def refuse_beside_distances(t: Translator, scores: Scores, *, positions: bool) -> None:
    """Raise Unknown where scores with terms of distances have something that no such attention takes.

    Args:
        positions: whether they have a bias of pairs of positions, or a causal mask.
    """
    if scores.cap:
        raise Unknown("scores with distances that are bounded by a tanh")
    if positions:
        raise Unknown("scores with distances beside a bias of positions, a window or a causal mask")
    if "decoder_input_ids" in t.inputs:
        kind = "an encoder-decoder" if "input_ids" in t.inputs else "a language model"
        raise Unknown(f"scores with distances in {kind}")
