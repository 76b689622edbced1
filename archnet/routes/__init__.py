"""How a build gets to a chip: one module a family of chips, each with a function `compile_chip`.

A route writes what its compiler reads into the job's folder, runs the compiler, and returns what that
said. It need not refuse operators that the compiler left to another processor: `archnet.compiling` does.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from archnet.build import BuildDir
from archnet.targets.chips import Chip, CompileSummary


@dataclass(frozen=True, slots=True)
class CompileJob:
    """What a route is given.

    Attributes:
        chip: to compile for.
        build: a finished build.
        folder: exists and is empty; the model and the binary go there.
        log: gets all that the compiler prints.
        seconds: time limit of the compiler.
        sequence: tokens of a sentence; the network's most when None.
    """

    chip: Chip
    build: BuildDir
    folder: Path
    log: Path
    seconds: float
    sequence: int | None


def compile_by_route(job: CompileJob) -> CompileSummary:
    """Compile by the chip's route.

    Raises:
        ArchNetError: the network has no form for the chip, a package is missing, or the compiler fails.
    """
    module = import_module(f"archnet.routes.{job.chip.route}")
    summary: CompileSummary = module.compile_chip(job)
    return summary
