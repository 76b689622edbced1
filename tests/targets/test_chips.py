"""Which profiles need a vendor's compiler, and how what one lists is told."""

from __future__ import annotations

import pytest

from archnet.targets.chips import in_words, needs_compiler, takes_decoders


@pytest.mark.parametrize(
    ("profile", "needed"),
    [
        ("ethos-u85", True),
        ("qualcomm-htp", True),
        ("k230", True),
        ("rockchip", True),
        ("sophgo", True),
        ("onnxruntime", False),
        ("tvm", False),
        ("archnet", False),
        ("mine.toml", False),
    ],
)
def test_profiles_whose_networks_need_a_compiler(profile: str, needed: bool) -> None:
    assert needs_compiler(profile) is needed


@pytest.mark.parametrize(
    ("profile", "taken"),
    [("ethos-u55", True), ("k230", True), ("onnxruntime", True), ("mine.toml", True), ("rockchip", False),
     ("qualcomm-htp", False)],
)  # fmt: skip
def test_profiles_whose_chips_get_decoders(profile: str, taken: bool) -> None:
    assert takes_decoders(profile) is taken


def test_few_operators_are_told_by_name_and_many_by_kind() -> None:
    few = ("Sqrt (norm)", "Cast (mask)")
    assert in_words(few) == "Sqrt (norm), Cast (mask)"
    assert in_words(()) == ""
    many = (*(f"Div (norm_{i})" for i in range(6)), *few, "Sqrt (a (b))")
    assert in_words(many) == "6 Div, 2 Sqrt, 1 Cast"
    counted = [f"{count} Op{count}" for count in range(1, 12)]
    assert in_words(counted) == ", ".join(counted)
