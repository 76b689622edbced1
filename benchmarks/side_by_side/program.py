"""How a benchmark ends: one line for a wrong argument, and nothing lost when it is stopped."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable

from rich.console import Console

from archnet.errors import ArchNetError


def run_program(work: Callable[[Console], None]) -> int:
    """Do the work and return the exit code: 0, 2 after an error of the user's, 130 after Ctrl-C.

    Args:
        work: is given a console for progress, which goes to stderr.
    """
    console = Console(stderr=True, soft_wrap=True)
    # A stop from outside ends the children too, as Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        work(console)
    except ArchNetError as error:
        console.print(
            f"error: {error.problem}\n  fix: {error.fix}", style="red", highlight=False, markup=False
        )
        return 2
    except KeyboardInterrupt:
        console.print("stopped; the same command goes on from here", style="yellow")
        return 130
    return 0
