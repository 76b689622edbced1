"""IREE in its own environment: ONNX to a .vmfb for a CPU, and running that.

Manual: IREE 3.13, "CPU deployment" (flags of iree-compile) and "ONNX support" (iree-import-onnx).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import iree.compiler as compiler
import iree.runtime as runtime
import numpy as np
import onnx
from iree.compiler.tools.import_onnx.__main__ import main as import_onnx
from iree.compiler.tools.import_onnx.__main__ import parse_arguments

_models: dict[str, Any] = {}


def compile_model(request: dict[str, Any]) -> dict[str, Any]:
    """Import the ONNX file "model", and compile it to "binary" (.vmfb) for this machine's processor.

    Returns:
        "dispatches": how many functions the device is called with.
    """
    model, vmfb = Path(request["model"]), Path(request["binary"])
    mlir, statistics = vmfb.with_suffix(".mlir"), vmfb.with_suffix(".json")
    opset = max(o.version for o in onnx.load(str(model)).opset_import if o.domain in ("", "ai.onnx"))
    arguments = [str(model), "-o", str(mlir), "--opset-version", str(opset)]
    if import_onnx(parse_arguments(arguments)):
        raise RuntimeError("iree-import-onnx failed")
    compiler.compile_file(
        str(mlir),
        output_file=str(vmfb),
        target_backends=["llvm-cpu"],
        extra_args=[
            "--iree-llvmcpu-target-cpu=host",
            "--iree-scheduling-dump-statistics-format=json",
            f"--iree-scheduling-dump-statistics-file={statistics}",
        ],
    )
    mlir.unlink()
    counts = json.loads(statistics.read_text())
    statistics.unlink()
    return {"dispatches": _dispatches(counts)}


def _dispatches(counts: dict[str, Any]) -> int:
    found = counts["stream-aggregate"]["execution"]["dispatch-count"]
    return int(found)


def load(request: dict[str, Any]) -> dict[str, Any]:
    """Open a .vmfb ("path") under a name ("as"), with "inputs" and "outputs" in the network's order.

    "threads" counts once a process: IREE makes its threads with the first device.
    """
    if request["threads"] is not None and not _models:
        runtime.flags.parse_flags(f"--task_topology_group_count={request['threads']}")
    module = runtime.load_vm_flatbuffer_file(request["path"], driver="local-task")
    names = [n for n in module.vm_module.function_names if not n.startswith("__") and "$" not in n]
    if len(names) != 1:
        raise RuntimeError(f"the module has the functions {', '.join(names)}, not one")
    _models[request["as"]] = module[names[0]], request["inputs"], request["outputs"]
    return {}


def infer(request: dict[str, Any]) -> dict[str, Any]:
    """Run the model "name" on every row of "inputs" (.npz), and write "outputs" (.npz).

    Arrays have one more axis in front than the model's, the rows'.
    """
    function, inputs, outputs = _models[request["name"]]
    with np.load(request["inputs"]) as file:
        given = [file[name] for name in inputs]
    results: dict[str, list[Any]] = {name: [] for name in outputs}
    for i in range(len(given[0])):
        found = function(*(np.ascontiguousarray(value[i]) for value in given))
        every = found if isinstance(found, (list, tuple)) else [found]
        for name, value in zip(outputs, every, strict=True):
            results[name].append(np.array(value.to_host()))
    arrays: dict[str, Any] = {name: np.stack(values) for name, values in results.items()}
    with Path(request["outputs"]).open("wb") as out:
        np.savez(out, **arrays)
    return {}
