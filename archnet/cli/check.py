"""`archnet validate`, `archnet bench` and `archnet report`: how good a build is."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from archnet.cli.app import Session, app, examples, print_json, quiet_libraries, session, shown, terminal
from archnet.cli.look import json_option
from archnet.errors import EXIT_CHECK_FAILED, ArchNetError
from archnet.parts import is_image

TASKS = ("sts", "classification", "images", "translation", "language")

folder_argument = click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))


@app.command(
    short_help="Compare a build with its float original.",
    epilog=examples(
        "archnet validate build",
        "archnet validate build --backend reference,onnxruntime,tvm --json",
        "archnet validate build --task sts --data sick.tsv --data sts2012/ --max-drop 0.3",
        "archnet validate classifier --task images --data test.zip",
        "archnet validate build --task translation --data test.en --references test.de",
        "archnet validate writer --task language --data held-out.txt",
    ),
)
@folder_argument
@click.option("--task", metavar="|".join(TASKS), help="Score on a task's metric; needs --data.")
@click.option(
    "--data",
    multiple=True,
    metavar="FILE_OR_DIR",
    help="Data of the task; give it again for further sets (the score is their mean).",
)
@click.option("--references", metavar="FILE", help="Of the task translation: a translation of each line.")
@click.option(
    "--backend", metavar="NAME,...", help="What runs the network.  [default: what the build was exported for]"
)
@click.option("--max-drop", type=float, metavar="X", help="Exit with 1 when a score drops by more points.")
@json_option
@click.pass_context
@session
def validate(
    state: Session,
    context: click.Context,
    folder: Path,
    task: str | None,
    data: tuple[str, ...],
    references: str | None,
    backend: str | None,
    max_drop: float | None,
    as_json: bool,
) -> None:
    """Compare the build in DIR with its float original, on a task's metric and integer by integer."""
    if max_drop is not None and task is None:
        raise ArchNetError("--max-drop needs a score", fix="give --task and --data, too")
    if (task is None) != (not data):
        raise ArchNetError("--task and --data need each other", fix="give both, or none for agreement only")
    quiet_libraries()
    from archnet.report import write_report
    from archnet.validate import validate as run

    names = [name.strip() for name in backend.split(",") if name.strip()] if backend is not None else None
    with shown(f"archnet validate {folder}", beside=True) as events:
        result = run(
            folder,
            task=task,
            data=data,
            references=references,
            backends=names,
            max_drop=max_drop,
            events=events,
        )
        write_report(folder)
    if as_json:
        print_json(result.to_json())
    else:
        from archnet.cli.tables import validation_table

        terminal().print(validation_table(result))
    if not result.passed:
        context.exit(EXIT_CHECK_FAILED)


@app.command(short_help="Time a build.", epilog=examples("archnet bench build", "archnet bench build --json"))
@folder_argument
@json_option
def bench(folder: Path, as_json: bool) -> None:
    """Time the float original against the integer network in DIR, run by run in turn."""
    quiet_libraries()
    from archnet.bench import bench as run
    from archnet.report import write_report

    with shown(f"archnet bench {folder}", beside=True) as events:
        rows = run(folder, events=events)
        write_report(folder)
    if as_json:
        print_json([row.to_json() for row in rows])
        return
    from archnet.cli.tables import latency_table

    terminal().print(latency_table(rows, images=is_image(folder)))


@app.command(
    short_help="Write the report page.",
    epilog=examples(
        "archnet report build",
        "archnet report build --open no",
        "archnet report build-w8a8 --compare build-w4a8 --compare build-w2a4",
    ),
)
@folder_argument
@click.option(
    "--open",
    "opening",
    type=click.Choice(["auto", "yes", "no"]),
    default="auto",
    show_default=True,
    help="Open it in the browser; auto: when there is a terminal and a desktop.",
)
@click.option(
    "--compare",
    multiple=True,
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Another build of the same model, for a picture of accuracy against size and time; give it again "
    "for further ones.",
)
def report(folder: Path, opening: str, compare: tuple[Path, ...]) -> None:
    """Write DIR/report.html anew and say where it is."""
    from archnet.report import write_report

    path = write_report(folder, compare)
    click.echo(str(path))
    if opening == "yes" or (opening == "auto" and _has_desktop()):
        click.launch(str(path))


def _has_desktop() -> bool:
    desktop = sys.platform == "darwin" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    return bool(desktop) and sys.stdout.isatty() and not os.environ.get("CI")
