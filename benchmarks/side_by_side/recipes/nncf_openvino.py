"""NNCF on OpenVINO: post-training quantization with its accuracy-aware variant, and weight compression.

The settings are those that its documentation gives for Transformers: ModelType.TRANSFORMER (SmoothQuant on),
300 examples, and the accurate bias correction instead of the fast one. Only the widths are changed.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from side_by_side.network_folder import Inputs
from side_by_side.recipe import WEIGHTS_ONLY, WIDTHS, Cannot, Forward, Order, Recipe

PACKAGES = ("nncf", "openvino")
EXAMPLES = 300
VALIDATION = 200
"""Examples on which the accuracy-aware variant compares its network with the float one."""
COMPRESSION_EXAMPLES = 128
GROUP = 64


def open_xml(folder: Path, threads: int) -> Forward:
    """FOLDER/model.xml in OpenVINO, float operators in float32."""
    import openvino as ov

    core = ov.Core()
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
    }
    model = core.read_model(str(folder / "model.xml"))
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    names = [value.get_any_name() for value in model.inputs]
    outputs = [value.get_any_name() for value in model.outputs]

    def forward(inputs: Inputs) -> dict[str, Any]:
        found = request.infer({name: inputs[name] for name in names})
        return {name: np.array(found[i]) for i, name in enumerate(outputs)}

    return forward


def make_quantized(order: Order, fast: bool) -> list[Path]:
    """nncf.quantize."""
    import nncf

    try:
        model = nncf.quantize(
            _read(order), nncf.Dataset(order.graph.calibration.singles(EXAMPLES)), **_settings(order, fast)
        )
    except (nncf.errors.ParameterNotSupportedError, nncf.errors.ValidationError, ValueError) as error:
        raise Cannot(str(error)) from error
    return _save(model, order)


def make_accuracy_aware(order: Order) -> list[Path]:
    """nncf.quantize_with_accuracy_control, its measure the cosine with the float network's output.

    No label is given to any tool: the cosine of the two outputs, 1 for the float network itself, stands in
    for the task's score, with the documented max_drop of 0.01.
    """
    import nncf

    calibration = order.graph.calibration
    examples = calibration.singles(max(EXAMPLES, VALIDATION))[-VALIDATION:]
    exact = _runner(_read(order))
    targets = [exact(inputs) for inputs in examples]

    def agreement(model: Any, items: Iterable[dict[str, Any]]) -> tuple[float, list[float]]:
        values = []
        for item in items:
            a, b = targets[item["index"]], model(item["inputs"])[0]
            values.append(float(np.sum(a * b) / (np.linalg.norm(a) * np.linalg.norm(b) + 1e-12)))
        return float(np.mean(values)), values

    numbered = [{"index": i, "inputs": inputs} for i, inputs in enumerate(examples)]
    try:
        model = nncf.quantize_with_accuracy_control(
            _read(order),
            nncf.Dataset(calibration.singles(EXAMPLES)),
            nncf.Dataset(numbered, lambda item: item["inputs"]),
            agreement,
            max_drop=0.01,
            **_settings(order, fast=False, name="advanced_quantization_parameters"),
        )
    except (nncf.errors.ParameterNotSupportedError, nncf.errors.ValidationError, ValueError) as error:
        raise Cannot(str(error)) from error
    return _save(model, order)


def make_compressed(order: Order, algorithm: str) -> list[Path]:
    """nncf.compress_weights of every layer, the embedding too, in groups of 64."""
    import nncf

    mode = f"INT{order.weights}_SYM"
    if mode not in nncf.CompressWeightsMode.__members__:
        raise Cannot(f"compress_weights has no {mode}")
    options: dict[str, Any] = {
        "AWQ, scale estimation": {"awq": True, "scale_estimation": True},
        "AWQ, GPTQ": {"awq": True, "gptq": True},
    }[algorithm]
    model = _read(order)
    weights_by_rows(model)
    try:
        model = nncf.compress_weights(
            model,
            mode=nncf.CompressWeightsMode[mode],
            ratio=1.0,
            group_size=GROUP,
            all_layers=True,
            dataset=nncf.Dataset(order.graph.calibration.singles(COMPRESSION_EXAMPLES)),
            subset_size=COMPRESSION_EXAMPLES,
            **options,
        )
    except (nncf.errors.ParameterNotSupportedError, nncf.errors.ValidationError, ValueError) as error:
        raise Cannot(str(error)) from error
    return _save(model, order)


def weights_by_rows(model: Any) -> None:
    """Store the weights of fully connected layers as (outputs, inputs), as OpenVINO reads them from PyTorch.

    From ONNX they are (inputs, outputs), for which nncf 3.4 estimates scales that make the network worthless
    (cosine with the float network 0.00 instead of 0.97), and has no GPTQ.
    """
    from openvino import opset13
    from openvino.utils import replace_node

    for node in model.get_ordered_ops():
        if node.get_type_name() != "MatMul" or node.get_attributes()["transpose_b"]:
            continue
        source = node.input_value(1).get_node()
        if source.get_type_name() != "Constant" or source.get_data().ndim != 2:
            continue
        rows = opset13.constant(np.ascontiguousarray(source.get_data().T))
        made = opset13.matmul(node.input_value(0), rows, node.get_attributes()["transpose_a"], True)
        made.set_friendly_name(node.get_friendly_name())
        replace_node(node, made)
    model.validate_nodes_and_infer_types()


def _settings(order: Order, fast: bool, name: str = "advanced_parameters") -> dict[str, Any]:
    import nncf
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, QuantizationParameters

    settings: dict[str, Any] = {
        "model_type": nncf.ModelType.TRANSFORMER,
        "subset_size": EXAMPLES,
        "fast_bias_correction": fast,
    }
    if (order.weights, order.activations) != (8, 8):
        settings[name] = AdvancedQuantizationParameters(
            weights_quantization_params=QuantizationParameters(num_bits=order.weights),
            activations_quantization_params=QuantizationParameters(num_bits=order.activations),
        )
    return settings


def _read(order: Order) -> Any:
    import openvino as ov

    return ov.Core().read_model(str(order.graph.onnx))


def _runner(model: Any) -> Any:
    import openvino as ov

    compiled = ov.Core().compile_model(model, "CPU")
    return lambda inputs: np.array(compiled(inputs)[0])


def _save(model: Any, order: Order) -> list[Path]:
    import openvino as ov

    ov.save_model(model, str(order.out / "model.xml"))
    return [order.out / "model.xml", order.out / "model.bin"]


def _quantized(fast: bool) -> Recipe:
    correction = "fast" if fast else "accurate"
    return Recipe(
        name=f"NNCF quantize, {correction} bias correction",
        packages=PACKAGES,
        widths=WIDTHS,
        make=partial(make_quantized, fast=fast),
        open=open_xml,
        settings=f"ModelType.TRANSFORMER, SmoothQuant, {correction} bias correction, {EXAMPLES} examples",
        scope="fully connected layers; LayerNorm, softmax, GELU and the residual stream in float",
    )


RECIPES = (
    _quantized(fast=True),
    _quantized(fast=False),
    Recipe(
        name="NNCF quantize_with_accuracy_control",
        packages=PACKAGES,
        widths=WIDTHS,
        make=make_accuracy_aware,
        open=open_xml,
        settings=f"as NNCF quantize; max_drop 0.01 of the cosine with float on {VALIDATION} examples",
        scope="what keeps the cosine; the rest in float",
    ),
    *(
        Recipe(
            name=f"NNCF compress_weights, {algorithm}",
            packages=PACKAGES,
            widths=WEIGHTS_ONLY,
            make=partial(make_compressed, algorithm=algorithm),
            open=open_xml,
            settings=f"ratio 1, groups of {GROUP}, all layers, {COMPRESSION_EXAMPLES} examples",
            scope="weights; activations in float",
        )
        for algorithm in ("AWQ, scale estimation", "AWQ, GPTQ")
    ),
)
