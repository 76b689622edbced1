"""What nncase's dump says of a compiled network: which operators are on the KPU, and which on the CPU.

nncase 2.11 prints no table. Its last pass that is dumped, FusionToTir, shows the network's main function:
before it, what is in each piece of work for the KPU (`fusion<k230>`); after it, one call for each piece
(`prim_wrapper`), and by name what is left to the interpreter that runs on the chip's RISC-V processor
(nncase's module "stackvm"). Reshape and its like only name the same bytes otherwise. What the dump cannot
tell: cycles, time and memory of the chip.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path

from archnet.errors import ArchNetError

_FUSIONS = "*_TargetDependentAfterQuantPass/*_FusionToTirPass/Start/main.il"
_MAIN = "*_TargetDependentAfterQuantPass/*_FusionToTirPass/End/main.il"
_WORK = "*_TargetDependentAfterQuantPass/*_FusionToTirPass/mac.csv"
_CALL = re.compile(r"^  %\d+ = (?:(?:Binary|Unary|Reduce|Compare)\(\w+\.)?(%?\w+)")
"""A line of the main function itself: deeper ones are in pieces. Binary(BinaryOp.Min, is Min."""

_KPU = re.compile(r"^    %\d+ = GNNE(?!Load|LoadW|Store)\w+\(", re.MULTILINE)
"""An operator inside a piece, moving data in and out aside."""

VIEWS = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Bitcast"})
"""Operators that move and compute nothing."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the pieces of a network run.

    Attributes:
        kpu: operators on the KPU, of nncase's own kinds: products, convolutions, pooling, transpositions, and
            activations, which requantize, clip and add. A piece that joins two tensors has none.
        pieces: that they are in; each is started by itself.
        cpu: kinds of the operators on the CPU, one entry each.
        macs: multiply-accumulates on the KPU.
    """

    kpu: int
    pieces: int
    cpu: tuple[str, ...]
    macs: int


def read_placement(dump: Path) -> Placement:
    """Read a dump folder.

    Raises:
        ArchNetError: it is not what nncase 2.11 writes.
    """
    found = [sorted(dump.glob(pattern)) for pattern in (_FUSIONS, _MAIN, _WORK)]
    if any(len(paths) != 1 for paths in found):
        raise ArchNetError(
            "nncase's dump does not show where operators run", fix="archnet targets install kendryte"
        )
    (fusions,), (main,), (work,) = found
    kpu = len(_KPU.findall(fusions.read_text(encoding="utf-8", errors="replace")))
    text = main.read_text(encoding="utf-8", errors="replace")
    calls = [match[1] for line in text.splitlines() if (match := _CALL.match(line))]
    cpu = [name for name in calls if not name.startswith("%") and name not in VIEWS]
    with work.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, skipinitialspace=True))
    try:
        # Its column FLOPs counts multiply-accumulates: M * K * N of a product.
        macs = sum(int(float(row["FLOPs"])) for row in rows)
    except (KeyError, ValueError, TypeError) as error:
        raise ArchNetError(
            f"nncase's dump cannot be understood: {error}", fix="archnet targets install kendryte"
        ) from error
    return Placement(kpu, sum(name.startswith("%") for name in calls), tuple(cpu), macs)
