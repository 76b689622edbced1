"""The option by which ONNX Runtime computes exact products, only where it is needed: it halves the speed."""

from __future__ import annotations

import pytest
import torch

from archnet.onnx_session import EXACT_PRODUCTS, session_options


@pytest.mark.parametrize(
    ("capabilities", "asked"),
    [
        ({"architecture": "x86_64", "avx2": True, "avx512_vnni": False}, True),
        ({"architecture": "x86_64", "avx2": True, "avx512_vnni": True}, False),
        ({"architecture": "x86_64", "avx2": True, "avx_vnni": True}, False),
        ({"architecture": "aarch64", "neon": True}, False),
    ],
)
def test_exact_products_are_asked_for_without_vnni(
    capabilities: dict[str, object], asked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    options = session_options(2)
    assert options.intra_op_num_threads == 2
    if asked:
        assert options.get_session_config_entry(EXACT_PRODUCTS) == "1"
    else:
        with pytest.raises(RuntimeError, match=EXACT_PRODUCTS):
            options.get_session_config_entry(EXACT_PRODUCTS)
