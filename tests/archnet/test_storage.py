"""Graphs survive the way to the disk and back; damaged files are refused with one clear error."""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from archnet.errors import ArchNetError
from archnet.graph import QuantizedGraph
from archnet.operators import Op
from archnet.storage import CONSTANTS_FILE, GRAPH_FILE, _canonical, load_graph, save_graph
from tests.graphs import Embedding, tiny_encoder


def assert_same(a: QuantizedGraph, b: QuantizedGraph) -> None:
    for field in fields(QuantizedGraph):
        if field.name not in ("constants", "outputs"):
            assert getattr(a, field.name) == getattr(b, field.name), field.name
    assert a.constants.keys() == b.constants.keys()
    pairs: list[tuple[Any, Any]] = [(a.constants[name], b.constants[name]) for name in a.constants]
    pairs += [(x.scale, y.scale) for x, y in zip(a.outputs, b.outputs, strict=True)]
    for x, y in pairs:
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)
    for x, y in zip(a.outputs, b.outputs, strict=True):
        assert (x.name, x.tensor, x.normalize, x.cap) == (y.name, y.tensor, y.normalize, y.cap)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_graph(tiny_encoder(np.random.default_rng(0)), tmp_path)
    return tmp_path


@settings(max_examples=12, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(["gather", "one_hot", "host", "code"]),
    st.integers(0, 2),
    st.booleans(),
    st.sampled_from([2, 3, 4, 8]),
)
def test_a_graph_comes_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    embedding: Embedding,
    layers: int,
    pooled: bool,
    bits: int,
) -> None:
    folder = tmp_path_factory.mktemp("graph")
    rng = np.random.default_rng(seed)
    graph = tiny_encoder(rng, embedding=embedding, layers=layers, pooled=pooled, weight_bits=bits)
    save_graph(graph, folder)
    assert_same(load_graph(folder), graph)


def test_a_bounded_output_comes_back(tmp_path: Path) -> None:
    graph = tiny_encoder(np.random.default_rng(0))
    bounded = replace(graph, outputs=tuple(replace(output, cap=3.0) for output in graph.outputs))
    save_graph(bounded, tmp_path)
    assert {output.cap for output in load_graph(tmp_path).outputs} == {3.0}


def test_the_same_graph_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_graph(tiny_encoder(np.random.default_rng(3)), tmp_path / name)
    for file in (GRAPH_FILE, CONSTANTS_FILE):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_arrays_that_are_views_are_written_as_they_read(tmp_path: Path) -> None:
    graph = tiny_encoder(np.random.default_rng(0))
    table = np.asfortranarray(graph.constants["word_table"])[::-1]
    graph = replace(graph, constants={**graph.constants, "word_table": table})
    save_graph(graph, tmp_path)
    np.testing.assert_array_equal(load_graph(tmp_path).constants["word_table"], table)


def test_nothing_but_the_two_files_is_left(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == [GRAPH_FILE, CONSTANTS_FILE]


def test_a_graph_that_is_not_valid_is_not_written(tmp_path: Path) -> None:
    graph = tiny_encoder(np.random.default_rng(0))
    with pytest.raises(ArchNetError, match="it has no output"):
        save_graph(replace(graph, outputs=()), tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("file", [GRAPH_FILE, CONSTANTS_FILE])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_file_is_refused(folder: Path, file: str, share: float) -> None:
    content = (folder / file).read_bytes()
    (folder / file).write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ArchNetError, match=f"{file} is truncated or damaged") as caught:
        load_graph(folder)
    assert caught.value.fix == "run archnet convert again"


@pytest.mark.parametrize("file", [GRAPH_FILE, CONSTANTS_FILE])
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_changed_byte_is_refused_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, file: str, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("graph")
    graph = tiny_encoder(np.random.default_rng(0))
    save_graph(graph, folder)
    content = bytearray((folder / file).read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    (folder / file).write_bytes(content)
    try:
        loaded = load_graph(folder)
    except ArchNetError:
        return
    # Only white space between the tokens of the JSON text may differ.
    assert file == GRAPH_FILE
    assert_same(loaded, graph)


@pytest.mark.parametrize("file", [GRAPH_FILE, CONSTANTS_FILE])
def test_a_missing_file_is_refused(folder: Path, file: str) -> None:
    (folder / file).unlink()
    with pytest.raises(ArchNetError, match=f"{file} cannot be read: no such file"):
        load_graph(folder)


@pytest.mark.parametrize("text", ["[]", "{}", '{"format": "other", "graph": {}}', "7"])
def test_another_file_is_refused(folder: Path, text: str) -> None:
    (folder / GRAPH_FILE).write_text(text)
    with pytest.raises(ArchNetError, match="is not an Arch-Net graph"):
        load_graph(folder)


def test_another_version_is_refused(folder: Path) -> None:
    document = json.loads((folder / GRAPH_FILE).read_text())
    document["version"] = 3
    (folder / GRAPH_FILE).write_text(json.dumps(document))
    with pytest.raises(ArchNetError, match="has format version 3; this archnet reads versions 1 and 2"):
        load_graph(folder)


def test_a_graph_of_the_version_before_is_read(folder: Path) -> None:
    document = json.loads((folder / GRAPH_FILE).read_text())
    document["version"] = 1
    (folder / GRAPH_FILE).write_text(json.dumps(document))
    assert_same(load_graph(folder), tiny_encoder(np.random.default_rng(0)))


@pytest.mark.parametrize(("bits", "share"), [(8, 1.0), (4, 0.5), (3, 0.5), (2, 0.25)])
def test_few_bits_take_few_bytes(tmp_path: Path, bits: int, share: float) -> None:
    rng = np.random.default_rng(0)
    graph = tiny_encoder(rng, embedding="one_hot", hidden=64, vocab=300, weight_bits=bits)
    save_graph(graph, tmp_path)
    weights = [n.inputs[1] for n in graph.nodes if n.op is Op.LINEAR]
    arrays = safetensors.numpy.load((tmp_path / CONSTANTS_FILE).read_bytes())
    assert sum(arrays[w].nbytes for w in weights) == share * sum(graph.constants[w].size for w in weights)
    entry = json.loads((tmp_path / GRAPH_FILE).read_text())["graph"]["constants"][weights[0]]
    assert entry.get("bits", 8) == round(8 * share)


def test_packed_bytes_that_are_too_few_are_refused(tmp_path: Path) -> None:
    graph = tiny_encoder(np.random.default_rng(0), weight_bits=4)
    save_graph(graph, tmp_path)
    arrays = safetensors.numpy.load((tmp_path / CONSTANTS_FILE).read_bytes())
    arrays["layer0.up.weight"] = arrays["layer0.up.weight"][1:]
    content = safetensors.numpy.save(arrays)
    (tmp_path / CONSTANTS_FILE).write_bytes(content)
    document = json.loads((tmp_path / GRAPH_FILE).read_text())
    document["constants_sha256"] = hashlib.sha256(content).hexdigest()
    (tmp_path / GRAPH_FILE).write_text(json.dumps(document))
    with pytest.raises(ArchNetError, match="511 values of uint8 are not 1024 integers of 4 bits"):
        load_graph(tmp_path)


def test_an_edited_structure_is_refused(folder: Path) -> None:
    document = json.loads((folder / GRAPH_FILE).read_text())
    document["graph"]["max_sequence"] = 8
    (folder / GRAPH_FILE).write_text(json.dumps(document))
    with pytest.raises(ArchNetError, match="is damaged: its checksum does not match"):
        load_graph(folder)


def test_constants_of_another_graph_are_refused(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("other")
    save_graph(tiny_encoder(np.random.default_rng(1)), other)
    (folder / CONSTANTS_FILE).write_bytes((other / CONSTANTS_FILE).read_bytes())
    with pytest.raises(ArchNetError, match=r"its checksum is not the one in graph\.json"):
        load_graph(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [("nodes", 3), ("tensors", [{}]), ("outputs", [[]]), ("constants", {"gone": {}}), ("inputs", ["gone"])],
)
def test_a_structure_of_another_form_is_refused(folder: Path, key: str, value: Any) -> None:
    document = json.loads((folder / GRAPH_FILE).read_text())
    document["graph"][key] = value
    # With a checksum that agrees, as another program that writes such files would make it.
    document["sha256"] = hashlib.sha256(_canonical(document["graph"])).hexdigest()
    (folder / GRAPH_FILE).write_text(json.dumps(document))
    with pytest.raises(ArchNetError, match="is no graph that can be read") as caught:
        load_graph(folder)
    assert caught.value.fix == "run archnet convert again"
