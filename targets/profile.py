"""Target profiles: which integer operators a target runs, at which widths, and which tool said so.

A profile is frozen data read from TOML. Those that come with Arch-Net stand in profiles/, one file
a target; a user's own is given by its path (docs/add_a_target.md). Reading is strict: an unknown
key, operator, width or probe is an error, so that a typing mistake never becomes a permission.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

from archnet.config import ATTENTION_FORMS, AUTO_BITS, EMBEDDING_FORMS, KNOWN_BITS, MAX_SEQUENCE, Bits
from archnet.errors import ArchNetError, nearest
from archnet.operators import Op
from archnet.targets.strict_table import StrictTable

SCHEMA = 1
EXPORT_FORMATS = ("onnx", "tvm", "tflite")
CONVOLUTIONS = ("any", "3x3")
SOFTMAX_LEVELS = (255, 256)
WIDTHS = (8, 6, 4, 3, 2)

_NEEDED_BY_FORM: Mapping[str, tuple[Op, ...]] = {
    "gather": (Op.EMBEDDING,),
    "one-hot": (Op.ONE_HOT, Op.LINEAR),
    "code": (Op.ONE_HOT, Op.LINEAR),
    "host": (),
}

_NEEDED_BY_ATTENTION: Mapping[str, tuple[Op, ...]] = {
    "softmax": (Op.MATMUL, Op.SOFTMAX),
    "table": (Op.MATMUL, Op.TABLE_SOFTMAX),
    "logsum": (Op.MATMUL, Op.LOG_SUM_SOFTMAX),
    "relu": (Op.MATMUL, Op.MEAN_MATMUL),
    "mixing": (Op.LINEAR, Op.CONCAT, Op.RELU, Op.ZERO_PAD, Op.CROP),
}

_PROFILE_KEYS = (
    "schema",
    "name",
    "title",
    "description",
    "tool",
    "tool_version",
    "weight_bits",
    "activation_bits",
    "embedding_forms",
    "attention_forms",
    "convolution",
    "softmax_levels",
    "exports",
    "max_sequence",
    "probes",
    "operators",
    "absent",
)


@dataclass(frozen=True, slots=True)
class Probe:
    """How it was found out what a target runs: the tool, its version, and what it was given."""

    name: str
    tool: str
    version: str
    how: str


@dataclass(frozen=True, slots=True)
class OperatorSupport:
    """That a target runs an operator.

    Attributes:
        bits: widths, "w8a8" for an operator with weights, "a8" for one without.
        probe: what said so.
        note: conditions, and anything that the target does differently from the reference.
    """

    bits: tuple[str, ...]
    probe: Probe
    note: str = ""


@dataclass(frozen=True, slots=True)
class OperatorAbsence:
    """That a target does not run an operator: why, and what said so."""

    reason: str
    probe: Probe


@dataclass(frozen=True, slots=True)
class Profile:
    """What a target can run.

    Attributes:
        name: what `--target` takes.
        title: one line for people.
        description: what the target is, in a few sentences.
        tool: the runtime or compiler that the target's artifact is made for.
        tool_version: its version when the profile was probed.
        operators: every operator of the integer network that may stay or appear.
        attention_forms: forms of attention, the default first; a profile that names none has "softmax".
        convolution: "any", or "3x3" for targets whose convolutions are dense, 3x3, of stride 1 and at most
            512 channels, and whose pooling is 2x2.
        softmax_levels: how many units make 1 in the probabilities of 8 bits that the target's Softmax gives:
            255, the greatest integer, or 256, which is cut off at 255 (TFLite).
        absent: operators that were probed and found missing. Any operator that is neither here nor
            in `operators` is missing too; it has no recorded reason.
        weight_bits: widths of weights, the default first.
        activation_bits: widths of activations, the default first.
        embedding_forms: forms of the word embedding, the default first.
        exports: formats that can be written for the target, "onnx", "tvm" and "tflite".
        max_sequence: longest sequence in tokens.
    """

    name: str
    title: str
    description: str
    tool: str
    tool_version: str
    operators: Mapping[Op, OperatorSupport]
    weight_bits: tuple[int, ...]
    activation_bits: tuple[int, ...]
    embedding_forms: tuple[str, ...]
    exports: tuple[str, ...]
    max_sequence: int
    absent: Mapping[Op, OperatorAbsence] = field(default_factory=dict)
    attention_forms: tuple[str, ...] = ATTENTION_FORMS[:1]
    convolution: str = CONVOLUTIONS[0]
    softmax_levels: int = SOFTMAX_LEVELS[0]

    def supports(self, op: Op, bits: Bits | None = None) -> bool:
        """Whether the target runs the operator (at these widths, where they are given)."""
        return self.why_not(op, bits) is None

    def why_not(self, op: Op, bits: Bits | None = None) -> str | None:
        """Why the target does not run the operator, in words for the plan; None when it does."""
        if op in self.absent:
            absence = self.absent[op]
            return f"{absence.reason} ({absence.probe.tool} {absence.probe.version})"
        if op not in self.operators:
            return f"the profile of {self.name} does not list {op}"
        if bits is None:
            return None
        known = self.operators[op].bits
        if str(bits) in known or f"a{bits.activations}" in known:
            return None
        return f"{self.name} runs {op} at {', '.join(known)}, not at {bits}"

    def choose_bits(self, bits: Bits) -> Bits:
        """These widths, when the target has them.

        Raises:
            ArchNetError: it does not; the widths that it has are named.
        """
        bits.require(self.weight_bits, self.activation_bits, self.name)
        return bits

    def ask_bits(self, asked: str | Bits, max_drop: float | None) -> Bits:
        """The widths that --bits and --max-drop ask for; for "auto" the widest that the target has.

        Raises:
            ArchNetError: unknown widths, widths that the target lacks, or one option without the other.
        """
        if isinstance(asked, str) and asked.strip().lower() == AUTO_BITS:
            if max_drop is None:
                raise ArchNetError(
                    "--bits auto needs --max-drop",
                    fix="give the points of the metric that may be lost, such as --max-drop 0.5",
                )
            if len(self.weight_bits) < 2:
                raise ArchNetError(
                    f"--bits auto has no choice: target {self.name!r} has weights of "
                    f"{self.weight_bits[0]} bits only",
                    fix="leave --bits and --max-drop out, or choose another --target",
                )
            return Bits(max(self.weight_bits), max(self.activation_bits))
        bits = self.choose_bits(Bits.parse(asked) if isinstance(asked, str) else asked)
        if max_drop is not None:
            raise ArchNetError(
                f"--max-drop belongs to --bits auto, not to --bits {bits}",
                fix="leave --max-drop out, or write --bits auto",
            )
        return bits

    def choose_embedding(self, form: str | None = None) -> str:
        """This form of the word embedding, or the target's default for None.

        Raises:
            ArchNetError: the target does not have it; the forms that it has are named.
        """
        if form is None:
            return self.embedding_forms[0]
        if form not in self.embedding_forms:
            gather = self.why_not(Op.EMBEDDING) if form == "gather" else None
            raise ArchNetError(
                f"target {self.name!r} cannot run --embedding {form!r}" + (f": {gather}" if gather else ""),
                fix=f"choose another form; {nearest(form, self.embedding_forms)}",
            )
        return form

    def choose_attention(self, form: str | None = None) -> str:
        """This form of attention, or the target's default for None.

        Raises:
            ArchNetError: the target does not have it; the forms that it has are named.
        """
        if form is None:
            return self.attention_forms[0]
        if form not in self.attention_forms:
            missing = [
                reason
                for op in _NEEDED_BY_ATTENTION.get(form, ())
                if (reason := self.why_not(op)) is not None
            ]
            raise ArchNetError(
                f"target {self.name!r} cannot run --attention {form!r}"
                + (f": {'; '.join(missing)}" if missing else ""),
                fix=f"choose another form; {nearest(form, self.attention_forms)}",
            )
        return form

    def own_sha256(self) -> str:
        """SHA-256 of a user's own profile; empty for one that comes with Arch-Net.

        Comments and layout of the file do not count.
        """
        if self.name in _built_in_names():
            return ""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()

    def to_json(self) -> dict[str, object]:
        """As a JSON object, for `archnet targets --json` and the manifest."""
        return {
            "name": self.name,
            "title": self.title,
            "description": self.description,
            "tool": self.tool,
            "tool_version": self.tool_version,
            "weight_bits": list(self.weight_bits),
            "activation_bits": list(self.activation_bits),
            "embedding_forms": list(self.embedding_forms),
            "attention_forms": list(self.attention_forms),
            "convolution": self.convolution,
            "softmax_levels": self.softmax_levels,
            "exports": list(self.exports),
            "max_sequence": self.max_sequence,
            "operators": {
                str(op): {"bits": list(s.bits), "note": s.note, **_probe_json(s.probe)}
                for op, s in self.operators.items()
            },
            "absent": {
                str(op): {"reason": a.reason, **_probe_json(a.probe)} for op, a in self.absent.items()
            },
        }


def list_profiles() -> tuple[Profile, ...]:
    """The profiles that come with Arch-Net, by name."""
    return tuple(load_profile(name) for name in _built_in_names())


def load_profile(target: str) -> Profile:
    """Read a profile.

    Args:
        target: the name of a profile that comes with Arch-Net, or the path of a TOML file (it ends
            in ".toml" or has a "/").

    Raises:
        ArchNetError: no such profile (the nearest names are given), or a file that does not say
            what a profile must say.
    """
    names = _built_in_names()
    if target.endswith(".toml") or "/" in target:
        profile = read_profile(Path(target))
        if profile.name in names:
            raise ArchNetError(
                f"{target}: name {profile.name!r} belongs to a profile that comes with Arch-Net",
                fix="give your profile a name of its own",
            )
        return profile
    if target not in names:
        raise ArchNetError(
            f"--target {target!r} does not exist",
            fix=f"choose another target, or give the path of a profile (.toml); {nearest(target, names)}",
        )
    return read_profile(_built_in_folder() / f"{target}.toml")


def read_profile(path: Path) -> Profile:
    """Read and check one profile file.

    Raises:
        ArchNetError: the file is missing, no TOML, or not a valid profile; the place is named.
    """
    table = StrictTable.read(path, _PROFILE_KEYS)
    table.integer("schema", SCHEMA, SCHEMA)
    probes = _read_probes(table)
    if "operators" not in table:
        raise table.wrong("operators", "a table of tables, written [operators.NAME]")
    profile = Profile(
        name=_read_name(table),
        title=table.text("title"),
        description=table.text("description"),
        tool=table.text("tool"),
        tool_version=table.text("tool_version"),
        operators=_read_operators(table, probes),
        weight_bits=table.integers("weight_bits", WIDTHS),
        activation_bits=table.integers("activation_bits", WIDTHS),
        embedding_forms=table.strings("embedding_forms", EMBEDDING_FORMS),
        exports=table.strings("exports", EXPORT_FORMATS),
        max_sequence=table.integer("max_sequence", 2, MAX_SEQUENCE),
        absent=_read_absences(table, probes),
        attention_forms=(
            table.strings("attention_forms", ATTENTION_FORMS)
            if "attention_forms" in table
            else ATTENTION_FORMS[:1]
        ),
        convolution=_read_convolution(table),
        softmax_levels=_read_softmax_levels(table),
    )
    _check(profile, table.where)
    if "attention_forms" in table:
        _check_forms(profile, table.where, "attention", profile.attention_forms, _NEEDED_BY_ATTENTION)
    return profile


def _built_in_folder() -> Path:
    return Path(str(files("archnet.targets"))) / "profiles"


def _built_in_names() -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in _built_in_folder().glob("*.toml")))


def _probe_json(probe: Probe) -> dict[str, str]:
    return {"tool": probe.tool, "tool_version": probe.version, "how": probe.how}


def _read_name(table: StrictTable) -> str:
    name = table.text("name")
    if re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name) is None:
        raise table.wrong("name", "small letters, digits, '-' and '_'")
    return name


def _read_convolution(table: StrictTable) -> str:
    value = table.text("convolution", CONVOLUTIONS[0])
    if value not in CONVOLUTIONS:
        raise table.wrong("convolution", f"one of {', '.join(CONVOLUTIONS)}")
    return value


def _read_softmax_levels(table: StrictTable) -> int:
    if "softmax_levels" not in table:
        return SOFTMAX_LEVELS[0]
    return table.integer("softmax_levels", min(SOFTMAX_LEVELS), max(SOFTMAX_LEVELS))


def _read_probes(table: StrictTable) -> dict[str, Probe]:
    return {
        name: Probe(name, entry.text("tool"), entry.text("version"), entry.text("how"))
        for name, entry in table.tables("probes", ("tool", "version", "how")).items()
    }


def _read_operators(table: StrictTable, probes: Mapping[str, Probe]) -> dict[Op, OperatorSupport]:
    known = tuple(KNOWN_BITS) + tuple(f"a{width}" for width in WIDTHS)
    return {
        _operator(name, entry): OperatorSupport(
            bits=entry.strings("bits", known), probe=_probe(entry, probes), note=entry.text("note", "")
        )
        for name, entry in table.tables("operators", ("bits", "probe", "note")).items()
    }


def _read_absences(table: StrictTable, probes: Mapping[str, Probe]) -> dict[Op, OperatorAbsence]:
    return {
        _operator(name, entry): OperatorAbsence(reason=entry.text("reason"), probe=_probe(entry, probes))
        for name, entry in table.tables("absent", ("reason", "probe")).items()
    }


def _operator(name: str, entry: StrictTable) -> Op:
    names = [str(op) for op in Op if op is not Op.OTHER]
    if name not in names:
        raise ArchNetError(f"{entry.where}: no operator is called {name!r}", fix=nearest(name, names))
    return Op(name)


def _probe(entry: StrictTable, probes: Mapping[str, Probe]) -> Probe:
    name = entry.text("probe")
    if name not in probes:
        raise ArchNetError(
            f"{entry.where}: probe {name!r} is not described",
            fix=f"add [probes.{name}] with tool, version and how; {nearest(name, probes)}",
        )
    return probes[name]


def _check_forms(
    profile: Profile, where: str, kind: str, forms: tuple[str, ...], needed: Mapping[str, tuple[Op, ...]]
) -> None:
    """Refuse a form whose operators the profile does not list."""
    for form in forms:
        missing = [str(op) for op in needed[form] if op not in profile.operators]
        if missing:
            raise ArchNetError(
                f"{where}: {kind} form {form!r} needs {', '.join(missing)}, missing from [operators]",
                fix=f"list the operator, or remove the form from {kind}_forms",
            )


def _check(profile: Profile, where: str) -> None:
    """Refuse a profile that contradicts itself."""
    both = sorted(str(op) for op in profile.operators if op in profile.absent)
    if both:
        raise ArchNetError(
            f"{where}: {', '.join(both)} is both in [operators] and in [absent]", fix="remove one of the two"
        )
    _check_forms(profile, where, "embedding", profile.embedding_forms, _NEEDED_BY_FORM)
    pairs = {f"w{w}a{a}" for w in profile.weight_bits for a in profile.activation_bits}
    allowed = pairs | {f"a{a}" for a in profile.activation_bits}
    for op, support in profile.operators.items():
        extra = sorted(set(support.bits) - allowed)
        if extra:
            raise ArchNetError(
                f"{where}: [operators.{op}] has bits {', '.join(extra)}, more than weight_bits and "
                f"activation_bits allow",
                fix="add the width to weight_bits and activation_bits, or remove it here",
            )
