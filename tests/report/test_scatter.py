from __future__ import annotations

import re
from itertools import combinations
from xml.etree import ElementTree

import pytest

from archnet.report.scatter import LETTER, LINE, Dot, front, round_between, scatter

DOTS = [
    Dot(10.0, 80.0, "w8a8", "a", "c-0"),
    Dot(5.0, 79.0, "w4a8", "b", "c-1"),
    Dot(40.0, 80.5, "float", "<c>", "c-float"),
]


def drawn(dots: list[Dot], **options: float) -> ElementTree.Element:
    plot = scatter(dots, unit="MB", width=440, height=200, **options)
    return ElementTree.fromstring(f"<svg>{plot}</svg>")


def places(tree: ElementTree.Element) -> dict[str, tuple[float, float]]:
    """Centre of each dot by its hover text."""
    found = {}
    for group in tree.iter("g"):
        title, circle = group.find("title"), group.find("circle")
        if title is not None and circle is not None:
            found[str(title.text)] = float(circle.attrib["cx"]), float(circle.attrib["cy"])
    return found


def test_the_front_is_what_nothing_beats() -> None:
    assert front([(3, 5), (1, 1), (2, 4), (2, 2), (4, 5)]) == [(1, 1), (2, 4), (3, 5)]


def test_cheap_is_left_good_is_up_and_costs_are_logarithmic() -> None:
    found = places(drawn(DOTS))
    (ax, ay), (bx, by), (cx, cy) = found["a"], found["b"], found["<c>"]
    assert bx < ax < cx
    assert cy < ay < by
    assert cx - ax == pytest.approx(2 * (ax - bx), abs=0.3)  # four times as much is two doublings


def test_the_edge_joins_what_nothing_beats() -> None:
    tree = drawn([*DOTS, Dot(20.0, 70.0, "", "beaten", "c-1")])
    edge = tree.find("polyline")
    assert edge is not None
    found = places(tree)
    points = [tuple(map(float, point.split(","))) for point in edge.attrib["points"].split()]
    assert points == [found["b"], found["a"], found["<c>"]]


def test_the_original_is_a_line_at_its_score() -> None:
    tree = drawn(DOTS, original=80.5)
    (line,) = (line for line in tree.iter("line") if line.attrib["class"] == "reference")
    assert float(line.attrib["y1"]) == pytest.approx(places(tree)["<c>"][1], abs=0.1)
    assert not [x for x in drawn(DOTS).iter("line") if x.attrib["class"] == "reference"]


def test_what_is_far_below_is_an_arrow_at_the_lower_edge() -> None:
    tree = drawn([*DOTS, Dot(6.0, 3.0, "", "lost", "c-1")], original=80.5, worst=15.0)
    (path,) = tree.iter("path")
    assert path.attrib["d"].endswith(" 200.0l5 -9h-10z")
    assert "lost" not in places(tree)


@pytest.mark.parametrize(
    "scores", [[80.0, 80.0, 80.0], [0.99, 0.98, 0.97], [0.0, 0.0, 0.0], [-1.0, 5.0, 2.0]]
)
def test_any_scores_stay_inside(scores: list[float]) -> None:
    dots = [Dot(cost, score, "x", str(cost), "c-0") for cost, score in zip((1, 2, 3), scores, strict=True)]
    for x, y in places(drawn(dots)).values():
        assert 62 <= x <= 420
        assert 0 <= y <= 200


def test_labels_of_neighbours_do_not_cover_each_other() -> None:
    dots = [Dot(10.0 + 0.1 * i, 80.0 + 0.02 * i, f"w{i}a8", str(i), "c-1") for i in range(4)]
    tree = drawn([*dots, Dot(40.0, 82.0, "float", "f", "c-float")])
    boxes = []
    for text in tree.iter("text"):
        if text.attrib["class"] == "value":
            x, y, room = float(text.attrib["x"]), float(text.attrib["y"]), LETTER * len(str(text.text))
            left = x if text.attrib["text-anchor"] == "start" else x - room
            boxes.append((left, y - LINE + 3, left + room, y + 2))
    assert len(boxes) == 5
    for one, other in combinations(boxes, 2):
        assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(9, 95, [10, 20, 50]), (0.034, 0.064, [0.04, 0.05, 0.06]), (0.9, 1.1, [0.9, 0.95, 1.0, 1.05, 1.1])],
)
def test_round_costs(low: float, high: float, expected: list[float]) -> None:
    assert round_between(low, high) == pytest.approx(expected)


def test_labels_are_escaped() -> None:
    plot = scatter([Dot(1, 1, "<a>", "<b>", "c-0")], unit="<u>", width=440, height=200)
    assert not re.search(r"<(a|b|u)>", plot)
