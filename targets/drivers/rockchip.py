"""RKNN-Toolkit2 (2.5): builds a .rknn file from a QDQ network, and runs the network in its simulator.

Two things are arranged here:

- The toolkit imports PyTorch, which is larger than all the rest, for PyTorch models, for one quantization
  algorithm (gdq) and in a rewriting rule for Concat. Neither of the first two happens here, the rule is
  switched off, and `torch` is a module with the two names that are read at import.
- It takes the scale s of an int8 tensor with zero point 0 for the range -128 s to 127 s, calls that
  symmetric (its log says so) and makes 128 s / 127 of it; weights are rounded once more for the new scale.
  `for_toolkit` writes 127 s / 128, of which it makes s.
"""

from __future__ import annotations

import ctypes
import importlib.abc
import importlib.machinery
import os
import re
import sys
import types
from collections.abc import Sequence
from typing import Any

import numpy as np

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")

EXACT_LEVEL = 2
"""Of optimization: at 3, the default, it drops Quantize and Dequantize in places, as before an Add."""

Scale = tuple[float, int] | None
"""Scale and zero point of an output that comes as numbers, not as integers."""

WANTS_TORCH = ["reduce_reshape_op_around_concat"]
"""Rewriting rules that call PyTorch."""

LEAST_STEPS, MOST_STEPS = 127, 128
"""Of int8 above and below 0."""

_networks: dict[str, tuple[Any, list[Scale]]] = {}
"""Networks that the simulator holds, and their outputs, by the name that the request gave."""


class _NoGrad:
    """A decorator that does nothing."""

    def __call__(self, decorated: Any) -> Any:
        return decorated


class _Module:
    """Something to inherit from."""


NAMES: dict[str, dict[str, type]] = {"torch": {"no_grad": _NoGrad}, "torch.nn": {"Module": _Module}}
"""What is read of PyTorch when the toolkit is imported."""


class _WithoutTorch(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the modules of NAMES."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in NAMES:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return types.ModuleType(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        vars(module).update(NAMES[module.__name__])


def _toolkit() -> Any:
    """The class RKNN."""
    if "rknn.api" not in sys.modules:
        sys.meta_path.insert(0, _WithoutTorch())
    from rknn.api import RKNN

    return RKNN


def for_toolkit(model: Any) -> None:
    """Write a QDQ model's scales and weights such that the toolkit makes of them what they were.

    An int8 weight q of the file becomes round(127 q / 128): above 63 it has to be one more to arrive whole.
    127 would have to be 128, and arrives as 126. Biases are int32, where 2**31 / (2**31 - 1) is 1.
    """
    from onnx import numpy_helper

    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    arrays = {name: numpy_helper.to_array(tensor) for name, tensor in constants.items()}
    for node in model.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        value, scale, zero = node.input
        if arrays[zero].dtype != np.int8 or arrays[zero].any():
            continue
        narrow = arrays[scale].astype(np.float64) * (LEAST_STEPS / MOST_STEPS)
        constants[scale].CopyFrom(numpy_helper.from_array(narrow.astype(np.float32), scale))
        if value in constants and node.op_type == "DequantizeLinear":
            wide = arrays[value].astype(np.int64)
            wide += np.sign(wide) * (np.abs(wide) >= MOST_STEPS // 2)
            kept = np.clip(wide, -MOST_STEPS, LEAST_STEPS).astype(np.int8)
            constants[value].CopyFrom(numpy_helper.from_array(kept, value))


def _checked(code: int, what: str) -> None:
    if code != 0:
        raise RuntimeError(f"{what} returned {code}")


def dequantized_outputs(model: Any) -> list[Scale]:
    """Let outputs that the network reads, too, leave it as numbers: integers there are an error of 2.5.0.

    Returns:
        For each output how its integers are read from numbers, None where it has integers.
    """
    from onnx import TensorProto, numpy_helper

    arrays = {tensor.name: tensor for tensor in model.graph.initializer}
    readers = {node.input[0]: node for node in model.graph.node if node.op_type == "DequantizeLinear"}
    found: list[Scale] = []
    for output in model.graph.output:
        reader = readers.get(output.name)
        if reader is None:
            found.append(None)
            continue
        scale, zero = (numpy_helper.to_array(arrays[name]) for name in reader.input[1:])
        found.append((float(scale), int(zero)))
        output.name = reader.output[0]
        output.type.tensor_type.elem_type = TensorProto.FLOAT
    return found


def _integers(values: Any, scale: Scale) -> Any:
    if scale is None:
        return values
    step, zero = scale
    return (np.rint(values.astype(np.float64) / step) + zero).astype(np.int8)


def _build(request: dict[str, Any]) -> tuple[Any, list[Scale]]:
    """Read request["model"] and compile it for request["platform"].

    What the toolkit reads is written beside it. Its errors are raised without the colours in their text.
    """
    import onnx

    path = request["model"]
    model = onnx.load(path)
    outputs = dequantized_outputs(model)
    for_toolkit(model)
    written = f"{path.removesuffix('.onnx')}-rknn.onnx"
    onnx.save(model, written)
    try:
        rknn = _toolkit()(verbose=True)
        _checked(
            rknn.config(
                target_platform=request["platform"],
                optimization_level=EXACT_LEVEL,
                remove_reshape=True,
                disable_rules=WANTS_TORCH,
            ),
            "config",
        )
        _checked(rknn.load_onnx(written), "load_onnx")
        _checked(rknn.build(do_quantization=False), "build")
    except Exception as error:
        lines = _COLOURS.sub("", str(error)).strip().splitlines()
        raise RuntimeError(lines[-1] if lines else type(error).__name__) from error
    return rknn, outputs


def compile(request: dict[str, Any]) -> dict[str, Any]:
    """Write request["binary"], a .rknn file. The table of layers is in what it prints."""
    rknn, _ = _build(request)
    _checked(rknn.export_rknn(request["binary"]), "export_rknn")
    rknn.release()
    ctypes.CDLL(None).fflush(None)  # its C++ part's stdout is a file here, and held back
    return {"bytes": os.path.getsize(request["binary"])}


def open(request: dict[str, Any]) -> dict[str, Any]:
    """Hold a network in the simulator under request["name"]."""
    rknn, outputs = _build(request)
    _checked(rknn.init_runtime(), "init_runtime")
    _networks[request["name"]] = rknn, outputs
    return {}


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Run a network: arrays of request["inputs"], an .npz file in the network's order, to ["outputs"]."""
    with np.load(request["inputs"]) as arrays:
        given = [arrays[name] for name in arrays.files]
    layouts = ["nchw"] * len(given)
    rknn, outputs = _networks[request["name"]]
    found = rknn.inference(inputs=given, data_format=layouts)
    np.savez(request["outputs"], *(_integers(v, scale) for v, scale in zip(found, outputs, strict=True)))
    return {}
