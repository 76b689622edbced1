"""Settings: what is read, refused with the nearest names, and compared."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archnet.config import KNOWN_BITS, Bits, ConvertSettings, HeadWidth
from archnet.errors import ArchNetError

SETTINGS = ConvertSettings("archnet", Bits(8, 8), "fast", 64, 7, "one-hot")


@pytest.mark.parametrize("text", KNOWN_BITS)
def test_bits_are_written_as_they_are_read(text: str) -> None:
    assert str(Bits.parse(text.upper())) == text


def test_bits_order_is_weights_then_activations() -> None:
    assert Bits.parse("w4a8") == Bits(weights=4, activations=8)


@pytest.mark.parametrize("text", ["w8", "8", "", "int8", "w8a9", "w08a8", "w8a8 x", "w٨a8"])
def test_other_bits_are_refused_with_what_there_is(text: str) -> None:
    with pytest.raises(ArchNetError) as caught:
        Bits.parse(text)
    assert caught.value.problem == f"--bits {text!r} is no bit width that Arch-Net knows"
    assert "known: auto, w2a4, " in caught.value.fix


def test_the_nearest_bits_are_suggested() -> None:
    with pytest.raises(ArchNetError, match="did you mean 'w8a8'"):
        Bits.parse("w8a88")


def test_a_target_without_these_bits_is_named() -> None:
    Bits(8, 8).require([8], [8], "tvm")
    with pytest.raises(ArchNetError) as caught:
        Bits(4, 8).require([8], [8, 4], "tvm")
    assert caught.value.problem == "target 'tvm' cannot run --bits w4a8"
    assert "known: w8a4, w8a8" in caught.value.fix


def test_settings_survive_json() -> None:
    assert ConvertSettings.from_json(SETTINGS.to_json()) == SETTINGS


def test_settings_from_before_attention_had_forms_kept_softmax() -> None:
    value = SETTINGS.to_json()
    del value["attention"]
    assert ConvertSettings.from_json(value).attention == "softmax"


def test_settings_of_another_version_are_refused() -> None:
    value = SETTINGS.to_json()
    value["optimizer"] = "sgd"
    del value["seed"]
    with pytest.raises(ArchNetError, match="missing or unknown fields: optimizer, seed"):
        ConvertSettings.from_json(value)


def test_every_difference_is_named() -> None:
    other = replace(SETTINGS, bits=Bits(4, 8), seed=8)
    assert SETTINGS.differences(other) == ["bits: w8a8 -> w4a8", "seed: 7 -> 8"]
    assert SETTINGS.differences(SETTINGS) == []


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("preset", "balance", "--preset 'balance' does not exist"),
        ("embedding", "onehot", "--embedding 'onehot' does not exist"),
        ("attention", "linear", "--attention 'linear' does not exist"),
        ("seq_len", 1, "--seq-len 1 is out of range"),
        ("seq_len", 1025, "--seq-len 1025 is out of range"),
        ("seed", -1, "--seed -1 is out of range"),
        ("seed", 2**32, "--seed 4294967296 is out of range"),
    ],
)
def test_values_out_of_range_are_refused(field: str, value: object, problem: str) -> None:
    with pytest.raises(ArchNetError) as caught:
        replace(SETTINGS, **{field: value})  # type: ignore[arg-type]
    assert caught.value.problem == problem


@pytest.mark.parametrize("value", [-0.1, 101.0, float("nan"), float("inf")])
def test_a_drop_out_of_range_is_refused(value: float) -> None:
    with pytest.raises(ArchNetError, match=f"--max-drop {value:g} is out of range"):
        replace(SETTINGS, max_drop=value)


def test_chosen_widths_are_part_of_the_settings() -> None:
    chosen = replace(SETTINGS, max_drop=0.5)
    assert ConvertSettings.from_json(chosen.to_json()) == chosen
    assert "max_drop" not in SETTINGS.to_json()
    assert SETTINGS.differences(chosen) == ["max_drop: None -> 0.5"]
    assert chosen.differences(replace(chosen, max_drop=1.0)) == ["max_drop: 0.5 -> 1.0"]
    assert chosen.asked_bits == "auto, at most 0.5 points lost"
    assert SETTINGS.asked_bits == "w8a8"


def test_the_nearest_preset_is_suggested() -> None:
    with pytest.raises(ArchNetError, match="did you mean 'balanced'"):
        replace(SETTINGS, preset="balance")


def test_a_profile_of_the_user_s_own_counts_by_its_content() -> None:
    mine = replace(SETTINGS, target="mine", target_sha256="a" * 64)
    assert ConvertSettings.from_json(mine.to_json()) == mine
    assert "target_sha256" not in SETTINGS.to_json()
    changed = replace(mine, target_sha256="b" * 64)
    assert mine.differences(changed) == ["the content of target mine's profile"]
    assert mine.differences(replace(changed, target="other")) == ["target: mine -> other"]
    assert mine.differences(mine) == []


def test_the_form_of_norms_is_recorded_where_it_was_chosen() -> None:
    corrected = replace(SETTINGS, norms="corrected")
    assert ConvertSettings.from_json(corrected.to_json()) == corrected
    assert "norms" not in SETTINGS.to_json()
    assert SETTINGS.differences(corrected) == ["norms: static -> corrected"]
    with pytest.raises(ArchNetError) as caught:
        replace(SETTINGS, norms="corected")
    assert caught.value.problem == "--norms 'corected' does not exist"
    assert "did you mean 'corrected'?" in caught.value.fix


def test_the_width_of_heads_is_recorded_where_it_was_chosen() -> None:
    narrow = replace(SETTINGS, head_width=HeadWidth(8, 16))
    assert ConvertSettings.from_json(narrow.to_json()) == narrow
    assert "head_width" not in SETTINGS.to_json()
    assert SETTINGS.differences(narrow) == ["head_width: unchanged -> 8,16"]


def test_the_width_of_feed_forward_parts_is_recorded_where_it_was_chosen() -> None:
    narrow = replace(SETTINGS, ffn_width=512)
    assert ConvertSettings.from_json(narrow.to_json()) == narrow
    assert "ffn_width" not in SETTINGS.to_json()
    assert SETTINGS.differences(narrow) == ["ffn_width: unchanged -> 512"]
    with pytest.raises(ArchNetError) as caught:
        replace(SETTINGS, ffn_width=0)
    assert caught.value.problem == "--ffn-width 0 is no number of features"


@given(keys=st.integers(1, 999999), values=st.integers(1, 999999))
def test_the_width_of_heads_is_read_as_it_is_written(keys: int, values: int) -> None:
    width = HeadWidth(keys, values)
    assert HeadWidth.parse(f" {width} ") == width
    assert HeadWidth.parse(str(keys)) == HeadWidth(keys, keys)


@pytest.mark.parametrize(
    "text", ["", "0", "8,0", "-1", "8,", ",8", "8;16", "8,16,4", "sixteen", "8.5", "1234567"]
)
def test_what_is_no_width_of_heads(text: str) -> None:
    with pytest.raises(ArchNetError) as caught:
        HeadWidth.parse(text)
    assert caught.value.problem == f"--head-width {text!r} is no number of features"
    assert "such as 8,16" in caught.value.fix
