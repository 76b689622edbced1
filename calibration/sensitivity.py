"""How much each layer suffers from fewer bits, and the cheapest widths within a budget; without labels.

The damage of one layer at one width is the share of the network's output variance that is lost when only
that layer's weights have that width: |y' - y|^2 / |y - mean(y)|^2 over unlabelled data. Damages of several
layers are taken to add up, as those of independent errors do. Which width each layer gets is then a
knapsack problem, solved exactly but for the rounding of damages to 1 / STEPS of the budget (upwards).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from archnet.calibration.observers import best_scale, best_scales, round_weights, sample_of
from archnet.calibration.packing import packed_width

STEPS = 4096
"""The budget is divided into so many steps."""


@dataclass(frozen=True, slots=True)
class LayerDamage:
    """What fewer bits do to one layer.

    Attributes:
        site: its name.
        elements: how many weights it has.
        damage: width -> share of the output's variance that is lost.
    """

    site: str
    elements: int
    damage: Mapping[int, float]


def stored_bytes(elements: int, bits: int) -> int:
    """How many bytes so many weights take: whole bytes, or packed in 4 or 2 bits."""
    return math.ceil(elements * (packed_width(bits) or 8) / 8)


def rounded_weight(weight: Tensor, bits: int) -> Tensor:
    """A layer's weights (channels, ...) at a width, with one scale a channel of least squared error."""
    flat = weight.detach().float().flatten(1)
    scale = best_scales(flat, bits)[:, None]
    return (round_weights(flat / scale, bits) * scale).reshape(weight.shape)


def rounded_table(table: Tensor, bits: int) -> Tensor:
    """An embedding's rows at a width, with one scale for all."""
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    scale = best_scale(sample_of(table), low, high)
    return (table.detach().float() / scale).round_().clamp_(low, high) * scale


def lost_variance(values: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    """The mean over outputs of |y' - y|^2 / |y - mean(y)|^2.

    Args:
        values: one (rows, features) an output.
        wanted: the same of the undamaged network.
    """
    shares = []
    for value, reference in zip(values, wanted, strict=True):
        spread = float((reference - reference.mean(0)).double().square().sum())
        shares.append(float((value - reference).double().square().sum()) / max(spread, 1e-30))
    return sum(shares) / len(shares)


def choose_widths(layers: Sequence[LayerDamage], widest: int, budget: float) -> dict[str, int]:
    """The width of each layer: the fewest bytes whose damages add up to at most the budget.

    Args:
        layers: with the widths that each may have beside the widest.
        widest: the width that does no damage.
        budget: share of the output's variance that may be lost in all.

    Returns:
        Site -> bits. Of two assignments of equal size, the one with less damage.
    """
    options = [_options(layer, widest, budget) for layer in layers]
    cheapest = np.zeros(STEPS + 1)
    taken = np.zeros((len(layers), STEPS + 1), dtype=np.int64)
    for i, choices in enumerate(options):
        totals = np.full((len(choices), STEPS + 1), np.inf)
        for k, (_, size, steps) in enumerate(choices):
            totals[k, steps:] = cheapest[: STEPS + 1 - steps] + size
        taken[i] = totals.argmin(axis=0)
        cheapest = totals.min(axis=0)
    place = int(cheapest.argmin())  # the first of the least: the least damage
    widths: dict[str, int] = {}
    for i in reversed(range(len(layers))):
        bits, _, steps = options[i][taken[i, place]]
        widths[layers[i].site] = bits
        place -= steps
    return {layer.site: widths[layer.site] for layer in layers}


def _options(layer: LayerDamage, widest: int, budget: float) -> list[tuple[int, int, int]]:
    """(bits, bytes, steps of the budget) for each width that the budget allows, the widest first."""
    found = [(widest, stored_bytes(layer.elements, widest), 0)]
    for bits, damage in sorted(layer.damage.items(), reverse=True):
        if math.isfinite(damage) and budget > 0 and damage <= budget:
            steps = math.ceil(damage / budget * STEPS)
            found.append((bits, stored_bytes(layer.elements, bits), steps))
    return found


def total_damage(layers: Sequence[LayerDamage], widths: Mapping[str, int]) -> float:
    """The damages of an assignment, added up."""
    return sum(layer.damage.get(widths[layer.site], 0.0) for layer in layers)
