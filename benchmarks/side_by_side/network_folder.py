"""A float model on disk as every tool gets it: its ONNX graphs and one set of unlabelled calibration data.

    FOLDER/network.json   {"name", "sha256", "graphs": {GRAPH: {"trim": {array: mask}}}}
    FOLDER/GRAPH.onnx     the float graph
    FOLDER/GRAPH.npz      calibration: an array a graph input (and masks for trimming), one row an example

An encoder or a classifier is one graph, "model"; an encoder-decoder is "encoder" and "decoder".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Inputs = dict[str, NDArray[Any]]

RECORD = "network.json"


@dataclass(frozen=True)
class Calibration:
    """Unlabelled examples of one graph.

    Attributes:
        arrays: by graph input, (examples, ...), padded to one length on axis 1 where there is a mask.
        trim: which mask (a key of `arrays`, or of `masks`) says how long an array's examples are.
        masks: masks that are no input of the graph.
    """

    arrays: Mapping[str, NDArray[Any]]
    trim: Mapping[str, str]
    masks: Mapping[str, NDArray[Any]]

    def __len__(self) -> int:
        return min(len(values) for values in self.arrays.values())

    def singles(self, count: int) -> list[Inputs]:
        """The first `count` examples, each a batch of its own without padding."""
        return [self._rows(i, i + 1) for i in range(min(count, len(self)))]

    def batches(self, count: int, size: int) -> list[Inputs]:
        """The first `count` examples in whole batches of `size`, all of one shape (padded)."""
        whole = min(count, len(self)) // size * size
        chosen = {name: values[:whole] for name, values in self.arrays.items()}
        for name, mask in self.trim.items():
            longest = int(self._mask(mask)[:whole].sum(axis=1).max(initial=1))
            chosen[name] = chosen[name][:, :longest]
        return [{n: v[i : i + size] for n, v in chosen.items()} for i in range(0, whole, size)]

    def _rows(self, start: int, stop: int) -> Inputs:
        rows = {name: values[start:stop] for name, values in self.arrays.items()}
        for name, mask in self.trim.items():
            longest = int(self._mask(mask)[start:stop].sum(axis=1).max(initial=1))
            rows[name] = rows[name][:, :longest]
        return rows

    def _mask(self, name: str) -> NDArray[Any]:
        return self.arrays[name] if name in self.arrays else self.masks[name]


@dataclass(frozen=True)
class Graph:
    """One float graph with its calibration data."""

    name: str
    onnx: Path
    calibration: Calibration


@dataclass(frozen=True)
class NetworkFolder:
    """The graphs of a model, in the order in which they run."""

    path: Path
    name: str
    sha256: str
    graphs: tuple[Graph, ...]

    @classmethod
    def open(cls, path: Path) -> NetworkFolder:
        """Read what `write_record` and its caller left."""
        record = json.loads((path / RECORD).read_text())
        graphs = []
        for name, entry in record["graphs"].items():
            with np.load(path / f"{name}.npz") as file:
                arrays = {key: file[key] for key in file.files}
            masks = {key: arrays.pop(key) for key in entry["masks"]}
            graphs.append(Graph(name, path / f"{name}.onnx", Calibration(arrays, entry["trim"], masks)))
        return cls(path, record["name"], record["sha256"], tuple(graphs))


def write_record(path: Path, name: str, sha256: str, graphs: Mapping[str, Calibration]) -> None:
    """Write the calibration arrays and, last, network.json; the ONNX files are there already."""
    for graph, data in graphs.items():
        arrays: dict[str, Any] = {**data.arrays, **data.masks}
        np.savez_compressed(path / f"{graph}.npz", **arrays)
    record = {
        "name": name,
        "sha256": sha256,
        "graphs": {g: {"trim": dict(c.trim), "masks": sorted(c.masks)} for g, c in graphs.items()},
    }
    (path / RECORD).write_text(json.dumps(record, indent=1) + "\n")
