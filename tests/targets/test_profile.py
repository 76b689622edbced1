"""The profiles that come with Arch-Net, and what a user's own profile may not say."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from archnet.config import KNOWN_BITS, Bits
from archnet.errors import ArchNetError
from archnet.operators import Op
from archnet.targets import Profile, list_profiles, load_profile

W8A8 = Bits(8, 8)

IMAGE_OPERATORS = {Op.CONV, Op.MAX_POOL, Op.PREPEND, Op.WINDOWS}
"""What image classifiers need beside that."""

ATTENTION_FORMS = {
    Op.TABLE_SOFTMAX,
    Op.LOG_SUM_SOFTMAX,
    Op.MEAN_MATMUL,
    Op.RELATIVE_MATMUL,
    Op.ZERO_PAD,
    Op.CROP,
}
"""What other forms of attention need, and terms of distances: a layer a head, and data movement."""

PAPER_OPERATORS = {Op.LINEAR, Op.BATCH_NORM, Op.CONCAT, Op.ADD, Op.MATMUL, Op.SOFTMAX, Op.RELU}
"""Arch-Net's Transformer family, as the issue and the paper name it."""

MOVEMENT_AND_EDGES = {
    Op.RESHAPE,
    Op.TRANSPOSE,
    Op.SLICE,
    Op.SELECT,
    Op.SHIFT,
    Op.MEAN_POOL,
    Op.MASK,
    Op.REQUANTIZE,
    Op.WIDEN,
    Op.ONE_HOT,
}

MINIMAL = """
schema = 1
name = "my_chip"
title = "My chip"
description = "An example."
tool = "my compiler"
tool_version = "1.2"
weight_bits = [8]
activation_bits = [8]
embedding_forms = ["host"]
exports = ["onnx"]
max_sequence = 64

[probes.compiled]
tool = "my compiler"
version = "1.2"
how = "one operator at a time"

[operators.FullyConnected]
bits = ["w8a8"]
probe = "compiled"

[operators.Add]
bits = ["a8"]
probe = "compiled"
note = "same shapes only"

[absent.Softmax]
probe = "compiled"
reason = "the compiler leaves it on the host"
"""


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], str]:
    """Write a profile file and return its path."""

    def save(text: str) -> str:
        path = tmp_path / "my_chip.toml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return save


def test_built_in_profiles_are_those_of_this_version() -> None:
    assert [profile.name for profile in list_profiles()] == [
        "archnet", "archnet5", "ethos-u55", "ethos-u65", "ethos-u85", "k230", "onnxruntime",
        "qualcomm-htp", "rockchip", "sophgo", "tvm",
    ]  # fmt: skip


def test_archnet_is_exactly_the_papers_family_and_data_movement() -> None:
    named = PAPER_OPERATORS | MOVEMENT_AND_EDGES | ATTENTION_FORMS | IMAGE_OPERATORS
    assert set(load_profile("archnet").operators) == named


@pytest.mark.parametrize("name", ["onnxruntime", "tvm"])
def test_runtimes_add_gather_lookup_and_mul_to_the_papers_family(name: str) -> None:
    added = set(load_profile(name).operators) - set(load_profile("archnet").operators)
    assert added == {Op.EMBEDDING, Op.LOOKUP, Op.MUL}


@pytest.mark.parametrize(
    ("name", "forms"),
    [
        ("archnet", ("one-hot", "code", "host")),
        ("onnxruntime", ("gather", "one-hot", "code", "host")),
        ("tvm", ("gather", "one-hot", "code", "host")),
    ],
)
def test_embedding_forms_and_their_default(name: str, forms: tuple[str, ...]) -> None:
    profile = load_profile(name)
    assert profile.embedding_forms == forms
    assert profile.choose_embedding() == forms[0]
    assert [profile.choose_embedding(form) for form in forms] == list(forms)


def test_attention_forms_and_their_default(write: Callable[[str], str]) -> None:
    for name in ("archnet", "onnxruntime", "tvm"):
        profile = load_profile(name)
        assert profile.attention_forms == ("softmax", "table", "logsum", "relu", "mixing")
        assert profile.choose_attention() == "softmax"
        assert profile.choose_attention("relu") == "relu"
    bare = load_profile(write(MINIMAL))
    assert bare.attention_forms == ("softmax",)
    with pytest.raises(ArchNetError) as caught:
        bare.choose_attention("relu")
    assert caught.value.problem == (
        "target 'my_chip' cannot run --attention 'relu': the profile of my_chip does not list MatMul; "
        "the profile of my_chip does not list MeanMatMul"
    )


@pytest.mark.parametrize("profile", list_profiles(), ids=lambda p: p.name)
def test_only_the_strict_family_narrows_convolutions(profile: Profile) -> None:
    assert profile.convolution == ("3x3" if profile.name == "archnet5" else "any")


def test_another_convolution_is_refused(write: Callable[[str], str]) -> None:
    with pytest.raises(ArchNetError) as caught:
        load_profile(write(MINIMAL.replace("max_sequence = 64", 'max_sequence = 64\nconvolution = "5x5"')))
    assert "convolution is '5x5'" in caught.value.problem
    assert "one of any, 3x3" in caught.value.fix


@pytest.mark.parametrize("profile", list_profiles(), ids=lambda p: p.name)
def test_tflite_has_probabilities_in_units_of_256(profile: Profile) -> None:
    assert profile.softmax_levels == (256 if profile.exports[0] == "tflite" else 255)
    assert profile.to_json()["softmax_levels"] == profile.softmax_levels


def test_other_units_of_probabilities_are_refused(write: Callable[[str], str]) -> None:
    with pytest.raises(ArchNetError, match="softmax_levels is 128"):
        load_profile(write(MINIMAL.replace("max_sequence = 64", "max_sequence = 64\nsoftmax_levels = 128")))


@pytest.mark.parametrize("profile", list_profiles(), ids=lambda p: p.name)
def test_every_entry_names_the_tool_its_version_and_what_it_was_given(profile: Profile) -> None:
    probes = [entry.probe for entry in profile.operators.values()]
    probes += [entry.probe for entry in profile.absent.values()]
    assert probes
    for probe in probes:
        assert probe.tool
        assert probe.version[0].isdigit()
        assert len(probe.how) > 20


@pytest.mark.parametrize("profile", list_profiles(), ids=lambda p: p.name)
def test_norms_and_smooth_activations_are_missing_with_a_reason(profile: Profile) -> None:
    for op in (Op.LAYER_NORM, Op.RMS_NORM, Op.GELU, Op.SILU):
        reason = profile.why_not(op)
        assert reason is not None
        assert reason.startswith(profile.absent[op].reason)
        assert profile.absent[op].probe.version in reason
        assert not profile.supports(op)


BYTES_ONLY = {"ethos-u55": 128, "ethos-u65": 256, "ethos-u85": 256}
"""Chips whose activations have 8 bits, with the multiply-accumulates of the one that was probed."""

BYTES_PROFILES = {*BYTES_ONLY, "k230", "qualcomm-htp", "rockchip"}
WIDE_RANGE = [p for p in list_profiles() if p.name not in BYTES_PROFILES]


@pytest.mark.parametrize("name", BYTES_ONLY)
def test_ethos_u_takes_bytes_rows_from_the_host_and_no_division(name: str) -> None:
    profile = load_profile(name)
    assert (profile.weight_bits, profile.activation_bits) == ((8, 4, 3, 2), (8,))
    assert profile.embedding_forms == ("host",)
    assert profile.attention_forms == ("logsum", "softmax", "mixing")
    assert profile.exports == ("tflite", "onnx")
    assert f"{name}-{BYTES_ONLY[name]}" in profile.operators[Op.LINEAR].probe.how
    for op in (Op.EMBEDDING, Op.ONE_HOT, Op.TABLE_SOFTMAX, Op.MEAN_POOL):
        assert not profile.supports(op)
    with pytest.raises(ArchNetError, match="cannot run --attention 'relu'"):
        profile.choose_attention("relu")


def test_qualcomm_htp_takes_bytes_and_weights_of_4_bits() -> None:
    profile = load_profile("qualcomm-htp")
    assert (profile.weight_bits, profile.activation_bits) == ((8, 4), (8,))
    assert (profile.embedding_forms, profile.attention_forms) == (("host",), ("softmax", "mixing"))
    assert "qualcomm-htp-v73" in profile.operators[Op.LINEAR].probe.how
    for op in (Op.EMBEDDING, Op.ONE_HOT, Op.TABLE_SOFTMAX, Op.MEAN_POOL, Op.REQUANTIZE):
        assert not profile.supports(op)


def test_k230_takes_bytes_and_attention_without_softmax() -> None:
    profile = load_profile("k230")
    assert (profile.weight_bits, profile.activation_bits) == ((8,), (8,))
    assert profile.embedding_forms == ("host",)
    assert profile.attention_forms == ("relu", "mixing")
    for op in (Op.SOFTMAX, Op.TABLE_SOFTMAX, Op.MASK, Op.MEAN_POOL, Op.EMBEDDING):
        assert not profile.supports(op)
    with pytest.raises(ArchNetError, match="cannot run --attention 'softmax': nncase leaves Softmax"):
        profile.choose_attention("softmax")


@pytest.mark.parametrize("text", KNOWN_BITS)
@pytest.mark.parametrize("profile", WIDE_RANGE, ids=lambda p: p.name)
def test_every_known_width_is_run_and_w8a8_is_the_default(profile: Profile, text: str) -> None:
    bits = Bits.parse(text)
    assert profile.choose_bits(bits) == bits
    assert (profile.weight_bits[0], profile.activation_bits[0]) == (8, 8)
    attention = () if profile.name == "archnet5" else (Op.MATMUL, Op.SOFTMAX)
    for op in (Op.LINEAR, *attention, Op.REQUANTIZE, Op.RESHAPE, Op.TRANSPOSE, Op.RELU):
        assert profile.supports(op, bits)
    assert all(profile.supports(op, W8A8) for op in profile.operators)


def test_reasons_say_which_width_or_that_nothing_is_known(write: Callable[[str], str]) -> None:
    profile = load_profile(write(MINIMAL))
    assert profile.why_not(Op.LINEAR, W8A8) is None
    assert profile.why_not(Op.LINEAR, Bits(4, 8)) == "my_chip runs FullyConnected at w8a8, not at w4a8"
    assert profile.why_not(Op.ADD, Bits(8, 4)) == "my_chip runs Add at a8, not at w8a4"
    assert profile.why_not(Op.CONV) == "the profile of my_chip does not list Conv"
    with pytest.raises(ArchNetError, match=r"target 'my_chip' cannot run --bits w4a8") as caught:
        profile.choose_bits(Bits(4, 8))
    assert "w8a8" in caught.value.fix


def test_what_is_asked_for_is_given_or_refused(write: Callable[[str], str]) -> None:
    profile = load_profile("tvm")
    assert profile.ask_bits("w4a8", None) == Bits(4, 8)
    assert profile.ask_bits(Bits(2, 4), None) == Bits(2, 4)
    assert profile.ask_bits("auto", 0.5) == Bits(8, 8)
    with pytest.raises(ArchNetError, match="--bits auto needs --max-drop") as caught:
        profile.ask_bits("auto", None)
    assert "--max-drop 0.5" in caught.value.fix
    with pytest.raises(ArchNetError, match="--max-drop belongs to --bits auto, not to --bits w4a8"):
        profile.ask_bits("w4a8", 0.5)
    with pytest.raises(ArchNetError, match="no choice: target 'my_chip' has weights of 8 bits only"):
        load_profile(write(MINIMAL)).ask_bits("auto", 0.5)


def test_an_operator_without_weights_ignores_their_width() -> None:
    assert load_profile("archnet").supports(Op.ADD, Bits(4, 8))


def test_unknown_target_names_the_nearest() -> None:
    with pytest.raises(ArchNetError, match=r"--target 'onnx-runtime' does not exist") as caught:
        load_profile("onnx-runtime")
    assert "did you mean 'onnxruntime'" in caught.value.fix
    assert "archnet, archnet5, ethos-u55" in caught.value.fix


def test_gather_on_archnet_is_refused_with_the_papers_reason() -> None:
    with pytest.raises(ArchNetError, match=r"cannot run --embedding 'gather': look-up by a token") as caught:
        load_profile("archnet").choose_embedding("gather")
    assert "one-hot" in caught.value.fix


def test_json_carries_every_entry() -> None:
    for profile in list_profiles():
        value = json.loads(json.dumps(profile.to_json()))
        assert set(value["operators"]) == {str(op) for op in profile.operators}
        assert set(value["absent"]) == {str(op) for op in profile.absent}
        assert value["operators"]["FullyConnected"]["bits"] == list(profile.operators[Op.LINEAR].bits)
        assert value["operators"]["FullyConnected"]["tool_version"]


def test_a_users_profile_is_read_by_path(write: Callable[[str], str]) -> None:
    profile = load_profile(write(MINIMAL))
    assert profile.name == "my_chip"
    assert profile.max_sequence == 64
    assert profile.operators[Op.ADD].note == "same shapes only"
    assert profile.operators[Op.LINEAR].probe.how == "one operator at a time"
    assert profile.why_not(Op.SOFTMAX) == "the compiler leaves it on the host (my compiler 1.2)"


def test_profiles_are_frozen() -> None:
    profile = load_profile("archnet")
    with pytest.raises(AttributeError):
        profile.name = "other"  # type: ignore[misc]
    assert replace(profile, name="other").name == "other"


@dataclass(frozen=True)
class Refusal:
    """A change to the minimal profile that makes it invalid, and what the error must say."""

    id: str
    old: str
    new: str
    problem: str
    fix: str


REFUSALS = [
    Refusal("unknown key", "title =", "titel =", r"unknown key 'titel'", "did you mean 'title'"),
    Refusal("missing key", 'title = "My chip"\n', "", r"title is missing", "a string"),
    Refusal("other schema", "schema = 1", "schema = 2", r"schema is 2", "from 1 to 1"),
    Refusal("width", "weight_bits = [8]", "weight_bits = [7]", r"weight_bits is \[7\]", "8, 6, 4, 3, 2"),
    Refusal("width true", "weight_bits = [8]", "weight_bits = [true]", r"weight_bits is", "8, 6, 4, 3, 2"),
    Refusal("no widths", "weight_bits = [8]", "weight_bits = []", r"weight_bits is \[\]", "8, 6, 4, 3, 2"),
    Refusal("name", '"my_chip"', '"My chip!"', r"name is 'My chip!'", "small letters"),
    Refusal("taken name", '"my_chip"', '"archnet"', r"'archnet' belongs to a profile", "of its own"),
    Refusal("form", '["host"]', '["hots"]', r"embedding_forms has 'hots'", "did you mean 'host'"),
    Refusal("form without operator", '["host"]', '["gather"]', r"'gather' needs Gather", "list the operator"),
    Refusal("twice", '["host"]', '["host", "host"]', r"embedding_forms is", "different strings"),
    Refusal("export", '["onnx"]', '["onx"]', r"exports has 'onx'", "did you mean 'onnx'"),
    Refusal("sequence", "max_sequence = 64", "max_sequence = 4096", r"max_sequence is 4096", "2 to 1024"),
    Refusal(
        "operator",
        "operators.Add",
        "operators.Ad",
        r"\[operators\.Ad\]: no operator is called 'Ad'",
        "did you mean 'Add'",
    ),
    Refusal("entry key", 'note = "same', 'notes = "same', r"\[operators\.Add\]: unknown key 'notes'", "note"),
    Refusal("entry bits", 'bits = ["a8"]', 'bits = ["a9"]', r"\[operators\.Add\]: bits has 'a9'", "a8"),
    Refusal(
        "entry width", 'bits = ["a8"]', 'bits = ["a4"]', r"\[operators\.Add\] has bits a4", "weight_bits"
    ),
    Refusal(
        "entry table", "[operators.Add]", "[operators]\nSub = 3\n[operators.Add]", r"Sub\] is not", "write"
    ),
    Refusal("probe", "[probes.compiled]", "[probes.run]", r"probe 'compiled' is not described", "[probes."),
    Refusal("both", "absent.Softmax", "absent.Add", r"Add is both in \[operators\] and in", "one of the two"),
    Refusal("syntax", "schema = 1", "schema 1", r"not valid TOML: .*line 2", "correct it"),
]


@pytest.mark.parametrize("case", REFUSALS, ids=lambda case: case.id)
def test_an_invalid_profile_is_refused_with_the_place(case: Refusal, write: Callable[[str], str]) -> None:
    text = MINIMAL.replace(case.old, case.new)
    assert text != MINIMAL
    path = write(text)
    with pytest.raises(ArchNetError, match=case.problem) as caught:
        load_profile(path)
    assert caught.value.problem.startswith(path)
    assert case.fix in caught.value.fix


def test_a_profile_without_operators_is_refused(write: Callable[[str], str]) -> None:
    head, _, rest = MINIMAL.partition("[operators.FullyConnected]")
    with pytest.raises(ArchNetError, match="operators is missing"):
        load_profile(write(head + rest[rest.index("[absent") :]))


def test_a_missing_or_binary_profile_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArchNetError, match="cannot be read: No such file") as caught:
        load_profile(str(tmp_path / "none.toml"))
    assert "archnet targets" in caught.value.fix
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ArchNetError, match="it is not UTF-8 text"):
        load_profile(str(tmp_path / "binary.toml"))


def test_the_example_of_the_documentation_is_valid(write: Callable[[str], str]) -> None:
    page = Path(__file__).parents[2] / "docs" / "add_a_target.md"
    example = page.read_text(encoding="utf-8").split("```toml\n")[1].split("```")[0]
    assert tomllib.loads(example)["schema"] == 1
    assert load_profile(write(example)).name == "my_npu"
