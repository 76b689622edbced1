"""ONNX Runtime as a backend: opening files, showing tensors, and its errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from archnet.backends import open_backend
from archnet.backends.onnxruntime import OnnxRuntimeBackend, read_model
from archnet.backends.reference import ReferenceBackend
from archnet.errors import ArchNetError
from archnet.export.onnx import build_onnx, export_onnx
from archnet.storage import save_graph
from tests.graphs import random_inputs, tiny_encoder


@pytest.fixture
def build(tmp_path: Path) -> Path:
    graph = tiny_encoder(np.random.default_rng(0), embedding="code")
    save_graph(graph, tmp_path / "graph")
    export_onnx(graph, tmp_path / "onnx" / "model.onnx")
    return tmp_path


def test_build_folder_opens_by_name(build: Path) -> None:
    backend = open_backend("onnxruntime", build, threads=1)
    assert isinstance(backend, OnnxRuntimeBackend)
    assert backend.level == "ORT_ENABLE_ALL"
    inputs = random_inputs(np.random.default_rng(1), backend.graph)
    wanted = ReferenceBackend(backend.graph).run(inputs)["sentence_embedding"]
    np.testing.assert_allclose(backend.run(inputs)["sentence_embedding"], wanted, rtol=0, atol=1e-6)


def test_tensors_are_those_asked_for(build: Path) -> None:
    backend = OnnxRuntimeBackend.open(build, threads=1)
    inputs = random_inputs(np.random.default_rng(1), backend.graph)
    everything = backend.tensors(inputs)
    assert set(everything) == {node.output for node in backend.graph.nodes}
    wanted = ReferenceBackend(backend.graph).tensors(inputs)
    some = [backend.graph.nodes[3].output, backend.graph.nodes[-1].output]
    shown = backend.tensors(inputs, some)
    assert list(shown) == some
    for name in some:
        np.testing.assert_array_equal(shown[name], wanted[name])
        np.testing.assert_array_equal(shown[name], everything[name])


def test_unknown_tensor_is_refused_with_the_nearest(build: Path) -> None:
    backend = OnnxRuntimeBackend.open(build, threads=1)
    inputs = random_inputs(np.random.default_rng(1), backend.graph)
    with pytest.raises(ArchNetError, match=r"does not show the tensor layer0\.quary:0") as caught:
        backend.tensors(inputs, ["layer0.quary:0"])
    assert "layer0.query:0" in caught.value.fix


def test_unknown_level_is_refused_with_the_nearest(build: Path) -> None:
    with pytest.raises(ArchNetError, match="no optimisation level 'ORT_ENABLE_AL'") as caught:
        OnnxRuntimeBackend.open(build, level="ORT_ENABLE_AL")
    assert "ORT_ENABLE_ALL" in caught.value.fix


def test_missing_file_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(ArchNetError, match=r"model\.onnx does not exist") as caught:
        read_model(tmp_path / "model.onnx")
    assert "archnet export DIR --format onnx" in caught.value.fix


@pytest.mark.parametrize(
    "content", [b"", b"not an onnx file at all", None], ids=["empty", "text", "truncated"]
)
def test_damaged_file_is_refused(build: Path, content: bytes | None) -> None:
    file = build / "onnx" / "model.onnx"
    file.write_bytes(file.read_bytes()[:5000] if content is None else content)
    with pytest.raises(ArchNetError, match="is no ONNX file, or it is damaged"):
        OnnxRuntimeBackend.open(build)


def test_file_of_another_writer_is_refused() -> None:
    graph = tiny_encoder(np.random.default_rng(0))
    model = build_onnx(graph)
    del model.metadata_props[:]
    with pytest.raises(ArchNetError, match="does not name its optimisation level"):
        OnnxRuntimeBackend(graph, model)
    backend = OnnxRuntimeBackend(graph, model, level="ORT_ENABLE_ALL")
    with pytest.raises(ArchNetError, match="does not say where its integer tensors are"):
        backend.tensors(random_inputs(np.random.default_rng(1), graph))


def test_file_that_the_runtime_refuses_is_named() -> None:
    graph = tiny_encoder(np.random.default_rng(0))
    model = build_onnx(graph)
    model.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(ArchNetError, match=r"ONNX Runtime [\d.]+ cannot open the network"):
        OnnxRuntimeBackend(graph, model)


def test_opened_model_is_left_as_it_is(build: Path) -> None:
    model = read_model(build / "onnx" / "model.onnx")
    before = model.SerializeToString(deterministic=True)
    graph = OnnxRuntimeBackend.open(build).graph
    OnnxRuntimeBackend(graph, model).tensors(random_inputs(np.random.default_rng(1), graph))
    assert model.SerializeToString(deterministic=True) == before
    assert isinstance(model, onnx.ModelProto)
