"""ONNX files of one size, in onnx's own evaluator: integer operators, and scales of 1."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from archnet.backends.base import feed
from archnet.backends.onnxruntime import restored, shown_values, views_of, with_outputs
from archnet.backends.reference import ReferenceBackend
from archnet.config import Bits
from archnet.errors import ArchNetError
from archnet.export.onnx import StaticForm, build_static_onnx, stored_tensors
from archnet.graph import QuantizedGraph
from archnet.operators import Op
from archnet.reference import bind_dims, execute
from archnet.single_operators import OPERATORS, single_operator
from tests.attention_graphs import with_padding, with_relu_attention, with_table_softmax
from tests.graphs import random_inputs, tiny_encoder
from tests.image_graphs import image_graph

Make = Callable[[], QuantizedGraph]
SEQUENCE = 9


def tiny(**options: object) -> QuantizedGraph:
    return tiny_encoder(np.random.default_rng(0), **options)  # type: ignore[arg-type]


NETWORKS: dict[str, Make] = {
    "text": lambda: tiny(layers=2),
    "every_token": lambda: tiny(pooled=False, concat=True, activation="gelu"),
    "one_hot": lambda: tiny(embedding="one_hot"),
    "host": lambda: tiny(embedding="host"),
    "few_bits": lambda: tiny(weight_bits=4, activation_bits=(4, 6)),
    "relu": lambda: with_relu_attention(tiny()),
    "table": lambda: with_table_softmax(tiny()),
    "padding": lambda: with_padding(tiny()),
    "cnn": lambda: image_graph("cnn", Bits(8, 8)),
    "vit": lambda: image_graph("vit", Bits(8, 8)),
    "dinov2": lambda: image_graph("dinov2", Bits(8, 8)),
    "beit": lambda: image_graph("beit", Bits(8, 8)),
}


def one_input(graph: QuantizedGraph) -> dict[str, np.ndarray]:
    if any(spec.name == "pixel_values" for spec in graph.inputs):
        spec = graph.inputs[0]
        sizes = [1 if isinstance(dim, str) else dim for dim in spec.shape]
        return {spec.name: np.random.default_rng(1).integers(-128, 128, sizes).astype(np.int8)}
    inputs = random_inputs(np.random.default_rng(1), graph, batch=1, sequence=SEQUENCE)
    inputs["attention_mask"][:, SEQUENCE - 2 :] = 0
    return dict(inputs)


def compared(graph: QuantizedGraph, form: StaticForm) -> dict[str, int]:
    """Every tensor that the file shows -> the greatest difference from the reference executor's."""
    model = build_static_onnx(graph, form, SEQUENCE if "sequence" in str(graph.inputs) else None)
    stored = stored_tensors(model)
    views = views_of(graph, stored)
    names = [n.output for n in graph.nodes if n.output in stored or n.output in views]
    values = shown_values(stored, views, names)
    shown = with_outputs(model, values)
    fed = feed(graph, one_input(graph))
    found = ReferenceEvaluator(shown).run(None, dict(fed))
    results = dict(zip([output.name for output in shown.graph.output], found, strict=True))
    made = restored(graph, stored, names, results, bind_dims(graph, fed))
    expected = execute(graph, fed, names)
    assert len(names) > 8
    return {n: int(np.abs(made[n].astype(np.int64) - expected[n]).max(initial=0)) for n in names}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_integer_form_computes_every_tensor_exactly(name: str) -> None:
    differences = compared(NETWORKS[name](), "integer")
    assert {tensor: lsb for tensor, lsb in differences.items() if lsb} == {}


@pytest.mark.parametrize("name", ["text", "every_token", "few_bits", "cnn", "vit"])
def test_unit_scales_are_exact_before_the_first_softmax(name: str) -> None:
    """What follows a softmax, which is float here, may differ as it does in every QDQ form."""
    graph = NETWORKS[name]()
    differences = compared(graph, "units")
    first = next((i for i, node in enumerate(graph.nodes) if node.op is Op.SOFTMAX), len(graph.nodes))
    before = {node.output for node in graph.nodes[:first]}
    assert len(before & differences.keys()) > 3
    assert {n: lsb for n, lsb in differences.items() if lsb and n in before} == {}
    softmax = {node.output for node in graph.nodes if node.op is Op.SOFTMAX}
    assert all(differences[n] <= 1 for n in softmax & differences.keys())


@pytest.mark.parametrize("form", ["convolution", "units", "integer"])
def test_a_static_file_has_numbers_for_sizes_and_the_outputs_of_the_reference(form: StaticForm) -> None:
    graph = tiny()
    model = build_static_onnx(graph, form, SEQUENCE)
    onnx.checker.check_model(model, full_check=True)
    dims = [d for i in model.graph.input for d in i.type.tensor_type.shape.dim]
    assert [d.dim_value for d in dims] == [1, SEQUENCE] * 2
    inputs = one_input(graph)
    (found,) = ReferenceEvaluator(model).run(None, dict(feed(graph, inputs)))
    (expected,) = ReferenceBackend(graph).run(inputs).values()
    assert np.abs(found - expected).max() < 0.02


@pytest.mark.parametrize("length", [0, 17])
def test_other_lengths_are_refused(length: int) -> None:
    with pytest.raises(ArchNetError, match=rf"--seq-len {length} is not in 1 \.\. 16"):
        build_static_onnx(tiny(), "integer", length)


ALONE = [(op, case) for op, cases in OPERATORS.items() for case in cases]


@pytest.mark.parametrize("form", ["convolution", "units", "integer"])
@pytest.mark.parametrize(("op", "case"), ALONE, ids=str)
def test_an_operator_alone_is_a_valid_file(op: Op, case: str, form: StaticForm) -> None:
    graph = single_operator(op, case, Bits(8, 8))
    model = build_static_onnx(graph, form, SEQUENCE if "sequence" in str(graph.inputs) else None)
    onnx.checker.check_model(model, full_check=True)
