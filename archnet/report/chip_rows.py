"""What chips' own compilers made of the trained model, and of what it was converted into, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from archnet.results import Json
from archnet.targets.chips import in_words

ORIGINAL, OURS = "the original", "Arch-Net"


@dataclass(frozen=True, slots=True)
class ChipRow:
    """A network on a chip.

    Attributes:
        target: the chip.
        network: ORIGINAL or OURS, with the part of it where it has several.
        record: what `archnet.targets.chips.CompileSummary` holds; None where the compiler refused it.
        refused: then its words.
    """

    target: str
    network: str
    record: Mapping[str, Json] | None
    refused: str = ""

    @property
    def compiler(self) -> str:
        """The compiler, and what its figures are for: the two networks may have other lengths."""
        record = self.record or {}
        tokens = f"{record['sequence']} tokens" if record.get("sequence") else ""
        said = (record.get("tool"), tokens, record.get("configuration"))
        return ", ".join(str(words) for words in said if words)

    @property
    def elsewhere(self) -> str:
        """What runs on another processor, in words."""
        return in_words(_listed(self.record, "fallbacks"))

    @property
    def floats(self) -> str:
        """What the chip computes in float, in words."""
        return ", ".join(_listed(self.record, "float_operators"))


def chip_rows(
    compiled: Sequence[Mapping[str, Json]], originals: Mapping[str, Mapping[str, Json]]
) -> list[ChipRow]:
    """Chip by chip, the original first.

    Args:
        compiled: records of the converted network.
        originals: answers of `archnet.original`, by target.
    """
    ours: dict[str, list[Mapping[str, Json]]] = {}
    for one in compiled:
        ours.setdefault(str(one["target"]), []).append(one)
    rows = []
    for target in dict.fromkeys((*ours, *originals)):
        if target in originals:
            answer = originals[target]
            record = answer.get("compiled")
            found = record if isinstance(record, Mapping) else None
            rows.append(ChipRow(target, ORIGINAL, found, str(answer.get("refused") or "")))
        for one in ours.get(target, ()):
            part = one.get("part")
            rows.append(ChipRow(target, f"{OURS}, {part}" if part else OURS, one))
    return rows


def _listed(record: Mapping[str, Json] | None, key: str) -> list[str]:
    named = record.get(key) if record is not None else None
    return [str(name) for name in named] if isinstance(named, Sequence) else []
