"""The options of `archnet convert` that choose how it learns: parts of the paper's method, and sequences."""

from __future__ import annotations

from collections.abc import Callable

import click

from archnet.cli.completions import complete_from
from archnet.method import ADAPTATIONS, PERIODS, QUANTIZERS, SEQUENCES, Method

SECTION = "How it learns"

_DEFAULT = Method()


def _choice(
    name: str, known: tuple[str, ...], text: str
) -> Callable[[click.decorators.FC], click.decorators.FC]:
    """An option that takes one of some names; the method's default is its own."""
    return click.option(
        f"--{name}",
        default=getattr(_DEFAULT, name),
        show_default=True,
        metavar="|".join(known),
        shell_complete=complete_from(known),
        help=text,
    )


_OPTIONS = (
    _choice("quantizer", QUANTIZERS, "Learn step sizes, or limit weights by tanh and keep ranges."),
    _choice("periods", PERIODS, "Train all blocks at once, or one after the other."),
    click.option(
        "--block-decay",
        default=_DEFAULT.block_decay,
        show_default=True,
        metavar="FACTOR",
        help="A block's loss counts so much less for each block behind it; the paper's is 0.8.",
    ),
    _choice(
        "adaptation",
        ADAPTATIONS,
        "Compare states as they are, or through Residual Feature Adaptation, or one in which "
        "the teacher weighs the channels.",
    ),
    _choice(
        "sequences",
        SEQUENCES,
        "Translation models: learn the words of the teacher's beam search, or only its "
        "distributions along its greedy translations.",
    ),
)
NAMES = tuple(_DEFAULT.to_json())


def method_options(command: click.decorators.FC) -> click.decorators.FC:
    """Add the options to a command; each arrives under its name in `Method`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


class MethodCommand(click.Command):
    """A command whose --help has these options in a section of their own."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write both sections."""
        sections: dict[str, list[tuple[str, str]]] = {"Options": [], SECTION: []}
        for parameter in self.get_params(ctx):
            if isinstance(parameter, click.Argument):
                continue
            record = parameter.get_help_record(ctx)
            if record is not None:
                sections[SECTION if parameter.name in NAMES else "Options"].append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)
