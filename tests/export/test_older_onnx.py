"""The float original of one size and of an older operator set: the same numbers by older operators."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from archnet.errors import ArchNetError
from archnet.export.older_onnx import at_opset, of_one_size

FEATURES = 12


def model_of(*nodes: onnx.NodeProto, constants: dict[str, NDArray[Any]] | None = None) -> onnx.ModelProto:
    shape = ["batch", "sequence", FEATURES]
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def run(model: onnx.ModelProto, x: NDArray[np.float32]) -> NDArray[np.float32]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found: NDArray[np.float32] = session.run(None, {"x": x})[0]
    return found


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    scale=st.floats(1e-2, 1e2),
    epsilon=st.sampled_from([1e-12, 1e-5, 1e-3]),
    bias=st.booleans(),
)
def test_a_layer_normalization_is_its_definition(seed: int, scale: float, epsilon: float, bias: bool) -> None:
    rng = np.random.default_rng(seed)
    constants = {name: rng.normal(size=FEATURES).astype(np.float32) for name in ("w", "b")[: 1 + bias]}
    node = helper.make_node("LayerNormalization", ["x", *constants], ["y"], epsilon=epsilon, axis=-1)
    x = (scale * rng.normal(size=(2, 3, FEATURES)) + 1).astype(np.float32)
    older = at_opset(model_of(node, constants=constants), 16)
    onnx.checker.check_model(older)
    assert older.opset_import[0].version == 16
    centred = x.astype(np.float64) - x.mean(-1, keepdims=True, dtype=np.float64)
    wanted = centred / np.sqrt(np.square(centred).mean(-1, keepdims=True) + epsilon) * constants["w"]
    np.testing.assert_allclose(run(older, x), wanted + constants.get("b", 0.0), rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("form", ["none", "tanh"])
def test_a_gelu_is_its_definition(form: str) -> None:
    model = model_of(helper.make_node("Gelu", ["x"], ["y"], approximate=form))
    older = at_opset(model, 16)
    onnx.checker.check_model(older)
    x = np.linspace(-6, 6, 2 * 3 * FEATURES, dtype=np.float32).reshape(2, 3, FEATURES)
    np.testing.assert_allclose(run(older, x), run(model, x), atol=2e-6)


def test_axes_of_reductions_become_attributes_and_idle_ones_go() -> None:
    constants = {"axes": np.array([1]), "shape": np.array([-1, FEATURES])}
    nodes = (
        helper.make_node("ReduceSum", ["x", "axes"], ["sum"], keepdims=0),
        helper.make_node("ReduceMax", ["x", "axes"], ["most"], keepdims=0),
        helper.make_node("Add", ["sum", "most"], ["both"]),
        helper.make_node("Reshape", ["both", "shape"], ["y"], allowzero=1),
    )
    model = model_of(*nodes, constants=constants)
    older = at_opset(model, 16)
    onnx.checker.check_model(older)
    assert not any(
        a.name in ("allowzero", "noop_with_empty_axes") for n in older.graph.node for a in n.attribute
    )
    x = np.random.default_rng(0).normal(size=(2, 3, FEATURES)).astype(np.float32)
    np.testing.assert_allclose(run(older, x), run(model, x), rtol=1e-6)


def test_a_split_is_a_slice_a_part() -> None:
    sizes = np.array([2, FEATURES - 5, 3])
    nodes = (
        helper.make_node("Split", ["x", "sizes"], ["a", "b", "c"], axis=-1),
        helper.make_node("Concat", ["c", "b", "a"], ["y"], axis=-1),
    )
    model = model_of(*nodes, constants={"sizes": sizes})
    older = at_opset(model, 16)
    onnx.checker.check_model(older)
    x = np.random.default_rng(0).normal(size=(2, 3, FEATURES)).astype(np.float32)
    np.testing.assert_array_equal(run(older, x), run(model, x))
    equal = helper.make_node("Split", ["x"], ["a", "b"], axis=-1, num_outputs=2)
    both = model_of(equal, helper.make_node("Concat", ["b", "a"], ["y"], axis=-1))
    with pytest.raises(ArchNetError, match="a Split whose parts' sizes are not written down"):
        at_opset(both, 16)


def test_what_has_no_older_form_is_named() -> None:
    scale = {"w": np.ones((3, FEATURES), np.float32)}
    node = helper.make_node("LayerNormalization", ["x", "w"], ["y"], axis=-2)
    with pytest.raises(ArchNetError, match="LayerNormalization over several axes") as caught:
        at_opset(model_of(node, constants=scale), 16)
    assert "leave --original or --chip out" in caught.value.fix


def test_what_the_converter_cannot_make_older_is_told_in_its_words() -> None:
    model = model_of(helper.make_node("Mish", ["x"], ["y"]))
    with pytest.raises(ArchNetError) as caught:
        at_opset(model, 16)
    assert caught.value.problem == (
        "the float original has no form in ONNX's operator set 16: No Previous Version of Mish exists"
    )


def test_one_size_is_the_same_function_without_free_sizes(capfd: pytest.CaptureFixture[str]) -> None:
    shape = helper.make_node("Shape", ["input_ids"], ["shape"])
    ones = helper.make_node("ConstantOfShape", ["shape"], ["ones"])
    cast = helper.make_node("Cast", ["input_ids"], ["real"], to=TensorProto.FLOAT)
    graph = helper.make_graph(
        [shape, ones, cast, helper.make_node("Add", ["real", "ones"], ["y"])], "g",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "sequence"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "sequence"])],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    fixed = of_one_size(model, 5)
    assert [d.dim_value for d in fixed.graph.input[0].type.tensor_type.shape.dim] == [1, 5]
    assert "Shape" not in {node.op_type for node in fixed.graph.node}
    assert capfd.readouterr().err == ""


def test_what_cannot_be_simplified_is_an_error_that_says_so() -> None:
    model = model_of(helper.make_node("Add", ["x", "nowhere"], ["y"]))
    with pytest.raises(ArchNetError, match="cannot be written for one size"):
        of_one_size(model, None)
