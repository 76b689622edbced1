"""`archnet compile`: the chip's own compiler on a build."""

from __future__ import annotations

from pathlib import Path

import click

from archnet.cli.app import app, examples, print_json, quiet_libraries, terminal
from archnet.cli.artifacts import seq_len_option
from archnet.cli.check import folder_argument
from archnet.cli.look import json_option
from archnet.errors import ArchNetError


def complete_chips(context: click.Context, option: click.Parameter, incomplete: str) -> list[str]:
    """The names of chips that begin with what was typed."""
    from archnet.targets.chips import CHIPS

    return [chip.name for chip in CHIPS if chip.name.startswith(incomplete)]


@app.command(
    "compile",
    short_help="Compile the network for a chip, by the chip's own compiler.",
    epilog=examples(
        "archnet targets install ethos-u",
        "archnet compile build --target ethos-u55-256 --seq-len 64",
        "archnet compile build --target ethos-u85-256 --json",
    ),
)
@folder_argument
@click.option(
    "--target",
    required=True,
    metavar="NAME",
    shell_complete=complete_chips,
    help="A chip that `archnet targets` lists.",
)
@seq_len_option
@click.option(
    "--time-limit",
    type=float,
    default=1800.0,
    show_default=True,
    metavar="S",
    help="Of the compiler, in seconds.",
)
@json_option
def compile_command(folder: Path, target: str, seq_len: int | None, time_limit: float, as_json: bool) -> None:
    """Compile the network in DIR for a chip into DIR/compiled/NAME.

    Every operator must run on the chip: one that the compiler leaves to the CPU is an error that names it.
    """
    if not time_limit > 0:
        raise ArchNetError(f"--time-limit {time_limit:g} is no number of seconds", fix="give a positive one")
    quiet_libraries()
    from archnet.compiling import compile_for

    summary = compile_for(folder, target, sequence=seq_len, seconds=time_limit)
    if as_json:
        import dataclasses

        print_json(dataclasses.asdict(summary))
        return
    from archnet.cli.tables import compiled_table

    terminal().print(compiled_table(summary))
    click.echo(str(folder / "compiled" / target))
