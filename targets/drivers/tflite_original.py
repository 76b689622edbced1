"""A float ONNX file as int8 TFLite, by the tools that users are pointed to: onnx2tf and Google's quantizer.

Manuals: onnx2tf 2.6, README (its direct writer, which needs no TensorFlow); ai-edge-quantizer 0.10, README,
the recipe `static_wi8_ai8` (int8 weights with a scale a channel, int8 activations). Runs in the toolchain
`onnx2tf`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

_CHANNELS_LAST = (0, 2, 3, 1)
_PICTURES = 4
"""Axes of a batch of pictures."""


def quantize(request: dict[str, Any]) -> dict[str, Any]:
    """The ONNX file "model", of one size, as "tflite", with ranges from "samples" (.npz, rows in front)."""
    import onnx2tf  # type: ignore[import-not-found]
    from ai_edge_quantizer import quantizer, recipe  # type: ignore[import-not-found]

    with np.load(request["samples"]) as file:
        samples = dict(file)
    kept = [name for name, value in samples.items() if value.ndim != _PICTURES]
    with tempfile.TemporaryDirectory(dir=Path(request["tflite"]).parent) as folder:
        onnx2tf.convert(
            input_onnx_file_path=request["model"],
            output_folder_path=folder,
            keep_shape_absolutely_input_names=kept or None,
            non_verbose=True,
        )
        plain = next(Path(folder).glob("*_float32.tflite"))
        made = quantizer.Quantizer(str(plain))
        made.load_quantization_recipe(recipe.static_wi8_ai8())
        ranges = made.calibrate({_signature(plain): _rows(samples)})
        made.quantize(ranges).export_model(request["tflite"], overwrite=True)
    return {}


def _signature(path: Path) -> str:
    from ai_edge_litert.interpreter import Interpreter

    return str(next(iter(Interpreter(str(path)).get_signature_list())))


def _rows(samples: dict[str, Any]) -> list[dict[str, Any]]:
    """Batches of one, with channels last as the converter has them."""
    turned = {
        name: np.ascontiguousarray(value.transpose(_CHANNELS_LAST)) if value.ndim == _PICTURES else value
        for name, value in samples.items()
    }
    count = len(next(iter(turned.values())))
    return [{name: value[i : i + 1] for name, value in turned.items()} for i in range(count)]
