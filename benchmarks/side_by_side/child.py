"""One tool in a process of its own; `processes` starts it.

    python -m side_by_side.child make  RECIPE BITS NETWORK_DIR OUT_DIR THREADS
    python -m side_by_side.child serve RECIPE BITS NETWORK_DIR OUT_DIR THREADS

`make` answers one JSON line. `serve` answers {"ready": true} or {"failed": why} and then each request on its
standard input with the output arrays (`write_arrays`). What libraries print goes to standard error.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import statistics
import sys
import time
import traceback
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from side_by_side.network_folder import NetworkFolder
from side_by_side.recipe import Cannot, Forward, Order, Recipe, parse_bits
from side_by_side.recipes import find_recipe

WARM_SECONDS, TIMED_SECONDS, LEAST_PASSES = 0.5, 3.0, 7


def write_arrays(stream: IO[bytes], record: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> None:
    """One JSON line with the arrays' names, dtypes and shapes, then their bytes."""
    whole = {name: np.ascontiguousarray(values) for name, values in arrays.items()}
    kinds = {name: [values.dtype.str, list(values.shape)] for name, values in whole.items()}
    stream.write(json.dumps({**record, "arrays": kinds}).encode() + b"\n")
    for values in whole.values():
        stream.write(values.tobytes())
    stream.flush()


def read_arrays(stream: IO[bytes]) -> tuple[dict[str, Any], dict[str, NDArray[Any]]] | None:
    """What `write_arrays` wrote; None at the end of the stream."""
    line = stream.readline()
    if not line.endswith(b"\n"):
        return None
    record = json.loads(line)
    arrays = {}
    for name, (kind, shape) in record.pop("arrays").items():
        dtype = np.dtype(kind)
        data = stream.read(dtype.itemsize * int(np.prod(shape)))
        arrays[name] = np.frombuffer(data, dtype=dtype).reshape(shape)
    return record, arrays


def peak_bytes() -> int:
    """Most memory that this process held so far.

    Not ru_maxrss: a started process inherits that of the one that started it.
    """
    found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 if found else 0


def cpu_seconds() -> float:
    """Processor time of this process and those that it started and that ended; a busy machine adds none."""
    return sum(os.times()[:4])


def versions(packages: tuple[str, ...]) -> dict[str, str]:
    return {package: importlib.metadata.version(package) for package in packages}


def last_words(error: BaseException) -> str:
    """The error in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:240]}" if text else type(error).__name__


def make(recipe: Recipe, bits: str, network: Path, out: Path, threads: int) -> dict[str, Any]:
    """Make the network of every graph; seconds and memory are those of this process."""
    folder = NetworkFolder.open(network)
    weights, activations = parse_bits(bits)
    files: list[Path] = []
    began, before = time.perf_counter(), cpu_seconds()
    try:
        for graph in folder.graphs:
            place = out / graph.name
            place.mkdir(parents=True, exist_ok=True)
            files += recipe.make(Order(graph, weights, activations, place, threads))
    except Cannot as error:
        return {"cannot": " ".join(str(error).split())[:300]}
    except Exception as error:  # a tool that fails is a result to report, whatever it raises
        traceback.print_exc()
        return {"failed": last_words(error)}
    return {
        "seconds": time.perf_counter() - began,
        "cpu_seconds": cpu_seconds() - before,
        "peak_bytes": peak_bytes(),
        "bytes": sum(file.stat().st_size for file in files),
        "files": [str(file.relative_to(out)) for file in files if file.is_relative_to(out)],
        "versions": versions(recipe.packages),
    }


def serve(recipe: Recipe, network: Path, out: Path, threads: int, answers: IO[bytes]) -> None:
    """Answer requests {"graph": name, "timed": bool} with arrays, until standard input ends."""
    try:
        folder = NetworkFolder.open(network)
        opened = {graph.name: recipe.open(out / graph.name, threads) for graph in folder.graphs}
    except Exception as error:  # as above
        traceback.print_exc()
        write_arrays(answers, {"failed": last_words(error)}, {})
        return
    write_arrays(answers, {"ready": True}, {})
    while (request := read_arrays(sys.stdin.buffer)) is not None:
        record, inputs = request
        try:
            forward = opened[record["graph"]]
            if record.get("timed"):
                write_arrays(answers, {"ms": steady_ms(forward, inputs)}, {})
            else:
                write_arrays(answers, {}, forward(inputs))
        except Exception as error:  # as above
            traceback.print_exc()
            write_arrays(answers, {"failed": last_words(error)}, {})


def steady_ms(forward: Forward, inputs: dict[str, NDArray[Any]]) -> float:
    """Median milliseconds of a pass in the steady state, after untimed passes."""
    warm = time.perf_counter() + WARM_SECONDS
    while time.perf_counter() < warm:
        forward(inputs)
    passes: list[float] = []
    began = time.perf_counter()
    while len(passes) < LEAST_PASSES or time.perf_counter() - began < TIMED_SECONDS:
        start = time.perf_counter()
        forward(inputs)
        passes.append(1000 * (time.perf_counter() - start))
    return statistics.median(passes)


def main() -> None:
    verb, name, bits, network, out, threads = sys.argv[1:7]
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    recipe = find_recipe(name)
    if verb == "make":
        record = make(recipe, bits, Path(network), Path(out), int(threads))
        write_arrays(answers, record, {})
    else:
        serve(recipe, Path(network), Path(out), int(threads), answers)


if __name__ == "__main__":
    main()
