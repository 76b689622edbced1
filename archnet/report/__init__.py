"""The report of a build folder: one HTML page that needs nothing but itself."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from archnet.atomic import write_bytes
from archnet.build import BuildDir
from archnet.command_lines import options_of, wrapped
from archnet.method import Method
from archnet.report import figures, numbers
from archnet.report.chip_rows import chip_rows
from archnet.report.comparison import Comparison, compare
from archnet.report.contents import ACTIONS, Contents, read_contents
from archnet.report.verdict import verdict
from archnet.results import ValidationResult, group_emulated

__all__ = ["render_report", "write_report"]

SECTIONS = (
    ("task", "Task score"),
    ("frontier", "Frontier"),
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

PROGRAMS = ("archnet", "__main__.py")
"""Names of what a recorded command line begins with; from Python it begins with something else."""

COMMAND_WIDTH = 72
"""A longer command is broken between options, as a shell takes it."""


def write_report(folder: Path | str, others: Sequence[Path | str] = ()) -> Path:
    """Write DIR/report.html from what the build folder holds now.

    Args:
        folder: a finished build folder.
        others: builds of the same model to draw a frontier with, scored on the same data.

    Returns:
        The page's path.

    Raises:
        ArchNetError: one is no finished build folder, a file of it is damaged, the others cannot be
            compared with it, or the page cannot be written.
    """
    folder = Path(folder)
    page = BuildDir.open_finished(folder).report
    contents = read_contents(folder)
    compared = compare(contents, [read_contents(Path(other)) for other in others]) if others else None
    write_bytes(page, render_report(contents, compared).encode())
    return page


def render_report(c: Contents, compared: Comparison | None = None) -> str:
    """The page as HTML, with a frontier where builds were compared."""
    environment = _environment()
    css = _source(environment, "report.css")
    validation = c.validation
    return environment.get_template("report.html.j2").render(
        c=c,
        v=validation,
        bits=asked_bits(c.settings),
        css=Markup(css),
        sections=[s for s in SECTIONS if s[0] != "frontier" or compared is not None],
        compared=compared,
        frontier_plots=figures.frontier_plots(compared) if compared is not None else [],
        actions=ACTIONS,
        verdict=verdict(c),
        parts=_parts(validation),
        ranges=validation is not None and any(s.drop_range is not None for s in validation.scores),
        emulated=group_emulated(validation.emulated if validation else ()),
        gone=[row for row in c.census if row.before and not row.after],
        block_plots=figures.block_plots(c.blocks),
        census_plots=figures.census_plots(c.census),
        cost_plots=figures.cost_plots(c.sizes, c.seconds),
        latency_plot=figures.latency_plot(c) if c.latency else "",
        chips=chip_rows(c.compiled, c.originals),
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


def _parts(validation: ValidationResult | None) -> list[str]:
    """The data sets of the score, where there are several, and what is told beside it."""
    if validation is None or len(validation.float_score.parts) < 2:
        return []
    return [name for name in validation.float_score.parts if name != validation.metric]


def reproduce(c: Contents) -> str:
    """The command line that made the folder."""
    recorded = c.manifest.get("command")
    if isinstance(recorded, list) and recorded and Path(str(recorded[0])).name in PROGRAMS:
        line = shlex.join(["archnet", *map(str, recorded[1:])])
        return "\n".join(wrapped(options_of(line), COMMAND_WIDTH))
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
        **({"--norms": s["norms"]} if "norms" in s else {}),
        **({"--head-width": s["head_width"]} if "head_width" in s else {}),
        **({"--ffn-width": s["ffn_width"]} if "ffn_width" in s else {}),
        **{f"--{n.replace('_', '-')}": value for n, value in Method.from_json(s).chosen().items()},
        "--out": "DIR",
    }
    first = shlex.join(["archnet", "convert", model, "--data", "FILE_OR_DIR"])
    parts = [first, *(shlex.join([name, str(value)]) for name, value in options.items())]
    return "\n".join(wrapped(parts, COMMAND_WIDTH))


def facts(c: Contents) -> list[tuple[str, str]]:
    """Settings, what the conversion took, inputs, outputs and versions, as name and text."""
    named = {
        "target": "Target",
        "target_sha256": "SHA-256 of the target's profile",
        "bits": "Bits (weights, activations)" if "max_drop" not in c.settings else "Widest bits",
        "max_drop": "Points that fewer bits may cost, by an estimate",
        "preset": "Preset",
        "seq_len": "Longest sequence",
        "seed": "Seed",
        "embedding": "Form of the embedding",
        "attention": "Form of attention",
        "norms": "Form of norms",
        "head_width": "Features of each head of attention",
        "ffn_width": "Features of each feed-forward part",
        "quantizer": "Quantizer",
        "periods": "Trained at once",
        "block_decay": "Weight of a block's loss for each one behind it",
        "adaptation": "Adaptation of states",
        "sequences": "Translations that it learns from",
    }
    others = ("seq_len", "embedding") if c.images else ()
    if not c.translates:
        others = (*others, "sequences")
    listed = [(named.get(k, k), str(v)) for k, v in c.settings.items() if k not in others]
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
        "size",
        "change",
        "change_range",
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
