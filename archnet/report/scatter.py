"""Scores against what they cost, with the edge that nothing beats: for the report and for the benchmarks.

Only what is inside a plot is drawn here, in the CSS classes tick, unit, value, grid, reference and front and
in those of the dots; whoever draws a page or a file of its own brings the style.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

from archnet.report.plots import ticks

LEFT, RIGHT = 62, 20
"""Room beside the plot, for the labels of the axis and for half a label of the last tick."""

UNDER = 40
"""Height of what is written below the plot."""

LETTER, LINE = 6.6, 14.0
"""Room that a letter and a line of 12-unit text take."""


@dataclass(frozen=True, slots=True)
class Dot:
    """One network.

    Attributes:
        cost: what the horizontal axis counts, above 0; less is better.
        score: more is better.
        label: beside the dot; "" draws none.
        hover: the whole of it, which browsers show when the dot is pointed at.
        style: a CSS class.
        radius: of the dot.
    """

    cost: float
    score: float
    label: str
    hover: str
    style: str
    radius: float = 5.0


def front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that no other beats: none has both less cost (first) and a higher score (second)."""
    kept: list[tuple[float, float]] = []
    for cost, score in sorted(points, key=lambda p: (p[0], -p[1])):
        if not kept or score > kept[-1][1]:
            kept.append((cost, score))
    return kept


def scatter(
    dots: Sequence[Dot],
    *,
    unit: str,
    width: float,
    height: float,
    original: float | None = None,
    worst: float = math.inf,
) -> Markup:
    """Dots over a logarithmic axis of costs, and the edge between them.

    Args:
        dots: at least one.
        unit: what the horizontal axis counts, below it.
        width: of all, labels included.
        height: of the plot alone; `UNDER` more is written below it.
        original: a dashed line at the score of the float original.
        worst: what lies further below the highest line is drawn on the lower edge, with an arrow.

    Returns:
        SVG elements within 0..width and 0..height + UNDER.
    """
    scores = [dot.score for dot in dots] + ([original] if original is not None else [])
    margin = 0.06 * (max(scores) - min(scores)) or 0.01 * abs(max(scores)) or 1.0
    high = max(scores) + margin
    low = max(min(scores) - margin, (original if original is not None else high) - worst)
    cheapest, dearest = min(dot.cost for dot in dots) / 1.15, max(dot.cost for dot in dots) * 1.25

    def x(cost: float) -> float:
        return LEFT + (width - LEFT - RIGHT) * math.log(cost / cheapest) / math.log(dearest / cheapest)

    def y(score: float) -> float:
        return height * (1 - (max(score, low) - low) / (high - low))

    parts = [_horizontal(y(t), width, f"{t:g}", "grid") for t in ticks(low, high, round(height / 50))]
    parts += [_vertical(x(t), height, f"{t:g}") for t in round_between(cheapest, dearest)]
    if original is not None:
        parts.append(_horizontal(y(original), width, "", "reference"))
    edge = front([(dot.cost, dot.score) for dot in dots if dot.score >= low])
    points = " ".join(f"{x(cost):.1f},{y(score):.1f}" for cost, score in edge)
    parts.append(Markup('<polyline class="front" points="{}"/>').format(points))
    boxes = [_around(x(dot.cost), y(dot.score), dot.radius) for dot in dots]
    boxes += [_around(*point, 1.0) for point in _along([(x(cost), y(score)) for cost, score in edge])]
    parts += [_mark(dot, x(dot.cost), y(dot.score), boxes, width, below=dot.score < low) for dot in dots]
    parts.append(_text((LEFT + width - RIGHT) / 2, height + 34, unit, "unit", "middle"))
    return Markup("").join(parts)


def round_between(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten between two costs; round numbers where that is less than two."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [step * 10.0**p for p in powers for step in (1, 2, 5) if low <= step * 10.0**p <= high]
    return found if len(found) > 1 else ticks(low, high, 4)


Box = tuple[float, float, float, float]


def _mark(dot: Dot, x: float, y: float, boxes: list[Box], width: float, *, below: bool) -> Markup:
    """A dot that names itself when it is pointed at, and its label where it covers nothing, if it can."""
    if below:
        shape = Markup('<path class="{}" d="M{:.1f} {:.1f}l5 -9h-10z"/>').format(dot.style, x, y)
    else:
        shape = Markup('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="{}"/>').format(
            dot.style, x, y, dot.radius
        )
    label = _label(dot, x, y, boxes, width) if dot.label else Markup("")
    return Markup("<g><title>{}</title>{}{}</g>").format(dot.hover, shape, label)


def _label(dot: Dot, x: float, y: float, boxes: list[Box], width: float) -> Markup:
    room, beside = LETTER * len(dot.label), dot.radius + 3
    places = [
        (x + side * (beside if level else beside + 2), y + level * LINE + 4 - 2 * (level < 0), side)
        for level in (-0.5, 0.0, 0.9, -1.4, 1.9, -2.4, 2.9)
        for side in (1, -1)
    ]

    def box(place: tuple[float, float, int]) -> Box:
        left = place[0] if place[2] > 0 else place[0] - room
        return left, place[1] - LINE + 3, left + room, place[1] + 2

    def free(place: tuple[float, float, int]) -> bool:
        mine = box(place)
        inside = mine[0] >= LEFT and mine[2] <= width and mine[1] >= -LINE
        return inside and not any(_overlap(mine, other) for other in boxes)

    chosen = next((place for place in places if free(place)), places[0])
    boxes.append(box(chosen))
    return _text(chosen[0], chosen[1], dot.label, "value", "start" if chosen[2] > 0 else "end")


def _around(x: float, y: float, radius: float) -> Box:
    return x - radius, y - radius, x + radius, y + radius


def _along(points: Sequence[tuple[float, float]], steps: int = 24) -> Iterator[tuple[float, float]]:
    """Places on the lines between points, which labels should not cover."""
    for (x0, y0), (x1, y1) in pairwise(points):
        for i in range(steps + 1):
            yield x0 + (x1 - x0) * i / steps, y0 + (y1 - y0) * i / steps


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _horizontal(y: float, width: float, label: str, style: str) -> Markup:
    line = Markup('<line class="{}" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>')
    return line.format(style, LEFT, width - RIGHT, y, y) + _text(LEFT - 8, y + 4.5, label, "tick", "end")


def _vertical(x: float, height: float, label: str) -> Markup:
    line = Markup('<line class="grid" x1="{:.1f}" x2="{:.1f}" y1="0" y2="{}"/>').format(x, x, height)
    return line + _text(x, height + 17, label, "tick", "middle")


def _text(x: float, y: float, text: str, style: str, anchor: str) -> Markup:
    if not text:
        return Markup("")
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(
        style, x, y, anchor, text
    )
