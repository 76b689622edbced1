"""The picture: every network's score against its bytes and, where measured, against its time.

A file of its own: unlike the page of a report, which draws the same plots (archnet.report.scatter), it
carries its colours. It has no script and no font, and follows the reader's light or dark theme.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from archnet.report.scatter import LEFT, RIGHT, UNDER, Dot, scatter
from side_by_side.recipe import parse_bits
from side_by_side.rows import Row

WIDTH, HEIGHT, TOP, GAP = 760, 300, 44, 56
WORST = 15.0
"""Points below the original; what is worse is drawn on the lower edge, with an arrow."""

STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1f2933 }
.tick, .unit, .value { font-size: 12px; fill: #52606d }
.title { font-weight: 600 }
.grid { stroke: #d9e2ec }
.reference { stroke: #52606d; stroke-dasharray: 4 3 }
.front { fill: none; stroke: #9aa5b1; stroke-width: 1.6 }
.ours { fill: #0f766e }
.peer { fill: #c2652a; fill-opacity: .75 }
.simulated { fill: none; stroke: #c2652a; stroke-width: 1.6 }
@media (prefers-color-scheme: dark) {
 text { fill: #e4e7eb } .tick, .unit, .value { fill: #9aa5b1 } .grid { stroke: #323f4b }
 .reference { stroke: #9aa5b1 } .ours { fill: #2dd4bf } .front { stroke: #52606d }
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
    step = HEIGHT + UNDER + GAP
    body = [_panel(panel, scored, TOP + i * step) for i, panel in enumerate(drawn)]
    height = TOP + len(drawn) * step
    title = f"{model}: {metric} of quantized networks"
    return str(
        Markup(
            '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {} {}" role="img">'
            "<title>{}</title><desc>{}</desc><style>{}</style>{}{}</svg>\n"
        ).format(WIDTH, height, title, _figures(scored), Markup(STYLE), _legend(), Markup("").join(body))
    )


def _panel(panel: Panel, rows: Sequence[Row], top: float) -> Markup:
    dots = [_dot(row, value) for row in rows if (value := panel.value(row))]
    original = next((row.score for row in rows if row.bits == "w32a32"), None)
    plot = scatter(dots, unit=panel.unit, width=WIDTH, height=HEIGHT, original=original, worst=WORST)
    return Markup('<text class="title" x="{}" y="{}">{}</text><g transform="translate(0 {})">{}</g>').format(
        LEFT, top - 8, panel.title, top, plot
    )


def _dot(row: Row, value: float) -> Dot:
    """Ours are larger; they and the original carry their width in text."""
    assert row.score is not None
    style = "ours" if row.ours else "simulated" if row.simulated else "peer"
    label = _short(row) if row.ours or row.bits == "w32a32" else ""
    hover = f"{row.tool}, {row.bits}: {row.score:.2f}, {value:.3g}"
    return Dot(value, row.score, label, hover, style, 6 if row.ours else 4.5)


def _short(row: Row) -> str:
    weights, activations = parse_bits(row.bits)
    return "float" if weights == 32 else f"W{weights}A{activations}"


def _legend() -> Markup:
    keys = (("ours", "Arch-Net"), ("peer", "others"), ("simulated", "others, simulated in float"))
    parts, x = [], WIDTH - RIGHT - 330.0
    for style, label in keys:
        parts.append(Markup('<circle class="{}" cx="{:.0f}" cy="14" r="5"/>').format(style, x))
        parts.append(Markup('<text class="value" x="{:.1f}" y="18.5">{}</text>').format(x + 10, label))
        x += 32 + 7 * len(label)
    return Markup("").join(parts)


def _figures(rows: Sequence[Row]) -> str:
    return "; ".join(f"{r.tool} {r.bits}: {r.score:.2f}, {(r.size or 0) / 1e6:.1f} MB" for r in rows)
