"""AIMET (aimet-onnx) in an environment of its own: QuantSim, sequential MSE, AdaRound.

Its default configuration quantizes every tensor, which is what networks without attention get. In one with
attention the mask's -3.4e38 is among them, which ruins MiniLM at 8 bits (cosine 0.37 with float), so that
gets a configuration that quantizes what the other tools do: inputs and weights of fully connected layers,
attention products and convolutions, and the embedding. What is scored is the QDQ
file that it exports, in ONNX Runtime; where it cannot export (2 bits), its own simulation.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from side_by_side.network_folder import Inputs
from side_by_side.recipe import WIDTHS, Forward, Order, Recipe
from side_by_side.recipes.onnx_runtime import open_file

PACKAGES = ("aimet-onnx", "onnxruntime", "torch")
EXAMPLES, BATCH = 256, 16
ROUNDING_STEPS = 2000
"""AdaRound's steps a layer. It recommends 10,000 (15,000 below 8 bits), which takes hours without a GPU."""

_QUANTIZED = {"is_input_quantized": "True", "params": {"weight": {"is_quantized": "True"}}}
CONFIGURATION = {
    "defaults": {
        "ops": {},
        "params": {"is_quantized": "False", "is_symmetric": "True"},
        "strict_symmetric": "False",
        "unsigned_symmetric": "False",
        "per_channel_quantization": "True",
    },
    "params": {"bias": {"is_quantized": "False"}},
    "op_type": {
        "Gemm": _QUANTIZED,
        "MatMul": _QUANTIZED,
        "Conv": _QUANTIZED,
        "Gather": {"params": {"weight": {"is_quantized": "True"}}},
    },
    "supergroups": [],
    "model_input": {"is_input_quantized": "True"},
    "model_output": {},
}


def make(order: Order, algorithm: str) -> list[Path]:
    """Quantize and export."""
    import aimet_onnx
    import onnx

    batches = order.graph.calibration.batches(EXAMPLES, BATCH)
    widths = (order.weights, order.activations)
    sim = _simulation(order.graph.onnx, order.out, widths, batches[0], order.threads)
    if algorithm == "sequential MSE":
        aimet_onnx.apply_seq_mse(sim, batches)
    elif algorithm == "AdaRound":
        aimet_onnx.apply_adaround(sim, batches, num_iterations=ROUNDING_STEPS)
    sim.compute_encodings(batches)
    if order.weights == 2:  # to_onnx_qdq: "Invalid bitwidth 2"
        return _export_simulation(sim, order, batches[0])
    file = order.out / "model.onnx"
    onnx.save(sim.to_onnx_qdq(prequantize_constants=True), file)
    return [file]


def open_exported(folder: Path, threads: int) -> Forward:
    """The QDQ file in ONNX Runtime, or the simulation of what has no such file."""
    if (folder / "model.onnx").is_file():
        return open_file(folder, threads)
    import onnx
    from aimet_onnx.quantsim import load_encodings_to_sim

    with np.load(folder / "example.npz") as file:
        example = {name: file[name] for name in file.files}
    widths = json.loads((folder / "widths.json").read_text())
    outputs = [value.name for value in onnx.load(folder / "simulated.onnx").graph.output]
    sim = _simulation(folder / "simulated.onnx", folder, widths, example, threads)
    load_encodings_to_sim(sim, str(folder / "simulated.encodings"), strict=False)
    names = [value.name for value in sim.session.get_inputs()]

    def forward(inputs: Inputs) -> dict[str, Any]:
        values = sim.session.run(None, {name: inputs[name] for name in names})
        return dict(zip(outputs, values, strict=True))  # the simulation renames some

    return forward


def _export_simulation(sim: Any, order: Order, example: Inputs) -> list[Path]:
    """Its own format: float weights and the ranges beside them."""
    sim.export(str(order.out), "simulated")
    arrays: dict[str, Any] = dict(example)
    np.savez(order.out / "example.npz", **arrays)
    (order.out / "widths.json").write_text(json.dumps([order.weights, order.activations]))
    return sorted(order.out.glob("simulated.*"))


def _simulation(model: Path, folder: Path, widths: tuple[int, int], example: Inputs, threads: int) -> Any:
    import onnx
    from aimet_onnx import QuantizationSimModel
    from aimet_onnx.utils import duplicate_shared_initializers

    network = onnx.load(model)
    duplicate_shared_initializers(network.graph)  # it refuses an embedding that is an output layer too
    settings: Path | None = None
    if any(node.op_type == "Softmax" for node in network.graph.node):
        settings = folder / "quantsim.json"
        settings.write_text(json.dumps(CONFIGURATION))
    return QuantizationSimModel(
        network,
        param_type=f"int{widths[0]}",
        activation_type=f"int{widths[1]}",
        config_file=None if settings is None else str(settings),
        dummy_input=example,
        session_options_kwargs={"intra_op_num_threads": threads},
    )


def _recipe(algorithm: str, settings: str) -> Recipe:
    return Recipe(
        name=f"AIMET {algorithm}",
        packages=PACKAGES,
        widths=WIDTHS,
        make=partial(make, algorithm=algorithm),
        open=open_exported,
        settings=f"{settings}, per channel, {EXAMPLES} examples",
        scope="fully connected layers, attention products, the embedding, the rest in float; "
        "all of a network without attention",
        environment="aimet-onnx",
        simulated=("w2a4",),
    )


RECIPES = (
    _recipe("MinMax", "ranges by MinMax"),
    _recipe("sequential MSE", "weights' ranges by sequential MSE, 20 candidates"),
    _recipe("AdaRound", f"{ROUNDING_STEPS} steps a layer of the 10,000 to 15,000 recommended"),
)
