"""A real, tiny, finished build folder: a random integer network, its ONNX file, and a "float original".

The original is another network of the same form (mean of a random table's rows), so that agreement with
it is low: the tests compare figures, they expect no quality.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from archnet.export.onnx import export_onnx
from archnet.graph import QuantizedGraph
from archnet.storage import save_graph
from tests.graphs import random_inputs, tiny_encoder
from tests.hf_models import make_wordpiece_tokenizer
from tests.report.fixture_build import make_build

HIDDEN = 16
MAX_SEQUENCE = 24


def make_integer_build(folder: Path, *, sentences: int = 12) -> QuantizedGraph:
    """Write the folder; returns its integer network."""
    make_build(folder, parts=("sizes",))
    tokenizer = make_wordpiece_tokenizer()
    rng = np.random.default_rng(7)
    graph = tiny_encoder(rng, hidden=HIDDEN, vocab=tokenizer.get_vocab_size(), max_sequence=MAX_SEQUENCE)
    save_graph(graph, folder / "graph")
    export_onnx(graph, folder / "onnx" / "model.onnx")
    write_float_original(folder / "onnx" / "float.onnx", float_table(tokenizer.get_vocab_size()))
    (folder / "tokenizer").mkdir()
    tokenizer.save(str(folder / "tokenizer" / "tokenizer.json"))
    (folder / "tokenizer" / "tokenizer_config.json").write_text(json.dumps({"pad_token": "[PAD]"}))
    inputs = random_inputs(rng, graph, batch=sentences, sequence=10)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    np.savez(folder / "calibration.npz", input_ids=ids, attention_mask=mask)
    return graph


def float_table(vocabulary: int) -> NDArray[np.float32]:
    """The rows of the float original."""
    return np.random.default_rng(8).normal(size=(vocabulary, HIDDEN)).astype(np.float32)


def float_original(
    table: NDArray[np.float32], ids: NDArray[np.int64], mask: NDArray[np.int64]
) -> NDArray[np.float32]:
    """What the float original computes, in NumPy: the mean row over the mask."""
    weights = mask[..., None].astype(np.float32)
    mean: NDArray[np.float32] = (table[ids] * weights).sum(axis=1) / weights.sum(axis=1)
    return mean


def write_float_original(file: Path, table: NDArray[np.float32]) -> None:
    """The same as an ONNX file."""
    ids, mask = (
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"])
        for name in ("input_ids", "attention_mask")
    )
    output = helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, ["batch", HIDDEN])
    constants = {"table": table, "last": np.array([2]), "middle": np.array([1])}
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
        helper.make_node("Cast", ["attention_mask"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["real", "last"], ["weights"]),
        helper.make_node("Mul", ["rows", "weights"], ["weighted"]),
        helper.make_node("ReduceSum", ["weighted", "middle"], ["sum"], keepdims=0),
        helper.make_node("ReduceSum", ["weights", "middle"], ["count"], keepdims=0),
        helper.make_node("Div", ["sum", "count"], ["sentence_embedding"]),
    ]
    initializers = [numpy_helper.from_array(v, k) for k, v in constants.items()]
    graph = helper.make_graph(nodes, "original", [ids, mask], [output], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(model, str(file))
