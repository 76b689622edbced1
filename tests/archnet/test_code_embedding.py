"""Residual codes reconstruct the table."""

from __future__ import annotations

import torch
from torch import Tensor

from archnet.code_embedding import residual_codes, with_code_embedding
from archnet.network import Network, Site
from archnet.operators import Op


def rebuilt(codes: Tensor, books: Tensor) -> Tensor:
    return sum((book[codes[:, i]] for i, book in enumerate(books)), torch.zeros(()))


def table(rows: int = 60, width: int = 8) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(0))


def test_a_book_with_a_row_for_each_token_is_exact() -> None:
    codes, books = residual_codes(table(12), digits=1, depth=12)
    torch.testing.assert_close(rebuilt(codes, books), table(12))


def test_every_digit_reduces_the_error() -> None:
    errors = []
    for digits in (1, 2, 4, 8):
        codes, books = residual_codes(table(), digits=digits, depth=8)
        assert codes.shape == (60, digits)
        assert books.shape == (digits, 8, 8)
        assert 0 <= int(codes.min()) <= int(codes.max()) < 8
        errors.append(float((rebuilt(codes, books) - table()).square().mean()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.05 * errors[0]


def test_rows_that_nothing_uses_stay_where_they_were() -> None:
    two = torch.tensor([[1.0, 2.0], [-3.0, 4.0]]).repeat(5, 1)
    codes, books = residual_codes(two, digits=1, depth=6)
    torch.testing.assert_close(rebuilt(codes, books), two)
    assert not bool((books[0] == 0).all(1).any())


def test_the_same_seed_gives_the_same_codes() -> None:
    first, again = (residual_codes(table(), digits=2, depth=8, seed=3) for _ in range(2))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])


def test_network_gets_codes_instead_of_the_table() -> None:
    words = Site("words", Op.EMBEDDING, ("input_ids",), {"table": "t"})
    changed = with_code_embedding(Network(("input_ids",), (words,), {"t": table()}, {"o": "words"}), seed=0)
    assert set(changed.tensors) == {"words.codes", "words.books"}
    codes, books = changed.tensors["words.codes"], changed.tensors["words.books"]
    torch.testing.assert_close(rebuilt(codes, books), table(), rtol=0.01, atol=0.05)
