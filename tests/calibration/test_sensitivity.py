"""Damages by hand, and choices against every assignment there is."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from archnet.calibration.sensitivity import (
    STEPS,
    LayerDamage,
    choose_widths,
    lost_variance,
    rounded_table,
    rounded_weight,
    stored_bytes,
    total_damage,
)

LAYERS = st.lists(
    st.tuples(st.integers(1, 500), st.floats(1e-5, 0.2), st.floats(1e-4, 0.5)), min_size=1, max_size=5
)


def layers_of(drawn: list[tuple[int, float, float]]) -> list[LayerDamage]:
    return [LayerDamage(f"layer{i}", n, {4: a, 2: b}) for i, (n, a, b) in enumerate(drawn)]


def size_of(layers: list[LayerDamage], widths: dict[str, int]) -> int:
    return sum(stored_bytes(layer.elements, widths[layer.site]) for layer in layers)


@settings(deadline=None)
@given(LAYERS, st.floats(0.001, 0.5))
def test_no_other_assignment_within_the_budget_is_smaller(
    drawn: list[tuple[int, float, float]], budget: float
) -> None:
    layers = layers_of(drawn)
    chosen = choose_widths(layers, 8, budget)
    assert list(chosen) == [layer.site for layer in layers]
    assert total_damage(layers, chosen) <= budget * (1 + 1e-9)
    # Rounding up costs each layer less than a step, so this much less budget must not do better.
    tighter = budget * (1 - len(layers) / STEPS)
    for widths in itertools.product((8, 4, 2), repeat=len(layers)):
        other = {layer.site: bits for layer, bits in zip(layers, widths, strict=True)}
        if total_damage(layers, other) <= tighter:
            assert size_of(layers, chosen) <= size_of(layers, other)


def test_a_budget_of_nothing_keeps_the_widest() -> None:
    layers = layers_of([(100, 0.01, 0.1), (50, 0.0, 0.1)])
    assert choose_widths(layers, 8, 0.0) == {"layer0": 8, "layer1": 8}


def test_a_large_budget_takes_the_narrowest() -> None:
    layers = layers_of([(100, 0.01, 0.1), (50, 0.01, 0.1)])
    assert choose_widths(layers, 8, 1.0) == {"layer0": 2, "layer1": 2}


def test_the_layer_that_suffers_most_stays_wide() -> None:
    layers = layers_of([(1000, 0.5, 0.9), (1000, 0.001, 0.002)])
    assert choose_widths(layers, 8, 0.01) == {"layer0": 8, "layer1": 2}


def test_damages_that_are_no_numbers_are_never_chosen() -> None:
    layers = [LayerDamage("a", 10, {4: float("nan"), 2: float("inf")})]
    assert choose_widths(layers, 8, 1.0) == {"a": 8}


def test_equal_sizes_take_the_lesser_damage() -> None:
    layers = [LayerDamage("a", 2, {4: 0.001, 3: 0.01})]
    assert choose_widths(layers, 8, 0.1) == {"a": 4}


@pytest.mark.parametrize(("bits", "expected"), [(8, 101), (6, 101), (4, 51), (3, 51), (2, 26)])
def test_bytes_of_weights(bits: int, expected: int) -> None:
    assert stored_bytes(101, bits) == expected


def test_lost_variance_is_relative_to_the_spread_and_averaged_over_outputs() -> None:
    wanted = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]) + 5.0
    value = wanted + torch.tensor([[0.1, 0.0], [0.0, 0.1]])
    assert lost_variance([value], [wanted]) == pytest.approx(0.02 / 2.0, rel=1e-5)
    assert lost_variance([value, wanted], [wanted, wanted]) == pytest.approx(0.005, rel=1e-5)
    assert lost_variance([wanted], [wanted]) == 0.0


@pytest.mark.parametrize("bits", [4, 3, 2])
def test_rounded_weights_take_few_values_and_fewer_bits_are_farther_away(bits: int) -> None:
    weight = torch.randn(6, 5, 3, 3, generator=torch.Generator().manual_seed(0))
    rounded = rounded_weight(weight, bits)
    assert rounded.shape == weight.shape
    assert max(len(channel.unique()) for channel in rounded.flatten(1)) <= 2**bits
    finer = rounded_weight(weight, bits + 1)
    assert (finer - weight).square().sum() < (rounded - weight).square().sum()


def test_rounded_tables_have_one_scale() -> None:
    table = torch.randn(50, 8, generator=torch.Generator().manual_seed(1))
    assert len(rounded_table(table, 4).unique()) <= 16
