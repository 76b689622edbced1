"""`archnet inspect`: the plan that it shows, what a chip makes of the original, and its refusals."""

from __future__ import annotations

import json
from collections.abc import Callable

from click.testing import Result

from archnet.calibration.widths import Wider
from archnet.original import OriginalSummary
from archnet.plan import Decision, Plan
from tests.cli.conftest import Replace

Archnet = Callable[..., Result]

GOOD = (
    Decision("a.norm", "LayerNorm", "replace", "BatchNorm", "no LayerNorm on archnet"),
    Decision("b.norm", "LayerNorm", "replace", "BatchNorm", "no LayerNorm on archnet", count=2),
    Decision("a.linear", "FullyConnected", "keep", "FullyConnected", ""),
)
BAD = (
    Decision("a.fft", "aten.fft", "refuse", "", "no converter"),
    Decision("b.fft", "aten.fft", "refuse", "", "no"),
)


def test_inspect_counts_operators(archnet: Archnet, replace_module: Replace) -> None:
    replace_module(
        "archnet.api",
        inspect=lambda model, target, seq_len, attention, norms, head_width, ffn_width, bits: Plan(
            "tiny", "archnet", GOOD, bits
        ),
    )
    result = archnet("inspect", "tiny", "--target", "archnet")
    assert result.exit_code == 0
    row = next(line for line in result.output.splitlines() if "LayerNorm" in line)
    assert row.split()[:4] == ["LayerNorm", "3", "replaced", "BatchNorm"]


def test_inspect_cannot_choose_widths(archnet: Archnet, replace_module: Replace) -> None:
    replace_module("archnet.api")  # without `inspect`: calling it would be another error
    result = archnet("inspect", "tiny", "--target", "archnet", "--bits", "auto")
    assert result.exit_code == 2
    assert "--bits auto is chosen by measurements of the distilled network" in result.stderr
    assert "`archnet convert` takes --bits auto" in result.stderr


def test_inspect_refuses_lengths_that_no_network_has(archnet: Archnet, replace_module: Replace) -> None:
    replace_module("archnet.api")
    result = archnet("inspect", "tiny", "--target", "archnet", "--seq-len", "1025")
    assert result.exit_code == 2
    assert "--seq-len 1025 is out of range" in result.stderr
    assert "give a number of tokens from 2 to 1024" in result.stderr


def test_inspect_lists_what_stays_wider_than_was_asked_for(archnet: Archnet, replace_module: Replace) -> None:
    wider = (Wider("attention scores", 8, 6, "the softmax reads them"),)
    replace_module(
        "archnet.api",
        inspect=lambda model, target, seq_len, attention, norms, head_width, ffn_width, bits: Plan(
            "tiny", "archnet", GOOD, bits, wider
        ),
    )
    result = archnet("inspect", "tiny", "--target", "archnet", "--bits", "w4a4")
    assert result.exit_code == 0
    assert "Wider than w4a4:" in result.output
    row = next(line for line in result.output.splitlines() if "attention scores" in line)
    assert row.split()[-6:] == ["8", "6", "the", "softmax", "reads", "them"]


def test_inspect_asks_a_chips_compiler_about_the_original_first(
    archnet: Archnet, replace_module: Replace
) -> None:
    asked: list[object] = []

    def original_on_chip(model: str, chip: str, *, seq_len: int) -> OriginalSummary:
        asked.append((model, chip, seq_len))
        return OriginalSummary("k230", refused="nncase crashed")

    plan = Plan("tiny", "archnet", GOOD)
    replace_module("archnet.original", askable=lambda chip: None, OriginalSummary=OriginalSummary)
    replace_module(
        "archnet.api",
        inspect=lambda model, target, seq_len, attention, norms, head_width, ffn_width, bits: plan,
        original_on_chip=original_on_chip,
    )
    result = archnet("inspect", "tiny", "--target", "archnet", "--chip", "k230", "--seq-len", "32")
    assert result.exit_code == 0
    assert asked == [("tiny", "k230", 32)]
    assert result.stdout.index("refused  nncase crashed") < result.stdout.index("LayerNorm")
    told = json.loads(archnet("inspect", "tiny", "--target", "archnet", "--chip", "k230", "--json").stdout)
    assert told["original"]["refused"] == "nncase crashed"


def test_inspect_tells_at_once_that_a_chip_is_unknown(archnet: Archnet) -> None:
    result = archnet("inspect", "nowhere", "--target", "archnet", "--chip", "k23")
    assert result.exit_code == 2
    assert "'k23' cannot be compiled for" in result.stderr


def test_inspect_lists_all_refusals_and_exits_with_2(archnet: Archnet, replace_module: Replace) -> None:
    plan = Plan("tiny", "archnet", GOOD + BAD)
    replace_module(
        "archnet.api",
        inspect=lambda model, target, seq_len, attention, norms, head_width, ffn_width, bits: plan,
    )
    result = archnet("inspect", "tiny", "--target", "archnet")
    assert result.exit_code == 2
    assert "a.fft" in result.stdout
    assert "b.fft" in result.stdout
    assert (
        result.stderr.splitlines()[0] == "error: tiny cannot be converted for archnet: 2 places are refused"
    )
    as_json = archnet("inspect", "tiny", "--target", "archnet", "--json")
    assert json.loads(as_json.stdout)["model"] == "tiny"
    assert as_json.exit_code == 2
