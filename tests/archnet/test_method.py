"""The parts of the method: what is refused, recorded, and compared."""

from __future__ import annotations

from dataclasses import replace

import pytest

from archnet.config import Bits, ConvertSettings
from archnet.errors import ArchNetError
from archnet.method import Method

SETTINGS = ConvertSettings("archnet", Bits(8, 8), "fast", 64, 7, "one-hot")
PAPER = Method("dorefa", "blocks", 0.8, "teacher-attention", "greedy")


@pytest.mark.parametrize(
    ("field", "value", "problem", "fix"),
    [
        ("quantizer", "dorepha", "--quantizer 'dorepha' does not exist", "did you mean 'dorefa'? known: "),
        ("periods", "block", "--periods 'block' does not exist", "did you mean 'blocks'? known: all, blocks"),
        (
            "adaptation",
            "teacher",
            "--adaptation 'teacher' does not exist",
            "did you mean 'teacher-attention'",
        ),
        ("sequences", "beam", "--sequences 'beam' does not exist", "did you mean 'beams'? known: "),
        ("block_decay", 0.0, "--block-decay 0 is out of range", "give a number above 0 and up to 1"),
        ("block_decay", 1.01, "--block-decay 1.01 is out of range", "the paper's is 0.8"),
        ("block_decay", float("nan"), "--block-decay nan is out of range", ""),
    ],
)
def test_what_does_not_exist_is_refused(field: str, value: object, problem: str, fix: str) -> None:
    with pytest.raises(ArchNetError) as caught:
        replace(Method(), **{field: value})  # type: ignore[arg-type]
    assert caught.value.problem == problem
    assert fix in caught.value.fix


def test_settings_record_what_is_not_the_default() -> None:
    assert set(SETTINGS.to_json()) & set(Method().to_json()) == {"sequences"}
    paper = replace(SETTINGS, method=PAPER)
    value = paper.to_json()
    assert {name: value[name] for name in PAPER.to_json()} == {
        "quantizer": "dorefa",
        "periods": "blocks",
        "block_decay": 0.8,
        "adaptation": "teacher-attention",
        "sequences": "greedy",
    }
    assert ConvertSettings.from_json(value) == paper
    some = replace(SETTINGS, method=Method(periods="blocks"))
    assert set(some.to_json()) - set(SETTINGS.to_json()) == {"periods"}
    assert ConvertSettings.from_json(some.to_json()) == some


def test_settings_from_before_it_could_be_chosen_have_what_there_was() -> None:
    value = SETTINGS.to_json()
    assert ConvertSettings.from_json(value).method == Method()
    del value["sequences"]
    old = ConvertSettings.from_json(value)
    assert old.method == Method(sequences="greedy")
    assert old.differences(SETTINGS) == ["sequences: greedy -> beams"]


def test_a_recorded_value_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ArchNetError, match="--quantizer 'ternary' does not exist"):
        ConvertSettings.from_json({**SETTINGS.to_json(), "quantizer": "ternary"})


def test_every_difference_is_named() -> None:
    changed = replace(SETTINGS, seed=8, method=PAPER)
    assert SETTINGS.differences(changed) == [
        "seed: 7 -> 8",
        "sequences: beams -> greedy",
        "quantizer: lsq -> dorefa",
        "periods: all -> blocks",
        "block_decay: 1.0 -> 0.8",
        "adaptation: none -> teacher-attention",
    ]
    assert changed.differences(changed) == []
