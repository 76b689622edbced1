"""The report of a build folder: one HTML page that needs nothing but itself."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from archnet.atomic import write_bytes
from archnet.build import BuildDir
from archnet.report import figures, numbers
from archnet.report.contents import ACTIONS, Contents, read_contents
from archnet.report.verdict import verdict
from archnet.results import EmulatedPlace

__all__ = ["render_report", "write_report"]

SECTIONS = (
    ("task", "Task score"),
    ("agreement", "Agreement"),
    ("operators", "Operators"),
    ("plan", "What became of each"),
    ("widths", "Bit widths"),
    ("integers", "Integers"),
    ("size", "Size and cost"),
    ("latency", "Latency"),
    ("training", "Training"),
    ("build", "Settings and versions"),
)

COMMAND_WIDTH = 72
"""A longer command is broken between options, as a shell takes it."""


@dataclass(frozen=True, slots=True)
class EmulatedGroup:
    """All places of a backend that compute the same operator in float for the same reason."""

    backend: str
    op: str
    reason: str
    count: int


def write_report(folder: Path | str) -> Path:
    """Write DIR/report.html from what the build folder holds now.

    Args:
        folder: a finished build folder.

    Returns:
        The page's path.

    Raises:
        ArchNetError: it is no finished build folder, a file of it is damaged, or it cannot be written.
    """
    folder = Path(folder)
    page = BuildDir.open_finished(folder).report
    write_bytes(page, render_report(read_contents(folder)).encode())
    return page


def render_report(c: Contents) -> str:
    """The page as HTML."""
    environment = _environment()
    css = _source(environment, "report.css")
    validation = c.validation
    return environment.get_template("report.html.j2").render(
        c=c,
        v=validation,
        bits=asked_bits(c.settings),
        css=Markup(css),
        sections=SECTIONS,
        actions=ACTIONS,
        verdict=verdict(c),
        parts=list(validation.float_score.parts) if validation else [],
        emulated=group_emulated(validation.emulated if validation else ()),
        gone=[row for row in c.census if row.before and not row.after],
        block_plots=figures.block_plots(c.blocks),
        census_plots=figures.census_plots(c.census),
        cost_plots=figures.cost_plots(c.sizes, c.seconds),
        latency_plot=figures.latency_plot(c.latency, c.float_runtime) if c.latency else "",
        training_plots=figures.training_plots(c.training),
        reproduce=reproduce(c),
        facts=facts(c),
        hashes=_hashes(c.manifest),
    )


def asked_bits(settings: Mapping[str, object]) -> str:
    """The widths that were asked for, in words."""
    if "max_drop" in settings:
        return f"bits chosen for at most {settings['max_drop']:g} points"
    return str(settings["bits"])


def group_emulated(places: Sequence[EmulatedPlace]) -> list[EmulatedGroup]:
    """Places with the same backend, operator and reason as one, in the order of the first of each."""
    counts: dict[tuple[str, str, str], int] = {}
    for place in places:
        key = (place.backend, place.op, place.reason)
        counts[key] = counts.get(key, 0) + 1
    return [EmulatedGroup(*key, count=n) for key, n in counts.items()]


def reproduce(c: Contents) -> str:
    """The command line that made the folder."""
    recorded = c.manifest.get("command")
    if isinstance(recorded, str) and recorded:
        return recorded
    if isinstance(recorded, list) and recorded:
        return shlex.join(str(part) for part in recorded)
    s = c.settings
    model = c.model if " " not in c.model else "MODEL"
    options = {
        "--target": s["target"],
        **({"--bits": "auto", "--max-drop": s["max_drop"]} if "max_drop" in s else {"--bits": s["bits"]}),
        "--preset": s["preset"],
        "--seq-len": s["seq_len"],
        "--seed": s["seed"],
        "--embedding": s["embedding"],
        "--attention": s.get("attention", "softmax"),
        "--out": "DIR",
    }
    lines = [shlex.join(["archnet", "convert", model, "--data", "FILE_OR_DIR"])]
    for name, value in options.items():
        option = shlex.join([name, str(value)])
        if len(lines[-1]) + len(option) < COMMAND_WIDTH:
            lines[-1] += f" {option}"
        else:
            lines.append(f"  {option}")
    return " \\\n".join(lines)


def facts(c: Contents) -> list[tuple[str, str]]:
    """Settings, what the conversion took, inputs, outputs and versions, as name and text."""
    named = {
        "target": "Target",
        "bits": "Bits (weights, activations)" if "max_drop" not in c.settings else "Widest bits",
        "max_drop": "Points that fewer bits may cost, by an estimate",
        "preset": "Preset",
        "seq_len": "Longest sequence",
        "seed": "Seed",
        "embedding": "Form of the embedding",
        "attention": "Form of attention",
    }
    listed = [(named.get(k, k), str(v)) for k, v in c.settings.items()]
    if c.seconds:
        total = numbers.duration(sum(c.seconds.values()))
        stages = ", ".join(f"{stage} {numbers.duration(s)}" for stage, s in c.seconds.items())
        listed.append(("Time of the conversion", f"{total} ({stages})"))
    if c.peak_memory_bytes:
        listed.append(("Peak memory", numbers.size(c.peak_memory_bytes)))
    for key, name in (("inputs", "Inputs"), ("outputs", "Outputs"), ("versions", "Versions")):
        if c.manifest.get(key):
            listed.append((name, _plain(c.manifest[key])))
    if c.manifest.get("created"):
        listed.append(("Made", _plain(c.manifest["created"])))
    return listed


def _plain(value: Any) -> str:
    """A small JSON value as text for people."""
    if isinstance(value, Mapping):
        name = value.get("name")
        rest = [f"{k} {_plain(v)}" for k, v in value.items() if k != "name"]
        return f"{name} ({', '.join(rest)})" if name else ", ".join(rest)
    if isinstance(value, list):
        short = all(isinstance(v, (int, str)) for v in value)
        return "[" + ", ".join(map(str, value)) + "]" if short else ", ".join(map(_plain, value))
    return str(value)


def _hashes(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Everything in the manifest that is called sha256, with the name of what it belongs to."""
    found: list[tuple[str, str]] = []

    def walk(value: Any, path: str) -> None:
        if isinstance(value, Mapping):
            for key, item in value.items():
                inside = isinstance(item, str) and "sha256" in str(key)
                label = path if str(key) == "sha256" and path else str(key).replace("_sha256", "")
                if inside:
                    found.append((label, item))
                else:
                    walk(item, f"{path}/{key}" if path else str(key))
        elif isinstance(value, list):
            for item in value:
                walk(item, str(item.get("name", path)) if isinstance(item, Mapping) else path)
        elif isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef"):
            found.append((path, value))

    walk(manifest, "")
    return found


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("archnet.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    for name in (
        "backend",
        "score",
        "change",
        "cosine",
        "decibels",
        "milliseconds",
        "times",
        "count",
        "share",
        "size",
    ):
        environment.filters[name] = getattr(numbers, name)
    environment.globals["style"] = figures.style
    return environment


def _source(environment: Environment, name: str) -> str:
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]
