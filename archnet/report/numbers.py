"""Numbers as people read them: units, signs and as many digits as carry meaning."""

from __future__ import annotations

import math
from collections.abc import Sequence

MINUS = "\N{MINUS SIGN}"
NARROW_SPACE = "\N{NARROW NO-BREAK SPACE}"
NOTHING = "\N{EN DASH}"
"""Stands where a number does not exist."""

BACKEND_NAMES = {
    "float": "float model",
    "reference": "reference",
    "onnxruntime": "ONNX Runtime",
    "tvm": "TVM",
    "openvino": "OpenVINO",
    "litert": "LiteRT",
    "qualcomm-htp": "Qualcomm HTP",
    "tosa": "TOSA",
}


def backend(name: str) -> str:
    """A backend's name in running text: ONNX Runtime for onnxruntime."""
    return BACKEND_NAMES.get(name, name)


def score(value: float | None) -> str:
    """A task score, two decimals."""
    return NOTHING if value is None else f"{value:.2f}".replace("-", MINUS)


def change(value: float | None) -> str:
    """A difference with its sign, two decimals; what rounds to zero has none."""
    if value is None:
        return NOTHING
    text = f"{value:+.2f}"
    return "0.00" if text in ("+0.00", "-0.00") else text.replace("-", MINUS)


def change_range(drop_range: Sequence[float] | None) -> str:
    """The interval of a change from that of the drop, which is its opposite: −0.31 to +0.72."""
    if drop_range is None:
        return NOTHING
    low, high = drop_range
    return f"{change(-high)} to {change(-low)}"


def cosine(value: float | None) -> str:
    """Four decimals, never rounded up to a perfect 1."""
    if value is None:
        return NOTHING
    if 0.99995 <= value < 1.0:
        return f"> 0.9999{NARROW_SPACE}"
    return f"{value:.4f}".replace("-", MINUS)


def decibels(value: float | None, *, equal: str = "equal") -> str:
    """One decimal; None means that there is no noise at all."""
    return equal if value is None else f"{value:.1f}{NARROW_SPACE}dB".replace("-", MINUS)


def size(count: float | None) -> str:
    """Bytes with a decimal unit, three significant digits: 22.6 MB."""
    if count is None:
        return NOTHING
    value, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 999.5:
            break
        value, unit = value / 1000, larger
    digits = f"{value:.0f}" if unit == "B" else significant(value)
    return f"{digits}{NARROW_SPACE}{unit}"


def milliseconds(value: float) -> str:
    """Three significant digits: 4.21 ms, 226 ms."""
    return f"{significant(value)}{NARROW_SPACE}ms"


def times(value: float) -> str:
    """A ratio: 3.1×, 0.18×, 0.0027×."""
    if value >= 0.995:
        return f"{value:.0f}×" if value >= 99.5 else f"{value:.1f}×"
    return f"{value:.2f}×" if value >= 0.095 or value <= 0 else f"{significant(value, 2)}×"


def count(value: int) -> str:
    """Thousands separated by commas."""
    return f"{value:,}".replace("-", MINUS)


def share(value: float) -> str:
    """A fraction as a percentage; only an exact zero reads 0."""
    percent = 100 * value
    if percent == 0:
        return "0"
    if percent < 0.0005:
        return f"<{NARROW_SPACE}0.001{NARROW_SPACE}%"
    return f"{significant(percent, 2)}{NARROW_SPACE}%"


def duration(seconds: float | None) -> str:
    """Wall-clock time: 0.8 s, 42 s, 12 min 5 s, 2 h 10 min."""
    if seconds is None:
        return NOTHING
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(whole / 60)
    return f"{minutes // 60} h {minutes % 60} min"


def significant(value: float, digits: int = 3) -> str:
    """A positive or negative number with so many significant digits, without an exponent."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else NOTHING
    decimals = digits - 1 - math.floor(math.log10(abs(value)))
    rounded = round(value, decimals)
    decimals = digits - 1 - math.floor(math.log10(abs(rounded)))
    return f"{rounded:,.{max(decimals, 0)}f}".replace("-", MINUS)
