"""nncase for Kendryte K230: compiles a float ONNX file, and runs what it made in the chip's simulator.

Simulator runs write scratch files into the working directory, so each is in a temporary one.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import nncase
import numpy as np

# The simulator of the KPU is a program that nncase looks for by its bare name.
os.environ["PATH"] = f"{Path(nncase.__file__).parents[1]}:{os.environ.get('PATH', '')}"


def compile(request: dict[str, Any]) -> dict[str, Any]:
    """Compile a model with 8-bit weights and activations.

    Request:
        model: ONNX file.
        calibration: .npz with "0", "1", ... in the order of the model's inputs, (samples, *shape) float32.
        kmodel: is written.
        dump: folder for what nncase shows of its passes.
    """
    with np.load(request["calibration"]) as arrays:
        inputs = [list(arrays[str(i)]) for i in range(len(arrays.files))]
    options = nncase.CompileOptions()
    options.target = "k230"
    options.dump_ir, options.dump_asm, options.dump_dir = True, False, request["dump"]
    compiler = nncase.Compiler(options)
    compiler.import_onnx(Path(request["model"]).read_bytes(), nncase.ImportOptions())
    quantization = nncase.PTQTensorOptions()
    quantization.samples_count = len(inputs[0])
    quantization.calibrate_method = "NoClip"
    quantization.quant_type = quantization.w_quant_type = "int8"
    quantization.set_tensor_data(inputs)
    compiler.use_ptq(quantization)
    compiler.compile()
    content = compiler.gencode_tobytes()
    Path(request["kmodel"]).write_bytes(content)
    return {"bytes": len(content)}


def simulate(request: dict[str, Any]) -> dict[str, Any]:
    """Run rows of inputs one by one.

    Request:
        kmodel: the compiled file.
        inputs: .npz with "0", "1", ... in the order of the model's inputs, (rows, *shape) float32.
        outputs: .npz that gets the model's outputs likewise.
    """
    with np.load(request["inputs"]) as arrays:
        inputs = [arrays[str(i)] for i in range(len(arrays.files))]
    simulator = nncase.Simulator()
    simulator.load_model(Path(request["kmodel"]).read_bytes())
    before, rows = Path.cwd(), []
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        try:
            for row in zip(*inputs, strict=True):
                for i, value in enumerate(row):
                    tensor = nncase.RuntimeTensor.from_numpy(np.ascontiguousarray(value))
                    simulator.set_input_tensor(i, tensor)
                simulator.run()
                count = simulator.outputs_size
                rows.append([simulator.get_output_tensor(i).to_numpy().copy() for i in range(count)])
        finally:
            os.chdir(before)
    outputs: dict[str, Any] = {str(i): np.stack(values) for i, values in enumerate(zip(*rows, strict=True))}
    np.savez(request["outputs"], **outputs)
    return {"rows": len(rows)}
