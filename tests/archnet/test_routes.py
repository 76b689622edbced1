"""What routes hand to compilers that calibrate by themselves."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from archnet.config import Bits
from archnet.export.float_twin import build_float_twin
from archnet.export.host_split import NothingLeft
from archnet.export.qdq import build_qdq
from archnet.graph import QuantizedGraph
from archnet.operators import Op
from archnet.routes.k230 import CALIBRATION, calibration_samples
from archnet.single_operators import random_inputs, single_operator
from tests.graphs import Embedding, tiny_encoder
from tests.image_graphs import image_graph


@pytest.mark.parametrize("embedding", ["gather", "host"])
def test_samples_are_what_a_user_gives_and_as_long_as_the_network(embedding: Embedding) -> None:
    graph = tiny_encoder(np.random.default_rng(0), embedding=embedding)
    ids = np.arange(40 * 16).reshape(40, 16) % 50
    given = {"input_ids": ids, "attention_mask": np.ones_like(ids), "decoder_input_ids": ids}
    found = calibration_samples(graph, given, 12)
    assert list(found) == ["input_ids", "attention_mask"]
    np.testing.assert_array_equal(found["input_ids"], ids[:CALIBRATION, :12])


def test_pictures_are_not_cut() -> None:
    pixels = np.zeros((40, 3, 16, 16), np.float32)
    found = calibration_samples(image_graph("cnn", Bits(8, 8)), {"pixel_values": pixels}, 4)
    assert found["pixel_values"].shape == (CALIBRATION, 3, 16, 16)


def test_a_table_as_long_as_the_sentence_is_not_cut() -> None:
    graph = single_operator(Op.ADD, "broadcast", Bits(8, 8))
    found = calibration_samples(graph, random_inputs(graph, 4, 12), 12)
    assert {name: values.shape for name, values in found.items()} == {"a": (4, 12, 32), "b": (12, 32)}


@pytest.mark.parametrize("build", [build_float_twin, build_qdq])
@pytest.mark.parametrize(
    ("op", "case"), [(Op.WIDEN, "tokens"), (Op.EMBEDDING, "50 words"), (Op.SLICE, "a table of positions")]
)
def test_what_the_host_does_alone_has_no_file(
    build: Callable[[QuantizedGraph], object], op: Op, case: str
) -> None:
    with pytest.raises(NothingLeft, match=f"the network {op} leaves nothing to a compiler"):
        build(single_operator(op, case, Bits(8, 8)))
