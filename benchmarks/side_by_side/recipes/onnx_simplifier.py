"""onnxsim's quantizers: whole-graph QDQ, static int8 with block fine-tuning, and int4 weights in blocks of 32
with GPTQ, AdaRound, BRECQ or block fine-tuning on top.

Its AdaRound, BRECQ and GPTQ exist for int4 weights only. The numbers of steps are its defaults.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from side_by_side.network_folder import Inputs
from side_by_side.recipe import WIDTHS, Cannot, Order, Recipe
from side_by_side.recipes.onnx_runtime import open_file

PACKAGES = ("onnxsim", "onnx", "onnxruntime")
EXAMPLES = 64
BATCH = 8
"""Examples of one shape: block fine-tuning puts all batches together."""


def make_whole(order: Order) -> list[Path]:
    """quantize_full_qdq: every operator, as an NPU without float needs it."""
    import onnxsim.full_qdq

    try:
        model = onnxsim.full_qdq.quantize_full_qdq(
            _simplified(order),
            order.graph.calibration.singles(EXAMPLES),
            activation_dtype=f"uint{order.activations}",
            weight_dtype=f"int{order.weights}",
        )
    except ValueError as error:
        raise Cannot(f"quantize_full_qdq: {error}") from error
    return _save(model, order)


def make_static(order: Order, method: str, tuned: bool) -> list[Path]:
    """quantize_static of fully connected layers, with apply_qat_all_blocks if `tuned`."""
    import onnxsim
    from onnxsim import QuantizationConfig

    original, data = _simplified(order), _batches(order)
    try:
        model = onnxsim.quantize(
            original,
            QuantizationConfig(
                scheme="static",
                dtype=f"int{order.weights}" if order.weights == order.activations else order.bits,
                calibration_data=data,
                calibration_method=method,
            ),
        )
    except ValueError as error:
        raise Cannot(str(error)) from error
    if tuned:
        model = _fine_tuned(original, model, data, learn_activation_scales=True)
    return _save(model, order)


def make_weights(order: Order, algorithm: str) -> list[Path]:
    """quantize_weight_only_int4, then one of its corrections."""
    import onnxsim

    if order.weights != 4:
        raise Cannot("AdaRound, BRECQ, GPTQ and block fine-tuning of onnxsim are for int4 weights")
    model = _simplified(order)
    data = _batches(order)
    quantized = onnxsim.quantize_weight_only_int4(model)
    if algorithm == "GPTQ":
        quantized = onnxsim.apply_gptq(model, quantized, calibration_data=data)
    elif algorithm == "AdaRound":
        quantized = onnxsim.apply_adaround(model, quantized, calibration_data=data)
    elif algorithm == "BRECQ":
        blocks = [
            (block.input_name, block.output_name) for block in onnxsim.discover_qat_blocks(model, quantized)
        ]
        before = quantized.SerializeToString()
        quantized = onnxsim.apply_brecq(model, quantized, blocks, calibration_data=data)
        if quantized.SerializeToString() == before:
            raise Cannot(
                f"apply_brecq changed nothing in any of {len(blocks)} blocks: it knows chains of "
                "MatMul without anything between them"
            )
    else:
        quantized = _fine_tuned(model, quantized, data)
    return _save(quantized, order)


def _fine_tuned(original: Any, quantized: Any, data: list[Inputs], **options: bool) -> Any:
    """apply_qat_all_blocks with its defaults; refused when it trains nothing."""
    import onnxsim

    tuned, results = onnxsim.apply_qat_all_blocks(original, quantized, calibration_data=data, **options)
    if not any(result.trained for result in results):
        reasons = sorted({str(result.skipped_reason) for result in results}) or ["it found no block"]
        raise Cannot(f"apply_qat_all_blocks trained none of {len(results)} blocks: {reasons[0]}")
    return tuned


def _simplified(order: Order) -> Any:
    """The float graph at opset 21 (int4 needs it), simplified."""
    import onnx
    import onnxsim

    model = onnx.version_converter.convert_version(onnx.load(order.graph.onnx), 21)
    simple, _ = onnxsim.simplify(model)
    return simple


def _batches(order: Order) -> list[Inputs]:
    return order.graph.calibration.batches(EXAMPLES, BATCH)


def _save(model: Any, order: Order) -> list[Path]:
    import onnx

    file = order.out / "model.onnx"
    onnx.save(model, file)
    return [file]


def _recipe(name: str, widths: tuple[str, ...], make: Any, settings: str, scope: str) -> Recipe:
    return Recipe(
        name=f"onnxsim {name}",
        packages=PACKAGES,
        widths=widths,
        make=make,
        open=open_file,
        settings=f"{settings}, {EXAMPLES} examples",
        scope=scope,
    )


_LAYERS = "fully connected layers; the rest in float"
_WEIGHTS = "weights of fully connected layers; the rest in float"

RECIPES = (
    _recipe("quantize_full_qdq", WIDTHS, make_whole, "per channel, MinMax", "all operators"),
    _recipe(
        "quantize_static",
        WIDTHS,
        partial(make_static, method="mse", tuned=False),
        "per channel, calibration method mse",
        _LAYERS,
    ),
    _recipe(
        "quantize_static, block fine-tuning",
        ("w8a8",),
        partial(make_static, method="mse", tuned=True),
        "calibration method mse, apply_qat_all_blocks, 1000 steps a block",
        _LAYERS,
    ),
    *(
        _recipe(
            f"int4, {algorithm}",
            ("w4a32", "w2a32") if algorithm == "AdaRound" else ("w4a32",),
            partial(make_weights, algorithm=algorithm),
            f"blocks of 32, {algorithm} with its defaults",
            _WEIGHTS,
        )
        for algorithm in ("GPTQ", "AdaRound", "BRECQ", "block fine-tuning")
    ),
)
