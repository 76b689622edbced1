"""Driver of Arm's TOSA tools: a TFLite file to a TOSA graph, and its reference model on integers.

tosa-converter-for-tflite writes MLIR, tosa-opt of tosa-tools makes the flatbuffer of it, and the reference
model, the specification as a program, executes that. Runs in the toolchain `tosa`.
"""

from __future__ import annotations

import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

_TARGET = "specification_version=1.0 level=8k profiles=pro_int extensions=int16,int4,doubleround,inexactround"
"""The extensions are what TFLite's arithmetic asks for: 16-bit features, and its two ways of rounding."""


def convert(request: dict[str, Any]) -> dict[str, Any]:
    """TFLite to TOSA: `model` and `graph` are the paths of the two files."""
    from tosa_converter_for_tflite import tflite_flatbuffer_to_tosa_mlir  # type: ignore[import-not-found]

    graph = Path(request["graph"])
    code = graph.with_suffix(".mlirbc")
    tflite_flatbuffer_to_tosa_mlir(request["model"], str(code))
    program = metadata.distribution("tosa-tools").locate_file("bin/tosa-opt")
    done = subprocess.run(
        [
            str(program), str(code), "--tosa-convert-integer-type-to-signless",
            f"--tosa-attach-target={_TARGET}", "--tosa-serialize", f"--tosa-flatbuffer-filename={graph}",
            "-o", "/dev/null",
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if "error" in line]
        raise RuntimeError(f"tosa-opt: {said[0] if said else f'exit code {done.returncode}'}")
    return {"bytes": graph.stat().st_size}


def run(request: dict[str, Any]) -> dict[str, Any]:
    """One inference of `graph`: arrays "arr_0", ... of `inputs` (.npz) to those of `outputs`."""
    import numpy as np
    import tosa_reference_model  # type: ignore[import-not-found]

    with np.load(request["inputs"]) as given:
        inputs = [given[f"arr_{i}"] for i in range(len(given.files))]
    content = Path(request["graph"]).read_bytes()
    results, status = tosa_reference_model.run(content, inputs)
    if status != tosa_reference_model.GraphStatus.TOSA_VALID:
        raise RuntimeError(f"the reference model says {status}")
    np.savez(request["outputs"], *results)
    return {"outputs": len(results)}
