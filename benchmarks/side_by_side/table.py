"""The rows as one table on the terminal, and as the JSON that it is made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table
from rich.text import Text

from side_by_side.recipe import parse_bits
from side_by_side.rows import Row

FLOAT = "w32a32"


def ordered(rows: Sequence[Row]) -> list[Row]:
    """By width from wide to narrow; within one, ours first, then by score, then what has none."""

    def place(row: Row) -> tuple[Any, ...]:
        weights, activations = parse_bits(row.bits)
        weight_only = activations == 32 and weights < 32
        return (weight_only, -weights, -activations, not row.ours, row.score is None, -(row.score or 0.0))

    return sorted(rows, key=place)


def table_of(rows: Sequence[Row], title: str, shape: str) -> Table:
    """One line a row; differences are to the float original's score, ratios to its size and time."""
    original = next((r for r in rows if r.bits == FLOAT and r.score is not None), None)
    table = Table(title=title, title_justify="left")
    timed = any(row.ms is not None for row in rows)
    table.add_column("bits", no_wrap=True)
    table.add_column("tool", overflow="fold", min_width=24)
    heads = ["score", "to float", "MB", "of float", "made in s", "CPU s", "peak MB"]
    for name in [*heads, *((f"ms, {shape}", "faster") if timed else ())]:
        table.add_column(name, justify="right", no_wrap=True)
    last = None
    for row in ordered(rows):
        if last is not None and row.bits != last:
            table.add_section()
        last = row.bits
        cells = [row.bits, row.tool, *_figures(row, original), *(_times(row, original) if timed else [])]
        style = "bold" if row.ours else "dim" if row.reason else ""
        table.add_row(*(Text(cell) for cell in cells), style=style)
    return table


def notes(rows: Sequence[Row]) -> list[str]:
    """Under the table: why a row has no score, and what each tool quantizes."""
    lines = [f"{r.tool}, {r.bits}: {r.reason}" for r in ordered(rows) if r.reason is not None]
    scopes = {row.tool: row for row in ordered(rows) if row.score is not None and row.bits != FLOAT}
    for tool, row in scopes.items():
        simulated = "; simulated in float" if row.simulated else ""
        lines.append(f"{tool} quantizes {row.scope}{simulated} ({row.settings})")
    return lines


def to_json(rows: Sequence[Row], **head: Any) -> dict[str, Any]:
    """Everything, for machines."""
    return {**head, "rows": [asdict(row) for row in ordered(rows)]}


def _figures(row: Row, original: Row | None) -> list[str]:
    if row.score is None:
        score = ["cannot" if row.cannot else "failed", ""]
    else:
        against = original is not None and original.score is not None and row.bits != FLOAT
        change = f"{row.score - original.score:+.2f}" if against and original and original.score else ""
        score = [f"{row.score:.2f}", change]
    share = f"{row.size / original.size:.2f}" if row.size and original and original.size else ""
    return [
        *score,
        f"{row.size / 1e6:.1f}" if row.size else "",
        share,
        f"{row.seconds:.0f}" if row.seconds is not None else "",
        f"{row.cpu_seconds:.0f}" if row.cpu_seconds is not None else "",
        f"{row.peak_bytes / 1e6:.0f}" if row.peak_bytes else "",
    ]


def _times(row: Row, original: Row | None) -> list[str]:
    if row.ms is None:
        return ["simulated" if row.simulated and row.score is not None else "", ""]
    return [f"{row.ms:.2f}", f"{original.ms / row.ms:.2f}" if original and original.ms else ""]
