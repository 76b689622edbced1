"""The recipes themselves, on graphs of a few nodes: what they make, and what they say they cannot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from side_by_side.network_folder import Calibration, Graph
from side_by_side.recipe import Cannot, Order, parse_bits
from side_by_side.recipes import RECIPES, esp_ppq, find_recipe, nncf_openvino, onnx_runtime, onnx_simplifier

rng = np.random.default_rng(0)
ROWS = rng.normal(size=(64, 32)).astype(np.float32)


@pytest.fixture
def graph(tmp_path: Path) -> Graph:
    """x @ W and a Relu, W (32, 64)."""
    weight = numpy_helper.from_array(rng.normal(size=(32, 64)).astype(np.float32), "w")
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"], name="product"),
        helper.make_node("Relu", ["p"], ["y"], name="relu"),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 32])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 64])
    model = helper.make_model(
        helper.make_graph(nodes, "tiny", [x], [y], [weight]),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=9,
    )
    onnx.save(model, tmp_path / "model.onnx")
    return Graph("model", tmp_path / "model.onnx", Calibration({"x": ROWS}, {}, {}))


def order_of(graph: Graph, bits: str, tmp_path: Path) -> Order:
    out = tmp_path / bits
    out.mkdir()
    return Order(graph, *parse_bits(bits), out, 1)


def error_of(order: Order) -> float:
    """Of the made network against the float one, relative, as root mean square."""
    exact = ort.InferenceSession(str(order.graph.onnx)).run(None, {"x": ROWS})[0]
    made = onnx_runtime.open_file(order.out, 1)({"x": ROWS})["y"]
    return float(np.sqrt(np.mean((made - exact) ** 2) / np.mean(exact**2)))


def test_names_are_unique_and_found() -> None:
    names = [recipe.name for recipe in RECIPES]
    assert len(set(names)) == len(names)
    assert RECIPES[0].name == "float original"
    assert all(find_recipe(recipe.name) is recipe for recipe in RECIPES)
    ours = find_recipe("archnet:tvm:/some/build")
    assert (ours.name, ours.settings) == ("Arch-Net (tvm)", "/some/build")


@pytest.mark.parametrize(("bits", "most"), [("w8a8", 0.02), ("w4a8", 0.15), ("w4a4", 0.25)])
def test_onnx_runtime_static_quantizes_to_each_width(
    bits: str, most: float, graph: Graph, tmp_path: Path
) -> None:
    order = order_of(graph, bits, tmp_path)
    (file,) = onnx_runtime.make_static(order, "MinMax", ("MatMul",))
    assert 0 < error_of(order) < most
    kinds = {t.data_type for t in onnx.load(file).graph.initializer if t.dims == [32, 64]}
    assert kinds == {TensorProto.INT8 if order.weights == 8 else TensorProto.INT4}


def test_onnxsim_quantizes_8_bits_and_says_that_it_has_no_int4_with_activations(
    graph: Graph, tmp_path: Path
) -> None:
    order = order_of(graph, "w8a8", tmp_path)
    onnx_simplifier.make_whole(order)
    assert 0 < error_of(order) < 0.02
    with pytest.raises(Cannot, match="unsupported weight_dtype: 'int4'"):
        onnx_simplifier.make_whole(order_of(graph, "w4a8", tmp_path))
    with pytest.raises(Cannot, match=r"does not support dtype='w2a4'"):
        onnx_simplifier.make_static(order_of(graph, "w2a4", tmp_path), "minmax", tuned=False)


def test_onnxsim_int4_weights_are_corrected(graph: Graph, tmp_path: Path) -> None:
    order = order_of(graph, "w4a32", tmp_path)
    onnx_simplifier.make_weights(order, "GPTQ")
    assert 0 < error_of(order) < 0.15
    with pytest.raises(Cannot, match="are for int4 weights"):
        onnx_simplifier.make_weights(order_of(graph, "w2a32", tmp_path), "AdaRound")


def test_weights_by_rows_are_the_same_function_for_openvino(graph: Graph) -> None:
    ov = pytest.importorskip("openvino", reason="needs archnet[benchmarks]")

    def result() -> NDArray[np.float32]:
        found: NDArray[np.float32] = ov.Core().compile_model(model, "CPU")([ROWS])[0]
        return found

    model = ov.Core().read_model(str(graph.onnx))
    before = result()
    nncf_openvino.weights_by_rows(model)
    (product,) = (node for node in model.get_ordered_ops() if node.get_type_name() == "MatMul")
    assert product.get_attributes()["transpose_b"]
    assert list(product.input_value(1).get_shape()) == [64, 32]
    np.testing.assert_allclose(result(), before, atol=1e-5)


def test_shapes_are_cut_by_a_slice_for_esp_ppq(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["whole"]),
        helper.make_node("Shape", ["x"], ["last"], start=1),
        helper.make_node("Shape", ["x"], ["first"], start=0, end=1),
        helper.make_node("Concat", ["whole", "last", "first"], ["y"], axis=0),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["a", "b", "c"])
    y = helper.make_tensor_value_info("y", TensorProto.INT64, [6])
    model = helper.make_model(
        helper.make_graph(nodes, "shapes", [x], [y]),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=9,
    )
    onnx.save(model, tmp_path / "float.onnx")
    empty = Calibration({"x": ROWS}, {}, {})
    order = Order(Graph("model", tmp_path / "float.onnx", empty), 8, 8, tmp_path, 1)
    readable = esp_ppq._readable(order)
    assert not any(n.attribute for n in onnx.load(readable).graph.node if n.op_type == "Shape")
    found = ort.InferenceSession(str(readable)).run(None, {"x": np.zeros((2, 3, 5), np.float32)})[0]
    assert found.tolist() == [2, 3, 5, 3, 5, 2]
