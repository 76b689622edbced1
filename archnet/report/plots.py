"""Plots as static inline SVG: no script, no font, colours from the page's style sheet.

Every plot is drawn for a width of 440 units with 13-unit text, so that it stays readable when a
phone shows it 350 pixels wide. Each carries a title and a description for screen readers, and each
mark a title that browsers show on hover. Labels are escaped (markupsafe).
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

WIDTH = 440
DECADES = 6
"""Most powers of ten on a logarithmic axis."""

BAR, BAR_GAP, GROUP_GAP = 15, 3, 10
LETTER, LINE = 7.6, 15
"""Room that a letter and a line of 13-unit text take."""
AXIS = 26
"""Height of the tick labels below a plot."""


@dataclass(frozen=True, slots=True)
class Mark:
    """One bar or dot: its value, the text beside it, what it belongs to, and a colour's CSS class."""

    value: float
    text: str
    label: str
    style: str


@dataclass(frozen=True, slots=True)
class Group:
    """Marks that share a label on the left."""

    label: str
    marks: tuple[Mark, ...]


@dataclass(frozen=True, slots=True)
class Line:
    """A curve: points (x, y) in ascending x, and a colour's CSS class."""

    label: str
    points: tuple[tuple[float, float], ...]
    style: str


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers (1, 2, 2.5 or 5 times a power of ten apart) within low to high."""
    if not high > low:
        return [low]
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * f for f in (1, 2, 2.5, 5, 10) if power * f >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def bar_plot(
    title: str,
    groups: Sequence[Group],
    *,
    unit: str,
    description: str = "",
    start: float = 0.0,
    stop: float | None = None,
    dots: bool = False,
    reference: float | None = None,
    label_width: float = 130,
) -> Markup:
    """Horizontal bars, or dots where the axis does not begin at zero.

    Args:
        unit: what the axis counts, below the ticks.
        start: left end of the axis; bars must begin at 0 to be honest, dots need not.
        stop: right end of the axis; the largest value when None.
        reference: draws a line at this value ("as fast as the original").
        label_width: most room for the labels on the left; longer ones go over two lines.
    """
    if start and not dots:
        raise ValueError("bars begin at zero: draw dots for an axis that does not")
    left = 20 + min(label_width, max(LETTER * len(g.label) for g in groups))
    right = WIDTH - 12 - LETTER * max(len(m.text) for g in groups for m in g.marks)
    largest = max(m.value for g in groups for m in g.marks)
    high = stop if stop is not None else max(largest, reference or start, start + 1e-9)

    def x(value: float) -> float:
        return left + (right - left) * (value - start) / (high - start)

    body: list[Markup] = []
    y = 4.0
    for group in groups:
        lines = textwrap.wrap(group.label, int(label_width / LETTER))[:2]
        bars = len(group.marks) * (BAR + BAR_GAP) - BAR_GAP
        room = max(bars, LINE * len(lines))
        first = y + (room - LINE * len(lines)) / 2 + LINE - 3.5
        body += [_text(left - 8, first + LINE * i, text, anchor="end") for i, text in enumerate(lines)]
        for i, mark in enumerate(group.marks):
            place = y + (room - bars) / 2 + i * (BAR + BAR_GAP)
            body.append(_mark(mark, group.label, left, x(mark.value), place, right if dots else None))
        y += room + GROUP_GAP
    grid = [_vertical(x(t), 0, y, _number(t)) for t in ticks(start, high, 4)]
    if reference is not None:
        line = Markup('<line class="reference" x1="{0:.1f}" x2="{0:.1f}" y1="0" y2="{1:.1f}"/>')
        body.append(line.format(x(reference), y))
    grid.append(_text((left + right) / 2, y + 34, unit, anchor="middle", style="unit"))
    figures = ", ".join(
        f"{g.label}{f' ({m.label})' if m.label else ''}: {m.text}" for g in groups for m in g.marks
    )
    return figure(title, description or figures, grid + body, y + AXIS + 14, _legend(groups))


def line_plot(
    title: str,
    lines: Sequence[Line],
    *,
    x_unit: str,
    description: str,
    logarithmic: bool = False,
    y_range: tuple[float, float] | None = None,
    height: int = 190,
) -> Markup:
    """Curves over a common x axis; a logarithmic y axis leaves out what is not positive.

    It shows `DECADES` powers of ten at most: a curve that begins lower comes out of the lower edge.
    """
    kept = [Line(s.label, tuple(p for p in s.points if p[1] > 0 or not logarithmic), s.style) for s in lines]
    xs = [p[0] for s in kept for p in s.points]
    ys = [p[1] for s in kept for p in s.points]
    if not xs:
        return Markup("")
    lowest = max(min(ys), max(ys) / 10**DECADES) if logarithmic else min(ys)
    low, high = y_range or _y_limits(lowest, max(ys), logarithmic)
    left, right, top = 54, WIDTH - 12, 8
    x_low, x_high = min(xs), max(max(xs), min(xs) + 1)

    def x(value: float) -> float:
        return left + (right - left) * (value - x_low) / (x_high - x_low)

    def y(value: float) -> float:
        if logarithmic:
            value, bottom, end = math.log10(max(value, low)), math.log10(low), math.log10(high)
        else:
            bottom, end = low, high
        return top + height * (1 - (value - bottom) / (end - bottom))

    parts = [
        _horizontal(left, right, y(t), _number(t)) for t in _y_ticks(low, high, logarithmic, height // 35)
    ]
    parts += [_vertical(x(t), top, top + height, _number(t)) for t in ticks(x_low, x_high, 5)]
    for line in kept:
        points = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in thin(line.points))
        parts.append(
            Markup('<polyline class="curve {}" points="{}"><title>{}</title></polyline>').format(
                line.style, points, line.label
            )
        )
    parts.append(_text((left + right) / 2, top + height + 34, x_unit, anchor="middle", style="unit"))
    return figure(
        title, description, parts, top + height + AXIS + 14, _keys((s.style, s.label) for s in kept)
    )


def thin(points: Sequence[tuple[float, float]], most: int = 160) -> list[tuple[float, float]]:
    """At most so many points: neighbours are averaged, which also quiets a noisy loss."""
    stride = math.ceil(len(points) / most)
    if stride <= 1:
        return list(points)
    chunks = (points[i : i + stride] for i in range(0, len(points), stride))
    return [(sum(p[0] for p in c) / len(c), sum(p[1] for p in c) / len(c)) for c in chunks]


def _mark(mark: Mark, group: str, left: float, end: float, y: float, right: float | None) -> Markup:
    """A bar with its value at its end; given the axis' right end, a dot with its value there."""
    hover = f"{group}{f', {mark.label}' if mark.label else ''}: {mark.text}"
    middle = y + BAR / 2
    if right is not None:
        shape = Markup(
            '<line class="track" x1="{0:.1f}" x2="{1:.1f}" y1="{2:.1f}" y2="{2:.1f}"/>'
            '<circle class="{3}" cx="{1:.1f}" cy="{2:.1f}" r="5"/>'
        ).format(left, end, middle, mark.style)
    else:
        width = max(end - left, 1.5 if mark.value else 0)
        shape = Markup('<rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{}" rx="2"/>').format(
            mark.style, left, y, width, BAR
        )
    value = _text((end if right is None else right + 4) + 6, middle + 4.5, mark.text, style="value")
    return Markup("<g><title>{}</title>{}{}</g>").format(hover, shape, value)


def figure(
    title: str, description: str, parts: Iterable[Markup], height: float, legend: Markup | str = ""
) -> Markup:
    """A drawing of `WIDTH` x height units with its caption, and with a title and a description in it."""
    return Markup(
        '<figure class="plot"><figcaption>{}</figcaption>{}'
        '<svg viewBox="0 0 {} {:.0f}" role="img"><title>{}</title><desc>{}</desc>{}</svg></figure>'
    ).format(title, legend, WIDTH, height, title, description, Markup("").join(parts))


def _legend(groups: Sequence[Group]) -> Markup:
    named = {(m.style, m.label): None for g in groups for m in g.marks if m.label}
    return _keys(named)


def _keys(entries: Iterable[tuple[str, str]]) -> Markup:
    named = list(entries)
    if len(named) < 2:
        return Markup("")
    items = (Markup('<li><i class="{}"></i>{}</li>').format(style, label) for style, label in named)
    return Markup('<ul class="legend">{}</ul>').format(Markup("").join(items))


def _text(x: float, y: float, text: str, *, anchor: str = "start", style: str = "label") -> Markup:
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(
        style, x, y, anchor, text
    )


def _vertical(x: float, top: float, bottom: float, label: str) -> Markup:
    line = Markup('<line class="grid" x1="{0:.1f}" x2="{0:.1f}" y1="{1:.1f}" y2="{2:.1f}"/>')
    return line.format(x, top, bottom) + _text(x, bottom + 16, label, anchor="middle", style="tick")


def _horizontal(left: float, right: float, y: float, label: str) -> Markup:
    line = Markup('<line class="grid" x1="{:.1f}" x2="{:.1f}" y1="{:.1f}" y2="{:.1f}"/>')
    return line.format(left, right, y, y) + _text(left - 7, y + 4.5, label, anchor="end", style="tick")


def _y_limits(low: float, high: float, logarithmic: bool) -> tuple[float, float]:
    if logarithmic:
        return (low / 1.1, high * 1.1) if high / low >= 1.5 else (low / 1.5, high * 1.5)
    margin = (high - low) * 0.05 or abs(high) * 0.05 or 1.0
    return low - margin, high + margin


def _y_ticks(low: float, high: float, logarithmic: bool, most: int) -> list[float]:
    if not logarithmic:
        return ticks(low, high, most)
    span = math.log10(high / low)
    steps = (1,) if span > 2.5 else (1, 3) if span > 1.2 else (1, 2, 5)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    within = [s * 10.0**p for p in powers for s in steps if low <= s * 10.0**p <= high]
    return within if len(within) > 1 else ticks(low, high, 4)


def _number(value: float) -> str:
    text = f"{value:,.10g}" if abs(value) < 1e5 or value % 1000 else f"{value / 1000:,.10g}k"
    return text.replace("-", "\N{MINUS SIGN}")
