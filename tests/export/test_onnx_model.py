"""Weights that each layer has for itself, so that ONNX Runtime can make them unsigned."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from archnet.export.onnx_model import own_weights
from archnet.onnx_session import session_options

X = np.random.default_rng(1).integers(0, 256, (5, 8), dtype=np.uint8)


def layers(weight: NDArray[np.int8]) -> onnx.ModelProto:
    """Two layers that read one dequantized weight, and a third that reads its constants, as onnxsim does."""
    scales = {"one": np.float32(1), "w/scale": np.full(8, 2**-9, np.float32)}
    zeros = {"x/zero": np.uint8(0), "zeros": np.zeros(8, np.int8), "y/zero": np.uint8(0)}
    constants = {"w": weight, **scales, **zeros}
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "one", "x/zero"], ["x/real"]),
        helper.make_node("DequantizeLinear", ["w", "w/scale", "zeros"], ["w/real"], axis=0),
        helper.make_node("DequantizeLinear", ["w", "w/scale", "zeros"], ["w/again"], axis=0),
    ]
    for name, real in (("a", "w/real"), ("b", "w/real"), ("c", "w/again")):
        nodes += [
            helper.make_node("Gemm", ["x/real", real], [f"{name}/exact"], transB=1),
            helper.make_node("QuantizeLinear", [f"{name}/exact", "one", "y/zero"], [name]),
        ]
    model = helper.make_model(
        helper.make_graph(
            nodes, "g", [helper.make_tensor_value_info("x", TensorProto.UINT8, [5, 8])],
            [helper.make_tensor_value_info(name, TensorProto.UINT8, [5, 8]) for name in "abc"],
            [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", 19)], ir_version=9,
    )  # fmt: skip
    onnx.checker.check_model(model, full_check=True)
    return model


def test_no_two_layers_share_weights_or_their_zero_points() -> None:
    weight = np.random.default_rng(0).integers(-128, 128, (8, 8), dtype=np.int8)
    model = layers(weight)
    before = ReferenceEvaluator(model).run(None, {"x": X})
    own_weights(model)
    onnx.checker.check_model(model, full_check=True)
    read = [n for n in model.graph.node if n.op_type == "DequantizeLinear" and n.input[0] != "x"]
    assert len(read) == 3
    assert max(Counter(name for node in read for name in (node.input[0], node.input[2])).values()) == 1
    assert {tensor.name for tensor in model.graph.initializer} == {
        name for node in model.graph.node for name in node.input if "/real" not in name
    } - {"x", "w/again", "a/exact", "b/exact", "c/exact"}
    for expected, found in zip(before, ReferenceEvaluator(model).run(None, {"x": X}), strict=True):
        np.testing.assert_array_equal(found, expected)
    session = ort.InferenceSession(model.SerializeToString(), session_options(1))
    exact = X.astype(np.int64) @ weight.T.astype(np.int64) / 2**9
    for found in session.run(None, {"x": X}):
        np.testing.assert_array_equal(found, np.clip(np.rint(exact), 0, 255))


def test_weights_that_cannot_saturate_stay_as_they_are() -> None:
    model = layers(np.random.default_rng(0).integers(-64, 64, (8, 8), dtype=np.int8))
    before = model.SerializeToString(deterministic=True)
    own_weights(model)
    assert model.SerializeToString(deterministic=True) == before
