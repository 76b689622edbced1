"""C source of an integer network on processors: its integers beside the reference executor's.

    apt-get install qemu-user
    python benchmarks/c_processors.py build-text build-images --seq-len 32 --json c.json

What `archnet compile --target tvm-c` writes is compiled by `zig cc` for each processor, linked with a `main`
that reads and writes files, and run: as it is where the processor is this machine's, else in QEMU's user
mode. A processor whose emulator is missing is a row that says so.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from chips import samples
from numpy.typing import NDArray

from archnet.backends.base import feed
from archnet.build import BuildDir
from archnet.compiling import compile_for
from archnet.errors import ArchNetError
from archnet.graph import QuantizedGraph
from archnet.parts import part_names
from archnet.reference import execute
from archnet.storage import load_graph

Arrays = Mapping[str, NDArray[Any]]

SECONDS = 3600.0
"""One sentence or picture may take this long in an emulator."""

COMPILER = (sys.executable, "-m", "ziglang", "cc", "-O2", "-std=c11")


@dataclass(frozen=True)
class Processor:
    """A processor as the compiler and QEMU name it."""

    name: str
    triple: str
    emulator: str

    def command(self) -> list[str] | None:
        """What runs a program of this processor here; None when nothing does."""
        if platform.machine() == self.name:
            return []
        found = shutil.which(self.emulator)
        return None if found is None else [found]


PROCESSORS = (
    Processor("x86_64", "x86_64-linux-musl", "qemu-x86_64"),
    Processor("aarch64", "aarch64-linux-musl", "qemu-aarch64"),
    Processor("riscv64", "riscv64-linux-musl", "qemu-riscv64"),
    Processor("arm", "arm-linux-musleabihf", "qemu-arm"),
)


@dataclass(frozen=True)
class Row:
    """How the integers of one build on one processor compare.

    Attributes:
        elements: compared output integers of all samples; 0 where nothing was run.
        differing: of them.
        said: why nothing was run.
    """

    build: str
    processor: str
    samples: int = 0
    elements: int = 0
    differing: int = 0
    said: str = ""


def main_source(inputs: Sequence[int], outputs: Sequence[int]) -> str:
    """A C program that runs the network on files; the arguments are the sizes in bytes."""

    def listed(sizes: Sequence[int]) -> str:
        return ", ".join(map(str, sizes))

    return f"""\
#include "model.h"
#include <stdio.h>
#include <stdlib.h>

static const size_t given[] = {{{listed(inputs)}}}, made[] = {{{listed(outputs)}}};

static void* memory(size_t bytes) {{
  void* found = aligned_alloc(64, (bytes + 64) / 64 * 64);
  if (!found) exit(3);
  return found;
}}

static void* content(const char* path, size_t bytes) {{
  void* found = memory(bytes);
  FILE* file = fopen(path, "rb");
  if (!file || fread(found, 1, bytes, file) != bytes) exit(4);
  fclose(file);
  return found;
}}

int main(int count, char** arguments) {{
  const void* inputs[{len(inputs)}];
  void* outputs[{len(outputs)}];
  if (count != 2 + {len(inputs)} + {len(outputs)}) return 5;
  for (int i = 0; i < {len(inputs)}; ++i) inputs[i] = content(arguments[2 + i], given[i]);
  for (int i = 0; i < {len(outputs)}; ++i) outputs[i] = memory(made[i]);
  uint8_t* constants = content(arguments[1], ARCHNET_CONSTANTS_BYTES);
  if (archnet_run(constants, memory(ARCHNET_WORKSPACE_BYTES), inputs, outputs)) return 6;
  for (int i = 0; i < {len(outputs)}; ++i) {{
    FILE* file = fopen(arguments[2 + {len(inputs)} + i], "wb");
    if (!file || fwrite(outputs[i], 1, made[i], file) != made[i] || fclose(file)) return 7;
  }}
  return 0;
}}
"""


def build_program(source: Path, work: Path, processor: Processor, sizes: tuple[list[int], list[int]]) -> Path:
    """Compile and link the C files of a folder for a processor."""
    main_file, program = work / "main.c", work / f"model-{processor.name}"
    main_file.write_text(main_source(*sizes))
    files = [str(main_file), str(source / "model.c"), str(source / "kernels.c")]
    target = ["-static", "-target", processor.triple] if processor.command() != [] else []
    command = [*COMPILER, *target, "-I", str(source), *files, "-o", str(program)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        found = re.search(r"error: .*", done.stderr)
        said = found[0] if found else done.stderr[-200:]
        raise ArchNetError(
            f"zig cc did not compile {source} for {processor.name}: {said}",
            fix="pip install 'archnet[tvm]', and report it with the build folder if that is there",
        )
    return program


def output_names(graph: QuantizedGraph) -> list[str]:
    """The tensors of a network's outputs, in the order of the C function's."""
    return list(dict.fromkeys(output.tensor for output in graph.outputs))


def run_c(
    graph: QuantizedGraph, source: Path, work: Path, processor: Processor, fed: Arrays, made: Arrays
) -> Arrays:
    """The output integers that a program of this processor computes.

    Args:
        source: the folder of the C files.
        work: an empty folder for the program and what it reads and writes.
        fed: integers that `archnet.backends.base.feed` returned for one sentence or picture.
        made: arrays of the outputs' shapes and dtypes, by name.

    Raises:
        ArchNetError: nothing here runs such programs, or it failed.
    """
    command = processor.command()
    if command is None:
        raise ArchNetError(f"{processor.emulator} is not installed", fix="apt-get install qemu-user")
    names = output_names(graph)
    inputs = [np.ascontiguousarray(fed[spec.name]) for spec in graph.inputs]
    sizes = [array.nbytes for array in inputs], [made[name].nbytes for name in names]
    program = build_program(source, work, processor, sizes)
    ins = [work / f"input{i}.bin" for i in range(len(inputs))]
    outs = [work / f"output{i}.bin" for i in range(len(names))]
    for array, path in zip(inputs, ins, strict=True):
        array.tofile(path)
    files = [source / "constants.bin", *ins, *outs]
    done = subprocess.run([*command, str(program), *map(str, files)], timeout=SECONDS)
    if done.returncode:
        raise ArchNetError(f"the program for {processor.name} ended with {done.returncode}", fix="report it")
    return {
        name: np.fromfile(path, made[name].dtype).reshape(made[name].shape)
        for name, path in zip(names, outs, strict=True)
    }


def one_row(build: Path, processor: Processor, sequence: int | None, count: int) -> Row:
    """Run the samples of a build, which `compile_for` has written the C files of."""
    part = part_names(build)[0]
    network = build / part
    graph = load_graph(network / "graph")
    given = samples(build, part, count, sequence)
    elements = differing = 0
    total = len(next(iter(given.values())))
    for i in range(total):
        fed = feed(graph, {name: value[i : i + 1] for name, value in given.items()})
        expected = execute(graph, fed, output_names(graph))
        with tempfile.TemporaryDirectory() as work:
            try:
                found = run_c(graph, network / "compiled" / "tvm-c", Path(work), processor, fed, expected)
            except ArchNetError as error:
                return Row(build.name, processor.name, said=error.problem)
        for name, value in expected.items():
            elements += value.size
            differing += int((value != found[name]).sum())
    return Row(build.name, processor.name, total, elements, differing)


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("builds", nargs="+", type=Path)
    parser.add_argument("--seq-len", type=int)
    parser.add_argument("--samples", type=int, default=2, help="sentences or pictures that are compared")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    rows: list[Row] = []
    try:
        for build in options.builds:
            BuildDir.open_finished(build)
            graph = load_graph(build / part_names(build)[0] / "graph")
            tokens = any("sequence" in spec.shape for spec in graph.inputs)
            length = options.seq_len if tokens else None
            compile_for(build, "tvm-c", sequence=length)
            for processor in PROCESSORS:
                rows.append(one_row(build, processor, length, options.samples))
                row = rows[-1]
                text = (
                    row.said or f"{row.differing} of {row.elements:,} integers differ, {row.samples} samples"
                )
                print(f"{row.build}, {row.processor}: {text}", flush=True)
    except ArchNetError as error:
        print(f"error: {error.problem}\n  fix: {error.fix}", file=sys.stderr)
        return 2
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
