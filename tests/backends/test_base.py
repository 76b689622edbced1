"""The user's inputs are checked before a network runs, and its integers become floats as documented."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from archnet.backends.base import dequantize_output, feed, user_inputs
from archnet.config import Bits
from archnet.errors import ArchNetError
from archnet.graph import GraphOutput
from tests.graphs import CODE_DIGITS, Embedding, random_inputs, tiny_encoder
from tests.image_graphs import image_graph

IDS = np.array([[1, 2, 3], [4, 5, 0]])
MASK = np.array([[1, 1, 1], [1, 1, 0]])


def fed(embedding: Embedding = "gather", **inputs: Any) -> dict[str, NDArray[Any]]:
    return feed(tiny_encoder(np.random.default_rng(0), embedding=embedding), inputs)


def test_ids_and_mask_of_any_integer_dtype_become_int64() -> None:
    result = fed(input_ids=IDS.astype(np.int32), attention_mask=MASK.astype(bool))
    assert {name: str(value.dtype) for name, value in result.items()} == {
        "input_ids": "int64",
        "attention_mask": "int64",
    }
    np.testing.assert_array_equal(result["input_ids"], IDS)


def test_rows_of_a_host_table_are_looked_up() -> None:
    graph = tiny_encoder(np.random.default_rng(0), embedding="host")
    assert user_inputs(graph) == ("input_ids", "attention_mask")
    result = feed(graph, {"input_ids": IDS, "attention_mask": MASK})
    assert result["word_rows"].dtype == np.int8
    np.testing.assert_array_equal(result["word_rows"][1, 0], graph.constants["word_table"][4])


def test_codes_of_a_host_table_are_looked_up() -> None:
    graph = tiny_encoder(np.random.default_rng(0), embedding="code")
    result = feed(graph, {"input_ids": IDS, "attention_mask": MASK})
    assert result["word_code_ids"].dtype == np.int64
    assert result["word_code_ids"].shape == (2, 3, CODE_DIGITS)


CASES: dict[str, tuple[dict[str, Any], str]] = {
    "unknown": ({"input_idz": IDS}, "the network has no input 'input_idz'"),
    "missing": ({"attention_mask": None}, "the input 'attention_mask' is missing"),
    "float": ({"input_ids": IDS.astype(float)}, "the input 'input_ids' holds float64, not integers"),
    "text": ({"input_ids": np.array([["a"]])}, "not integers"),
    "large-id": ({"input_ids": IDS + 46}, r"'input_ids' holds 46 \.\. 51, outside 0 \.\. 49"),
    "negative-id": ({"input_ids": IDS - 1}, r"'input_ids' holds -1 \.\. 4, outside 0 \.\. 49"),
    "mask": ({"attention_mask": MASK * 2}, r"'attention_mask' holds 0 \.\. 2, outside 0 \.\. 1"),
    "rank": ({"input_ids": IDS[0]}, r"'input_ids' has shape \(3,\), not \(batch, sequence\)"),
    "length": ({"attention_mask": MASK[:, :2]}, "sequence is 3 in 'input_ids' and 2 in 'attention_mask'"),
    "batch": ({"attention_mask": MASK[:1]}, "batch is 2 in 'input_ids' and 1 in 'attention_mask'"),
    "empty": ({"input_ids": IDS[:, :0], "attention_mask": MASK[:, :0]}, "sequence is 0 in 'input_ids'"),
    "long": (
        {"input_ids": np.zeros((1, 17), int), "attention_mask": np.ones((1, 17), int)},
        "'input_ids' has 17 positions; the network takes at most 16",
    ),
}


@pytest.mark.parametrize("embedding", ["gather", "one_hot", "host", "code"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_inputs_that_the_network_does_not_take_are_refused(
    case: tuple[dict[str, Any], str], embedding: Embedding
) -> None:
    changed, message = case
    inputs = {"input_ids": IDS, "attention_mask": MASK, **changed}
    with pytest.raises(ArchNetError, match=message):
        fed(embedding, **{name: value for name, value in inputs.items() if value is not None})


def test_a_misspelt_input_is_met_with_the_right_name() -> None:
    with pytest.raises(ArchNetError) as caught:
        fed(input_idz=IDS, attention_mask=MASK)
    assert "did you mean 'input_ids'?" in caught.value.fix


def test_pictures_of_another_size_are_refused() -> None:
    graph = image_graph("cnn", Bits(8, 8))
    wanted = next(spec.shape for spec in graph.inputs)
    channels_last = np.zeros((2, *wanted[2:], 3), np.float32)
    with pytest.raises(ArchNetError, match="'pixel_values' has shape") as caught:
        feed(graph, {"pixel_values": channels_last})
    assert "that size, channels first" in caught.value.fix


def test_outputs_are_integer_times_scale() -> None:
    output = GraphOutput("y", "t", np.array([0.5, 2.0], dtype=np.float32))
    real = dequantize_output(np.array([[3, -4]], dtype=np.int32), output)
    assert real.dtype == np.float32
    assert real.tolist() == [[1.5, -8.0]]


def test_normalised_outputs_have_length_one_and_zero_stays_zero() -> None:
    output = GraphOutput("y", "t", np.array([1.0, 1.0], dtype=np.float32), normalize=True)
    real = dequantize_output(np.array([[3, -4], [0, 0]], dtype=np.int32), output)
    np.testing.assert_allclose(real, [[0.6, -0.8], [0.0, 0.0]], rtol=1e-6)


def test_bounded_outputs_are_a_tanh_of_the_real_numbers() -> None:
    output = GraphOutput("y", "t", np.array([0.5, 2.0], dtype=np.float32), cap=3.0)
    real = dequantize_output(np.array([[3, -4]], dtype=np.int32), output)
    np.testing.assert_allclose(real, [[3 * np.tanh(1.5 / 3), 3 * np.tanh(-8 / 3)]], rtol=1e-6)


def test_random_inputs_are_accepted() -> None:
    rng = np.random.default_rng(0)
    graph = tiny_encoder(rng)
    assert set(feed(graph, random_inputs(rng, graph))) == {"input_ids", "attention_mask"}
