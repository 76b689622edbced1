"""The TFLite writer: the reference executor's integers in LiteRT, operator by operator."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from archnet.backends.base import feed
from archnet.backends.reference import ReferenceBackend
from archnet.calibration.affine import fit_output_scale
from archnet.config import Bits
from archnet.errors import ArchNetError
from archnet.graph import QuantizedGraph
from archnet.metrics import cosine
from archnet.operators import Op
from archnet.reference import bind_dims, execute, run_node
from archnet.single_operators import OPERATORS, single_operator
from tests.attention_graphs import with_log_sum_softmax, with_padding, with_relu_attention, with_table_softmax
from tests.graphs import random_inputs, tiny_encoder
from tests.image_graphs import AVERAGES, Kind, average_graph, image_graph, images
from tests.steps import STEPS, walked

pytest.importorskip("ai_edge_litert", reason="needs archnet[ethos]")

from archnet.backends.litert import Kernels, LiteRtBackend
from archnet.export.tflite import (
    build_tflite,
    emulated_places,
    export_tflite,
    fixed_point_places,
    read_tflite,
    split,
)
from archnet.export.tflite_image import dense_weights

EXACT = (Op.LINEAR, Op.CONV, Op.MAX_POOL, Op.MASK, Op.RESHAPE, Op.TRANSPOSE, Op.CONCAT, Op.SELECT,
         Op.PREPEND, Op.WINDOWS, Op.ZERO_PAD, Op.CROP, Op.EMBEDDING)  # fmt: skip
"""Operators in which every integer is the reference executor's."""

NEAR_HALVES = 1e-3
"""Share of probabilities that may lie so near a half that TFLite's exponentials decide otherwise."""

TIES = 1e-3
"""Share of an Add's sums that may lie half way between two integers, where TFLite rounds up."""


def differences(
    graph: QuantizedGraph, backend: LiteRtBackend, inputs: dict[str, NDArray[Any]]
) -> dict[str, tuple[Op, int, float]]:
    """Tensor -> (operator, largest difference, share that differs), given the backend's own inputs."""
    fed = feed(graph, inputs)
    values: dict[str, NDArray[Any]] = {**fed, **backend.tensors(inputs)}
    found = {}
    for node in graph.nodes:
        arrays = [values[n] if n in values else graph.constants[n] for n in node.inputs]
        wanted = run_node(node, arrays, graph.tensors[node.output], bind_dims(graph, fed))
        if node.output not in values:  # a constant
            values[node.output] = wanted
            continue
        got = values[node.output]
        assert (got.shape, got.dtype) == (wanted.shape, wanted.dtype), node.name
        away = np.abs(got.astype(np.int64) - wanted.astype(np.int64))
        found[node.output] = node.op, int(away.max()), float(np.mean(away > 0))
    return found


def encoder(seed: int = 0, **settings: Any) -> QuantizedGraph:
    return tiny_encoder(np.random.default_rng(seed), **settings)


def litert(graph: QuantizedGraph, sequence: int = 9, kernels: Kernels = "xnnpack") -> LiteRtBackend:
    return LiteRtBackend(graph, build_tflite(graph, sequence), kernels=kernels)


@pytest.mark.parametrize(
    "settings",
    [{"layers": 2}, {"embedding": "host", "concat": True}, {"hidden": 192, "heads": 3}, {"weight_bits": 4}],
    ids=["pooled", "host", "wide", "w4"],
)
def test_text_operators_have_the_reference_integers(settings: dict[str, Any]) -> None:
    """On sentences with padding."""
    graph = encoder(share_levels=256, **settings)
    inputs = random_inputs(np.random.default_rng(1), graph, batch=12, sequence=9)
    assert 0 < inputs["attention_mask"].mean() < 1
    for name, (op, worst, share) in differences(graph, litert(graph), inputs).items():
        if op in (Op.ADD, Op.SOFTMAX):
            assert worst <= 1, name
            assert share < (TIES if op is Op.ADD else NEAR_HALVES), name
        else:
            assert worst == 0, (name, op)


@pytest.mark.parametrize(
    "settings",
    [{"layers": 2, "share_levels": 256}, {"share_levels": 255}, {"activation_bits": 4}],
    ids=["256", "255", "a4"],
)
def test_softmax_without_division_has_the_reference_integers_in_any_units(settings: dict[str, Any]) -> None:
    graph = with_log_sum_softmax(encoder(**settings))
    inputs = random_inputs(np.random.default_rng(1), graph, batch=12, sequence=9)
    found = differences(graph, litert(graph), inputs)
    assert {op for op, worst, _ in found.values() if worst} <= {Op.ADD, Op.REQUANTIZE}
    assert Op.LOG_SUM_SOFTMAX in {op for op, _, _ in found.values()}
    assert Op.LOG_SUM_SOFTMAX not in {place.op for place in emulated_places(graph)}


def test_probabilities_in_other_units_are_off_by_one_and_named() -> None:
    """A network that was converted for units of 1/255."""
    graph = encoder(layers=2)
    inputs = random_inputs(np.random.default_rng(1), graph, batch=6, sequence=9)
    softmax = {n.output for n in graph.nodes if n.op is Op.SOFTMAX}
    found = differences(graph, litert(graph), inputs)
    assert all(found[name][1] == 1 for name in softmax)
    reasons = [p.reason for p in emulated_places(graph) if p.op is Op.SOFTMAX]
    assert all("1/256, the integer network's of 1/255" in reason for reason in reasons)
    assert {p.op for p in emulated_places(encoder(share_levels=256))} == {Op.ADD, Op.SOFTMAX}


@pytest.mark.parametrize("kind", STEPS)
@pytest.mark.parametrize("form", ["softmax", "logsum"])
def test_steps_of_decoders_have_the_reference_integers(form: str, kind: str) -> None:
    """A mask for the cache, and of a translation another one for the source, whose keys are padded."""
    graph, feeds = walked(kind, levels=256)
    graph = with_log_sum_softmax(graph) if form == "logsum" else graph
    model = build_tflite(graph)
    logits = graph.outputs[0].tensor
    limits = {"cache_limit"} | ({"attention_limit"} if kind == "translation" else set())
    assert limits <= set(model.inputs)
    assert {o.tensor for o in graph.outputs} == set(model.outputs)
    backend = LiteRtBackend(graph, model)
    for fed in feeds:
        for name, (op, worst, _) in differences(graph, backend, fed).items():
            if name != logits:  # int16 in one scale
                assert worst <= (1 if op in (Op.ADD, Op.SOFTMAX) else 0), (name, op)
        wanted = ReferenceBackend(graph).run(fed)["logits"]
        assert cosine(backend.run(fed)["logits"].reshape(3, -1), wanted.reshape(3, -1)).min() > 0.999


@pytest.mark.parametrize(
    "kind", ["cnn", "vit", "dinov2", "beit", "swin", "swin_padded", "pvt_v2", "mobilevit"]
)
def test_image_operators_have_the_reference_integers(kind: Kind) -> None:
    graph = image_graph(kind, Bits(8, 8))
    found = differences(graph, litert(graph, 64), {"pixel_values": images(6)["pixel_values"].numpy()})
    checked = {op for op, _, _ in found.values()}
    assert Op.CONV in checked
    logits = graph.outputs[0].tensor
    for name, (op, worst, _) in found.items():
        if op in EXACT and name != logits:
            assert worst == 0, (name, op)


@pytest.mark.parametrize("kernels", ["optimized", "reference"])
def test_fixed_point_kernels_are_off_by_one_at_most_and_seldom(kernels: Kernels) -> None:
    """They round twice, so a value just below a half may become one more."""
    graph = encoder(hidden=192, heads=3)
    inputs = random_inputs(np.random.default_rng(1), graph, batch=6, sequence=9)
    for name, (op, worst, share) in differences(graph, litert(graph, 9, kernels), inputs).items():
        if op in EXACT:
            assert worst <= 1, name
            assert share < 5e-3, name


def test_every_difference_of_an_add_is_a_tie() -> None:
    graph = encoder(hidden=192, heads=3)
    inputs = random_inputs(np.random.default_rng(1), graph, batch=16, sequence=9)
    values = {**feed(graph, inputs), **litert(graph).tensors(inputs)}
    rows = execute(graph, feed(graph, inputs), [n.output for n in graph.nodes if n.op is Op.SLICE])
    for node in (n for n in graph.nodes if n.op is Op.ADD):
        a, b = ({**rows, **values}[name].astype(np.int64) for name in node.inputs)
        first, second = node.attributes["multiplier_a"], node.attributes["multiplier_b"]
        assert isinstance(first, int)
        assert isinstance(second, int)
        total = a * first + b * second
        even = np.clip(np.rint(total / 2**16), -128, 127)
        differ = values[node.output] != even
        assert np.all(total[differ] % 2**16 == 2**15)
        np.testing.assert_array_equal(values[node.output], np.clip((total + 2**15) >> 16, -128, 127))


def test_logits_keep_their_order_and_nearly_their_value() -> None:
    graph = image_graph("cnn", Bits(8, 8))
    inputs = {"pixel_values": images(16)["pixel_values"].numpy()}
    expected = ReferenceBackend(graph).run(inputs)["logits"]
    found = litert(graph, 64).run(inputs)["logits"]
    spread = float(expected.std())
    assert float(np.abs(found - expected).max()) < 0.01 * spread
    np.testing.assert_array_equal(found.argmax(-1), expected.argmax(-1))


def test_padding_and_cropping_are_exact_with_a_mask() -> None:
    graph = with_padding(encoder())
    inputs = random_inputs(np.random.default_rng(1), graph, batch=4, sequence=9)
    backend = litert(graph)
    assert "attention_tokens" in build_tflite(graph, 9).inputs
    found = differences(graph, backend, inputs)
    assert found["padded"][:2] == (Op.ZERO_PAD, 0)
    assert found["cropped"][:2] == (Op.CROP, 0)


def test_the_deployed_file_pads_short_sentences() -> None:
    graph = encoder(layers=2)
    inputs = random_inputs(np.random.default_rng(1), graph, batch=3, sequence=6)
    found, expected = litert(graph, 16).run(inputs), ReferenceBackend(graph).run(inputs)
    cosine = np.sum(found["sentence_embedding"] * expected["sentence_embedding"], -1)
    assert cosine.min() > 0.995


def test_the_file_has_one_input_for_the_mask_and_rows_instead_of_ids() -> None:
    model = build_tflite(encoder(layers=3), 8)
    assert model.inputs == ("embeddings.words:0", "attention_limit")
    assert model.operators.count("FULLY_CONNECTED") == 18
    assert model.operators.count("SOFTMAX") == 3
    assert "GATHER" not in model.operators


def test_maps_are_never_transposed_between_convolutions() -> None:
    model = build_tflite(image_graph("cnn", Bits(8, 8)))
    assert "TRANSPOSE" not in model.operators
    assert model.operators.count("DEPTHWISE_CONV_2D") == 4


@pytest.mark.parametrize("sizes", AVERAGES.values(), ids=AVERAGES)
def test_averages_are_exact_in_steps_that_ethos_u_takes(sizes: tuple[int, int, int]) -> None:
    graph = average_graph(*sizes)
    rng = np.random.default_rng(2)
    x = rng.integers(0, 256, (3, 6, sizes[0], sizes[0]), dtype=np.uint8)
    x[0] = 255
    np.testing.assert_array_equal(litert(graph, 1).tensors({"x": x})["y"], execute(graph, {"x": x})["y"])
    (op,) = [name for name in build_tflite(graph).operators if name.endswith("CONV_2D")]
    assert op == ("CONV_2D" if sizes[1:] == (4, 4) else "DEPTHWISE_CONV_2D")


def test_grouped_weights_become_dense() -> None:
    weight = np.arange(1, 13, dtype=np.int8).reshape(4, 3, 1, 1)
    dense = dense_weights(weight, 2)
    assert dense.shape == (4, 6, 1, 1)
    np.testing.assert_array_equal(dense[:2, :3], weight[:2])
    np.testing.assert_array_equal(dense[2:, 3:], weight[2:])
    assert int(np.count_nonzero(dense)) == 12


@pytest.mark.parametrize("bits", [4, 6])
def test_narrow_activations_keep_their_range(bits: int) -> None:
    """An Add of 8 bits, requantized to fewer: clamped by MINIMUM and MAXIMUM."""
    graph = encoder()
    last = next(n for n in reversed(graph.nodes) if n.op is Op.ADD)
    spec = graph.tensors[last.output]
    multiplier, scale = fit_output_scale((spec.scale or 0.0) * 2 ** (8 - bits) * 0.4, spec.scale or 0.0)
    narrow = replace(spec, name="narrow", bits=bits, scale=scale)
    node = replace(last, op=Op.REQUANTIZE, name="narrow", inputs=(last.output,), output="narrow",
                   attributes={"multiplier": multiplier})  # fmt: skip
    output = replace(graph.outputs[0], tensor="narrow", integers=True)
    kept = [n for n in graph.nodes if n.op is not Op.MEAN_POOL]
    graph = replace(
        graph, nodes=(*kept, node), tensors={**graph.tensors, "narrow": narrow}, outputs=(output,)
    )
    inputs = random_inputs(np.random.default_rng(1), graph, batch=4, sequence=9)
    op, worst, _ = differences(graph, litert(graph), inputs)["narrow"]
    values = litert(graph).tensors(inputs, ["narrow"])["narrow"]
    assert op is Op.REQUANTIZE
    assert worst <= 1  # XNNPACK changes scales with 8 bits of the factor
    assert (values.min(), values.max()) == narrow.range


def test_the_same_graph_gives_the_same_bytes_and_another_is_told(tmp_path: Path) -> None:
    graph, path = encoder(), tmp_path / "model.tflite"
    export_tflite(graph, path, 8)
    assert read_tflite(path, graph).sequence == 8
    with pytest.raises(ArchNetError, match="damaged, or exported from another network"):
        read_tflite(path, encoder(seed=1))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ArchNetError, match="damaged"):
        read_tflite(path, graph)
    path.write_bytes(b"no flatbuffer at all")
    with pytest.raises(ArchNetError, match="no TFLite file"):
        read_tflite(path, graph)
    with pytest.raises(ArchNetError, match="cannot be read"):
        read_tflite(tmp_path / "absent", graph)


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (encoder(embedding="one_hot"), "as wide as the vocabulary"),
        (encoder(embedding="code"), "as wide as the vocabulary"),
        (encoder(activation="gelu"), "no table of 256 entries"),
        (with_table_softmax(encoder()), "integer division"),
        (with_relu_attention(encoder()), "depends on the number of tokens"),
        (encoder(activation_bits=4), "4 bits"),
    ],
    ids=["one_hot", "code", "gelu", "table", "relu", "a4"],
)
def test_what_has_no_form_is_refused_by_name(graph: QuantizedGraph, message: str) -> None:
    with pytest.raises(ArchNetError, match=message):
        build_tflite(graph, 8)


@pytest.mark.parametrize("op", [Op.SLICE, Op.WIDEN, Op.EMBEDDING])
def test_a_network_of_the_host_alone_is_refused(op: Op) -> None:
    case = next(iter(OPERATORS[op]))
    graph = single_operator(op, case, Bits(8, 8))
    if op is Op.WIDEN:  # its features are the user's own input, and no operator of the file makes them
        assert split(graph).body == ()
    with pytest.raises(ArchNetError, match="leaves nothing to TFLite"):
        build_tflite(graph, 8)


@pytest.mark.parametrize("sequence", [0, 17])
def test_a_length_that_the_network_lacks_is_refused(sequence: int) -> None:
    with pytest.raises(ArchNetError, match=r"not in 1 \.\. 16"):
        build_tflite(encoder(), sequence)


def test_longer_sentences_than_the_file_has_are_refused() -> None:
    graph = encoder()
    with pytest.raises(ArchNetError, match="9 positions; the TFLite file takes 8"):
        litert(graph, 8).run(random_inputs(np.random.default_rng(1), graph, sequence=9))


def test_unknown_tensors_are_refused() -> None:
    graph = encoder()
    with pytest.raises(ArchNetError, match="does not show 'up'"):
        litert(graph).tensors(random_inputs(np.random.default_rng(1), graph), ["up"])


def test_places_that_differ_are_named_with_a_reason() -> None:
    graph = encoder()
    named = {place.op for place in emulated_places(graph)}
    assert named == {Op.ADD, Op.SOFTMAX, Op.MATMUL}
    fixed = {place.op for place in fixed_point_places(encoder(share_levels=256))}
    assert fixed == {Op.ADD, Op.SOFTMAX, Op.LINEAR, Op.MATMUL}
    images_places = emulated_places(image_graph("cnn", Bits(8, 8)))
    assert [p.tensor for p in images_places if p.op is Op.LINEAR] == ["head"]
