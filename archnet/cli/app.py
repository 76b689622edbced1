"""The command `archnet` itself: the group, its errors and exit codes, and what all commands share."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from archnet import __version__
from archnet.cli.failures import end_with
from archnet.command_lines import options_of, wrapped

EXAMPLE_WIDTH = 74

if TYPE_CHECKING:
    from rich.console import Console

    from archnet.events import EventSink


@dataclass
class Session:
    """What outlives a command that failed.

    Attributes:
        folder: the build folder at work, if any.
    """

    folder: Path | None = None


session = click.make_pass_decorator(Session, ensure=True)


class ArchNetGroup(click.Group):
    """Ends every command with one of the documented exit codes and no traceback."""

    def main(self, args: Sequence[str] | None = None, *more: Any, **settings: Any) -> NoReturn:
        """Run a command line and exit."""
        arguments = list(sys.argv[1:] if args is None else args)
        current = Session()
        settings.update(standalone_mode=False, obj=current, prog_name="archnet")
        try:
            code = super().main(list(arguments), *more, **settings)
            sys.stdout.flush()
        except SystemExit:
            raise
        except BaseException as error:
            code = end_with(error, arguments, current.folder, program())
        sys.exit(code if isinstance(code, int) else 0)


def examples(*lines: str) -> str:
    """The end of a command's --help; long lines go on in the next, for terminals of 80 columns."""
    shown = [part for line in lines for part in wrapped(options_of(line), EXAMPLE_WIDTH)]
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in shown)])


def quiet_libraries() -> None:
    """Keep progress bars and warnings of libraries off the screen; ARCHNET_DEBUG=1 shows them."""
    if os.environ.get("ARCHNET_DEBUG"):
        return
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    warnings.simplefilter("ignore")


def terminal() -> Console:
    """The console that tables and displays are drawn on."""
    from rich.console import Console

    return Console(highlight=False)


def program() -> str:
    """What to type for this program: its name where the shell finds it, else the way it was started."""
    started = Path(sys.argv[0])
    if started.parts[-2:] == ("archnet", "__main__.py"):
        return "python -m archnet"
    found = shutil.which("archnet")
    if started.name != "archnet" or (found and Path(found).resolve() == started.resolve()):
        return "archnet"
    return shlex.quote(sys.argv[0])


@contextmanager
def shown(title: str, json_log: Path | None = None, *, beside: bool = False) -> Iterator[EventSink]:
    """A sink that shows a job on the terminal and, if wanted, in a JSON log.

    Args:
        title: of the display.
        json_log: gets one JSON object an event.
        beside: draw on stderr, as stdout has the result.
    """
    from rich.console import Console

    from archnet.cli.display import choose_display
    from archnet.events import JsonLog, fan_out

    with ExitStack() as stack:
        log = [stack.enter_context(JsonLog(json_log))] if json_log else []
        console = Console(highlight=False, stderr=beside)
        yield fan_out(*log, stack.enter_context(choose_display(console, title)))


def print_json(value: object) -> None:
    """One JSON document on stdout."""
    import json

    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


@click.group(
    cls=ArchNetGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=examples(
        "archnet quickstart",
        "archnet inspect ./my-model --target archnet",
        "archnet convert ./my-model --data sentences.txt --target archnet --bits w8a8 --out build",
        "archnet validate build --backend reference,onnxruntime",
    ),
)
@click.version_option(__version__, prog_name="archnet", message="%(prog)s %(version)s")
def app() -> None:
    """Turn a trained Transformer into an integer network of the operators that a chip has.

    Exit codes: 0 done, 1 the score dropped too far (validate), 2 bad input, 70 a bug of Arch-Net,
    130 interrupted.
    """
