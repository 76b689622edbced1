"""Reading RKNN-Toolkit2's table of layers, and what its driver does to a file for it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from archnet.targets.drivers.rockchip import dequantized_outputs, for_toolkit
from archnet.targets.rockchip import read_log

LOG = """\
I rknn building ...
D RKNN: [01:35:09.531] ID   OpType         DataType Target InputShape    OutputShape  Cycles(DDR/NPU/Total) RW(KB) FullName
D RKNN: [01:35:09.531] 0    InputOperator  INT8     CPU    \\             (1,384,1,32) 0/0/0               0    InputOperator:x
D RKNN: [01:35:09.531] 1    ConvRelu       INT8     NPU    (1,384,1,32),(8,384,1,1),(8) (1,8,1,32) 28053/18432/28053 600 Conv:fc1_cv
D RKNN: [01:35:09.531] 2    Conv           INT8     NPU    (1,1,1,32),(1,1,1,1),(1) (1,1,1,32) 30/128/128 0
D RKNN: [01:35:09.531] 3    Min            INT8     CPU    (1,8,1,32),(1,1,1,32) (1,8,1,32) 0/0/0        24   Min:masked/exact/Min
D RKNN: [01:35:09.531] 4    OutputOperator INT8     CPU    (1,8,1,32)    \\            0/0/0               12   OutputOperator:y
D RKNN: [01:35:09.532] 3   Min           x       INT8      NC1HWC2      (1,384,1,32)  (1,24,1,32,16) | 0x00000000 0x00003000 0x00003000
D RKNN: [01:35:09.532] Total Internal Memory Size: 72KB
D RKNN: [01:35:09.532] Total Weight Memory Size: 13.5KB
"""  # noqa: E501


def test_the_table_of_layers_is_read() -> None:
    found = read_log(LOG)
    assert [(layer.kind, layer.target, layer.cycles) for layer in found.layers] == [
        ("ConvRelu", "NPU", 28053), ("Conv", "NPU", 128), ("Min", "CPU", 0),
    ]  # fmt: skip
    assert [(layer.kind, layer.name) for layer in found.elsewhere] == [("Min", "Min:masked/exact/Min")]
    assert found.layers[1].name == ""
    assert found.cycles == 28181
    assert (found.internal_bytes, found.weight_bytes) == (72 * 1024, 13824)


@pytest.mark.parametrize("text", ["", LOG.replace("Total Weight", "Weight"), LOG.replace("/0/0 ", " ")[:200]])
def test_a_log_without_a_table_is_not_understood(text: str) -> None:
    with pytest.raises(ValueError, match="it names no layers or no memory"):
        read_log(text)


def as_read(weights: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the toolkit makes of int8 weights: the range -128 to 127 symmetric, and rounded once more."""
    wide = 128.0 * scale.astype(np.float64) / 127
    return np.rint(weights * scale.astype(np.float64)[:, None] / wide[:, None]), wide


def test_weights_and_scales_arrive_as_they_were() -> None:
    weights = np.tile(np.arange(-128, 128, dtype=np.int8), (3, 1))
    scales = np.array([0.013, 0.7, 3e-5], np.float32)
    step = np.float32(0.03)
    constants = {
        "w": weights, "w/scale": scales, "w/zero": np.zeros(3, np.int8), "x/scale": step,
        "zero": np.int8(0), "low": np.int8(-128), "y/scale": np.float32(0.02),
    }  # fmt: skip
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "x/scale", "zero"], ["x/q"]),
        helper.make_node("DequantizeLinear", ["x/q", "x/scale", "zero"], ["x/real"]),
        helper.make_node("DequantizeLinear", ["w", "w/scale", "w/zero"], ["w/real"], axis=0),
        helper.make_node("Gemm", ["x/real", "w/real"], ["y/exact"], transB=1),
        helper.make_node("QuantizeLinear", ["y/exact", "y/scale", "low"], ["y"]),
        helper.make_node("DequantizeLinear", ["y", "y/scale", "low"], ["y/real"]),
        helper.make_node("Relu", ["y/real"], ["z/exact"]),
        helper.make_node("QuantizeLinear", ["z/exact", "y/scale", "low"], ["z"]),
    ]
    model = helper.make_model(
        helper.make_graph(
            nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 256])],
            [helper.make_tensor_value_info(name, TensorProto.INT8, [1, 3]) for name in ("y", "z")],
            [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", 16)], ir_version=8,
    )  # fmt: skip
    onnx.checker.check_model(model, full_check=True)
    assert dequantized_outputs(model) == [(pytest.approx(0.02), -128), None]
    assert [output.name for output in model.graph.output] == ["y/real", "z"]
    for_toolkit(model)
    onnx.checker.check_model(model, full_check=True)
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    read, scale = as_read(arrays["w"], arrays["w/scale"])
    np.testing.assert_allclose(scale, scales, rtol=1e-6)
    # The least and the greatest number have no place there.
    np.testing.assert_array_equal(read, np.clip(weights, -127, 126))
    np.testing.assert_allclose(128.0 * arrays["x/scale"] / 127, step, rtol=1e-6)
    assert arrays["y/scale"] == np.float32(0.02)  # with a zero point the toolkit keeps it
