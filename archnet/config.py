"""The settings of a conversion: what decides its result, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Self

from archnet.errors import ArchNetError, nearest
from archnet.method import Method

PRESETS = ("fast", "balanced", "best")
EMBEDDING_FORMS = ("gather", "one-hot", "host", "code")
SOFTMAX_FORMS = ("softmax", "table", "logsum")
"""Forms of attention that are one in floats, so that what is distilled is the same."""

ATTENTION_FORMS = (*SOFTMAX_FORMS, "relu", "mixing")
NORM_FORMS = ("static", "corrected")
KNOWN_BITS = tuple(f"w{w}a{a}" for w in (8, 4, 3, 2) for a in (8, 6, 4))
AUTO_BITS = "auto"
"""What --bits takes for widths that are chosen layer by layer."""

SEQUENCES_BEFORE = "greedy"
"""Of a build whose settings do not say: it is from before they could be chosen."""

MAX_SEQUENCE = 1024
"""The integer softmax sums in int32, which is exact up to this sequence length."""


@dataclass(frozen=True, slots=True, order=True)
class Bits:
    """Bit widths of a quantized network, written "w8a8": weights first, then activations."""

    weights: int
    activations: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read "w8a8" (any case).

        Raises:
            ArchNetError: the text is no known pair of widths; the nearest ones are named.
        """
        name = text.strip().lower()
        found = re.fullmatch(r"w([0-9]+)a([0-9]+)", name)
        if found is None or name not in KNOWN_BITS:
            raise ArchNetError(
                f"--bits {text!r} is no bit width that Arch-Net knows",
                fix="write weights and activations like w8a8, or auto; "
                + nearest(name, (*KNOWN_BITS, AUTO_BITS)),
            )
        return cls(int(found[1]), int(found[2]))

    def require(self, weight_bits: Sequence[int], activation_bits: Sequence[int], target: str) -> None:
        """Refuse widths that a target does not have.

        Args:
            weight_bits: the widths of weights that the target runs.
            activation_bits: the widths of activations that the target runs.
            target: the target's name, for the message.

        Raises:
            ArchNetError: this pair is not among them.
        """
        if self.weights in weight_bits and self.activations in activation_bits:
            return
        allowed = [f"w{w}a{a}" for w in weight_bits for a in activation_bits]
        raise ArchNetError(
            f"target {target!r} cannot run --bits {self}",
            fix=f"choose other --bits ({nearest(str(self), allowed)}) or another --target",
        )

    def __str__(self) -> str:
        return f"w{self.weights}a{self.activations}"


@dataclass(frozen=True, slots=True)
class HeadWidth:
    """How many features each head of attention is narrowed to, written "16", or "8,16" where they differ.

    Attributes:
        keys: of queries and keys.
        values: of values.
    """

    keys: int
    values: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read "16" or "8,16".

        Raises:
            ArchNetError: the text is neither, or a number is 0.
        """
        found = re.fullmatch(r"([0-9]{1,6})(?:,([0-9]{1,6}))?", text.strip())
        numbers = [int(number) for number in found.groups() if number] if found else []
        if not numbers or min(numbers) < 1:
            raise ArchNetError(
                f"--head-width {text!r} is no number of features",
                fix="write how many each head is to have, such as 16, or of queries and keys, and of values, "
                "such as 8,16",
            )
        return cls(numbers[0], numbers[-1])

    def __str__(self) -> str:
        return str(self.keys) if self.keys == self.values else f"{self.keys},{self.values}"


def check_ffn_width(width: int | None) -> None:
    """Raises ArchNetError where no feed-forward part has so many features."""
    if width is not None and width < 1:
        raise ArchNetError(
            f"--ffn-width {width} is no number of features",
            fix="write how many each feed-forward part is to have, such as 1024",
        )


def check_length(seq_len: int) -> None:
    """Raises ArchNetError where no network has this longest sequence, in tokens."""
    if not 2 <= seq_len <= MAX_SEQUENCE:
        raise ArchNetError(
            f"--seq-len {seq_len} is out of range",
            fix=f"give a number of tokens from 2 to {MAX_SEQUENCE}",
        )


def known_norms(form: str) -> str:
    """The form of norms that was asked for.

    Raises:
        ArchNetError: there is no such form; known ones are suggested.
    """
    if form not in NORM_FORMS:
        raise ArchNetError(
            f"--norms {form!r} does not exist", fix=f"choose another form; {nearest(form, NORM_FORMS)}"
        )
    return form


@dataclass(frozen=True, slots=True)
class ConvertSettings:
    """Everything that decides a conversion's result, but for the model and the data themselves.

    Attributes:
        target: name of the target profile.
        bits: widths of weights and activations.
        preset: how long to train, one of `PRESETS`.
        seq_len: longest sequence in tokens, for training and of the exported network.
        seed: of all random numbers.
        embedding: the form that the word embedding takes, one of `EMBEDDING_FORMS`.
        attention: the form that attention takes, one of `ATTENTION_FORMS`.
        max_drop: points of the metric that layers of fewer bits may cost together, by an estimate; `bits`
            are then the widest that a layer may have. None: every layer has `bits`.
        norms: the form that LayerNorm and RMSNorm take, one of `NORM_FORMS`.
        target_sha256: of a profile of the user's own, whose name does not say what is in it; else empty.
        method: how it learns.
        head_width: what each head of attention is narrowed to; None: as many features as it has.
        ffn_width: features that each feed-forward part is narrowed to; None: as many as it has.

    Raises:
        ArchNetError: a value is out of range; known names are suggested.
    """

    target: str
    bits: Bits
    preset: str = "balanced"
    seq_len: int = 128
    seed: int = 0
    embedding: str = "gather"
    target_sha256: str = ""
    attention: str = ATTENTION_FORMS[0]
    max_drop: float | None = None
    norms: str = NORM_FORMS[0]
    method: Method = field(default_factory=Method)
    head_width: HeadWidth | None = None
    ffn_width: int | None = None

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise ArchNetError(
                f"--preset {self.preset!r} does not exist",
                fix=f"choose another preset; {nearest(self.preset, PRESETS)}",
            )
        if self.embedding not in EMBEDDING_FORMS:
            raise ArchNetError(
                f"--embedding {self.embedding!r} does not exist",
                fix=f"choose another form; {nearest(self.embedding, EMBEDDING_FORMS)}",
            )
        if self.attention not in ATTENTION_FORMS:
            raise ArchNetError(
                f"--attention {self.attention!r} does not exist",
                fix=f"choose another form; {nearest(self.attention, ATTENTION_FORMS)}",
            )
        known_norms(self.norms)
        if self.max_drop is not None and not 0 <= self.max_drop <= 100:
            raise ArchNetError(
                f"--max-drop {self.max_drop:g} is out of range",
                fix="give points of the metric, from 0 to 100",
            )
        check_ffn_width(self.ffn_width)
        check_length(self.seq_len)
        if not 0 <= self.seed < 2**32:
            raise ArchNetError(
                f"--seed {self.seed} is out of range", fix="give a number from 0 to 4294967295"
            )

    @property
    def asked_bits(self) -> str:
        """What was asked for, in words."""
        return str(self.bits) if self.max_drop is None else f"auto, at most {self.max_drop:g} points lost"

    def to_json(self) -> dict[str, str | int | float]:
        """A flat JSON object, which `from_json` reads; of `method` sequences and what is no default."""
        value = {**asdict(self), "bits": str(self.bits), "head_width": str(self.head_width)}
        del value["method"]
        value |= {**self.method.chosen(), "sequences": self.method.sequences}
        if self.max_drop is None:
            del value["max_drop"]
        if not self.target_sha256:
            del value["target_sha256"]
        if self.norms == NORM_FORMS[0]:
            del value["norms"]
        if self.head_width is None:
            del value["head_width"]
        if self.ffn_width is None:
            del value["ffn_width"]
        return value

    @classmethod
    def from_json(cls, value: Mapping[str, str | int | float]) -> Self:
        """Read what `to_json` wrote.

        Raises:
            ArchNetError: a field is missing, unknown or out of range.
        """
        names = {f.name for f in fields(cls)} - {"method"}
        optional = {"target_sha256", "attention", "max_drop", "norms", "head_width", "ffn_width"}
        wrong = sorted((names ^ (set(value) - set(Method().to_json()))) - (optional - set(value)))
        if wrong:
            raise ArchNetError(
                f"the recorded settings have missing or unknown fields: {', '.join(wrong)}",
                fix="they come from another version of Arch-Net: convert again into a new folder",
            )
        return cls(
            target=str(value["target"]),
            bits=Bits.parse(str(value["bits"])),
            preset=str(value["preset"]),
            seq_len=int(value["seq_len"]),
            seed=int(value["seed"]),
            embedding=str(value["embedding"]),
            target_sha256=str(value.get("target_sha256", "")),
            attention=str(value.get("attention", ATTENTION_FORMS[0])),
            max_drop=float(value["max_drop"]) if "max_drop" in value else None,
            norms=str(value.get("norms", NORM_FORMS[0])),
            method=Method.from_json({"sequences": SEQUENCES_BEFORE, **value}),
            head_width=HeadWidth.parse(str(value["head_width"])) if "head_width" in value else None,
            ffn_width=int(value["ffn_width"]) if "ffn_width" in value else None,
        )

    def differences(self, other: ConvertSettings) -> list[str]:
        """Name each field that `other` changes, as "field: mine -> other's"."""
        unsaid = {"norms": NORM_FORMS[0], "head_width": "unchanged", "ffn_width": "unchanged"}
        old, new = ({**unsaid, **s.to_json(), **s.method.to_json()} for s in (self, other))
        names = [f for f in {**old, **new} if f != "target_sha256"]
        differences = [f"{f}: {old.get(f)} -> {new.get(f)}" for f in names if old.get(f) != new.get(f)]
        if self.target == other.target and self.target_sha256 != other.target_sha256:
            differences.append(f"the content of target {self.target}'s profile")
        return differences
