"""How weights are stored: layers and tables, each once, by width."""

from __future__ import annotations

import json
from pathlib import Path

from archnet.report.weights import StoredWeights, stored_weights


def test_layers_and_tables_by_width(tmp_path: Path) -> None:
    nodes = [
        {"op": "Gather", "inputs": ["input_ids", "table"], "attributes": {}},
        {"op": "FullyConnected", "inputs": ["x", "w4", "b"], "attributes": {"weight_bits": 3}},
        {"op": "FullyConnected", "inputs": ["y", "w4", "b"], "attributes": {"weight_bits": 3}},
        {"op": "Conv", "inputs": ["z", "w8", "b"], "attributes": {"weight_bits": 8}},
        {"op": "Add", "inputs": ["z", "b"], "attributes": {}},
    ]
    constants = {
        "table": {"dtype": "int8", "shape": [10, 4]},
        "w4": {"dtype": "int8", "shape": [3, 5], "bits": 4},
        "w8": {"dtype": "int8", "shape": [2, 2, 3, 3]},
        "b": {"dtype": "int32", "shape": [3]},
    }
    (tmp_path / "graph").mkdir()
    (tmp_path / "graph" / "graph.json").write_text(
        json.dumps({"graph": {"nodes": nodes, "constants": constants}})
    )
    assert stored_weights(tmp_path) == (StoredWeights(8, 2, 76, 76), StoredWeights(3, 1, 15, 8))


def test_a_folder_without_graph_says_nothing(tmp_path: Path) -> None:
    assert stored_weights(tmp_path) == ()
