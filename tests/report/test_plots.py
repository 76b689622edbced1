from __future__ import annotations

import re

import pytest

from archnet.report.figures import block_plots, training_plots
from archnet.report.plots import Group, Line, Mark, bar_plot, line_plot, thin, ticks
from archnet.results import BlockAgreement, TrainingPoint


@pytest.mark.parametrize(
    ("low", "high", "most", "expected"),
    [
        (0, 37, 4, [0, 10, 20, 30]),
        (0.98, 1.0, 4, [0.98, 0.985, 0.99, 0.995, 1.0]),
        (0, 1, 2, [0, 0.5, 1]),
        (-3, 7, 5, [-2, 0, 2, 4, 6]),
        (5, 5, 4, [5]),
    ],
)
def test_ticks_are_round_numbers(low: float, high: float, most: int, expected: list[float]) -> None:
    assert ticks(low, high, most) == expected


def test_bars_are_as_long_as_their_values() -> None:
    plot = bar_plot(
        "t", [Group(n, (Mark(v, str(v), "", "c-0"),)) for n, v in (("a", 2.0), ("b", 8.0))], unit="u"
    )
    short, long = (float(w) for w in re.findall(r'<rect [^>]*width="([\d.]+)"', plot))
    assert long == pytest.approx(4 * short, abs=0.2)


def test_bars_never_begin_elsewhere_than_zero() -> None:
    with pytest.raises(ValueError, match="bars begin at zero"):
        bar_plot("t", [Group("a", (Mark(2.0, "2", "", "c-0"),))], unit="u", start=1.0)


def test_a_curve_goes_up_where_the_value_does_and_left_to_right() -> None:
    plot = line_plot("t", [Line("a", ((0, 1.0), (1, 3.0)), "c-0")], x_unit="x", description="d")
    found = re.search(r'points="([\d.]+),([\d.]+) ([\d.]+),([\d.]+)"', plot)
    assert found is not None
    x0, y0, x1, y1 = map(float, found.groups())
    assert x0 < x1
    assert y0 > y1  # SVG counts downwards


def test_a_logarithmic_axis_spaces_powers_of_ten_evenly_and_leaves_out_zero() -> None:
    points = ((0, 0.01), (1, 0.1), (2, 1.0), (3, 0.0))
    plot = line_plot("t", [Line("a", points, "c-0")], x_unit="x", description="d", logarithmic=True)
    found = re.search(r'points="([^"]*)"', plot)
    assert found is not None
    ys = [float(p.split(",")[1]) for p in found[1].split()]
    assert len(ys) == 3
    assert ys[0] - ys[1] == pytest.approx(ys[1] - ys[2], abs=0.2)


def test_a_logarithmic_axis_has_few_powers_of_ten_and_always_some_ticks() -> None:
    def plot(*values: float) -> str:
        line = Line("a", tuple(enumerate(values)), "c-0")
        return line_plot("t", [line], x_unit="x", description="d", logarithmic=True)

    wide = plot(1e-14, 0.5, 1.0)
    assert "1e−14" not in wide
    assert len(re.findall(r'<text class="tick"', wide)) < 16
    found = re.search(r'points="([^"]*)"', wide)
    assert found is not None
    ys = [float(p.split(",")[1]) for p in found[1].split()]
    assert ys[0] == pytest.approx(8 + 190, abs=0.2)  # comes out of the lower edge
    assert len(re.findall(r'text-anchor="end"', plot(0.96, 1.0, 1.05))) >= 3


def test_nothing_to_draw_is_no_plot() -> None:
    line = Line("a", ((0, 0.0),), "c-0")
    assert line_plot("t", [line], x_unit="x", description="d", logarithmic=True) == ""
    assert training_plots([TrainingPoint("distil", "", 0, None)]) == []


def test_long_curves_are_averaged() -> None:
    assert thin([(i, i % 2) for i in range(10)], most=5) == [(i + 0.5, 0.5) for i in range(0, 10, 2)]
    assert thin([(0, 1), (1, 2)], most=5) == [(0, 1), (1, 2)]


def test_labels_are_escaped() -> None:
    plot = bar_plot('<b>"t"', [Group("<a>", (Mark(1.0, "<1>", "&", "c-0"),))], unit="<u>")
    assert not re.search(r"<(b|a|1|u)>", plot)
    assert "&lt;a&gt;" in plot


def test_equal_and_opposite_blocks_can_be_drawn() -> None:
    assert len(block_plots([BlockAgreement("a", 1.0, None)])) == 1
    assert len(block_plots([BlockAgreement("a", -1.0, -3.0), BlockAgreement("b", 0.5, 1.0)])) == 2
