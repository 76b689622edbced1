"""Backends by name, and the reference executor behind the common interface."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from archnet import backends
from archnet.backends import Backend, open_backend
from archnet.errors import ArchNetError
from archnet.reference import execute
from archnet.storage import save_graph
from tests.graphs import Embedding, random_inputs, tiny_encoder


@pytest.mark.parametrize("embedding", ["gather", "one_hot", "host", "code"])
def test_reference_backend_runs_a_saved_network(tmp_path: Path, embedding: Embedding) -> None:
    rng = np.random.default_rng(0)
    graph = tiny_encoder(rng, embedding=embedding)
    save_graph(graph, tmp_path / "graph")
    backend: Backend = open_backend("reference", tmp_path)
    inputs = random_inputs(rng, graph)
    result = backend.run(inputs)["sentence_embedding"]
    assert result.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(result, axis=-1), 1.0, rtol=1e-5)
    tensors = backend.tensors(inputs)
    assert set(tensors) == {node.output for node in graph.nodes}
    real = tensors["pooling.pool:0"] * graph.outputs[0].scale
    np.testing.assert_allclose(result, real / np.linalg.norm(real, axis=-1, keepdims=True), rtol=1e-5)


def test_tensors_by_name() -> None:
    rng = np.random.default_rng(0)
    graph = tiny_encoder(rng)
    inputs = random_inputs(rng, graph)
    from archnet.backends.reference import ReferenceBackend

    tensors = ReferenceBackend(graph).tensors(inputs, ["layer0.mask:0"])
    assert list(tensors) == ["layer0.mask:0"]
    np.testing.assert_array_equal(
        tensors["layer0.mask:0"], execute(graph, inputs, ["layer0.mask:0"])["layer0.mask:0"]
    )


def test_an_unknown_backend_is_met_with_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(ArchNetError, match="there is no backend 'onnxruntme'") as caught:
        open_backend("onnxruntme", tmp_path)
    assert "did you mean 'onnxruntime'?" in caught.value.fix


def test_a_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArchNetError, match="gone is not a folder"):
        open_backend("reference", tmp_path / "gone")


def test_a_folder_without_a_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArchNetError, match=r"graph.json cannot be read: no such file"):
        open_backend("reference", tmp_path)


def test_a_runtime_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(backends.BACKENDS, "tvm", "no_such_runtime.TvmBackend")
    with pytest.raises(ArchNetError, match="the backend 'tvm' is not installed here") as caught:
        open_backend("tvm", tmp_path)
    assert caught.value.fix == "pip install 'archnet[tvm]'"
