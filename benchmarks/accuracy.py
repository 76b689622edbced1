"""Accuracy, file size, time to make and peak memory of one model's quantized networks, by every tool.

Each tool runs in a process of its own with a time limit, some in a Python environment of their own that this
script makes with pip. A tool that fails is a row that says why. Finished rows are kept in the cache folder:
the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from side_by_side.frontier import frontier
from side_by_side.program import run_program
from side_by_side.recipe import Recipe
from side_by_side.recipes import RECIPES
from side_by_side.rows import Limits, Row, our_row, peer_row
from side_by_side.subject import Question, Subject
from side_by_side.table import notes, ordered, table_of, to_json
from side_by_side.tasks import SUBJECTS

from archnet.errors import ArchNetError
from archnet.quickstart import model_folder

EXAMPLES = """examples:
  python benchmarks/accuracy.py --calibration sentences.txt --data SICK_trial.txt --ours build-w4a4 build-w2a4
  python benchmarks/accuracy.py --calibration sentences.txt --data sts/ --tools onnxruntime nncf --bits w8a8
  python benchmarks/accuracy.py --calibration sentences.txt --data SICK_trial.txt --limit 30   # a quick try
  python benchmarks/accuracy.py ... --latency --json accuracy.json --svg docs/frontier.svg
  python benchmarks/accuracy.py --list
"""

TABLE_WIDTH = 140
"""Narrower, the figures would be cut."""


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").strip(),
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--task", default="sts", choices=sorted(SUBJECTS), help="what is scored (default: sts)")
    add("--model", type=Path, help="the float model (default: all-MiniLM-L6-v2 of its package)")
    add("--calibration", type=Path, help="unlabelled data, the same for every tool")
    add("--data", type=Path, nargs="+", default=[], help="labelled files that the networks are scored on")
    add("--references", type=Path, help="the references of a translation")
    add("--ours", type=Path, nargs="+", default=[], metavar="DIR", help="finished build folders of Arch-Net")
    add("--backend", nargs="+", default=["onnxruntime"], help="what runs ours (default: onnxruntime)")
    add("--tools", nargs="+", default=[], help="parts of names of tools; the float original always runs")
    add("--bits", nargs="+", default=[], help="widths such as w8a8 w4a32 (a32: activations in float)")
    add(
        "--limit", type=int, help="so many calibration examples and examples of each set: a try, not a result"
    )
    add("--cache", type=Path, default=Path("accuracy-cache"), help="where rows and environments are kept")
    add("--threads", type=int, default=2, help="of every tool (default: 2)")
    add("--make-seconds", type=float, default=3600, help="a tool is stopped after so long (default: 3600)")
    add("--score-seconds", type=float, default=1800, help="and its scoring after so long (default: 1800)")
    add("--latency", action="store_true", help="time one pass of each network too; leave the machine idle")
    add("--retry", action="store_true", help="try again what failed before")
    add("--json", type=Path, help="write everything to this file")
    add("--svg", type=Path, help="draw accuracy against size (and time) into this file")
    add("--list", action="store_true", help="name the tools with their widths and settings, and stop")
    found = parser.parse_args(arguments)
    if not found.list and (found.calibration is None or not found.data):
        parser.error("--calibration and --data are needed")
    if found.limit is not None and found.limit < 3:
        parser.error("--limit must be 3 or more")
    return found


def chosen(recipes: Sequence[Recipe], tools: Sequence[str], bits: Sequence[str]) -> list[tuple[Recipe, str]]:
    """The recipes and widths that the filters leave, the float original first.

    Raises:
        ArchNetError: a filter leaves nothing.
    """
    squeezed = {recipe.name: recipe.name.lower().replace(" ", "") for recipe in recipes}
    parts = [part.lower().replace(" ", "") for part in tools]
    widths = [width.lower() for width in bits]
    for given, part in zip(tools, parts, strict=True):
        if not any(part in name for name in squeezed.values()):
            raise ArchNetError(f"no tool's name has {given!r} in it", fix="see --list for the names")
    for width in widths:
        if not any(width in recipe.widths for recipe in recipes):
            known = sorted({w for recipe in recipes for w in recipe.widths})
            raise ArchNetError(f"no tool is asked for {width!r}", fix=f"choose among {', '.join(known)}")
    kept = [
        (recipe, width)
        for recipe in recipes[1:]
        if not parts or any(part in squeezed[recipe.name] for part in parts)
        for width in recipe.widths
        if not widths or width in widths
    ]
    return [(recipes[0], recipes[0].widths[0]), *kept]


def rows_of(arguments: argparse.Namespace, subject: Subject, console: Console) -> Iterator[Row]:
    """Every row in turn; each is kept before the next begins."""
    limits = Limits(
        arguments.make_seconds, arguments.score_seconds, arguments.threads, arguments.latency, arguments.retry
    )
    for build in arguments.ours:
        for backend in arguments.backend:
            console.print(f"Arch-Net, {build}, {backend}", style="dim")
            yield our_row(build, backend, subject, arguments.cache, limits)
    for recipe, width in chosen(RECIPES, arguments.tools, arguments.bits):
        console.print(f"{recipe.name}, {width}", style="dim")
        yield peer_row(recipe, width, subject, arguments.cache, limits)


def machine() -> dict[str, object]:
    """What the figures were made on."""
    cpu = next(
        (line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        "",
    )
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def _lines(path: str) -> list[str]:
    file = Path(path)
    return file.read_text().splitlines() if file.is_file() else []


def list_tools(console: Console) -> None:
    for recipe in RECIPES:
        where = f" (environment {recipe.environment})" if recipe.environment else ""
        console.print(f"[bold]{recipe.name}[/bold]  {' '.join(recipe.widths)}{where}", highlight=False)
        console.print(f"    {recipe.settings}; quantized: {recipe.scope}", style="dim", highlight=False)


def compare(arguments: argparse.Namespace, console: Console) -> None:
    arguments.cache.mkdir(parents=True, exist_ok=True)
    arguments.cache = arguments.cache.resolve()
    if arguments.model is None and arguments.task != "sts":
        raise ArchNetError(f"the task {arguments.task} has no model of its own", fix="give --model")
    question = Question(
        arguments.model or model_folder(),
        arguments.calibration,
        tuple(arguments.data),
        arguments.references,
        arguments.cache,
        arguments.limit,
    )
    subject = SUBJECTS[arguments.task](question)
    rows: list[Row] = []
    for row in rows_of(arguments, subject, console):
        rows.append(row)
        figure = f"{row.score:.2f}" if row.score is not None else row.reason
        console.print(f"    {figure}", style="dim", highlight=False, markup=False)
        if arguments.json:
            head = {"model": subject.folder.name, "metric": subject.metric, "data": subject.data}
            limit = {"limit": arguments.limit, "threads": arguments.threads, "machine": machine()}
            arguments.json.write_text(json.dumps(to_json(rows, **head, **limit), indent=1) + "\n")
    title = f"{subject.folder.name}, {subject.metric}: {subject.data}"
    if arguments.limit:
        title += f" (a try: first {arguments.limit} examples only)"
    screen = Console(width=max(Console().width, TABLE_WIDTH))
    screen.print(table_of(rows, title, subject.shape))
    for note in notes(rows):
        screen.print(note, style="dim", highlight=False, markup=False, soft_wrap=True)
    if arguments.svg:
        arguments.svg.write_text(frontier(ordered(rows), subject.folder.name, subject.metric, subject.shape))


def main(command: Sequence[str] | None = None) -> int:
    arguments = parse_arguments(command)
    if arguments.list:
        list_tools(Console())
        return 0
    return run_program(lambda console: compare(arguments, console))


if __name__ == "__main__":
    sys.exit(main())
