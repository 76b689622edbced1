"""The picture: every network's score against its bytes and, where measured, against its time.

A file of its own, so unlike the report's plots (archnet.report.plots) it carries its colours; it has no
script and no font, and follows the reader's light or dark theme.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from archnet.report.plots import ticks
from side_by_side.recipe import parse_bits
from side_by_side.rows import Row

WIDTH, HEIGHT, LEFT, RIGHT, TOP, GAP = 760, 300, 62, 20, 44, 96
WORST = 15.0
"""Points below the original; what is worse is drawn on the lower edge, with an arrow."""

STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1f2933 }
.tick, .unit, .small { font-size: 12px; fill: #52606d }
.title { font-weight: 600 }
.grid { stroke: #d9e2ec }
.float { stroke: #52606d; stroke-dasharray: 4 3 }
.front { fill: none; stroke: #9aa5b1; stroke-width: 1.6 }
.ours { fill: #0f766e }
.peer { fill: #c2652a; fill-opacity: .75 }
.simulated { fill: none; stroke: #c2652a; stroke-width: 1.6 }
@media (prefers-color-scheme: dark) {
 text { fill: #e4e7eb } .tick, .unit, .small { fill: #9aa5b1 } .grid { stroke: #323f4b }
 .float { stroke: #9aa5b1 } .ours { fill: #2dd4bf } .front { stroke: #52606d }
 .peer { fill: #f0a060 } .simulated { stroke: #f0a060 }
}
"""


@dataclass(frozen=True)
class Panel:
    """One plot: what its horizontal axis counts, and how that is read from a row."""

    title: str
    unit: str
    value: Callable[[Row], float | None]


def frontier(rows: Sequence[Row], model: str, metric: str, shape: str) -> str:
    """An SVG file: a panel for bytes and, if any row was timed, one for milliseconds; "" without scores."""
    scored = [row for row in rows if row.score is not None]
    panels = [
        Panel("accuracy against size", "size in MB, logarithmic", lambda r: r.size / 1e6 if r.size else None),
        Panel("accuracy against time", f"milliseconds for {shape}, logarithmic", lambda r: r.ms),
    ]
    drawn = [p for p in panels if any(p.value(r) for r in scored)]
    if not drawn:
        return ""
    body = [_panel(panel, scored, TOP + i * (HEIGHT + GAP)) for i, panel in enumerate(drawn)]
    height = TOP + len(drawn) * (HEIGHT + GAP)
    title = f"{model}: {metric} of quantized networks"
    return str(
        Markup(
            '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {} {}" role="img">'
            "<title>{}</title><desc>{}</desc><style>{}</style>{}{}</svg>\n"
        ).format(WIDTH, height, title, _figures(scored), Markup(STYLE), _legend(title), Markup("").join(body))
    )


def front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that no other beats: none has both less cost (first) and a higher score (second)."""
    kept: list[tuple[float, float]] = []
    for cost, score in sorted(points, key=lambda p: (p[0], -p[1])):
        if not kept or score > kept[-1][1]:
            kept.append((cost, score))
    return kept


def _panel(panel: Panel, rows: Sequence[Row], top: float) -> Markup:
    found = [(value, row.score, row) for row in rows if (value := panel.value(row)) and row.score is not None]
    original = next((row.score for row in rows if row.bits == "w32a32"), None)
    high = max(score for _, score, _ in found) + 0.5
    low = max(min(score for _, score, _ in found) - 0.5, (original or high) - WORST)
    left, right = _decades([value for value, _, _ in found])

    def x(value: float) -> float:
        share = math.log(value / left) / math.log(right / left)
        return LEFT + (WIDTH - LEFT - RIGHT) * share

    def y(score: float) -> float:
        return top + HEIGHT * (1 - (max(score, low) - low) / (high - low))

    parts = [_text(LEFT, top - 8, panel.title, "title")]
    parts += [_horizontal(y(t), f"{t:g}") for t in ticks(low, high, 6)]
    parts += [_vertical(x(t), top, f"{t:g}") for t in _round_between(left, right)]
    if original is not None:
        line = Markup('<line class="float" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>')
        parts.append(line.format(LEFT, WIDTH - RIGHT, y(original), y(original)))
    edge = front([(value, score) for value, score, _ in found if score >= low])
    points = " ".join(f"{x(value):.1f},{y(score):.1f}" for value, score in edge)
    parts.append(Markup('<polyline class="front" points="{}"/>').format(points))
    parts += [_mark(x(value), y(score), row, value, below=score < low) for value, score, row in found]
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, top + HEIGHT + 36, panel.unit, "unit", "middle"))
    return Markup("").join(parts)


def _mark(x: float, y: float, row: Row, value: float, *, below: bool) -> Markup:
    """A dot that names itself on hover; ours and those on the edge carry their width in text."""
    style = "ours" if row.ours else "simulated" if row.simulated else "peer"
    hover = f"{row.tool}, {row.bits}: {row.score:.2f}, {value:.3g}"
    if below:
        shape = Markup('<path class="{}" d="M{:.1f} {:.1f}l5 -9h-10z"/>').format(style, x, y)
    else:
        shape = Markup('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="{}"/>').format(
            style, x, y, 6 if row.ours else 4.5
        )
    label = _text(x + 8, y - 6, _short(row), "small") if row.ours or row.bits == "w32a32" else Markup("")
    return Markup("<g><title>{}</title>{}{}</g>").format(hover, shape, label)


def _short(row: Row) -> str:
    weights, activations = parse_bits(row.bits)
    return "float" if weights == 32 else f"W{weights}A{activations}"


def _decades(values: Sequence[float]) -> tuple[float, float]:
    return min(values) / 1.15, max(values) * 1.25


def _round_between(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [step * 10.0**p for p in powers for step in (1, 2, 5) if low <= step * 10.0**p <= high]


def _horizontal(y: float, label: str) -> Markup:
    line = Markup('<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>')
    return line.format(LEFT, WIDTH - RIGHT, y, y) + _text(LEFT - 8, y + 4.5, label, "tick", "end")


def _vertical(x: float, top: float, label: str) -> Markup:
    line = Markup('<line class="grid" x1="{:.1f}" x2="{:.1f}" y1="{}" y2="{}"/>').format(
        x, x, top, top + HEIGHT
    )
    return line + _text(x, top + HEIGHT + 17, label, "tick", "middle")


def _legend(title: str) -> Markup:
    keys = (("ours", "Arch-Net"), ("peer", "others"), ("simulated", "others, simulated in float"))
    parts, x = [], WIDTH - RIGHT - 330.0
    for style, label in keys:
        parts.append(Markup('<circle class="{}" cx="{:.0f}" cy="14" r="5"/>').format(style, x))
        parts.append(_text(x + 10, 18.5, label, "small"))
        x += 32 + 7 * len(label)
    return Markup("").join(parts)


def _text(x: float, y: float, text: str, style: str, anchor: str = "start") -> Markup:
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(
        style, x, y, anchor, text
    )


def _figures(rows: Sequence[Row]) -> str:
    return "; ".join(f"{r.tool} {r.bits}: {r.score:.2f}, {(r.size or 0) / 1e6:.1f} MB" for r in rows)
