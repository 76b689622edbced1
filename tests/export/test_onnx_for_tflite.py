"""Products with constant matrices as Gemm, ids of int32: the same numbers, and nothing else touched."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnxruntime as ort
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from archnet.export.onnx_for_tflite import for_tflite, with_gemm_layers, with_int32_inputs

TOKENS, WIDE, NARROW = 5, 6, 4


def layers(rng: np.random.Generator, *, turned: bool, outside: bool) -> onnx.ModelProto:
    """Two layers, one of them with a sum that others read too, and a product of two activations.

    Args:
        turned: the constant comes first in the Add.
        outside: the product before the Add is an output.
    """
    shapes = {"w": (WIDE, NARROW), "b": (NARROW,), "v": (NARROW, WIDE), "c": (WIDE,), "d": (1, WIDE)}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"]),
        helper.make_node("Add", ["b", "p"] if turned else ["p", "b"], ["h"]),
        helper.make_node("Transpose", ["h"], ["t"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["h", "t"], ["scores"]),
        helper.make_node("MatMul", ["h", "v"], ["q"]),
        helper.make_node("Add", ["q", "c"], ["twice"]),
        helper.make_node("Mul", ["twice", "q"], ["squares"]),
        helper.make_node("MatMul", ["x", "w"], ["r"]),
        helper.make_node("MatMul", ["r", "v"], ["s"]),
        helper.make_node("Add", ["s", "d"], ["kept"]),
    ]
    outputs = ["scores", "squares", "kept", *(["p"] if outside else [])]
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, TOKENS, WIDE])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(rng.normal(size=s).astype(np.float32), n) for n, s in shapes.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    return onnx.shape_inference.infer_shapes(model)


def run(model: onnx.ModelProto, x: np.ndarray) -> list[np.ndarray]:
    onnx.checker.check_model(model, full_check=True)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found: list[np.ndarray] = session.run(None, {"x": x})
    return found


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), turned=st.booleans(), outside=st.booleans())
def test_the_numbers_stay_and_every_layer_is_a_gemm(seed: int, turned: bool, outside: bool) -> None:
    rng = np.random.default_rng(seed)
    before = layers(rng, turned=turned, outside=outside)
    after = with_gemm_layers(before)
    x = rng.normal(size=(1, TOKENS, WIDE)).astype(np.float32)
    for wanted, found in zip(run(before, x), run(after, x), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
    kinds = Counter(node.op_type for node in after.graph.node)
    # The sum of p is taken in unless p is shown; that of q has two readers, d is no vector.
    assert (kinds["Gemm"], kinds["MatMul"], kinds["Add"]) == (4, 1, 3 if outside else 2)
    assert Counter(node.op_type for node in before.graph.node)["MatMul"] == 5  # what was given is untouched


def looked_up(*nodes: onnx.NodeProto) -> onnx.ModelProto:
    """Rows of a table for int64 ids, after the nodes that make "rows" of "ids"."""
    table = np.arange(8, dtype=np.float32).reshape(4, 2)
    graph = helper.make_graph(
        [*nodes, helper.make_node("Gather", ["table", "rows" if nodes else "ids"], ["y"])], "g",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, [1, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3, 2])],
        [numpy_helper.from_array(table, "table"), numpy_helper.from_array(np.array([1], np.int64), "one")],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def test_ids_are_int32_where_nothing_asks_for_int64() -> None:
    model = looked_up()
    after = for_tflite(model)
    assert after.graph.input[0].type.tensor_type.elem_type == TensorProto.INT32
    assert model.graph.input[0].type.tensor_type.elem_type == TensorProto.INT64
    session = ort.InferenceSession(after.SerializeToString(), providers=["CPUExecutionProvider"])
    assert session.run(None, {"ids": np.array([[3, 0, 1]], np.int32)})[0].tolist() == [
        [[6, 7], [0, 1], [2, 3]]
    ]


def test_ids_that_are_added_to_int64_constants_stay() -> None:
    model = looked_up(helper.make_node("Sub", ["ids", "one"], ["rows"]))
    assert with_int32_inputs(model) is model
