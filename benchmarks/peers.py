"""One runtime with one form of a model in a process of its own; benchmarks/latency.py starts it.

    python benchmarks/peers.py NAME BUILD_DIR WORK_DIR THREADS

It answers one JSON object a line on its standard output: first {"ready": versions} or {"missing": why},
then, for each line {"batch": B, "sequence": S} that it reads, {"ms": time of one forward pass}.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Inputs = dict[str, NDArray[np.int64]]
Forward = Callable[[Inputs], object]

CALIBRATION_SENTENCES = 64
WARM_SECONDS = 0.15
"""A peer runs for this long, untimed, before its timed pass of every round."""

LEAST_VOCABULARY = 50
"""Ids below this exist in every model; which tokens they are has no influence on the time."""


class Missing(Exception):
    """Why a peer cannot be measured here."""


def onnxruntime_of(file: Path, threads: int) -> Forward:
    """A file in ONNX Runtime, at the optimisation level that it names or else the default (all)."""
    import onnxruntime as ort

    from archnet.onnx_session import session_options

    options = session_options(threads)
    session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    return lambda inputs: session.run(None, {name: inputs[name] for name in names})


def openvino_of(model: Any, threads: int, precision: str) -> Forward:
    """A file or model in OpenVINO; `precision` is what float operators may compute in (f32, bf16)."""
    import openvino as ov

    core = ov.Core()
    model = core.read_model(str(model)) if isinstance(model, Path) else model
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": precision,
        "PERFORMANCE_HINT": "LATENCY",
    }
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    names = [value.get_any_name() for value in model.inputs]
    return lambda inputs: request.infer({name: inputs[name] for name in names})


def bfloat16_of(file: Path, threads: int) -> Forward:
    """bf16 in OpenVINO; only where the processor has it."""
    import openvino as ov

    if "BF16" not in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise Missing("this processor has no bf16 arithmetic")
    return openvino_of(file, threads, "bf16")


def dynamic_int8(build: Path, work: Path) -> Path:
    """ONNX Runtime's dynamic quantization of the float original: int8 weights, activations at run time."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    file = work / "dynamic.onnx"
    if not file.exists():
        quantize_dynamic(float_file(build), file, weight_type=QuantType.QInt8, per_channel=True)
    return file


def static_int8(build: Path, work: Path) -> Path:
    """ONNX Runtime's static quantization of the float original: all operators that it can."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches = calibration_batches(build)

        def get_next(self) -> Inputs | None:
            return next(self.batches, None)

    file = work / "static.onnx"
    if not file.exists():
        quantize_static(
            float_file(build),
            file,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    return file


def nncf_int8(build: Path, work: Path) -> Path:
    """NNCF's post-training quantization of the float original for OpenVINO."""
    import nncf
    import openvino as ov

    file = work / "nncf.xml"
    if not file.exists():
        model = ov.Core().read_model(str(float_file(build)))
        data = nncf.Dataset(list(calibration_batches(build)))
        ov.save_model(nncf.quantize(model, data, model_type=nncf.ModelType.TRANSFORMER), str(file))
    return file


def float_file(build: Path) -> Path:
    return build / "onnx" / "float.onnx"


def integer_file(build: Path) -> Path:
    return build / "onnx" / "model.onnx"


def gemm_file(build: Path, work: Path) -> Path:
    """The integer network with Gemm instead of 1x1 convolutions, made from the build's graph."""
    from archnet.export.onnx import export_onnx
    from archnet.storage import load_graph

    if not (build / "graph").is_dir():
        raise Missing(f"{build / 'graph'} does not exist")
    file = work / "gemm.onnx"
    if not file.exists():
        export_onnx(load_graph(build / "graph"), file, linear="gemm")
    return file


def calibration_batches(build: Path) -> Iterator[Inputs]:
    """The build folder's own sample sentences, one a batch; without them, random tokens."""
    file = build / "calibration.npz"
    if file.exists():
        with np.load(file) as arrays:
            ids, mask = arrays["input_ids"], arrays["attention_mask"]
        for row, seen in zip(ids[:CALIBRATION_SENTENCES], mask[:CALIBRATION_SENTENCES], strict=True):
            length = max(2, int(seen.sum()))
            yield {"input_ids": row[None, :length], "attention_mask": seen[None, :length]}
        return
    rng = np.random.default_rng(0)
    for _ in range(8):
        ids = rng.integers(0, LEAST_VOCABULARY, (1, 24), dtype=np.int64)
        yield {"input_ids": ids, "attention_mask": np.ones_like(ids)}


PEERS: dict[str, tuple[tuple[str, ...], Callable[[Path, Path, int], Forward]]] = {
    "ONNX Runtime float32": (("onnxruntime",), lambda b, w, t: onnxruntime_of(float_file(b), t)),
    "ONNX Runtime dynamic int8": (("onnxruntime",), lambda b, w, t: onnxruntime_of(dynamic_int8(b, w), t)),
    "ONNX Runtime static int8": (("onnxruntime",), lambda b, w, t: onnxruntime_of(static_int8(b, w), t)),
    "OpenVINO float32": (("openvino",), lambda b, w, t: openvino_of(float_file(b), t, "f32")),
    "OpenVINO bf16": (("openvino",), lambda b, w, t: bfloat16_of(float_file(b), t)),
    "OpenVINO NNCF int8": (("openvino", "nncf"), lambda b, w, t: openvino_of(nncf_int8(b, w), t, "f32")),
    "Arch-Net int8 in OpenVINO": (("openvino",), lambda b, w, t: openvino_of(integer_file(b), t, "f32")),
    "Arch-Net int8 (Gemm) in OpenVINO": (
        ("openvino",),
        lambda b, w, t: openvino_of(gemm_file(b, w), t, "f32"),
    ),
    "Arch-Net int8 (Gemm) in ONNX Runtime": (
        ("onnxruntime",),
        lambda b, w, t: onnxruntime_of(gemm_file(b, w), t),
    ),
    "Arch-Net int8 in ONNX Runtime": (("onnxruntime",), lambda b, w, t: onnxruntime_of(integer_file(b), t)),
}
"""Name -> (the packages that it needs, how to open it), the first being what all are compared with."""


def full_batch(batch: int, sequence: int) -> Inputs:
    """Random tokens without padding, the same for every peer."""
    ids = np.random.default_rng(0).integers(0, LEAST_VOCABULARY, (batch, sequence), dtype=np.int64)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"


def main() -> None:
    name, build, work, threads = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
    # What libraries print must not mix with the answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def answer(**values: object) -> None:
        answers.write(json.dumps(values) + "\n")

    packages, opening = PEERS[name]
    try:
        versions = {package: str(importlib.import_module(package).__version__) for package in packages}
        forward = opening(build, work, threads)
    except (ImportError, Missing) as error:
        answer(missing=str(error))
        return
    except Exception as error:  # a peer that fails is a result to report, whatever it raises
        answer(missing=_first_line(error))
        return
    answer(ready=versions)
    for line in sys.stdin:
        request = json.loads(line)
        inputs = full_batch(request["batch"], request["sequence"])
        try:
            # Into the steady state: the peer before has stopped spinning, the caches hold this one's weights.
            warm = time.perf_counter() + WARM_SECONDS
            while time.perf_counter() < warm:
                forward(inputs)
            began = time.perf_counter()
            forward(inputs)
            answer(ms=1000 * (time.perf_counter() - began))
        except Exception as error:  # as above
            answer(missing=_first_line(error))


if __name__ == "__main__":
    main()
