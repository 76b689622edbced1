"""The plots of the page, each from the records that it shows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from markupsafe import Markup

from archnet.report import numbers
from archnet.report.comparison import Compared, Comparison
from archnet.report.contents import Contents
from archnet.report.plots import WIDTH, Group, Line, Mark, bar_plot, figure, line_plot
from archnet.report.scatter import UNDER, Dot, scatter
from archnet.results import BlockAgreement, CensusRow, TrainingPoint

BACKEND_STYLES: Mapping[str, str] = {
    "float": "c-float",
    "reference": "c-reference",
    "onnxruntime": "c-onnxruntime",
    "tvm": "c-tvm",
}
"""CSS classes of the colours; any other backend takes `c-other`."""

FRONTIER = 230
"""Height of a plot of scores against a cost."""

CURVE_STYLES = 8
"""The style sheet has curve colours c-0 to c-7; more curves share the last."""


def block_plots(blocks: Sequence[BlockAgreement]) -> list[Markup]:
    """Cosine (dots: the axis does not begin at zero) and SQNR (bars) of every block."""
    if not blocks:
        return []
    lowest = min(b.cosine for b in blocks)
    start = max(-1.0, math.floor((lowest - 0.25 * (1 - lowest)) * 100) / 100) if lowest < 1 else 0.99
    dots = [
        Group(b.block or "network", (Mark(b.cosine, numbers.cosine(b.cosine), "", "c-0"),)) for b in blocks
    ]
    bars = [
        Group(b.block or "network", (Mark(b.sqnr_db, numbers.decibels(b.sqnr_db), "", "c-0"),))
        for b in blocks
        if b.sqnr_db is not None and b.sqnr_db >= 0
    ]
    plots = [
        bar_plot("Cosine with the teacher", dots, unit="cosine, 1 is equal", start=start, dots=True, stop=1.0)
    ]
    if bars:
        plots.append(bar_plot("Signal to quantization noise", bars, unit="decibels, more is closer"))
    return plots


def census_plots(rows: Sequence[CensusRow]) -> list[Markup]:
    """The trained model's operators before and after, and those that only the integer network has."""
    known = [
        Group(
            row.op,
            (
                Mark(row.before, numbers.count(row.before), "trained model", "c-float"),
                Mark(row.after, numbers.count(row.after), "integer network", "c-0"),
            ),
        )
        for row in rows
        if row.before
    ]
    new = [
        Group(row.op, (Mark(row.after, numbers.count(row.after), "", "c-0"),))
        for row in rows
        if not row.before
    ]
    titled = (("The trained model's operators", known), ("Only in the integer network", new))
    return [bar_plot(title, groups, unit="occurrences") for title, groups in titled if groups]


def cost_plots(sizes: Mapping[str, int], seconds: Mapping[str, float]) -> list[Markup]:
    """Files side by side, and the conversion's time by stage."""
    files = [
        Group(label, (Mark(count / 1e6, numbers.size(count), "", "c-float" if i == 0 else "c-0"),))
        for i, (label, count) in enumerate(sizes.items())
    ]
    stages = [Group(name, (Mark(s / 60, numbers.duration(s), "", "c-0"),)) for name, s in seconds.items()]
    plots = [bar_plot("Size on disk", files, unit="megabytes", label_width=150)] if files else []
    if stages:
        plots.append(bar_plot("Time of the conversion by stage", stages, unit="minutes"))
    return plots


def latency_plot(contents: Contents) -> Markup:
    """How many times as fast as the float original in its runtime, by batch, sequence and backend."""
    rows = contents.latency
    shapes = list(dict.fromkeys((r.batch, r.sequence) for r in rows))
    groups = [
        Group(
            contents.shape_name(batch, sequence).removesuffix(" tokens"),
            tuple(
                Mark(r.ratio, numbers.times(r.ratio), numbers.backend(r.backend), style(r.backend))
                for r in rows
                if (r.batch, r.sequence) == (batch, sequence)
            ),
        )
        for batch, sequence in shapes
    ]
    return bar_plot(
        f"Times as fast as the float model in {contents.float_runtime}",
        groups,
        unit=f"{'' if contents.images else 'batch × tokens; '}the line at 1 is the float model",
        reference=1.0,
    )


def frontier_plots(compared: Comparison) -> list[Markup]:
    """Scores against bytes and, where it was measured, against time."""
    plots = []
    costs: tuple[tuple[str, str, Callable[[Compared], float | None]], ...] = (
        ("Accuracy against size", "size in MB, logarithmic", lambda r: r.size and r.size / 1e6),
        ("Accuracy against time", f"milliseconds for {compared.shape}, logarithmic", lambda r: r.ms),
    )
    for title, unit, cost in costs:
        rows = [(row, value) for row in compared.rows if (value := cost(row))]
        if not any(row is not compared.original for row, _ in rows):
            continue
        dots = [
            Dot(
                value,
                row.score,
                "float" if row is compared.original else row.bits,
                f"{row.name}, {row.bits}: {row.score:.4g}, {value:.3g}",
                "c-float" if row is compared.original else "c-0" if row.this else "c-1",
                6.5 if row.this else 5.0,
            )
            for row, value in rows
        ]
        plot = scatter(dots, unit=unit, width=WIDTH, height=FRONTIER, original=compared.original.score)
        moved = Markup('<g transform="translate(0 10)">{}</g>').format(plot)
        plots.append(figure(title, "; ".join(dot.hover for dot in dots), [moved], FRONTIER + UNDER + 10))
    return plots


def training_plots(training: Sequence[TrainingPoint]) -> list[Markup]:
    """For each stage: loss by step on a logarithmic axis, and the homotopy below where there is one."""
    plots: list[Markup] = []
    for stage in dict.fromkeys(p.stage for p in training):
        points = [p for p in training if p.stage == stage]
        plot = line_plot(
            f"Loss: {stage}",
            _curves(points, "loss"),
            x_unit="step",
            description=_describe(points),
            logarithmic=True,
        )
        if any(p.homotopy is not None for p in points):
            plot += line_plot(
                "Homotopy: share of the new operators",
                _curves([p for p in points if p.block == points[0].block], "homotopy", label="homotopy"),
                x_unit="step",
                description="0 is the trained model's operators, 1 the replacements only.",
                y_range=(0.0, 1.0),
                height=70,
            )
        if plot:
            plots.append(Markup("<div>{}</div>").format(plot))
    return plots


def style(backend: str) -> str:
    """The CSS class of a backend's colour."""
    return BACKEND_STYLES.get(backend, "c-other")


def _curves(points: Sequence[TrainingPoint], field: str, *, label: str = "") -> list[Line]:
    curves = []
    for i, block in enumerate(dict.fromkeys(p.block for p in points)):
        values = [(p.step, getattr(p, field)) for p in points if p.block == block]
        kept = tuple(sorted((float(s), float(v)) for s, v in values if v is not None))
        name = label or block or "all blocks"
        curves.append(Line(name, kept, f"c-{min(i, CURVE_STYLES - 1)}"))
    return [c for c in curves if c.points]


def _describe(points: Sequence[TrainingPoint]) -> str:
    losses = [p.loss for p in points if p.loss is not None]
    if not losses:
        return "No loss was logged."
    first, last = numbers.significant(losses[0]), numbers.significant(losses[-1])
    return f"{len(points)} logged steps; the loss goes from {first} to {last}."
