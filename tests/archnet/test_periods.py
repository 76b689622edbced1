"""Periods of blocks, and the weights of their losses."""

from __future__ import annotations

import pytest

from archnet.periods import LAST_SHARE, Period, block_progress, divisors, make_periods, period_at

BLOCKS = ("head", "block 0", "block 1")


def test_without_blocks_there_is_one_period() -> None:
    periods = make_periods((), 100)
    assert periods == (Period("", 0, 100),)
    assert [block_progress(periods, "block 7", step, 0.5) for step in (0, 25, 50, 99)] == [0.0, 0.5, 1.0, 1.0]
    assert block_progress(periods, "block 7", 0, 0.0) == 1.0  # there is no homotopy


def test_blocks_share_what_the_last_period_leaves() -> None:
    periods = make_periods(BLOCKS, 134)
    assert periods == (
        Period("head", 0, 28),
        Period("block 0", 28, 56),
        Period("block 1", 56, 84),
        Period("", 84, 134),
    )
    assert periods[-1].end - periods[-1].begin == round(134 * LAST_SHARE)
    found = [period_at(periods, step).block for step in (0, 27, 28, 83, 84, 133, 134)]
    assert found == ["head", "head", "block 0", "block 1", "", "", ""]


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 1000])
def test_every_step_is_in_one_period(steps: int) -> None:
    periods = make_periods([f"block {i}" for i in range(14)], steps)
    assert [p.begin for p in periods] == [0, *(p.end for p in periods[:-1])]
    assert periods[-1].end == steps
    assert all(period_at(periods, s).begin <= s < period_at(periods, s).end for s in range(steps))


def test_a_homotopy_moves_in_its_own_period() -> None:
    periods = make_periods(BLOCKS, 134)
    progress = [block_progress(periods, "block 0", step, 0.5) for step in (0, 28, 35, 42, 55, 133)]
    assert progress == [0.0, 0.0, 0.5, 1.0, 1.0, 1.0]
    # What belongs to no block that is compared moves in the last one.
    assert [block_progress(periods, "tail", step, 0.5) for step in (83, 84, 109, 134)] == [0.0, 0.0, 1.0, 1.0]


def test_states_count_less_for_each_state_behind_them() -> None:
    equal = divisors({"a": None, "b": None, "c": None}, 1.0)
    assert equal == {"a": 3.0, "b": 3.0, "c": 3.0}
    shares = divisors({"a": None, "b": None, "c": None}, 0.8)
    total = 0.64 + 0.8 + 1.0
    assert shares == pytest.approx({"a": total / 0.64, "b": total / 0.8, "c": total})
    assert sum(1.0 / value for value in shares.values()) == pytest.approx(1.0)


def test_a_decoder_is_not_behind_an_encoder() -> None:
    shares = divisors({"e0": "source", "e1": "source", "d0": "target", "d1": "target"}, 0.5)
    assert shares == pytest.approx({"e0": 6.0, "e1": 3.0, "d0": 6.0, "d1": 3.0})
