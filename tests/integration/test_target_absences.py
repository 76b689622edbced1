"""The probes behind the operators that the target profiles call absent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from archnet.operators import Op
from archnet.targets import load_profile

SHAPE = [2, 4, 16]

ONNX_FORMS = {
    Op.LAYER_NORM: ("LayerNormalization", 2, 20),
    Op.RMS_NORM: ("RMSNormalization", 1, 23),
    Op.GELU: ("Gelu", 0, 20),
    Op.SILU: ("Swish", 0, 24),
}
"""The ONNX operator, how many vectors of parameters it takes, and its operator set."""

INTEGER_KERNELS = ("QLinear", "ConvInteger", "MatMulInteger", "QGemm")


def between_quantizers(op: Op) -> onnx.ModelProto:
    """int8 -> DequantizeLinear -> the operator -> QuantizeLinear -> int8."""
    name, vectors, opset = ONNX_FORMS[op]
    constants = [
        helper.make_tensor("scale", TensorProto.FLOAT, [], [0.05]),
        helper.make_tensor("zero", TensorProto.INT8, [], [0]),
        *(numpy_helper.from_array(np.ones(SHAPE[-1], np.float32), f"p{i}") for i in range(vectors)),
    ]
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "scale", "zero"], ["real"]),
        helper.make_node(name, ["real", *(f"p{i}" for i in range(vectors))], ["result"]),
        helper.make_node("QuantizeLinear", ["result", "scale", "zero"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(end, TensorProto.INT8, SHAPE) for end in ("x", "y")]
    graph = helper.make_graph(nodes, "probe", ends[:1], ends[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def placed(model: onnx.ModelProto, level: ort.GraphOptimizationLevel, path: Path) -> list[str]:
    """The operators of the graph that ONNX Runtime makes of a model."""
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 4
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(path).graph.node]


@pytest.mark.parametrize("level", ["ORT_ENABLE_BASIC", "ORT_ENABLE_ALL"])
@pytest.mark.parametrize("op", ONNX_FORMS, ids=str)
def test_onnxruntime_keeps_it_in_float(op: Op, level: str, tmp_path: Path) -> None:
    assert op in load_profile("onnxruntime").absent
    found = placed(between_quantizers(op), getattr(ort.GraphOptimizationLevel, level), tmp_path / "o.onnx")
    assert "DequantizeLinear" in found
    assert "QuantizeLinear" in found
    assert not [name for name in found if name.startswith(INTEGER_KERNELS)]


@pytest.mark.parametrize("op", load_profile("tvm").absent, ids=str)
def test_relax_refuses_it_on_int8(op: Op) -> None:
    from tvm import relax

    x = relax.Var("x", relax.TensorType(SHAPE, "int8"))
    w = relax.Var("w", relax.TensorType(SHAPE[-1:], "int8"))
    calls = {
        Op.LAYER_NORM: lambda: relax.op.nn.layer_norm(x, w, w, axes=[-1]),
        Op.RMS_NORM: lambda: relax.op.nn.rms_norm(x, w, axes=[-1]),
        Op.GELU: lambda: relax.op.nn.gelu(x),
        Op.SILU: lambda: relax.op.nn.silu(x),
    }
    with pytest.raises(Exception, match="to have float dtype"):
        relax.BlockBuilder().normalize(calls[op]())
