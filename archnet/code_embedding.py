"""Word embedding -> a few small one-hot codes a token and one fully connected layer over them.

Residual quantization of the table: row = sum over digits of books[digit, code]. With D digits of depth
K, the network holds D * K rows instead of the vocabulary's; the codes of a token are a table of small
integers that the host looks up. The books are trained with everything else (archnet/distill.py).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from archnet.network import Network
from archnet.operators import Op

DIGITS = 8
DEPTH = 256
ITERATIONS = 12


def residual_codes(
    table: Tensor, *, digits: int = DIGITS, depth: int = DEPTH, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Codes and books of a table.

    Args:
        table: (vocabulary, features) float32.
        digits: how many rows are summed a token.
        depth: rows a book; at most the vocabulary.

    Returns:
        (codes int64 (vocabulary, digits), books float32 (digits, depth, features)).
    """
    generator = torch.Generator().manual_seed(seed)
    residual = table.detach().float().clone()
    depth = min(depth, table.shape[0])
    codes, books = [], []
    for _ in range(digits):
        book, code = _k_means(residual, depth, generator)
        residual = residual - book[code]
        codes.append(code)
        books.append(book)
    return torch.stack(codes, 1), torch.stack(books)


def _k_means(rows: Tensor, depth: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Lloyd's algorithm from random rows: (centres, nearest centre of each row)."""
    centres = rows[torch.randperm(len(rows), generator=generator)[:depth]].clone()
    code = _nearest(rows, centres)
    for _ in range(ITERATIONS):
        sums = torch.zeros_like(centres).index_add_(0, code, rows)
        counts = torch.bincount(code, minlength=depth)[:, None]
        centres = torch.where(counts > 0, sums / counts.clamp_min(1), centres)
        code = _nearest(rows, centres)
    return centres, code


def _nearest(rows: Tensor, centres: Tensor) -> Tensor:
    scores = rows @ centres.T - 0.5 * centres.square().sum(1)
    return scores.argmax(1)


def with_code_embedding(network: Network, *, seed: int) -> Network:
    """The network with its word table replaced by codes and books."""
    tensors = dict(network.tensors)
    sites = []
    for site in network.sites:
        if site.op is Op.EMBEDDING:
            table = tensors.pop(site.parameters["table"])
            codes, books = residual_codes(table, seed=seed)
            keys = {"codes": f"{site.name}.codes", "books": f"{site.name}.books"}
            tensors[keys["codes"]], tensors[keys["books"]] = codes, books
            site = replace(site, parameters=keys)
        sites.append(site)
    return replace(network, sites=tuple(sites), tensors=tensors)
