"""The options of `archnet convert` that choose parts of the paper's method."""

from __future__ import annotations

import click

from archnet.cli.completions import complete_from
from archnet.method import ADAPTATIONS, PERIODS, QUANTIZERS, SEQUENCES, Method

SECTION = "How it learns (parts of the method of arXiv 2111.01135)"

_DEFAULT = Method()
_OPTIONS = (
    click.option(
        "--quantizer",
        default=_DEFAULT.quantizer,
        show_default=True,
        metavar="|".join(QUANTIZERS),
        shell_complete=complete_from(QUANTIZERS),
        help="Learn step sizes, or limit weights by tanh and keep ranges.",
    ),
    click.option(
        "--periods",
        default=_DEFAULT.periods,
        show_default=True,
        metavar="|".join(PERIODS),
        shell_complete=complete_from(PERIODS),
        help="Train all blocks at once, or one after the other.",
    ),
    click.option(
        "--block-decay",
        default=_DEFAULT.block_decay,
        show_default=True,
        metavar="FACTOR",
        help="A block's loss counts so much less for each block behind it; the paper's is 0.8.",
    ),
    click.option(
        "--adaptation",
        default=_DEFAULT.adaptation,
        show_default=True,
        metavar="|".join(ADAPTATIONS),
        shell_complete=complete_from(ADAPTATIONS),
        help="Compare states as they are, or through Residual Feature Adaptation, or one in which "
        "the teacher weighs the channels.",
    ),
    click.option(
        "--sequences",
        default=_DEFAULT.sequences,
        show_default=True,
        metavar="|".join(SEQUENCES),
        shell_complete=complete_from(SEQUENCES),
        help="Translation models: learn the words of the teacher's beam search, or only its "
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
            record = parameter.get_help_record(ctx)
            if record is not None:
                sections[SECTION if parameter.name in NAMES else "Options"].append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)
