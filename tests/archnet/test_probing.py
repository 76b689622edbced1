"""Probing of chips: what is refused before a compiler is needed, and the real Vela on a sample."""

from __future__ import annotations

from pathlib import Path

import pytest

from archnet.errors import ArchNetError
from archnet.operators import Op
from archnet.probing import OperatorProbe, compare, probe
from archnet.single_operators import OPERATORS
from archnet.targets.chips import CHIPS
from archnet.targets.profile import load_profile
from archnet.targets.toolchain import find_toolchain

pytest.importorskip("ai_edge_litert", reason="needs archnet[ethos]")

needs_vela = pytest.mark.skipif(
    find_toolchain("ethos-u").installed() is None, reason="needs archnet targets install ethos-u"
)

SAMPLE = {"Softmax": "a8", "MatMul": "a8", "Select": "a8"}
"""Operators of the profiles of Ethos-U, and their width; test_vela.py asks about all of them."""


def test_unknown_names_are_refused_before_anything_is_compiled() -> None:
    with pytest.raises(ArchNetError, match="'ethos-u99' cannot be compiled for"):
        probe("ethos-u99")


def test_a_missing_toolchain_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(ArchNetError, match="is not installed") as caught:
        probe("ethos-u55-128")
    assert caught.value.fix == "archnet targets install ethos-u"


def test_every_kind_of_question_reaches_onnx_runtime() -> None:
    """An operator, one without integers, and one that only moves: as networks of one node, at 8 bits."""
    report = probe("onnxruntime", ["Add", "Softmax", "Reshape", "FullyConnected"])
    found = {(a.op, a.case): a for a in report.operators if a.bits in ("w8a8", "a8")}
    assert len(found) == sum(len(OPERATORS[op]) for op in (Op.ADD, Op.SOFTMAX, Op.RESHAPE, Op.LINEAR))
    assert {a.outcome for a in found.values() if a.op in ("Add", "FullyConnected", "Softmax")} == {"native"}
    assert report.tool.startswith("onnxruntime 1.")
    assert (report.profile, report.contradictions) == ("onnxruntime", ())


def test_answers_are_compared_with_the_profile() -> None:
    answers = [
        OperatorProbe("Add", "rank 3", "a8", "native"),
        OperatorProbe("Add", "rank 4", "a8", "fallback", "Add on the CPU"),
        OperatorProbe("Widen", "tokens", "a8", "host"),
        OperatorProbe("Slice", "a table of positions", "a8", "refused", "listed as seen in networks"),
        OperatorProbe("TableSoftmax", "rank 4", "a8", "native"),
        OperatorProbe("Concat", "features", "a4", "native"),
        OperatorProbe("Concat", "channels", "a4", "refused", "no"),
    ]
    wrong, beside, unlisted = compare(load_profile("ethos-u55"), answers)
    assert wrong == ("Add a8 (rank 4): fallback, Add on the CPU",)
    assert beside == ("Slice a8 (a table of positions): refused, listed as seen in networks",)
    assert unlisted == ("TableSoftmax a8",)


@needs_vela
def test_an_unknown_operator_is_refused() -> None:
    with pytest.raises(ArchNetError, match="no operator 'Softmux' can stand alone") as caught:
        probe("ethos-u55-128", ["Softmux"])
    assert "'Softmax'" in caught.value.fix


@needs_vela
@pytest.mark.parametrize("chip", ["ethos-u55-128", "ethos-u65-256", "ethos-u85-256"])
def test_what_a_profile_lists_is_native_and_what_it_lacks_is_not(chip: str) -> None:
    told: list[OperatorProbe] = []
    absent = ["MeanMatMul", "TableSoftmax", "OneHot"]
    report = probe(chip, [*SAMPLE, *absent], tell=lambda answer, done, of: told.append(answer))
    assert list(report.operators) == told
    assert (report.chip, report.tool, report.contradictions) == (chip, "ethos-u-vela 5.2.0", ())
    for op, width in SAMPLE.items():
        found = [a for a in report.operators if a.op == op and a.bits == width]
        assert [a.case for a in found] == list(OPERATORS[Op(op)])
        assert [a for a in found if a.outcome != "native"] == []
    refused = {a.op: a for a in report.operators if a.op in absent}
    assert {a.outcome for a in refused.values()} == {"refused"}
    assert "its factor depends on the number of tokens" in refused["MeanMatMul"].message
    profile = load_profile(next(c.profile for c in CHIPS if c.name == chip))
    assert all(Op(op) in profile.operators for op in SAMPLE)
    assert all(Op(op) not in profile.operators for op in absent)
