"""`archnet compile`: the chip's own compiler on a build."""

from __future__ import annotations

from pathlib import Path

import click

from archnet.cli.app import app, examples, print_json, quiet_libraries, terminal
from archnet.cli.artifacts import seq_len_option
from archnet.cli.check import folder_argument
from archnet.cli.completions import complete_chips
from archnet.cli.look import json_option, targets
from archnet.errors import EXIT_CHECK_FAILED, ArchNetError


@app.command(
    "compile",
    short_help="Compile the network for a chip, by the chip's own compiler.",
    epilog=examples(
        "archnet targets install ethos-u",
        "archnet compile build --target ethos-u55-256 --seq-len 64",
        "archnet compile build --target ethos-u85-256 --json",
        "archnet compile build --target openvino --original",
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
@click.option(
    "--original",
    is_flag=True,
    help="Compile the trained model as it was, to compare: what is left to other processors is told.",
)
@json_option
def compile_command(
    folder: Path, target: str, seq_len: int | None, time_limit: float, original: bool, as_json: bool
) -> None:
    """Compile the network in DIR for a chip into DIR/compiled/NAME.

    Of a model that writes, the encoder and the decoder's step are compiled, each in its own folder,
    DIR/encoder and DIR/decoder. Every operator must run on the chip: one that the compiler leaves to the
    CPU is an error that names it.

    With --original the compiler gets the float original instead, which it may quantize in its own way,
    leave to other processors, or refuse; the report shows both.
    """
    if not time_limit > 0:
        raise ArchNetError(f"--time-limit {time_limit:g} is no number of seconds", fix="give a positive one")
    quiet_libraries()
    if original:
        _compile_original(folder, target, seq_len, time_limit, as_json=as_json)
        return
    from archnet.compiling import compile_for

    summaries = compile_for(folder, target, sequence=seq_len, seconds=time_limit)
    if as_json:
        import dataclasses

        records = [dataclasses.asdict(summary) for summary in summaries]
        print_json(records[0] if len(records) == 1 else {str(r["part"]): r for r in records})
        return
    from archnet.cli.tables import compiled_table
    from archnet.parts import part_names

    for summary in summaries:
        terminal().print(compiled_table(summary))
        click.echo(str(folder / (summary.part or part_names(folder)[0]) / "compiled" / target))


def _compile_original(
    folder: Path, target: str, seq_len: int | None, time_limit: float, *, as_json: bool
) -> None:
    from archnet.original import compile_original_of

    answer = compile_original_of(folder, target, sequence=seq_len, seconds=time_limit)
    if as_json:
        print_json(answer.to_json())
        return
    from archnet.cli.tables import original_table

    terminal().print(original_table(answer))


@targets.command(
    short_help="Ask a chip's compiler about each operator alone.",
    epilog=examples(
        "archnet targets probe ethos-u55-256",
        "archnet targets probe ethos-u85-256 --op Softmax --op Conv --out u85.json",
        "archnet targets probe onnxruntime --check",
    ),
)
@click.argument("name", shell_complete=complete_chips)
@click.option("--op", "operators", multiple=True, metavar="OP", help="Only this operator; may be repeated.")
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write the JSON here."
)
@click.option(
    "--time-limit",
    type=float,
    default=300.0,
    show_default=True,
    metavar="S",
    help="Of the compiler for one network, in seconds.",
)
@click.option("--check", is_flag=True, help="Exit with 1 where the chip did not run what its profile lists.")
@json_option
@click.pass_context
def probe(
    context: click.Context,
    name: str,
    operators: tuple[str, ...],
    out: Path | None,
    time_limit: float,
    check: bool,
    as_json: bool,
) -> None:
    """Compile networks of one operator for the chip NAME and say which it runs.

    Each operator is tried in a few sizes at each width of the chip's profile: it runs natively, is left to
    another processor, is done by the host, or is refused, with the compiler's own words and version.
    The answers are compared with what the profile lists.
    """
    if not time_limit > 0:
        raise ArchNetError(f"--time-limit {time_limit:g} is no number of seconds", fix="give a positive one")
    quiet_libraries()
    from archnet.atomic import write_json
    from archnet.probing import OperatorProbe
    from archnet.probing import probe as ask

    def tell(answer: OperatorProbe, done: int, of: int) -> None:
        words = f"{answer.op} ({answer.case}, {answer.bits}): {answer.outcome}"
        click.echo(f"{done}/{of} {words}", err=True)

    report = ask(name, operators, seconds=time_limit, tell=tell)
    if out is not None:
        write_json(out, report.to_json())
    if as_json:
        print_json(report.to_json())
    else:
        from archnet.cli.tables import probe_table

        terminal().print(probe_table(report))
        if out is not None:
            click.echo(str(out))
    if check and report.contradictions:
        context.exit(EXIT_CHECK_FAILED)
