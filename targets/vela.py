"""Arm's compiler Vela: a TFLite file in, a TFLite file with the NPU's command stream out, and what it costs.

Vela leaves what the NPU cannot run to the CPU and says so in its output only; `compile_vela` reads that.
Figures are Vela's own estimates for its default system of each chip.
"""

from __future__ import annotations

import csv
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from archnet.atomic import disk_errors, remove_tree
from archnet.errors import ArchNetError
from archnet.targets.chips import CompileSummary
from archnet.targets.process import run_tool
from archnet.targets.toolchain import find_toolchain

TOOLCHAIN = "ethos-u"
BINARY = "model_vela.tflite"
_MODULE = "ethosu.vela"
_PLACED = re.compile(r"^(CPU|NPU) operators = (\d+)", re.MULTILINE)
# What it counts as left to the CPU: Vela's operator and the name. The table has most, but not all, of these.
_ON_CPU = re.compile(r"^ +CPU: (\w+) = (.+) \(outputs ", re.MULTILINE)
# A row of that table: original operator, Vela's operator, where it runs, ..., name.
_ROW = re.compile(r"^(\w+) +\w+ +CPU .* (\S+) *$", re.MULTILINE)
_KIB = 1024

SCHEDULES = (
    ("--disable-ifm-reuse",),
    ("--disable-buffering",),
    ("--disable-cascading", "--disable-ifm-reuse"),
)
"""What Vela may be told to leave out of its schedule. With a memory that is nearly full, a schedule without
it can be quicker by Vela's own estimate: it fills what the next layer's features would have stayed in with
weights (all-MiniLM-L6-v2, 128 tokens, weights of 4 bits, ethos-u85-256: 16.8 M cycles with, 14.3 M without).
"""

FULL = 0.9
"""Share of the memory of a schedule that is nearly full."""


def compile_vela(model: Path, folder: Path, accelerator: str, *, log: Path, seconds: float) -> CompileSummary:
    """Compile a TFLite file into BINARY in a folder.

    Where the chip's memory is nearly full, other schedules are tried, and the quickest is kept.

    Args:
        model: named model.tflite.
        folder: exists; what is in it may be overwritten.
        accelerator: chip and multiply-accumulates a cycle, such as ethos-u55-256.
        log: gets all that Vela prints.
        seconds: time limit; what is left of it when there is a binary is for other schedules.

    Raises:
        ArchNetError: the toolchain is missing, Vela fails, crashes or takes too long, or what it wrote cannot
            be understood.
    """
    end = time.monotonic() + seconds
    best = _compiled(model, folder, accelerator, (), log=log, seconds=seconds)
    if best.fallback_operators or not _fills_memory(folder):
        return best
    for number, options in enumerate(SCHEDULES):
        other = folder / f"schedule-{number}"
        with disk_errors(other):
            other.mkdir()
        # It is another way to what is there already, so its failure is none.
        with suppress(ArchNetError):
            left = max(0.0, end - time.monotonic())
            found = _compiled(model, other, accelerator, options, log=other / "log", seconds=left)
            if not found.fallback_operators and (found.cycles or 0) < (best.cycles or 0):
                best = replace(found, configuration=" ".join((f"{found.configuration},", *options)))
                for file in [*other.glob("*.tflite"), *other.glob("*.csv")]:
                    file.replace(folder / file.name)
        remove_tree(other)
    return best


def _compiled(
    model: Path, folder: Path, accelerator: str, options: Sequence[str], *, log: Path, seconds: float
) -> CompileSummary:
    toolchain = find_toolchain(TOOLCHAIN)
    command = [
        str(toolchain.require()), "-m", _MODULE, str(model.absolute()), "--accelerator-config", accelerator,
        "--output-dir", str(folder.absolute()), "--verbose-performance", "--show-cpu-operations", *options,
    ]  # fmt: skip
    tool = toolchain.tool
    fix = "try another --target or --seq-len; report the log to the compiler's makers if it crashed"
    text = run_tool(command, log=log, seconds=seconds, title=f"Vela ({tool})", fix=fix)
    return read_report(text, folder, folder / BINARY, target=accelerator, tool=tool, log=log, fix=fix)


def _fills_memory(folder: Path) -> bool:
    """Whether the schedule takes nearly all of the memory that it may."""
    row = _totals(folder)
    return float(row["sram_memory_used"]) > FULL * float(row.get("arena_cache_size", "inf"))


def read_report(
    text: str, folder: Path, binary: Path, *, target: str, tool: str, log: Path, fix: str
) -> CompileSummary:
    """What Vela says of a network.

    Args:
        text: all that it printed.
        folder: of its tables.
        binary: what was made of the network.
        target, tool: of the CompileSummary.
        log, fix: for the error.

    Raises:
        ArchNetError: it cannot be understood.
    """
    try:
        return _summary(text, folder, binary, target, tool)
    except (KeyError, ValueError, OSError) as error:
        raise ArchNetError(
            f"what Vela ({tool}) wrote cannot be understood: {error} (its log: {log})", fix=fix
        ) from error


def _summary(text: str, folder: Path, binary: Path, target: str, tool: str) -> CompileSummary:
    placed = {where: int(count) for where, count in _PLACED.findall(text)}
    if placed.keys() != {"CPU", "NPU"}:
        raise ValueError("it names no operators")
    row = _totals(folder)
    kinds = {name: op for op, name in _ROW.findall(text)}
    elsewhere = ("dram_memory_used", "on_chip_flash_memory_used", "off_chip_flash_memory_used")
    return CompileSummary(
        target=target,
        tool=tool,
        native_operators=placed["NPU"],
        fallback_operators=placed["CPU"],
        fallbacks=tuple(f"{kinds.get(name, op)} ({name})" for op, name in _ON_CPU.findall(text)),
        binary=binary.name,
        binary_bytes=binary.stat().st_size,
        configuration=f"{row['system_config']}, {row['memory_mode']}",
        cycles=_whole(row["cycles_total"]),
        milliseconds=1000 * float(row["inference_time"]),
        sram_bytes=_whole(row["sram_memory_used"], _KIB),
        other_bytes=sum(_whole(row[name], _KIB) for name in elsewhere),
        macs=_whole(row["nn_macs"]),
    )


def _totals(folder: Path) -> Mapping[str, str]:
    """The newest of Vela's tables of a network, which has one row."""
    tables = sorted(folder.glob("*_summary_*.csv"), key=lambda path: path.stat().st_mtime)
    if not tables:
        raise ValueError("it wrote no summary")
    with tables[-1].open(newline="", encoding="utf-8") as file:
        return next(csv.DictReader(file), {})


def _whole(text: str, unit: int = 1) -> int:
    return round(float(text) * unit)
