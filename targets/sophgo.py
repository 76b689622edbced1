"""What TPU-MLIR says of a network that it has compiled: where operators run, and how long the TPU takes.

Its last form of the network ("final.mlir") has one function for each part, with the processor that runs it,
and the operators in it. Beside it the compiler writes each command of the two engines, which multiply and
move, with the cycles from its simulation of their timing, where the network has commands at all.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

_PART = re.compile(r"func\.func @subfunc_\d+\(.*?mode = #tpu<run_mode (?P<mode>\w+)>")
_OPERATOR = re.compile(r'"tpu\.(?P<kind>\w+)"\(')
_CYCLES = re.compile(r"^API_END total_cycle:(?P<cycles>\d+)", re.MULTILINE)

_ON_CHIP = ("TPU_STATIC", "TPU_DYNAMIC")
_AROUND = frozenset({"Load", "Store", "Group", "Yield", "Buffer", "Return"})
"""What holds operators together, or moves data to them and back."""

_ELSEWHERE = frozenset({"GenericCpu", "CpuLayer"})

_FLOAT = frozenset({"Softmax"})
"""Computed in float32 on the TPU."""


@dataclass(frozen=True, slots=True)
class Placement:
    """A compiled network.

    Attributes:
        tpu: operators on the TPU, as the compiler counts them.
        elsewhere: kinds of the operators on a processor, one entry each.
        floats: of those on the TPU what it computes in float32, one entry each.
        cycles: of one inference; None where the compiler gives none.
    """

    tpu: int
    elsewhere: tuple[str, ...]
    floats: tuple[str, ...]
    cycles: int | None


def read_placement(mlir: str, commands: str) -> Placement:
    """Read what the compiler wrote.

    Args:
        mlir: its last form of the network.
        commands: the commands, "" where it wrote none.

    Raises:
        ValueError: it is not what tpu-mlir 1.30 writes.
    """
    on_chip: Counter[str] = Counter()
    elsewhere: list[str] = []
    mode = ""
    for line in mlir.splitlines():
        if part := _PART.search(line):
            mode = part["mode"]
        found = _OPERATOR.search(line)
        if found is None or found["kind"] in _AROUND or not mode:
            continue
        if mode in _ON_CHIP and found["kind"] not in _ELSEWHERE:
            on_chip[found["kind"]] += 1
        else:
            elsewhere.append(found["kind"])
    if not mode:
        raise ValueError("it names no part of the network")
    cycles = _CYCLES.findall(commands)
    floats = tuple(kind for kind in sorted(_FLOAT) for _ in range(on_chip[kind]))
    return Placement(on_chip.total(), tuple(elsewhere), floats, int(cycles[-1]) if cycles else None)
