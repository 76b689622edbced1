"""ESP-PPQ in an environment of its own: a quantizer of any width as its documented extension, LSQ on top.

Its ready-made platforms are for 8 and 16 bits and for convolutional networks. What runs is its own executor,
which simulates integers in float; it writes no file of packed integers, so there is no size.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from side_by_side.network_folder import Inputs
from side_by_side.recipe import WIDTHS, Forward, Order, Recipe

PACKAGES = ("esp-ppq", "torch", "onnx")
EXAMPLES = 256
LAYERS = {"Conv", "Gemm", "MatMul"}


def make(order: Order, tuned: bool) -> list[Path]:
    """Quantize, and keep the graph in its own format."""
    import torch
    from esp_ppq.api import QuantizationSettingFactory, export_ppq_graph, quantize_onnx_model
    from esp_ppq.core import TargetPlatform
    from esp_ppq.lib import register_network_quantizer

    torch.set_num_threads(order.threads)
    register_network_quantizer(_quantizer(order.weights, order.activations), TargetPlatform.EXTENSION)
    feeds = [_tensors(inputs) for inputs in order.graph.calibration.singles(EXAMPLES)]
    settings = QuantizationSettingFactory.default_setting()
    settings.lsq_optimization = tuned
    settings.lsq_optimization_setting.collecting_device = "cpu"
    graph = quantize_onnx_model(
        str(_readable(order)),
        feeds,
        len(feeds),
        None,
        TargetPlatform.EXTENSION,
        inputs=feeds[0],
        setting=settings,
        device="cpu",
    )
    export_ppq_graph(graph, TargetPlatform.NATIVE, str(order.out / "network.native"))
    return []


def open_native(folder: Path, threads: int) -> Forward:
    """Its simulation."""
    import torch
    from esp_ppq.api import load_native_graph
    from esp_ppq.executor import TorchExecutor

    torch.set_num_threads(threads)
    graph = load_native_graph(str(folder / "network.native"))
    executor = TorchExecutor(graph, device="cpu")
    names = list(graph.inputs)
    outputs = list(graph.outputs)

    def forward(inputs: Inputs) -> dict[str, Any]:
        values = executor(_tensors({name: inputs[name] for name in names}))
        return {name: value.numpy() for name, value in zip(outputs, values, strict=True)}

    return forward


def _quantizer(weights: int, activations: int) -> Any:
    """A quantizer class for its extension: layers and products, weights per output channel."""
    from esp_ppq.core import QuantizationPolicy, QuantizationProperty, RoundingPolicy, TargetPlatform
    from esp_ppq.quantization.quantizer.base import BaseQuantizer

    whole = QuantizationProperty.SYMMETRICAL + QuantizationProperty.LINEAR + QuantizationProperty.PER_TENSOR
    each = QuantizationProperty.SYMMETRICAL + QuantizationProperty.LINEAR + QuantizationProperty.PER_CHANNEL

    class Quantizer(BaseQuantizer):  # type: ignore[misc]
        def init_quantize_config(self, operation: Any) -> Any:
            config = self.create_default_quant_config(
                op=operation,
                num_of_bits=activations,
                exponent_bits=0,
                quant_max=2 ** (activations - 1) - 1,
                quant_min=-(2 ** (activations - 1)),
                observer_algorithm="kl" if activations == 8 else "mse",
                policy=self.quantize_policy,
                rounding=self.rounding_policy,
            )
            if len(operation.inputs) > 1 and operation.inputs[1].is_parameter:
                weight = config.input_quantization_config[1]
                transposed = operation.attributes.get("transB", 0) == 1
                weight.policy = QuantizationPolicy(each)
                weight.channel_axis = 0 if transposed or operation.type == "Conv" else 1
                weight.num_of_bits = weights
                weight.quant_max = 2 ** (weights - 1) - 1
                weight.quant_min = -(2 ** (weights - 1))
                weight.observer_algorithm = "minmax"
            return config

        target_platform = property(lambda self: TargetPlatform.EXTENSION)
        quant_operation_types = property(lambda self: LAYERS)
        quantize_policy = property(lambda self: QuantizationPolicy(whole))
        rounding_policy = property(lambda self: RoundingPolicy.ROUND_HALF_EVEN)
        activation_fusion_types = property(lambda self: set())

    return Quantizer


def _tensors(inputs: Inputs) -> dict[str, Any]:
    import torch

    return {name: torch.from_numpy(values.copy()) for name, values in inputs.items()}


def _readable(order: Order) -> Path:
    """The float graph with Shape(start, end) as Shape and Slice: its executor ignores the attributes."""
    import numpy as np
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(order.graph.onnx)
    nodes = []
    for node in model.graph.node:
        bounds = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type != "Shape" or not bounds:
            nodes.append(node)
            continue
        (output,) = node.output
        for name, value in (("start", bounds.get("start", 0)), ("end", bounds.get("end", 2**31 - 1))):
            array = np.array([value], dtype=np.int64)
            model.graph.initializer.append(numpy_helper.from_array(array, f"{output}_{name}"))
        nodes.append(helper.make_node("Shape", [node.input[0]], [f"{output}_whole"]))
        cut = [f"{output}_whole", f"{output}_start", f"{output}_end"]
        nodes.append(helper.make_node("Slice", cut, [output]))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    file = order.out / "readable.onnx"
    onnx.save(model, file)
    return file


def _recipe(name: str, tuned: bool, settings: str) -> Recipe:
    return Recipe(
        name=f"ESP-PPQ {name}",
        packages=PACKAGES,
        widths=WIDTHS,
        make=partial(make, tuned=tuned),
        open=open_native,
        settings=f"{settings}, {EXAMPLES} examples",
        scope="fully connected layers and attention products; the rest, with the embedding, in float",
        environment="esp-ppq",
        simulated=WIDTHS,
    )


RECIPES = (
    _recipe("calibration", False, "KL for 8 bits, MSE below"),
    _recipe("LSQ", True, "and LSQ with its defaults, 500 steps a block"),
)
