"""What a tool is to the comparison: how it makes a quantized network, and how that is run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from side_by_side.network_folder import Graph, Inputs

Forward = Callable[[Inputs], dict[str, NDArray[Any]]]
"""One forward pass: inputs by name to outputs by name."""

WIDTHS = ("w8a8", "w4a8", "w4a4", "w2a4")
"""What every tool is asked for."""

WEIGHTS_ONLY = ("w4a32", "w2a32")
"""Weights in so many bits, activations in float: asked of the tools that offer this."""


class Cannot(Exception):
    """A tool's own word that it does not do what it was asked for."""


@dataclass(frozen=True)
class Order:
    """What is to be made.

    Attributes:
        graph: the float graph and its calibration data.
        weights, activations: bits; 32 is float.
        out: an empty folder for the files.
        threads: to use.
    """

    graph: Graph
    weights: int
    activations: int
    out: Path
    threads: int

    @property
    def bits(self) -> str:
        return f"w{self.weights}a{self.activations}"


@dataclass(frozen=True)
class Recipe:
    """One tool with one choice of its settings.

    Attributes:
        name: as the table shows it.
        packages: whose versions belong to the result.
        widths: what it is asked for; what it cannot do is shown with its own message.
        make: writes the network's files and returns those that a user would ship; raises `Cannot`.
        open: the network in the folder, ready to run, on so many threads.
        settings: what was chosen, for people; a change of it makes the row anew.
        scope: what is quantized, and what stays in float.
        environment: name of the isolated environment (`environments.ENVIRONMENTS`) that it needs.
        simulated: the widths that run in float with rounding, not in integers: their time says nothing.
    """

    name: str
    packages: tuple[str, ...]
    widths: tuple[str, ...]
    make: Callable[[Order], list[Path]]
    open: Callable[[Path, int], Forward]
    settings: str
    scope: str
    environment: str | None = None
    simulated: tuple[str, ...] = ()


def parse_bits(text: str) -> tuple[int, int]:
    """ "w4a8" -> (4, 8)."""
    weights, _, activations = text.removeprefix("w").partition("a")
    return int(weights), int(activations)
