"""The TVM backend: outputs, tensors, and refusals of libraries that it must not run."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import numpy as np
import pytest

from archnet.backends import open_backend
from archnet.backends.reference import ReferenceBackend
from archnet.errors import ArchNetError
from archnet.graph import QuantizedGraph
from archnet.storage import save_graph
from tests.graphs import random_inputs, tiny_encoder

pytest.importorskip("tvm")


@pytest.fixture(scope="module")
def graph() -> QuantizedGraph:
    return tiny_encoder(np.random.default_rng(3))


@pytest.fixture(scope="module")
def built(graph: QuantizedGraph, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from archnet.export.tvm import compile_tvm, folder_name

    folder = tmp_path_factory.mktemp("build")
    save_graph(graph, folder / "graph")
    compile_tvm(graph, folder / "tvm" / folder_name())
    return folder


@pytest.fixture
def library(built: Path, tmp_path: Path) -> Path:
    """A copy of the compiled folder, to be spoilt."""
    source, copy = built / "tvm" / platform.machine(), tmp_path / "tvm"
    copy.mkdir()
    for name in ("model.so", "meta.json"):
        (copy / name).write_bytes((source / name).read_bytes())
    return copy


@pytest.mark.parametrize(("batch", "sequence"), [(1, 1), (5, 11)])
def test_outputs_equal_the_reference(graph: QuantizedGraph, built: Path, batch: int, sequence: int) -> None:
    inputs = random_inputs(np.random.default_rng(sequence), graph, batch=batch, sequence=sequence)
    expected = ReferenceBackend(graph).run(inputs)
    found = open_backend("tvm", built).run(inputs)
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert value.dtype == np.float32
        np.testing.assert_array_equal(value, expected[name])


def test_tensors_equal_the_reference(graph: QuantizedGraph, built: Path) -> None:
    inputs = random_inputs(np.random.default_rng(1), graph, batch=2, sequence=6)
    backend = open_backend("tvm", built)
    every = backend.tensors(inputs)
    assert every.keys() == {node.output for node in graph.nodes}
    expected = ReferenceBackend(graph).tensors(inputs, list(every))
    for name, value in every.items():
        np.testing.assert_array_equal(value, expected[name])
    one = next(iter(every))
    assert backend.tensors(inputs, [one]).keys() == {one}


def test_unknown_tensor(graph: QuantizedGraph, built: Path) -> None:
    inputs = random_inputs(np.random.default_rng(1), graph, batch=1, sequence=2)
    with pytest.raises(ArchNetError, match=r"does not compute 'pooling\.poll:0'") as caught:
        open_backend("tvm", built).tensors(inputs, ["pooling.poll:0"])
    assert "'pooling.pool:0'" in caught.value.fix


def test_no_library(graph: QuantizedGraph, tmp_path: Path) -> None:
    save_graph(graph, tmp_path / "graph")
    with pytest.raises(ArchNetError, match="holds no TVM library") as caught:
        open_backend("tvm", tmp_path)
    assert "archnet export DIR --format tvm" in caught.value.fix


def refusal(graph: QuantizedGraph, library: Path) -> str:
    from archnet.backends.tvm import TvmBackend

    with pytest.raises(ArchNetError) as caught:
        TvmBackend(graph, library)
    return caught.value.problem


def spoil(library: Path, key: str, value: object) -> None:
    meta = json.loads((library / "meta.json").read_text())
    (library / "meta.json").write_text(json.dumps({**meta, key: value}))


def test_library_of_another_architecture(graph: QuantizedGraph, library: Path) -> None:
    spoil(library, "architecture", "vax")
    assert "is compiled for vax, this machine is" in refusal(graph, library)


def test_library_for_a_better_processor(graph: QuantizedGraph, library: Path) -> None:
    spoil(library, "features", ["avx4096"])
    assert "for a processor with avx4096, which this one lacks" in refusal(graph, library)


def test_library_of_another_network(library: Path) -> None:
    other = tiny_encoder(np.random.default_rng(4))
    assert "is compiled from another network" in refusal(other, library)


def test_library_of_another_format(graph: QuantizedGraph, library: Path) -> None:
    spoil(library, "format", 99)
    assert "has format 99, not 1" in refusal(graph, library)


def test_truncated_library(graph: QuantizedGraph, library: Path) -> None:
    content = (library / "model.so").read_bytes()
    (library / "model.so").write_bytes(content[: len(content) // 2])
    assert "model.so is damaged" in refusal(graph, library)


def test_damaged_description(graph: QuantizedGraph, library: Path) -> None:
    (library / "meta.json").write_text("{")
    assert "meta.json is damaged" in refusal(graph, library)
