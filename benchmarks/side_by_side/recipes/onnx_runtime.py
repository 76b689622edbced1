"""ONNX Runtime: the float original, and its own quantizers after its own pre-processing.

Static quantization is measured twice: of every operator that it can, and of fully connected layers and
attention products only, which is what its documentation and Hugging Face Optimum do to Transformers.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from side_by_side.network_folder import Inputs
from side_by_side.recipe import WEIGHTS_ONLY, WIDTHS, Cannot, Forward, Order, Recipe

PACKAGES = ("onnxruntime", "onnx")
CALIBRATION = 200
"""Examples; Optimum's documentation of static quantization takes 50 to 200."""

LAYERS = ("MatMul", "Gemm", "Conv")
BLOCK = 32


def adds_in_16_bits() -> bool:
    """As in archnet/onnx_session.py, which AIMET's environment does not have."""
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    return "avx2" in flags and not any(name in flags for name in ("avx_vnni", "avx512_vnni", "amx_int8"))


def open_file(folder: Path, threads: int) -> Forward:
    """FOLDER/model.onnx in ONNX Runtime, all optimizations."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    if adds_in_16_bits():
        options.add_session_config_entry("session.x64quantprecision", "1")
    session = ort.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    outputs = [value.name for value in session.get_outputs()]

    def forward(inputs: Inputs) -> dict[str, Any]:
        values = session.run(outputs, {name: inputs[name] for name in names})
        return dict(zip(outputs, values, strict=True))

    return forward


def make_float(order: Order) -> list[Path]:
    """The original, as it is."""
    return [Path(shutil.copyfile(order.graph.onnx, order.out / "model.onnx"))]


def make_dynamic(order: Order) -> list[Path]:
    """int8 weights per output channel; activations quantized at run time."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    file = order.out / "model.onnx"
    quantize_dynamic(preprocessed(order), file, weight_type=QuantType.QInt8, per_channel=True)
    return [file]


def make_static(order: Order, method: str, operators: tuple[str, ...] | None) -> list[Path]:
    """QDQ with weights per output channel and asymmetric activations.

    Args:
        method: calibration: MinMax, Entropy or Percentile (99.999).
        operators: types that are quantized; all that it can when None.
    """
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            examples = order.graph.calibration
            # Its histograms refuse arrays of different shapes.
            whole = examples.singles(CALIBRATION) if method == "MinMax" else examples.batches(CALIBRATION, 1)
            self.feeds: Iterator[Inputs] = iter(whole)

        def get_next(self) -> Inputs | None:
            return next(self.feeds, None)

    types = {quant_type.name: quant_type for quant_type in QuantType}
    wanted = f"QInt{order.weights}", f"QUInt{order.activations}"
    for name in wanted:
        if name not in types:
            raise Cannot(f"quantize_static has no {name}: {', '.join(types)}")
    file = order.out / "model.onnx"
    quantize_static(
        preprocessed(order),
        file,
        Reader(),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=list(operators) if operators else None,
        per_channel=True,
        weight_type=types[wanted[0]],
        activation_type=types[wanted[1]],
        calibrate_method=CalibrationMethod[method],
    )
    return [file]


def make_blocks(order: Order, algorithm: str) -> list[Path]:
    """MatMulNBits: weights in blocks of 32, the embedding too; int8 activations in the kernel, or float."""
    import onnx
    from onnxruntime.quantization import matmul_nbits_quantizer as nbits

    accuracy = 4 if order.activations == 8 else 0
    both: dict[str, Any] = {
        "op_types_to_quantize": ("MatMul", "Gather"),
        "quant_axes": (("MatMul", 0), ("Gather", 1)),
    }
    if algorithm == "HQQ":  # without activations and embedding: it leaves both alone
        config = nbits.HQQWeightOnlyQuantConfig(block_size=BLOCK, bits=order.weights)
        both = {}
    else:
        config = nbits.DefaultWeightOnlyQuantConfig(
            block_size=BLOCK, bits=order.weights, accuracy_level=accuracy, **both
        )
    try:
        quantizer = nbits.MatMulNBitsQuantizer(
            onnx.load(preprocessed(order)),
            bits=order.weights,
            block_size=BLOCK,
            accuracy_level=accuracy,
            algo_config=config,
            **both,
        )
        quantizer.process()
    except (ValueError, NotImplementedError, AssertionError) as error:
        raise Cannot(f"MatMulNBits: {error or type(error).__name__}") from error
    file = order.out / "model.onnx"
    quantizer.model.save_model_to_file(str(file))
    return [file]


def preprocessed(order: Order) -> Path:
    """The float graph after `quant_pre_process`: shapes inferred, fused by ONNX Runtime.

    Its symbolic shape inference fails on some graphs of PyTorch's exporter; then it is skipped, as its
    documentation advises.
    """
    from onnxruntime.quantization.shape_inference import quant_pre_process

    file = order.out / "preprocessed.onnx"
    try:
        quant_pre_process(str(order.graph.onnx), str(file), auto_merge=True)
    except Exception:  # whatever its inference raises
        quant_pre_process(str(order.graph.onnx), str(file), skip_symbolic_shape=True)
    return file


def _static(method: str, operators: tuple[str, ...] | None) -> Recipe:
    part = "layers" if operators else "all operators"
    shape = "" if method == "MinMax" else " padded to one length"
    scope = "fully connected layers and attention products; the rest in float" if operators else part
    return Recipe(
        name=f"ONNX Runtime static, {part}, {method}",
        packages=PACKAGES,
        widths=WIDTHS,
        make=partial(make_static, method=method, operators=operators),
        open=open_file,
        settings=f"QDQ, per channel, {method}, {CALIBRATION} examples{shape}, quant_pre_process",
        scope=scope,
    )


def _blocks(algorithm: str) -> Recipe:
    gather = ", embedding too" if algorithm == "default" else ""
    return Recipe(
        name=f"ONNX Runtime MatMulNBits, {algorithm}",
        packages=PACKAGES,
        widths=("w4a8", *WEIGHTS_ONLY) if algorithm == "default" else WEIGHTS_ONLY,
        make=partial(make_blocks, algorithm=algorithm),
        open=open_file,
        settings=f"blocks of {BLOCK}{gather}; a8 is accuracy_level 4, quantized at run time",
        scope="weights of fully connected layers; the rest in float",
    )


FLOAT = Recipe(
    name="float original",
    packages=PACKAGES,
    widths=("w32a32",),
    make=make_float,
    open=open_file,
    settings="ONNX Runtime, float32",
    scope="nothing",
)

RECIPES = (
    FLOAT,
    Recipe(
        name="ONNX Runtime dynamic",
        packages=PACKAGES,
        widths=("w8a8",),
        make=make_dynamic,
        open=open_file,
        settings="per channel, quant_pre_process",
        scope="fully connected layers and the embedding; the rest in float",
    ),
    _static("MinMax", None),
    *(_static(method, LAYERS) for method in ("MinMax", "Entropy", "Percentile")),
    _blocks("default"),
    _blocks("HQQ"),
)
