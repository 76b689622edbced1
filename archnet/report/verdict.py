"""The first lines of the page: what came out, in one sentence and a few large figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from archnet.report import numbers
from archnet.report.contents import ARTIFACTS, DEPLOYED_FIRST, FLOAT_FILE, INTEGER_FILES, Contents
from archnet.results import BackendScore, LatencyRow


@dataclass(frozen=True, slots=True)
class Card:
    """One large figure: what it is, the figure, what it is compared with, "good", "bad" or ""."""

    name: str
    figure: str
    context: str
    tone: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The headline.

    Attributes:
        sentence: the figures that exist, in words.
        gate: whether the demanded --max-drop was kept; None when none was demanded.
        gate_text: the same in words.
    """

    sentence: str
    cards: tuple[Card, ...]
    gate: bool | None
    gate_text: str


def deployed(scores: Sequence[BackendScore]) -> BackendScore | None:
    """The score that the headline shows: the first deployed backend's, else the first there is."""
    by_name = {s.backend: s for s in scores}
    for name in (*DEPLOYED_FIRST, *by_name):
        if name in by_name:
            return by_name[name]
    return None


def verdict(contents: Contents) -> Verdict:
    """Compose the headline from what was measured."""
    parts, cards = [], []
    for part, card in (_score(contents), _size(contents), _speed(contents), _integers(contents)):
        if part:
            parts.append(part)
        if card is not None:
            cards.append(card)
    sentence = ", ".join(parts)
    sentence = sentence[:1].upper() + sentence[1:] + "." if sentence else "Nothing has been measured yet."
    gate, text = _gate(contents)
    return Verdict(sentence, tuple(cards), gate, text)


def _score(contents: Contents) -> tuple[str, Card | None]:
    validation = contents.validation
    best = deployed(validation.scores) if validation else None
    if validation is None or best is None:
        return "", None
    original = validation.float_score.score
    if best.score is None or original is None or best.drop is None:
        if best.cosine is None:
            return "", None
        figure = numbers.cosine(best.cosine)
        context = f"cosine with the float model's output, SQNR {numbers.decibels(best.sqnr_db)}"
        return f"output cosine {figure} with the float model", Card("Agreement", figure, context)
    change = numbers.change(-best.drop)
    points = "the same" if change == "0.00" else f"{change} points"
    figure, against = numbers.score(best.score), numbers.score(original)
    metric = validation.metric.partition(" (nrefs")[0]  # sacreBLEU's signature is in the section below
    context = f"{metric} in {numbers.backend(best.backend)}; float model {against} ({points})"
    if best.drop_range is not None:
        context += f"; 95% range of the change {numbers.change_range(best.drop_range)}"
    card = Card("Score", figure, context, _tone(contents, best.drop))
    return f"{figure} against {against} for the float model ({points})", card


def _tone(contents: Contents, drop: float) -> str:
    allowed = contents.validation.max_drop if contents.validation else None
    if drop <= 0.005:
        return "good"
    return "bad" if allowed is not None and drop > allowed else ""


def _size(contents: Contents) -> tuple[str, Card | None]:
    original, integers = float_size(contents), integer_size(contents)
    if not original or not integers:
        return "", None
    small, large = numbers.size(integers), numbers.size(original)
    times = numbers.times(original / integers)
    compared = f"{times} smaller" if integers < original else f"{numbers.times(integers / original)} larger"
    tone = "good" if integers < original else "bad"
    return f"{small} instead of {large}", Card("Size", small, f"float model {large}: {compared}", tone)


def float_size(contents: Contents) -> int | None:
    """Bytes of the float original's file."""
    return contents.sizes.get(ARTIFACTS[FLOAT_FILE])


def integer_size(contents: Contents) -> int | None:
    """Bytes of the integer network as the headline's backend deploys it; None when nothing was exported."""
    sizes = [contents.sizes[ARTIFACTS[f]] for f in INTEGER_FILES if ARTIFACTS[f] in contents.sizes]
    return sizes[0] if sizes else None


def _speed(contents: Contents) -> tuple[str, Card | None]:
    rows = fastest_backend(contents.latency)
    if not rows:
        return "", None
    low, high = min(r.ratio for r in rows), max(r.ratio for r in rows)
    same = numbers.times(low) == numbers.times(high)
    figure = numbers.times(low) if same else f"{numbers.times(low)[:-1]} to {numbers.times(high)}"
    name, threads = numbers.backend(rows[0].backend), rows[0].threads
    context = f"as fast: integers in {name}, float model in {contents.float_runtime}, {threads} threads"
    return f"{figure} as fast", Card("Speed", figure, context, "good" if low > 1 else "bad")


def fastest_backend(latency: Sequence[LatencyRow]) -> list[LatencyRow]:
    """The rows of the headline's backend."""
    names = {r.backend: None for r in latency}
    chosen = next((n for n in (*DEPLOYED_FIRST, *names) if n in names), None)
    return [r for r in latency if r.backend == chosen]


def _integers(contents: Contents) -> tuple[str, Card | None]:
    """Operator by operator where a backend emulates some: whole-network figures only repeat those steps."""
    by_backend = {t.backend: t for t in sorted(contents.lsb_tables, key=lambda t: t.scope == "layer")}
    tables = list(by_backend.values())
    if not tables:
        return "", None
    names = " and ".join(dict.fromkeys(numbers.backend(t.backend) for t in tables))
    worst = max(t.total.max_lsb for t in tables)
    if worst == 0:
        tensors = min(t.total.tensors for t in tables)
        return f"the same integers in {names}", Card(
            "Integers",
            "0 LSB",
            f"difference between {names} and the reference, in all {tensors} tensors",
            "good",
        )
    share = max(t.total.share for t in tables)
    context = (
        f"largest difference of an operator in {names} from the reference on the same integers, "
        f"in {numbers.share(share)} of elements"
    )
    return "", Card("Integers", f"{worst} LSB", context)


def _gate(contents: Contents) -> tuple[bool | None, str]:
    validation = contents.validation
    if validation is None or validation.max_drop is None:
        return None, ""
    allowed = numbers.score(validation.max_drop)
    if validation.worst_drop is None:
        return False, f"a drop of at most {allowed} points was demanded, but no task was scored"
    worst = max((s for s in validation.scores if s.drop is not None), key=lambda s: s.drop or 0.0)
    if validation.passed:
        return True, f"no backend drops by more than the {allowed} points allowed"
    name, lost = numbers.backend(worst.backend), numbers.score(worst.drop)
    return False, f"{name} drops by {lost} points, {allowed} were allowed"
