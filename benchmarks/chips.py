"""The table chip x model: what installed compilers make of finished builds, and how close they compute.

    python benchmarks/chips.py build-text build-images --seq-len 32 --out chips.json --markdown chips.md
    python benchmarks/chips.py build-text --seq-len 32 --originals     # and the trained model unchanged

Each build is compiled for every chip, and what was compiled is run where its simulator or the processor is
here: its outputs are compared with the reference executor's. A chip whose toolchain is missing, and one that
refuses the network, get a row that says so. Rows are kept in --out as they are made: started again, only
what is missing is done (delete the file to begin anew).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from archnet.atomic import human_bytes, read_json, sha256_file, write_json
from archnet.backends import BACKENDS, Backend, open_backend
from archnet.backends.base import user_inputs
from archnet.backends.reference import ReferenceBackend
from archnet.build import BuildDir
from archnet.compiling import compile_for
from archnet.errors import ArchNetError
from archnet.integer_decoder import open_reference, step_samples
from archnet.metrics import cosine
from archnet.original import compile_original_of
from archnet.parts import DECODER, chip_parts, part_names
from archnet.routes import takes_originals
from archnet.storage import load_graph
from archnet.targets.chips import CHIPS, Chip, CompileSummary, find_chip
from archnet.targets.toolchain import find_toolchain
from archnet.validate import agreement_inputs

RUNS = 5
"""Timed passes of one sentence or picture; the median counts."""

Json = dict[str, Any]


def _onnxruntime(build: Path, chip: Chip) -> Backend:
    from archnet.backends.onnxruntime import OnnxRuntimeBackend, read_model

    model = read_model(build / "compiled" / chip.name / "model.onnx")
    return OnnxRuntimeBackend(load_graph(build / "graph"), model, threads=1)


def _tvm(build: Path, chip: Chip) -> Backend | None:
    """A library of this processor; C source is run by no backend."""
    from archnet.backends.tvm import TvmBackend
    from archnet.export.tvm import LIBRARY

    folder = build / "compiled" / chip.name
    if not (folder / LIBRARY).is_file():
        return None
    return TvmBackend(load_graph(build / "graph"), folder, threads=1)


def _litert(build: Path, chip: Chip) -> Backend:
    from archnet.backends.litert import LiteRtBackend
    from archnet.export.tflite import read_tflite

    graph = load_graph(build / "graph")
    return LiteRtBackend(
        graph, read_tflite(build / "compiled" / chip.name / "model.tflite", graph), threads=1
    )


OPENERS: Mapping[str, Callable[[Path, Chip], Backend | None]] = {
    "onnxruntime": _onnxruntime,
    "tvm": _tvm,
    "ethos_u": _litert,
    "executorch": _litert,
}
"""What runs the files of a route, where it is not the backend of the toolchain's or chip's name."""


def open_compiled(build: Path, chip: Chip) -> Backend | None:
    """What runs the compiled network here; None when nothing does."""
    if chip.route in OPENERS:
        return OPENERS[chip.route](build, chip)
    name = next((n for n in (chip.toolchain, chip.name) if n in BACKENDS), None)
    return open_backend(name, build, threads=1) if name is not None else None


def samples(build: Path, part: str, count: int, sequence: int | None) -> Json:
    """The first saved inputs of a network; sentences cut and padded; of a step a token of each."""
    saved = agreement_inputs(BuildDir.open_finished(build))
    few = {name: value[:count] for name, value in saved.items()}
    if "pixel_values" not in few and sequence is not None:
        few = {
            name: np.pad(v[:, :sequence], ((0, 0), (0, max(0, sequence - v.shape[1]))))
            for name, v in few.items()
        }
    if part == DECODER:
        return step_samples(open_reference(build), {n: torch.from_numpy(v) for n, v in few.items()})
    read = user_inputs(load_graph(build / part / "graph"))
    return {name: value for name, value in few.items() if name in read}


def agreement(backend: Backend, network: Path, inputs: Json) -> Json:
    """How the outputs of the whole network compare with the reference executor's, and the time of one."""
    reference = ReferenceBackend(load_graph(network / "graph"))
    expected, found = _each(reference, inputs), _each(backend, inputs)
    elements = sum(value.size for value in expected.values())
    off = sum(
        int((np.abs(found[n] - v) > 1e-6 * max(1.0, float(np.abs(v).max()))).sum())
        for n, v in expected.items()
    )
    one = {name: value[:1] for name, value in inputs.items()}
    times = []
    for _ in range(RUNS):
        begin = time.perf_counter()
        backend.run(one)
        times.append(1000 * (time.perf_counter() - begin))
    return {
        "elements": elements,
        "differing": off,
        "largest_difference": max(float(np.abs(found[n] - v).max()) for n, v in expected.items()),
        "cosine": min(
            float(cosine(v.reshape(len(v), -1), found[n].reshape(len(v), -1)).min())
            for n, v in expected.items()
        ),
        "measured_ms": statistics.median(times),
    }


def _each(backend: Backend, inputs: Json) -> Json:
    """The outputs of every sentence or picture alone: most compiled files take one."""
    count = len(next(iter(inputs.values())))
    rows = [backend.run({name: value[i : i + 1] for name, value in inputs.items()}) for i in range(count)]
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


def rows_of(
    build: Path, chip: Chip, sequence: int | None, count: int, seconds: float, *, original: bool = False
) -> list[Json]:
    """Compile, run and compare each network of a build; a refusal is a row. An original is compiled only."""
    row: Json = {"build": build.name, "chip": chip.name, "toolchain": chip.toolchain, "original": original}
    if chip.toolchain is not None and find_toolchain(chip.toolchain).installed() is None:
        return [{**row, "status": "missing", "said": f"archnet targets install {chip.toolchain}"}]
    graph = load_graph(build / part_names(build)[0] / "graph")
    tokens = any("sequence" in spec.shape for spec in graph.inputs)
    length = min(sequence, graph.max_sequence) if tokens and sequence is not None else None
    if original:
        return [row | _original(build, chip, length, seconds)]
    try:
        summaries = compile_for(build, chip.name, sequence=length, seconds=seconds)
    except ArchNetError as error:
        return [{**row, "status": "refused", "said": error.problem}]
    parts = chip_parts(build, decoders=chip.decoders)
    return [
        row | _compared(build, part, chip, summary, count, length)
        for part, summary in zip(parts, summaries, strict=True)
    ]


def _compared(
    build: Path, part: str, chip: Chip, summary: CompileSummary, count: int, length: int | None
) -> Json:
    """What was compiled of a network, and how its outputs compare."""
    row = {"status": "compiled", "summary": dataclasses.asdict(summary), "agreement": None, "said": ""}
    try:
        backend = open_compiled(build / part, chip)
        if backend is None:
            return {**row, "said": "nothing here runs it"}
        given = samples(build, part, count, length)
        return {**row, "agreement": agreement(backend, build / part, given)}
    except ArchNetError as error:
        return {**row, "said": error.problem}


def _original(build: Path, chip: Chip, length: int | None, seconds: float) -> Json:
    """What the compiler makes of the trained model unchanged."""
    answer = compile_original_of(build, chip.name, sequence=length, seconds=seconds)
    if answer.compiled is None:
        return {"status": "refused", "said": answer.refused}
    summary = dataclasses.asdict(answer.compiled)
    return {"status": "compiled", "summary": summary, "agreement": None, "said": "the original"}


def fill(builds: Sequence[Path], chips: Sequence[Chip], out: Path, options: argparse.Namespace) -> Json:
    """Make the rows that are missing, and keep each at once."""
    table: Json = dict(read_json(out)) if out.is_file() else {}
    for build in builds:
        files = [build / part / "graph" / "graph.safetensors" for part in part_names(build)]
        network = " ".join(sha256_file(file)[:16] for file in files)
        for chip in chips:
            tool = find_toolchain(chip.toolchain).tool if chip.toolchain else "-"
            key = f"{build.name} {network} {chip.name} {tool} {options.seq_len} {options.samples}"
            asked = options.originals and takes_originals(chip) and part_names(build) == ("",)
            for original in (True, False) if asked else (False,):
                kept = f"{key} original" if original else key
                if any(row["status"] != "missing" for row in table.get(kept, ())):
                    continue
                print(f"{build.name}{', unchanged' * original} -> {chip.name}", file=sys.stderr, flush=True)
                table[kept] = rows_of(
                    build, chip, options.seq_len, options.samples, options.time_limit, original=original
                )
                write_json(out, table)
    return table


def markdown(rows: Sequence[Json]) -> str:
    """The table, a row a build and chip."""
    lines = [
        "| model | chip | compiler | operators native / not | in float | cost | binary | outputs differ |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        part = (row.get("summary") or {}).get("part")
        named = ", unchanged" if row.get("original") else f", {part}" if part else ""
        cells = [row["build"] + named, f"`{row['chip']}`"]
        if row["status"] != "compiled":
            word = "not installed" if row["status"] == "missing" else "refused"
            cells += ["", "", "", "", "", f"{word}: {_short(row['said'])}"]
        else:
            summary = row["summary"]
            cells += [
                summary["tool"],
                f"{summary['native_operators']} / {summary['fallback_operators']}",
                ", ".join(summary["float_operators"]) or "nothing",
                _cost(summary, row["agreement"]),
                human_bytes(summary["binary_bytes"]),
                _close(row),
            ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _short(text: str) -> str:
    text = text.replace("|", "/").replace("\n", " ")
    return text if len(text) <= 160 else f"{text[:160]} ..."


def _cost(summary: Json, found: Json | None) -> str:
    if summary["cycles"] is not None:
        return f"{summary['cycles']:,} cycles"
    return "" if found is None else f"{found['measured_ms']:.1f} ms here"


def _close(row: Json) -> str:
    found = row["agreement"]
    if found is None:
        return f"not run: {_short(row['said'])}"
    if not found["differing"]:
        return f"0 of {found['elements']:,}"
    share = 100 * found["differing"] / found["elements"]
    shown = f"{share:.0f}" if share >= 10 else f"{share:.2g}"
    return f"{shown}%, by {found['largest_difference']:.2g}; cosine {found['cosine']:.6f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("builds", nargs="+", type=Path)
    parser.add_argument("--chips", help="names with commas; all when left out")
    parser.add_argument("--seq-len", type=int)
    parser.add_argument(
        "--originals", action="store_true", help="a row each for the trained model unchanged, where possible"
    )
    parser.add_argument("--samples", type=int, default=4, help="sentences or pictures that are compared")
    parser.add_argument("--time-limit", type=float, default=3600.0, help="of one compiler, in seconds")
    parser.add_argument("--out", type=Path, default=Path("chips.json"))
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args(arguments)
    try:
        chips = [find_chip(name) for name in options.chips.split(",")] if options.chips else list(CHIPS)
        for build in options.builds:
            BuildDir.open_finished(build)
        table = fill(options.builds, chips, options.out, options)
    except ArchNetError as error:
        print(f"error: {error.problem}\n  fix: {error.fix}", file=sys.stderr)
        return 2
    wanted = {(build.name, chip.name) for build in options.builds for chip in chips}
    rows = [
        row
        for made in table.values()
        for row in made
        if (row["build"], row["chip"]) in wanted and (options.originals or not row.get("original"))
    ]
    text = markdown(rows)
    if options.markdown is not None:
        options.markdown.write_text(text, encoding="utf-8")
    print(text if options.markdown is None else json.dumps({"rows": len(rows)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
