"""The command line. `main` is the console script `archnet`."""

from __future__ import annotations

from archnet.cli import artifacts, check, chips, completions, convert, look
from archnet.cli.app import app

__all__ = ["app", "artifacts", "check", "chips", "completions", "convert", "look", "main"]


def main() -> None:
    """Run the command line of this process and exit."""
    app.main()
