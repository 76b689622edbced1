"""When which block is trained, and how much each block's loss counts.

From arXiv 2111.01135 and the code that its authors published with it. One block at a time there means: in
the period of block k the loss compares the blocks up to k, so that those behind k get no gradient, while
those before it train on, each one counting 0.8 times as much as the one behind it. The student has its
quantizers from the first period on. The last period compares everything, the outputs too. On Multi30k 14
periods of 6 epochs come before 50 epochs of the last one.

Three things are different here. A block's homotopy goes from 0 to 1 at the beginning of its own period, where
the paper puts the new operators in at once. The optimizer keeps its moments from one period to the next.
And the blocks' weights add up to 1, so that the outputs weigh against them what they always do.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

LAST_SHARE = 50 / 134
"""Share of the steps that the last period has, in which everything is trained."""


@dataclass(frozen=True, slots=True)
class Period:
    """Some steps of a training.

    Attributes:
        block: the block that is new in it; "" in the last one, which compares everything.
        begin, end: its steps, the end left out.
    """

    block: str
    begin: int
    end: int

    def progress(self, step: int, ramp: float) -> float:
        """Progress of a homotopy that takes this share of the period's steps, in [0, 1]."""
        if step < self.begin:
            return 0.0
        length = ramp * (self.end - self.begin)
        return 1.0 if length == 0.0 else min(1.0, (step - self.begin) / length)


def make_periods(blocks: Sequence[str], steps: int) -> tuple[Period, ...]:
    """A period for each block, of equal length, and the last one.

    Args:
        blocks: their names in order; none of them gives one period of all steps.
        steps: of the whole training. With fewer than blocks, some periods are empty.
    """
    before = round(steps * (1.0 - LAST_SHARE)) if blocks else 0
    ends = [round(before * (i + 1) / len(blocks)) for i in range(len(blocks))]
    spans = zip(blocks, [0, *ends], ends, strict=False)
    return (*(Period(block, begin, end) for block, begin, end in spans), Period("", before, steps))


def period_at(periods: Sequence[Period], step: int) -> Period:
    """The period that a step belongs to; behind the last step still the last one."""
    return next((period for period in periods if step < period.end), periods[-1])


def block_progress(periods: Sequence[Period], block: str, step: int, ramp: float) -> float:
    """Progress of a block's homotopy: in its own period, or in the last one where it has none."""
    own = next((period for period in periods if period.block == block), periods[-1])
    return own.progress(step, ramp)


def divisors(sides: Mapping[str, Hashable], decay: float) -> dict[str, float]:
    """What each state's loss is divided by: the weights, decay to the number of states behind, add up to 1.

    Args:
        sides: state -> what it is part of (an encoder, a decoder), in order; only states of the same side
            stand behind a state.
        decay: in (0, 1]; at 1 every state is divided by their number.
    """
    names, weights = list(sides), {}
    for i, name in enumerate(names):
        behind = sum(sides[other] == sides[name] for other in names[i + 1 :])
        weights[name] = decay**behind
    total = sum(weights.values())
    return {name: total / weight for name, weight in weights.items()}
