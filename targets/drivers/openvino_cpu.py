"""OpenVINO in its own environment: ONNX to IR, what the CPU plugin makes of it, and running it.

Manual: OpenVINO 2026.4, "Precision Control" (inference_precision) and the runtime model that
`CompiledModel.get_runtime_model` gives, whose nodes carry layerType, runtimePrecision and
originalLayersNames.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov

_MOVES = frozenset(
    ("Input", "Output", "Const", "Parameter", "Result", "Reorder", "Reshape", "Transpose", "Convert", "Split")
)
"""Kinds of nodes that move or store numbers and compute none."""

_models: dict[str, Any] = {}


def _core(threads: int | None) -> Any:
    core = ov.Core()
    # Otherwise OpenVINO computes reals in bfloat16 where the processor has it.
    core.set_property("CPU", {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"})
    if threads is not None:
        core.set_property("CPU", {"INFERENCE_NUM_THREADS": threads})
    return core


def compile_model(request: dict[str, Any]) -> dict[str, Any]:
    """Write the IR of an ONNX file ("model") to "binary" (.xml, and .bin beside it), and say how it runs.

    Returns:
        "nodes": kind, precision, names of the ONNX nodes in it, of every node that computes.
    """
    core = _core(request.get("threads"))
    model = core.read_model(request["model"])
    ov.save_model(model, request["binary"], compress_to_fp16=False)
    compiled = core.compile_model(core.read_model(request["binary"]), "CPU")
    return {"nodes": _nodes(compiled)}


def _nodes(compiled: Any) -> list[dict[str, Any]]:
    found = []
    for node in compiled.get_runtime_model().get_ordered_ops():
        info = node.get_rt_info()
        kind = info["layerType"].astype(str)
        if kind in _MOVES:
            continue
        names = info["originalLayersNames"].astype(str) if "originalLayersNames" in info else ""
        inputs = [str(i.get_element_type().get_type_name()) for i in node.inputs()]
        found.append(
            {
                "kind": kind,
                "precision": info["runtimePrecision"].astype(str),
                "inputs": inputs,
                "names": [name for name in names.split(",") if name],
            }
        )
    return found


def load(request: dict[str, Any]) -> dict[str, Any]:
    """Open an IR or ONNX file ("path") under a name ("as")."""
    core = _core(request.get("threads"))
    _models[request["as"]] = core.compile_model(core.read_model(request["path"]), "CPU")
    return {}


def infer(request: dict[str, Any]) -> dict[str, Any]:
    """Run the model "name" on every row of "inputs" (.npz), and write "outputs" (.npz).

    Arrays have one more axis in front than the model's, the rows'.
    """
    compiled = _models[request["name"]]
    with np.load(request["inputs"]) as file:
        given = {name: file[name] for name in file.files}
    rows = len(next(iter(given.values())))
    results: dict[str, list[Any]] = {output.get_any_name(): [] for output in compiled.outputs}
    call = compiled.create_infer_request()
    for i in range(rows):
        found = call.infer({name: np.ascontiguousarray(value[i]) for name, value in given.items()})
        for output in compiled.outputs:
            results[output.get_any_name()].append(np.array(found[output]))
    arrays: dict[str, Any] = {name: np.stack(values) for name, values in results.items()}
    with Path(request["outputs"]).open("wb") as out:
        np.savez(out, **arrays)
    return {}
