"""Which profiles are of chips that only a vendor's compiler makes programs for."""

from __future__ import annotations

import pytest

from archnet.targets.chips import needs_compiler


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
