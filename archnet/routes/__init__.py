"""How a build gets to a chip: one module a family of chips, each with a function `compile_chip`.

A route writes what its compiler reads into the job's folder, runs the compiler, and returns what that
said. It need not refuse operators that the compiler left to another processor: `archnet.compiling` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import onnx
import torch
from numpy.typing import NDArray

from archnet.build import BuildDir
from archnet.errors import ArchNetError
from archnet.graph import QuantizedGraph
from archnet.parts import DECODER
from archnet.storage import load_graph
from archnet.targets.chips import Chip, CompileSummary
from archnet.targets.toolchain import find_toolchain


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
        samples: inputs that a compiler may calibrate with, by name; those of the build when None.
        part: of the build, that is compiled (`archnet.parts`).
    """

    chip: Chip
    build: BuildDir
    folder: Path
    log: Path
    seconds: float
    sequence: int | None
    samples: Mapping[str, NDArray[Any]] | None = None
    part: str = ""

    @property
    def network(self) -> Path:
        """The folder of the network that is compiled, the build's or a part's in it."""
        return self.build.path / self.part


@dataclass(frozen=True, slots=True)
class OriginalJob:
    """What a route is given to show what its compiler makes of the float original.

    Attributes:
        chip: to compile for.
        model: the original as float ONNX, of batch 1 and one length.
        samples: inputs that a compiler may calibrate with, by name, (samples, *shape without the batch).
        folder, log, seconds: as of a CompileJob.
        sequence: tokens of a sentence; None for models that read none.
    """

    chip: Chip
    model: onnx.ModelProto
    samples: Mapping[str, NDArray[Any]]
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


def takes_originals(chip: Chip) -> bool:
    """Whether the chip's route can show what its compiler makes of a float original."""
    module = import_module(f"archnet.routes.{chip.route}")
    return hasattr(module, "compile_original") and chip.name not in getattr(module, "WITHOUT_ORIGINALS", ())


def require_for_original(chip: Chip) -> None:
    """Raises ArchNetError where something that an original needs on its way to the chip is not installed.

    That is the chip's own toolchain, one that a route names in ORIGINAL_TOOLCHAIN, and what a route's
    function `require_packages` asks for.
    """
    module = import_module(f"archnet.routes.{chip.route}")
    for name in (chip.toolchain, getattr(module, "ORIGINAL_TOOLCHAIN", None)):
        if name is not None:
            find_toolchain(name).require()
    if hasattr(module, "require_packages"):
        module.require_packages()


def original_by_route(job: OriginalJob) -> CompileSummary:
    """Compile a float original by the chip's route, as its makers would; operators may be left to others.

    Raises:
        ArchNetError: the compiler fails.
    """
    summary: CompileSummary = import_module(f"archnet.routes.{job.chip.route}").compile_original(job)
    return summary


def network_of(job: CompileJob) -> QuantizedGraph:
    """The integer network that a job is about.

    Raises:
        ArchNetError: a length was given for a network without one.
    """
    graph = load_graph(job.network / "graph")
    check_length(graph, job.build.path, job.sequence)
    return graph


def network_inputs(job: CompileJob) -> Mapping[str, NDArray[Any]]:
    """The network's inputs for the sentences or pictures of the build; of a step, for a token of each."""
    from archnet.integer_decoder import open_reference, step_samples
    from archnet.validate import agreement_inputs

    inputs = agreement_inputs(job.build)
    if job.part != DECODER:
        return inputs
    given = {name: torch.from_numpy(value) for name, value in inputs.items()}
    return step_samples(open_reference(job.build.path), given)


def check_length(graph: QuantizedGraph, folder: Path, sequence: int | None) -> None:
    """Raises ArchNetError where a length was given for a network without one."""
    if sequence is None or reads_tokens(graph):
        return
    cached = any(spec.name == "cache_mask" for spec in graph.inputs)
    why = (
        f"takes a token at a time, with a cache of {graph.max_sequence - 1}" if cached else "reads no tokens"
    )
    raise ArchNetError(f"{folder} {why}, so it has no --seq-len", fix="leave it out")


def reads_tokens(graph: QuantizedGraph) -> bool:
    """Whether its inputs have a length."""
    return any("sequence" in spec.shape for spec in graph.inputs)
