from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from archnet.agreement import IntegerComparison, OutputComparison, main_output, split_batches
from archnet.backends.base import dequantize_outputs, feed
from archnet.backends.reference import ReferenceBackend
from archnet.encode import open_tokenizer
from archnet.errors import ArchNetError
from archnet.events import Event, Progress, StageFinished, StageStarted
from archnet.graph import QuantizedGraph
from archnet.operators import Op
from archnet.reference import bind_dims, execute, run_node
from archnet.results import ValidationResult, read_metrics
from archnet.validate import validate
from tests.archnet.integer_build import MAX_SEQUENCE, float_original, float_table, make_integer_build
from tests.graphs import random_inputs, tiny_encoder
from tests.hf_models import SENTENCES

Inputs = Mapping[str, NDArray[Any]]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, QuantizedGraph]:
    folder = tmp_path_factory.mktemp("validate") / "build"
    return folder, make_integer_build(folder)


@pytest.fixture
def copy(build: tuple[Path, QuantizedGraph], tmp_path: Path) -> Path:
    return Path(shutil.copytree(build[0], tmp_path / "build"))


PAIRS = [(i, j, (7 * i + 3 * j) % 6) for i in range(8) for j in range(i)]
"""Which sentences are compared, and how alike a made-up judge finds them."""


def write_pairs(folder: Path) -> Path:
    file = folder / "pairs.txt"
    lines = [f"{score}\t{SENTENCES[i]}\t{SENTENCES[j]}" for i, j, score in PAIRS]
    file.write_text("\n".join(lines) + "\n")
    return file


def expected_score(vectors: NDArray[np.float32]) -> float:
    """Spearman x100 of the cosines of PAIRS, by SciPy."""
    exact = vectors.astype(np.float64)
    unit = exact / np.linalg.norm(exact, axis=1, keepdims=True)
    cosines = [float(unit[i] @ unit[j]) for i, j, _ in PAIRS]
    return 100 * float(stats.spearmanr(cosines, [score for *_, score in PAIRS]).statistic)


class FailingSoftmax(ReferenceBackend):
    """Adds 1 to the first element of every softmax; shows all tensors but the hidden operators'."""

    name = "failing"

    def __init__(self, graph: QuantizedGraph, hidden: frozenset[Op] = frozenset()) -> None:
        super().__init__(graph)
        self.hidden = hidden

    def tensors(self, inputs: Inputs, names: Sequence[str] | None = None) -> dict[str, NDArray[Any]]:
        values = feed(self.graph, inputs)
        dims = bind_dims(self.graph, values)
        shown: dict[str, NDArray[Any]] = {}
        for node in self.graph.nodes:
            before = [values[n] if n in values else self.graph.constants[n] for n in node.inputs]
            made = run_node(node, before, self.graph.tensors[node.output], dims)
            if node.op is Op.SOFTMAX:
                made = made.copy()
                made.flat[0] += 1 if made.flat[0] < 255 else -1
            values[node.output] = made
            if node.op not in self.hidden:
                shown[node.output] = made
        return shown


def test_agreement_only(build: tuple[Path, QuantizedGraph]) -> None:
    folder, graph = build
    result = validate(folder, backends=["reference", "onnxruntime"])
    assert result.task is None
    assert result.passed
    assert result.agreement_samples == 12
    assert [s.backend for s in result.scores] == ["reference", "onnxruntime"]
    with np.load(folder / "calibration.npz") as arrays:
        inputs = dict(arrays)
    table = float_table(open_tokenizer(folder / "tokenizer").get_vocab_size())
    original = float_original(table, inputs["input_ids"], inputs["attention_mask"])
    integer = dequantize_outputs(graph, execute(graph, feed(graph, inputs)), inputs)["sentence_embedding"]
    products = (original * integer).sum(1)
    lengths = np.linalg.norm(original, axis=1) * np.linalg.norm(integer, axis=1)
    noise = 10 * np.log10((original**2).sum() / ((original - integer) ** 2).sum())
    assert result.scores[0].cosine == pytest.approx((products / lengths).mean(), abs=1e-5)
    assert result.scores[0].sqnr_db == pytest.approx(noise, abs=1e-3)


def test_the_result_is_merged_into_the_metrics(copy: Path) -> None:
    result = validate(copy, backends=["reference"])
    metrics = read_metrics(copy / "metrics.json")
    assert ValidationResult.from_json(metrics["validation"]) == result
    assert metrics["sizes"]["onnx/float.onnx"] == 90_405_214


def test_onnxruntime_is_the_reference_but_for_the_named_places(build: tuple[Path, QuantizedGraph]) -> None:
    result = validate(build[0], backends=["onnxruntime"])
    emulated = {p.node for p in result.emulated}
    softmaxes = {n.name for n in build[1].nodes if n.op is Op.SOFTMAX}
    assert softmaxes <= emulated
    assert all(p.reason for p in result.emulated)
    assert {t.op for t in result.tensors} >= {"FullyConnected", "MatMul", "Softmax", "Add", "MeanPool"}
    for tensor in result.tensors:
        if tensor.scope == "layer" and tensor.op not in {p.op for p in result.emulated}:
            assert tensor.max_lsb == 0, tensor


def test_defaults_are_the_reference_and_what_was_exported(copy: Path) -> None:
    assert [s.backend for s in validate(copy).scores] == ["reference", "onnxruntime"]
    (copy / "onnx" / "model.onnx").unlink()
    assert [s.backend for s in validate(copy).scores] == ["reference"]


def test_a_task_is_scored_on_float_and_backends(copy: Path, tmp_path: Path) -> None:
    events: list[Event] = []
    data = write_pairs(tmp_path)
    result = validate(copy, task="sts", data=data, backends=["reference"], events=events.append)
    tokenizer = open_tokenizer(copy / "tokenizer")
    tokenizer.enable_truncation(MAX_SEQUENCE)
    rows = [tokenizer.encode(s).ids for s in SENTENCES]
    table = float_table(tokenizer.get_vocab_size())
    expected = expected_score(np.stack([table[row].mean(0) for row in rows]))
    original, integer = result.float_score, result.scores[0]
    assert original.score is not None
    assert integer.score is not None
    assert original.score == pytest.approx(expected, abs=1e-6)
    backend = ReferenceBackend.open(copy)
    ids, mask = np.zeros((2, len(rows), MAX_SEQUENCE), dtype=np.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)], mask[i, : len(row)] = row, 1
    vectors = backend.run({"input_ids": ids, "attention_mask": mask})["sentence_embedding"]
    assert integer.score == pytest.approx(expected_score(vectors), abs=1e-6)
    assert integer.drop == pytest.approx(original.score - integer.score)
    assert (original.drop, integer.parts) == (0.0, {"pairs": integer.score})
    assert (original.drop_range, len(integer.drop_range or ())) == (None, 2)
    assert (result.metric, result.data, result.samples) == ("Spearman x100", "pairs", 28)
    assert integer.cosine is not None
    kinds = [type(e) for e in events]
    assert kinds.count(StageStarted) == kinds.count(StageFinished) == 2
    last = [e for e in events if isinstance(e, Progress)][-1]
    assert (last.stage, last.block, last.step, last.steps) == ("score", "reference", 8, 8)


@pytest.mark.parametrize(("slack", "passed"), [(0.01, True), (-0.01, False)])
def test_max_drop_decides(
    build: tuple[Path, QuantizedGraph], tmp_path: Path, slack: float, passed: bool
) -> None:
    data = write_pairs(tmp_path)
    drop = validate(build[0], task="sts", data=data, backends=["reference"]).worst_drop
    assert drop is not None
    result = validate(build[0], task="sts", data=data, backends=["reference"], max_drop=drop + slack)
    assert result.passed is passed


def test_an_error_of_one_operator_is_found_in_that_operator_only() -> None:
    rng = np.random.default_rng(0)
    graph = tiny_encoder(rng, layers=2)
    comparison = IntegerComparison(graph, FailingSoftmax(graph))
    for _ in range(2):
        comparison.add(random_inputs(rng, graph))
    found = comparison.agreement()
    softmaxes = {n.output for n in graph.nodes if n.op is Op.SOFTMAX}
    layer = {t.tensor: t for t in found if t.scope == "layer"}
    assert {name for name, t in layer.items() if t.differing} == softmaxes
    assert all((layer[name].differing, layer[name].max_lsb) == (2, 1) for name in softmaxes)
    network = {t.tensor: t for t in found if t.scope == "network"}
    assert set(network) == set(layer) == {n.output for n in graph.nodes}
    before_any = {n.output for n in graph.nodes[: [n.op for n in graph.nodes].index(Op.SOFTMAX)]}
    assert not any(network[name].differing for name in before_any)


def test_what_a_backend_does_not_show_is_bridged() -> None:
    rng = np.random.default_rng(0)
    graph = tiny_encoder(rng)
    hidden = frozenset({Op.MASK, Op.RESHAPE, Op.TRANSPOSE, Op.ADD})
    comparison = IntegerComparison(graph, FailingSoftmax(graph, hidden))
    comparison.add(random_inputs(rng, graph))
    layer = {t.tensor: t for t in comparison.agreement() if t.scope == "layer"}
    assert set(layer) == {n.output for n in graph.nodes if n.op not in hidden}
    assert {t.op for t in layer.values() if t.differing} == {"Softmax"}


def test_equal_integers_are_reported_once() -> None:
    rng = np.random.default_rng(0)
    graph = tiny_encoder(rng)
    comparison = IntegerComparison(graph, ReferenceBackend(graph))
    comparison.add(random_inputs(rng, graph))
    found = comparison.agreement()
    assert {t.scope for t in found} == {"network"}
    assert all(t.elements > 0 and t.differing == 0 for t in found)


def test_a_tensor_of_another_shape_is_refused() -> None:
    graph = tiny_encoder(np.random.default_rng(0))

    class Flat(ReferenceBackend):
        name = "flat"

        def tensors(self, inputs: Inputs, names: Sequence[str] | None = None) -> dict[str, NDArray[Any]]:
            return {n: v.reshape(-1) for n, v in super().tensors(inputs, names).items()}

    with pytest.raises(ArchNetError, match="the backend flat shows"):
        IntegerComparison(graph, Flat(graph)).add(random_inputs(np.random.default_rng(1), graph))


def test_masked_tokens_do_not_count() -> None:
    rng = np.random.default_rng(0)
    original, network = rng.normal(size=(2, 2, 3, 4)).astype(np.float32)
    mask = np.array([[1, 1, 0], [1, 0, 0]])
    network[0, 2] = network[1, 1:] = 100
    comparison = OutputComparison("last_hidden_state")
    comparison.add(original, network, mask)
    a, b = original[mask != 0], network[mask != 0]
    expected = np.mean([x @ y / (np.linalg.norm(x) * np.linalg.norm(y)) for x, y in zip(a, b, strict=True)])
    assert comparison.agreement()[0] == pytest.approx(expected, abs=1e-6)


def test_nan_is_an_error() -> None:
    values = np.full((1, 4), np.nan, dtype=np.float32)
    with pytest.raises(ArchNetError, match="values that are no numbers"):
        OutputComparison("out").add(np.ones((1, 4), dtype=np.float32), values, np.ones((1, 1)))


def test_networks_without_a_common_output_are_refused() -> None:
    graph = tiny_encoder(np.random.default_rng(0))
    assert main_output(graph, ["x", "sentence_embedding"]) == "sentence_embedding"
    with pytest.raises(ArchNetError, match="none of the float original's"):
        main_output(graph, ["x"])


def test_batches_are_cut_to_their_longest_sentence() -> None:
    mask = np.array([[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 0]])
    batches = split_batches({"input_ids": np.arange(12).reshape(3, 4), "attention_mask": mask}, 2)
    assert [b["input_ids"].tolist() for b in batches] == [[[0, 1], [4, 5]], [[8, 9, 10]]]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"task": "sts"}, "--task and --data need each other"),
        ({"data": "x"}, "--task and --data need each other"),
        ({"max_drop": 1.0}, "--max-drop needs a score"),
        ({"task": "sts", "data": "x", "max_drop": float("nan")}, "--max-drop nan is no number"),
        ({"task": "stss", "data": "x"}, "there is no task 'stss'"),
        ({"task": "translatoin", "data": "x", "references": "y"}, "there is no task 'translatoin'"),
        ({"task": "classification", "data": __file__}, "holds no labelled texts"),
        ({"backends": []}, "no backend was named"),
        ({"backends": ["onxruntime"]}, "there is no backend 'onxruntime'"),
    ],
    ids=str,
)
def test_bad_arguments(build: tuple[Path, QuantizedGraph], arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ArchNetError, match=words):
        validate(build[0], **arguments)


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("calibration.npz", r"calibration\.npz cannot be read: it is missing"),
        ("onnx/float.onnx", r"float\.onnx is missing"),
        ("tokenizer/tokenizer.json", "so text cannot be fed"),
    ],
)
def test_a_missing_file_is_named(copy: Path, tmp_path: Path, file: str, words: str) -> None:
    (copy / file).unlink()
    before = (copy / "metrics.json").read_bytes()
    with pytest.raises(ArchNetError, match=words):
        validate(copy, task="sts", data=write_pairs(tmp_path))
    assert (copy / "metrics.json").read_bytes() == before


@pytest.mark.parametrize("file", ["calibration.npz", "onnx/float.onnx", "tokenizer/tokenizer.json"])
def test_a_damaged_file_is_named(copy: Path, tmp_path: Path, file: str) -> None:
    content = (copy / file).read_bytes()
    (copy / file).write_bytes(content[: len(content) // 2])
    with pytest.raises(ArchNetError, match=Path(file).name):
        validate(copy, task="sts", data=write_pairs(tmp_path))


def test_a_pickle_in_the_sentences_is_refused(copy: Path) -> None:
    np.savez(copy / "calibration.npz", input_ids=np.array([{}], dtype=object), attention_mask=np.ones(1))
    with pytest.raises(ArchNetError, match=r"calibration\.npz cannot be read: no \.npz file of plain arrays"):
        validate(copy)
