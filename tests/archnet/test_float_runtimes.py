"""What runs in float on a backend is named, so that no report says otherwise."""

from __future__ import annotations

import numpy as np
import pytest

from archnet.agreement import emulated_places
from tests.graphs import tiny_encoder


@pytest.mark.parametrize("backend", ["rk3588", "rk3576", "k230"])
def test_simulators_in_float_name_every_operator(backend: str) -> None:
    graph = tiny_encoder(np.random.default_rng(0))
    named = {place.op for place in emulated_places(graph, [backend])}
    assert {"FullyConnected", "MatMul", "Softmax", "Add"} <= named


def test_openvino_names_the_softmax_and_backends_in_integers_name_nothing() -> None:
    graph = tiny_encoder(np.random.default_rng(0))
    assert {place.op for place in emulated_places(graph, ["openvino"])} <= {"Softmax", "Minimum"}
    assert any(place.op == "Softmax" for place in emulated_places(graph, ["openvino"]))
    assert emulated_places(graph, ["reference", "tvm", "iree"]) == ()


@pytest.mark.parametrize("backend", ["bm1684x", "bm1688"])
def test_the_tpu_has_the_softmax_in_float_and_nothing_else(backend: str) -> None:
    graph = tiny_encoder(np.random.default_rng(0))
    assert {place.op for place in emulated_places(graph, [backend])} == {"Softmax"}
