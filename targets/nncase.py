"""What nncase's dump says of a compiled network: which operators are on the KPU, and which on the CPU.

nncase 2.11 prints no table. Its last pass that is dumped, FusionToTir, shows the network's main function
with one call for each piece of work that is compiled for the KPU (`prim_wrapper`), and by name what is left
to the interpreter that runs on the chip's RISC-V processor (nncase's module "stackvm"). Reshape and its
like only name the same bytes otherwise. What the dump cannot tell: cycles, time and memory of the chip.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path

from archnet.errors import ArchNetError

_MAIN = "*_TargetDependentAfterQuantPass/*_FusionToTirPass/End/main.il"
_WORK = "*_TargetDependentAfterQuantPass/*_FusionToTirPass/mac.csv"
_CALL = re.compile(r"^  %\d+ = (%?\w+)\(")
"""A line of the main function itself: deeper ones are of the pieces' own code."""

VIEWS = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Bitcast"})
"""Operators that move and compute nothing."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the pieces of a network run.

    Attributes:
        kpu: pieces of work on the KPU.
        cpu: kinds of the operators on the CPU, one entry each.
        macs: multiply-accumulates on the KPU.
    """

    kpu: int
    cpu: tuple[str, ...]
    macs: int


def read_placement(dump: Path) -> Placement:
    """Read a dump folder.

    Raises:
        ArchNetError: it is not what nncase 2.11 writes.
    """
    mains, works = sorted(dump.glob(_MAIN)), sorted(dump.glob(_WORK))
    if len(mains) != 1 or len(works) != 1:
        raise ArchNetError(
            "nncase's dump does not show where operators run", fix="archnet targets install kendryte"
        )
    text = mains[0].read_text(encoding="utf-8", errors="replace")
    calls = [found[1] for line in text.splitlines() if (found := _CALL.match(line))]
    cpu = [name for name in calls if not name.startswith("%") and name not in VIEWS]
    with works[0].open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, skipinitialspace=True))
    try:
        # Its column FLOPs counts multiply-accumulates: M * K * N of a product.
        macs = sum(int(float(row["FLOPs"])) for row in rows)
    except (KeyError, ValueError, TypeError) as error:
        raise ArchNetError(
            f"nncase's dump cannot be understood: {error}", fix="archnet targets install kendryte"
        ) from error
    return Placement(sum(name.startswith("%") for name in calls), tuple(cpu), macs)
