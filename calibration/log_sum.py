"""Tables of a softmax without division, and its arithmetic in floats for training.

    softmax(s)[j] = exp(s[j] - max(s) - log(sum over i of exp(s[i] - max(s))))

Everything on the right is a table of 256 entries, a maximum, a difference or a sum, so it suits chips that
have tables for bytes and multiply-accumulators, but no division: the int8 softmax of TFLite becomes about
thirty operators on numbers of 32 bits on Arm's Ethos-U. The logarithm comes from sums in octaves, each a
byte that saturates at both ends: of the sum x, octave k sees x / 2**k between 1 and 2, where a table gives
its logarithm, and what the octaves see adds up to log(x).

`archnet.reference.log_sum_softmax` defines the integers. Scores have scale s, sums of exponentials units of
1 / 256, octaves of 1 / 128, and the exponents of the shares steps of s / 2**shift.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from archnet.calibration.affine import fit_table_scale

OCTAVES = 10
"""Enough for 1,024 keys; what an octave beyond the greatest sum sees is below 1, whose logarithm counts 0."""

SUM_ONE = 256
"""Units that make 1 in an exponential, cut off at 255, and in a sum of them."""

OCTAVE_ONE = 128
"""Units that make 1 in an octave."""

NUMERATOR = 511
"""An octave is round(NUMERATOR * sum / 2**(10 + k)). It is odd, so no byte of an octave comes from a half."""

NUMERATOR_SHIFT = 10

LOG_UNIT = float(np.float32(math.log(255 / OCTAVE_ONE) / 255))
"""The real value of 1 in an octave's logarithm: an octave at its end, 255, counts 255."""

LOG_WEIGHT = math.log(2) / math.log(255 / OCTAVE_ONE)
"""What logarithms are multiplied with: what an octave sees ends at 255 / 128, and the next begins at 2."""

LEAST_STEP = math.log(2 * SUM_ONE) / 255
"""The least step of a share's exponent: 255 steps reach what rounds to a share of 0."""

MOST_SHIFT = 7
"""A score is at most 2**7 steps: LiteRT's SUB takes factors below 2**8. Scores of so large a scale that they
would want more give the greatest all of the share as it is."""


@dataclass(frozen=True, slots=True)
class LogSumTables:
    """What a softmax of scores with one scale needs.

    Attributes:
        exponentials: int32 (256,), round(256 * exp(-i * scale)), at most 255.
        logs: int32 (256,), of an octave's byte, in units of LOG_UNIT.
        shares: uint8 (256,), round(levels * exp(-i * step)), at most the greatest integer.
        multiplier: of the sum of logs, to steps.
        shift: a score is 2**shift steps.
    """

    exponentials: NDArray[np.int32]
    logs: NDArray[np.int32]
    shares: NDArray[np.uint8]
    multiplier: int
    shift: int

    @property
    def constants(self) -> Mapping[str, NDArray[np.int32] | NDArray[np.uint8]]:
        """What the operator reads behind the scores, in its order, by name."""
        return {"exponentials": self.exponentials, "logs": self.logs, "shares": self.shares}

    @property
    def attributes(self) -> Mapping[str, int]:
        """The operator's attributes."""
        return {"multiplier": self.multiplier, "shift": self.shift}


def shift_of(scale: float) -> int:
    """The bits by which steps of the exponents are finer than scores, so that they are at least LEAST_STEP.

    Args:
        scale: of the scores, at least LEAST_STEP, as that of attention is (`MASK_DISTANCE`).
    """
    return min(max(0, math.floor(math.log2(scale / LEAST_STEP))), MOST_SHIFT)


def log_sum_tables(scale: float, levels: int, greatest: int) -> LogSumTables:
    """The tables for scores of a scale.

    Args:
        levels: units that make a share of 1.
        greatest: the greatest integer of a share.
    """
    shift = shift_of(scale)
    step = scale / 2**shift
    steps = np.arange(256)
    octaves = np.log(np.maximum(steps, 1) / OCTAVE_ONE) / LOG_UNIT
    multiplier, _ = fit_table_scale(LOG_WEIGHT, LOG_UNIT, step)
    return LogSumTables(
        np.minimum(np.rint(SUM_ONE * np.exp(-steps * scale)), 255).astype(np.int32),
        np.clip(np.rint(octaves), 0, 255).astype(np.int32),
        np.minimum(np.rint(levels * np.exp(-steps * step)), greatest).astype(np.uint8),
        multiplier,
        shift,
    )


def log_sum_shares(scores: Tensor, scale: float, levels: int, greatest: int) -> Tensor:
    """The shares of `archnet.reference.log_sum_softmax` as reals, without a gradient.

    The integers are the same but for the last digits of a float32 and of the multiplier, which for a rare
    scale has no exact match near and moves by a part in 256 or a few.

    Args:
        scores: float32 (..., keys), multiples of `scale` within 256 of its integers.
        scale, levels, greatest: as of `log_sum_tables`.
    """
    shift = shift_of(scale)
    step = scale / 2**shift
    below = scores.detach().amax(-1, keepdim=True) - scores.detach()
    total = (SUM_ONE * torch.exp(-below)).round_().clamp_(max=255).sum(-1, keepdim=True)
    by_octave = torch.arange(NUMERATOR_SHIFT, NUMERATOR_SHIFT + OCTAVES, device=scores.device)
    octaves = (total * (NUMERATOR * 0.5**by_octave)).round_().clamp_(1, 255)
    logs = (torch.log(octaves / OCTAVE_ONE) / LOG_UNIT).round_().clamp_(0, 255).sum(-1, keepdim=True)
    log = (logs * (LOG_WEIGHT * LOG_UNIT / step)).round_()
    exponents = (below / step).round_().add_(log).clamp_(max=255)
    return (levels * torch.exp(-step * exponents)).round_().clamp_(max=greatest).div_(levels)
