"""Figures of agreement against hand-worked values."""

from __future__ import annotations

import numpy as np
import pytest

from archnet.metrics import cosine, spearman, sqnr_db


def test_sqnr_of_a_tenth_of_noise_is_twenty_decibels() -> None:
    reference = np.array([1.0, -2.0, 3.0])
    assert sqnr_db(reference, reference * 1.1) == pytest.approx(20.0)


def test_sqnr_of_integers_does_not_overflow() -> None:
    reference = np.array([127, -128], dtype=np.int8)
    assert sqnr_db(reference, -reference.astype(np.int16)) == pytest.approx(10 * np.log10(0.25))


def test_sqnr_at_its_ends() -> None:
    assert sqnr_db(np.ones(3), np.ones(3)) == float("inf")
    assert sqnr_db(np.zeros(3), np.ones(3)) == float("-inf")


def test_cosine_is_taken_over_the_last_axis() -> None:
    a = np.array([[3.0, 4.0], [1.0, 0.0], [0.0, 0.0]])
    b = np.array([[4.0, 3.0], [-2.0, 0.0], [1.0, 1.0]])
    np.testing.assert_allclose(cosine(a, b), [24 / 25, -1.0, 0.0])


def test_spearman_looks_at_the_order_only() -> None:
    a = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    assert spearman(a, np.exp(a)) == pytest.approx(1.0)
    # d = (0, 1, -1, 0, 0): 1 - 6 * 2 / (5 * 24)
    assert spearman(a, np.array([1.0, 3.0, 2.0, 4.0, 5.0])) == pytest.approx(0.9)


def test_spearman_gives_ties_the_mean_rank() -> None:
    assert spearman(np.array([1, 2, 2, 3]), np.array([1, 2, 3, 4])) == pytest.approx(4.5 / np.sqrt(4.5 * 5))


def test_spearman_of_a_constant_is_not_a_number() -> None:
    assert np.isnan(spearman(np.ones(4), np.arange(4)))


@pytest.mark.parametrize("figure", [sqnr_db, cosine, spearman])
def test_shapes_must_agree(figure: object) -> None:
    assert callable(figure)
    with pytest.raises(ValueError, match=r"shapes \(2,\) and \(3,\) differ"):
        figure(np.ones(2), np.ones(3))


def test_spearman_needs_two_values() -> None:
    with pytest.raises(ValueError, match="two values or more, not 1"):
        spearman(np.ones(1), np.ones(1))
