"""Arch-Net: a trained Transformer becomes an integer network of the operators that a chip has.

    import archnet

    archnet.convert("path/to/model", "sentences.txt", target="archnet", bits="w8a8", out="build")
    encoder = archnet.load("build")

Importing this package is cheap: torch and the exporters load with the first call.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from archnet.errors import ArchNetError

if TYPE_CHECKING:
    from archnet.api import convert, inspect, load

__all__ = ["ArchNetError", "__version__", "convert", "inspect", "load"]

try:
    __version__ = version("archnet")
except PackageNotFoundError:  # a source tree on PYTHONPATH, not installed
    __version__ = "0+unknown"

_LAZY = {"convert": "archnet.api", "inspect": "archnet.api", "load": "archnet.api"}


def __getattr__(name: str) -> object:
    """Import the module behind a public name on its first use."""
    if name not in _LAZY:
        raise AttributeError(f"module 'archnet' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
