"""Whole conversions of architectures that write what they compute in ways of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hf_models import make_model_folder
from tests.integration.conftest import Archnet, check_all_equal
from tests.integration.tiny import short_presets


@pytest.mark.parametrize(
    ("family", "bits", "form"),
    [
        ("squeezebert", "w4a8", "logsum"),
        ("bloom", "w8a8", "table"),
        ("xlm", "w4a8", "logsum"),
        ("mpt", "w4a4", "table"),
        ("xglm", "w4a8", "table"),
        ("mobilebert", "w4a4", "logsum"),
        ("gemma2", "w8a8", "table"),
    ],
)
def test_convert(
    family: str, bits: str, form: str, archnet: Archnet, sentences: Path, tmp_path: Path
) -> None:
    """In forms of attention that are exact; a share of `softmax` may be one off in ONNX Runtime."""
    model, out = make_model_folder(tmp_path / family, family, layers=1, pooling="mean"), tmp_path / "build"
    with short_presets(12, 4):
        done = archnet(
            *("convert", model, "--data", sentences, "--target", "onnxruntime", "--bits", bits),
            *("--attention", form, "--out", out, "--seq-len", 24),
        )
    assert done.exit_code == 0, done.output
    check_all_equal(archnet, out, "onnxruntime,tvm")


def test_a_chip_that_moves_no_tokens_refuses_neighbours(archnet: Archnet, tmp_path: Path) -> None:
    model = make_model_folder(tmp_path / "mobilebert", "mobilebert", layers=1, pooling="mean")
    shown = archnet("inspect", model, "--target", "rockchip")
    assert shown.exit_code == 2
    assert "RKNN-Toolkit2 was not asked to move tokens along the sequence" in " ".join(shown.output.split())


def test_bounded_scores_are_refused_where_no_table_can_bound_them(archnet: Archnet, tmp_path: Path) -> None:
    model = make_model_folder(tmp_path / "gemma2", "gemma2", layers=1, pooling="mean")
    for target, form, words in (
        ("ethos-u85", "softmax", "the profile of ethos-u85 does not list Lookup"),
        ("onnxruntime", "relu", "its scores are bounded by a tanh, which relu does not take"),
    ):
        shown = archnet("inspect", model, "--target", target, "--attention", form)
        assert shown.exit_code == 2
        assert words in " ".join(shown.output.split())
