"""TPU-MLIR (1.30) for Sophgo's TPUs: compiles a program of integers, and runs it in the chip's simulator.

A program (archnet/export/tpu_program.py) is made into TpuLang, one call an operation, which rounds half to
even throughout. Its values get short names: some parts of the compiler do not take every character.

tpu-mlir starts its own programs, writes a dozen files into the working directory, and has the simulator find
its chip through a link in its own folder, so compiling and running are done in temporary folders.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tpu_mlir  # noqa: F401 (makes the next two known, and the programs that they start)
import transform.TpuLang as tpu
from tpu_mlir.python.tools import model_runner

ROUNDING = "half_to_even"
NETWORK = "network"
"""The name of what is compiled, and so of the files that tpu-mlir writes."""

_held: list[tuple[Any, Any]] = []
"""The network that the simulator holds, and what runs it."""


def _multiply(inputs: list[Any], dtype: str, shift: int, factor: int | None = None) -> Any:
    """Elements times those of another value, or a number, over 2**shift: (x * y) >> shift, saturated."""
    right = inputs[1] if factor is None else tpu.Scalar(factor, "int32")
    return tpu.mul_shift(inputs[0], right, -shift, dtype, round_mode=ROUNDING)


def _add(inputs: list[Any], dtype: str, shift: int) -> Any:
    return tpu.add_shift(inputs[0], inputs[1], -shift, dtype, round_mode=ROUNDING)


def _matmul(inputs: list[Any], dtype: str, transpose: bool) -> Any:
    bias = inputs[2] if len(inputs) > 2 else None
    return tpu.matmul_int(inputs[0], inputs[1], bias, right_transpose=transpose, input_zp=0, right_zp=0)


def _conv(inputs: list[Any], dtype: str, strides: list[int], pads: list[int], groups: int) -> Any:
    return tpu.conv_int(*inputs, stride=strides, pad=pads, group=groups, input_zp=0, weight_zp=0)


def _max_pool(inputs: list[Any], dtype: str, kernel: list[int], strides: list[int], pads: list[int]) -> Any:
    return tpu.maxpool2d(inputs[0], kernel, strides, pads)


def _minimum(inputs: list[Any], dtype: str) -> Any:
    return tpu.min(inputs[0], inputs[1], out_dtype=dtype)


def _limit(inputs: list[Any], dtype: str, most: int | None = None, least: int | None = None) -> Any:
    if most is not None:
        return tpu.min(inputs[0], tpu.Scalar(most, dtype), out_dtype=dtype)
    return tpu.max(inputs[0], tpu.Scalar(least, dtype), out_dtype=dtype)


def _softmax(inputs: list[Any], dtype: str, scale: float, levels: int) -> Any:
    """Over the last axis, of real numbers.

    The scales are products of their own: behind a Cast and before one that have scales, the compiler puts its
    softmax of int8, which has a table of 16-bit floats and is off by 1 in places.
    """
    shape = inputs[0].shape
    real = tpu.mul(tpu.dequant_int_to_fp(inputs[0], 1.0, 0), float(scale))
    shares = tpu.softmax(real, len(shape) - 1)
    return tpu.requant_fp_to_int(tpu.mul(shares, float(levels)), 1.0, 0, 0, dtype, round_mode=ROUNDING)


def _lookup(inputs: list[Any], dtype: str) -> Any:
    return tpu.lut(inputs[0], inputs[1])


def _reshape(inputs: list[Any], dtype: str, sizes: list[int]) -> Any:
    return tpu.reshape(inputs[0], sizes)


def _transpose(inputs: list[Any], dtype: str, order: list[int]) -> Any:
    return tpu.permute(inputs[0], order)


def _concat(inputs: list[Any], dtype: str, axis: int) -> Any:
    return tpu.concat(inputs, axis=axis, dtype=dtype)


def _slice(inputs: list[Any], dtype: str, starts: list[int], ends: list[int]) -> Any:
    return tpu.slice(inputs[0], starts, ends)


def _pad(inputs: list[Any], dtype: str, pads: list[int]) -> Any:
    """Zeros before each axis, then behind each."""
    return tpu.pad(inputs[0], padding=pads)


KINDS: dict[str, Callable[..., Any]] = {
    "multiply": _multiply,
    "add": _add,
    "matmul": _matmul,
    "conv": _conv,
    "max_pool": _max_pool,
    "minimum": _minimum,
    "limit": _limit,
    "softmax": _softmax,
    "lookup": _lookup,
    "reshape": _reshape,
    "transpose": _transpose,
    "concat": _concat,
    "slice": _slice,
    "pad": _pad,
}
"""What each operation of a program is; `inputs` are TpuLang's tensors, and the result has type `dtype`."""


def _build(program: str) -> tuple[list[Any], list[Any]]:
    """The inputs and outputs of a program's TpuLang graph, which becomes the module's current one."""
    with np.load(program, allow_pickle=False) as arrays:
        plan = json.loads(arrays["program"].tobytes())
        constants = {name: arrays[str(i)] for i, name in enumerate(plan["constants"])}
    values: dict[str, Any] = {}
    inputs = []
    for i, (name, dtype, shape) in enumerate(plan["inputs"]):
        values[name] = tpu.Tensor(shape, f"in{i}", data=np.zeros(shape, dtype), dtype=dtype)
        inputs.append(values[name])
    for i, (name, array) in enumerate(constants.items()):
        values[name] = tpu.Tensor(
            list(array.shape), f"c{i}", ttype="coeff", data=array, dtype=str(array.dtype)
        )
    wanted = {name: i for i, name in enumerate(plan["outputs"])}
    for i, (kind, names, output, dtype, shape, numbers) in enumerate(plan["operations"]):
        made = KINDS[kind]([values[name] for name in names], dtype, **numbers)
        made.name = f"out{wanted[output]}" if output in wanted else f"t{i}"
        made.shape = shape
        values[output] = made
    return inputs, [values[name] for name in plan["outputs"]]


def compile(request: dict[str, Any]) -> dict[str, Any]:
    """Compile a program.

    Request:
        program: .npz of archnet/export/tpu_program.py.
        chip: bm1684x or bm1688.
        binary: .bmodel that is written.
        profile: gets the compiler's list of commands with their cycles, where it writes one.
        placement: gets the network as it is compiled, in MLIR's text.
    """
    target = {name: Path(request[name]) for name in ("binary", "profile", "placement")}
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        try:
            tpu.init(request["chip"])
            inputs, outputs = _build(request["program"])
            tpu.compile(NETWORK, inputs, outputs, False, None, mlir_inference=False, bmodel_inference=False)
            made = Path(scratch)
            shutil.copyfile(made / f"{NETWORK}_int8.bmodel", target["binary"])
            shutil.copyfile(made / f"{NETWORK}_int8_final.mlir", target["placement"])
            commands = made / "compiler_profile_0.txt"
            target["profile"].write_bytes(commands.read_bytes() if commands.exists() else b"")
        finally:
            os.chdir(before)
            tpu.deinit()
    return {"bytes": target["binary"].stat().st_size}


def load(request: dict[str, Any]) -> dict[str, Any]:
    """Hold a compiled network in the simulator, the only one of this process: the file request["binary"]."""
    path = request["binary"]
    chip = model_runner.get_chip_from_model(path)
    # The simulator of each chip is the same file name, a link; this is what tpu-mlir's own runner does.
    with model_runner.FileLock("/tmp/cmodel_so.lock"):
        model_runner.link_cmodel_so(chip)
        model_runner.link_bmlib_so(chip)
        import pyruntime_bm

        model_runner.bind_cmodel_so(chip)
    model = pyruntime_bm.Model(path, 0, "")
    _held.append((model, model.Net(model.networks[0])))
    return {}


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Run one row through the network that is held.

    Request:
        inputs: .npz with "0", "1", ... in the program's order, as integers.
        outputs: .npz that gets the program's outputs likewise.
    """
    ((_, net),) = _held
    with np.load(request["inputs"]) as arrays:
        given = {f"in{i}": arrays[str(i)] for i in range(len(arrays.files))}
    shapes = []
    for value in net.inputs:
        array = given[value.name]
        value.data.reshape(-1)[:] = array.reshape(-1)
        shapes.append(list(array.shape))
    net.forward_dynamic(shapes)
    # By their order: an output that a Reshape makes may have the name of what that reads.
    outputs: dict[str, Any] = {str(i): np.array(value.data) for i, value in enumerate(net.outputs)}
    np.savez(request["outputs"], **outputs)
    return {}
