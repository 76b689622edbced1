from __future__ import annotations

from collections.abc import Callable

import pytest

from archnet.report import numbers

Format = Callable[..., str]


@pytest.mark.parametrize(
    ("form", "value", "text"),
    [
        (numbers.score, 79.594, "79.59"),
        (numbers.score, None, "–"),
        (numbers.change, 0.516, "+0.52"),
        (numbers.change, -0.16, "−0.16"),
        (numbers.change, -0.001, "0.00"),
        (numbers.change, 0.004, "0.00"),
        (numbers.cosine, 1.0, "1.0000"),
        (numbers.cosine, 0.99996, "> 0.9999"),
        (numbers.cosine, 0.99994, "0.9999"),
        (numbers.cosine, -0.5, "−0.5000"),
        (numbers.decibels, 17.64, "17.6 dB"),
        (numbers.decibels, None, "equal"),
        (numbers.size, 0, "0 B"),
        (numbers.size, 999, "999 B"),
        (numbers.size, 1234, "1.23 kB"),
        (numbers.size, 999_700, "1.00 MB"),
        (numbers.size, 90_405_214, "90.4 MB"),
        (numbers.size, 2_870_000_000, "2.87 GB"),
        (numbers.milliseconds, 0.4567, "0.457 ms"),
        (numbers.milliseconds, 9.999, "10.0 ms"),
        (numbers.milliseconds, 226.4, "226 ms"),
        (numbers.milliseconds, 1180.0, "1,180 ms"),
        (numbers.times, 3.08, "3.1×"),
        (numbers.times, 120.4, "120×"),
        (numbers.times, 0.184, "0.18×"),
        (numbers.times, 0.996, "1.0×"),
        (numbers.times, 0.00276, "0.0028×"),
        (numbers.count, 1234567, "1,234,567"),
        (numbers.share, 0.0, "0"),
        (numbers.share, 1e-9, "< 0.001 %"),
        (numbers.share, 0.00026, "0.026 %"),
        (numbers.share, 1.0, "100 %"),
        (numbers.duration, 0.84, "0.8 s"),
        (numbers.duration, 41.9, "42 s"),
        (numbers.duration, 59.7, "1 min 0 s"),
        (numbers.duration, 725.0, "12 min 5 s"),
        (numbers.duration, 7790.0, "2 h 10 min"),
        (numbers.significant, 0.0004567, "0.000457"),
        (numbers.significant, -12.345, "−12.3"),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_numbers_read_as_people_write_them(form: Format, value: float | None, text: str) -> None:
    assert form(value).replace("\u202f", " ").strip() == text
