"""What routes hand to compilers that calibrate by themselves."""

from __future__ import annotations

import numpy as np
import pytest

from archnet.config import Bits
from archnet.routes.k230 import CALIBRATION, calibration_samples
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
