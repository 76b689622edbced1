"""The QDQ file in ONNX Runtime without fusions against the reference executor, tensor by tensor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from archnet.agreement import IntegerComparison
from archnet.backends.static_qdq import QdqBackend
from archnet.config import Bits
from archnet.errors import ArchNetError
from archnet.export.qdq import QdqModel, build_qdq
from archnet.export.qdq_state import QdqForm
from archnet.graph import QuantizedGraph
from archnet.onnx_session import session_options
from tests.attention_graphs import neighbour_graph, with_padding, with_relu_attention, with_table_softmax
from tests.graphs import random_inputs, tiny_encoder
from tests.image_graphs import image_graph, images

FORMS = {
    "uint8": QdqForm(),
    "int8": QdqForm("int8", wide="uint16"),
    "convolution": QdqForm(linear="convolution"),
    "packed": QdqForm(packed=True),
    "add": QdqForm("int8", mask="add"),
}

IN_FLOAT = {"Add", "MatMul", "FullyConnected", "Softmax"}
"""What is computed in float32 between its pairs: a number next to a half may be rounded to the other side."""


class Unfused(QdqBackend):
    """ONNX Runtime at the level that computes what the file says."""

    name = "unfused"

    def __init__(self, graph: QuantizedGraph, model: QdqModel) -> None:
        super().__init__(graph, model)
        self.sessions: dict[bytes, ort.InferenceSession] = {}

    def execute(self, model: QdqModel, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        if model.content not in self.sessions:
            options = session_options()
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
            self.sessions[model.content] = ort.InferenceSession(
                model.content, options, providers=["CPUExecutionProvider"]
            )
        session = self.sessions[model.content]
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, dict(inputs)), strict=True))


def text_graph(weight_bits: int = 8, activation_bits: int | tuple[int, ...] = 8) -> QuantizedGraph:
    graph = tiny_encoder(
        np.random.default_rng(3), embedding="host", concat=True,
        weight_bits=weight_bits, activation_bits=activation_bits,
    )  # fmt: skip
    return with_padding(graph)


def network(name: str) -> tuple[QuantizedGraph, dict[str, NDArray[Any]]]:
    """A network and a batch for it; sentences of unequal lengths."""
    if name.startswith("text"):
        graph = text_graph(4, (4, 8)) if name == "text_w4" else text_graph()
        return graph, dict(random_inputs(np.random.default_rng(5), graph, batch=2, sequence=16))
    kind, bits = ("vit", Bits(4, 4)) if name == "vit_w4a4" else (name, Bits(8, 8))
    return image_graph(kind, bits), {"pixel_values": images(2, 3)["pixel_values"].numpy()}  # type: ignore[arg-type]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["text", "text_w4", "cnn", "vit_w4a4", "dinov2", "beit"])
def test_the_integers_are_those_of_the_reference(name: str, form: str) -> None:
    graph, inputs = network(name)
    backend = Unfused(graph, build_qdq(graph, 16 if name.startswith("text") else None, form=FORMS[form]))
    comparison = IntegerComparison(graph, backend)
    comparison.add(inputs)
    found = comparison.agreement()
    compared = {tensor.op for tensor in found}
    assert {"FullyConnected", "Add", "Reshape"} <= compared
    assert compared >= {str(node.op) for node in graph.nodes if node.op not in ("Slice", "Gather")}
    for tensor in found:
        if tensor.scope != "layer":
            continue
        factor = backend.model.stored[tensor.tensor].factor if tensor.tensor in backend.model.stored else None
        if factor is not None and form == "int8":
            # One unit of uint16 is so many of the accumulators'; it may be the one next to the nearest.
            assert tensor.max_lsb <= np.ceil(factor.max())
        elif tensor.op in IN_FLOAT:
            assert tensor.max_lsb <= 1
            assert tensor.differing <= max(1, 0.002 * tensor.elements)
        else:
            assert tensor.differing == 0


def test_shorter_sentences_are_padded_and_do_not_change_the_result() -> None:
    graph, inputs = network("text")
    backend = Unfused(graph, build_qdq(graph, 16))
    short = {name: value[1:, :5] for name, value in inputs.items()}
    short["attention_mask"][:] = 1
    long = {name: np.pad(value, ((0, 0), (0, 11))) for name, value in short.items()}
    np.testing.assert_array_equal(
        backend.run(short)["sentence_embedding"], backend.run(long)["sentence_embedding"]
    )
    with pytest.raises(ArchNetError, match="the input has 16 positions; the compiled file takes 8"):
        Unfused(graph, build_qdq(graph, 8)).run(inputs)


@pytest.mark.parametrize("form", FORMS)
def test_the_file_is_clean(form: str) -> None:
    """Static shapes, one pair a value, weights and biases as integers, 4 bits as INT4 where asked."""
    graph, _ = network("text_w4")
    model = build_qdq(graph, 16, form=FORMS[form]).model
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    for value in (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output):
        assert all(dim.dim_value > 0 for dim in value.type.tensor_type.shape.dim), value.name
    makers = {node.output[0]: node for node in model.graph.node}
    read = [node.input[0] for node in model.graph.node if node.op_type == "DequantizeLinear"]
    assert len(read) == len(set(read))
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            continue
        before = [makers[name].op_type for name in node.input if name in makers]
        assert set(before) <= {"DequantizeLinear", "Gemm", "Conv", "MatMul", "Add"}, node.name
    weights = [i for i in model.graph.initializer if i.name.endswith("/weight")]
    wanted = onnx.TensorProto.INT4 if form == "packed" else onnx.TensorProto.INT8
    assert {weight.data_type for weight in weights} == {wanted}
    assert model.opset_import[0].version == (21 if form == "packed" else 16)


def test_what_has_no_form_is_refused_by_name() -> None:
    graph = tiny_encoder(np.random.default_rng(0))
    with pytest.raises(ArchNetError, match="TableSoftmax has no QDQ form: its table and division"):
        build_qdq(with_table_softmax(graph))
    with pytest.raises(ArchNetError, match="MeanMatMul has no QDQ form: its factor depends"):
        build_qdq(with_relu_attention(graph))
    with pytest.raises(ArchNetError, match="OneHot has no QDQ form: a row of a one-hot"):
        build_qdq(tiny_encoder(np.random.default_rng(0), embedding="one_hot"))
    with pytest.raises(ArchNetError, match="Shift has no QDQ form: no chip's compiler was asked about it"):
        build_qdq(neighbour_graph(Bits(8, 8)))
    with pytest.raises(
        ArchNetError, match="Windows has no QDQ form: no compiler behind this format was asked"
    ):
        build_qdq(image_graph("swin", Bits(8, 8)))
    with pytest.raises(ArchNetError, match=r"--seq-len 17 is not in 1 \.\. 16"):
        build_qdq(graph, 17)
