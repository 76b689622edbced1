"""A QuantizedGraph on disk: graph.json (structure) and graph.safetensors (constants).

graph.json holds {"format", "version", "sha256", "constants_sha256", "graph"}: the first checksum is of
the canonical JSON text of "graph", the second of the bytes of graph.safetensors. Constants of 4 bits and
fewer are packed (archnet/calibration/packing.py). Nothing is executed when a graph is read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from archnet.atomic import write_bytes
from archnet.calibration.packing import Packing, pack, unpack
from archnet.errors import ArchNetError
from archnet.graph import AttributeValue, GraphOutput, HostTable, Node, QuantizedGraph, TensorSpec
from archnet.graph_check import validate_graph
from archnet.operators import Op
from archnet.packed_constants import packed_constants

FORMAT = "archnet-graph"
VERSION = 2
READABLE = (1, 2)
"""Version 1 has no packed constants."""

GRAPH_FILE = "graph.json"
CONSTANTS_FILE = "graph.safetensors"

_AGAIN = "run archnet convert again"
_SCALE_SUFFIX = ":scale"


def save_graph(graph: QuantizedGraph, folder: Path) -> None:
    """Write a graph into a folder, which is made if it does not exist.

    The same graph gives the same bytes. The structure, which names the constants' checksum, is written
    last: a kill between the two files leaves a folder that `load_graph` refuses.

    Raises:
        ArchNetError: the graph is not valid, or the disk refuses; files already there stay whole.
    """
    validate_graph(graph)
    packed = packed_constants(graph)
    arrays: dict[str, NDArray[Any]] = {
        name: (
            pack(packed[name].codes(value), packed[name].width)
            if name in packed
            else np.ascontiguousarray(value)
        )
        for name, value in graph.constants.items()
    }
    for output in graph.outputs:
        key = output.name + _SCALE_SUFFIX
        if key in arrays:
            raise ArchNetError(f"{graph.name}: {key} names a constant and an output's scale", fix=_AGAIN)
        arrays[key] = np.ascontiguousarray(output.scale)
    constants = safetensors.numpy.save(arrays)
    structure = _encode(graph, packed)
    document = {
        "format": FORMAT,
        "version": VERSION,
        "sha256": hashlib.sha256(_canonical(structure)).hexdigest(),
        "constants_sha256": hashlib.sha256(constants).hexdigest(),
        "graph": structure,
    }
    write_bytes(folder / CONSTANTS_FILE, constants)
    write_bytes(folder / GRAPH_FILE, (json.dumps(document, indent=1) + "\n").encode())


def load_graph(folder: Path) -> QuantizedGraph:
    """Read and validate a graph.

    Raises:
        ArchNetError: a file is missing, truncated, changed, of another format version, or not valid.
    """
    path = folder / GRAPH_FILE
    document = _parse(path)
    structure = document["graph"]
    if hashlib.sha256(_canonical(structure)).hexdigest() != document.get("sha256"):
        raise ArchNetError(f"{path} is damaged: its checksum does not match", fix=_AGAIN)
    content = _read(folder / CONSTANTS_FILE)
    if hashlib.sha256(content).hexdigest() != document.get("constants_sha256"):
        raise ArchNetError(
            f"{folder / CONSTANTS_FILE} is truncated or damaged: its checksum is not the one in {GRAPH_FILE}",
            fix=_AGAIN,
        )
    try:
        graph = _decode(structure, safetensors.numpy.load(content))
        validate_graph(graph)
    except (KeyError, TypeError, ValueError, AttributeError, SafetensorError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ArchNetError(f"{path} is no graph that can be read ({reason})", fix=_AGAIN) from error
    return graph


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ArchNetError(f"{path} cannot be read: {reason}", fix=_AGAIN) from error


def _parse(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(_read(path))
    except (ValueError, RecursionError) as error:
        raise ArchNetError(f"{path} is truncated or damaged: {error}", fix=_AGAIN) from error
    if not isinstance(document, dict) or document.get("format") != FORMAT or "graph" not in document:
        raise ArchNetError(f"{path} is not an Arch-Net graph", fix=_AGAIN)
    if document.get("version") not in READABLE:
        versions = " and ".join(map(str, READABLE))
        raise ArchNetError(
            f"{path} has format version {document.get('version')!r}; this archnet reads versions {versions}",
            fix=f"{_AGAIN} with this version of archnet",
        )
    return document


def _canonical(structure: object) -> bytes:
    return json.dumps(structure, sort_keys=True, separators=(",", ":")).encode()


def _encode(graph: QuantizedGraph, packed: Mapping[str, Packing]) -> dict[str, Any]:
    return {
        "name": graph.name,
        "max_sequence": graph.max_sequence,
        "inputs": [spec.name for spec in graph.inputs],
        "outputs": [
            {
                "name": o.name,
                "tensor": o.tensor,
                "normalize": o.normalize,
                "scale": o.name + _SCALE_SUFFIX,
            }
            | ({"integers": True} if o.integers else {})
            | ({"pool": o.pool} if o.pool else {})
            | ({"cap": o.cap} if o.cap else {})
            for o in graph.outputs
        ],
        "host_tables": [
            {"source": h.source, "target": h.target, "table": h.table} for h in graph.host_tables
        ],
        "tensors": [_encode_spec(spec) for spec in graph.tensors.values()],
        "nodes": [
            {
                "op": str(node.op),
                "name": node.name,
                "block": node.block,
                "inputs": list(node.inputs),
                "output": node.output,
                "attributes": {
                    key: list(value) if isinstance(value, tuple) else value
                    for key, value in node.attributes.items()
                },
            }
            for node in graph.nodes
        ],
        "constants": {
            name: {"dtype": str(value.dtype), "shape": list(value.shape)}
            | (_encode_packing(packed[name]) if name in packed else {})
            for name, value in graph.constants.items()
        },
    }


def _encode_packing(packing: Packing) -> dict[str, int]:
    return {"bits": packing.width, "step": packing.step, "offset": packing.offset}


def _encode_spec(spec: TensorSpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "shape": list(spec.shape),
        "dtype": spec.dtype,
        "bits": spec.bits,
        "scale": spec.scale,
    }


def _decode(structure: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> QuantizedGraph:
    specs = [
        TensorSpec(s["name"], tuple(s["shape"]), s["dtype"], s["bits"], s["scale"])
        for s in structure["tensors"]
    ]
    tensors = {spec.name: spec for spec in specs}
    constants = {name: _constant(name, arrays[name], e) for name, e in structure["constants"].items()}
    return QuantizedGraph(
        name=structure["name"],
        inputs=tuple(tensors[name] for name in structure["inputs"]),
        outputs=tuple(
            GraphOutput(
                o["name"],
                o["tensor"],
                arrays[o["scale"]],
                o["normalize"],
                bool(o.get("integers", False)),
                o.get("pool", ""),
                float(o.get("cap", 0.0)),
            )
            for o in structure["outputs"]
        ),
        nodes=tuple(
            Node(
                Op(n["op"]),
                n["name"],
                tuple(n["inputs"]),
                n["output"],
                {key: _attribute(value) for key, value in n["attributes"].items()},
                n["block"],
            )
            for n in structure["nodes"]
        ),
        tensors=tensors,
        constants=constants,
        max_sequence=structure["max_sequence"],
        host_tables=tuple(HostTable(h["source"], h["target"], h["table"]) for h in structure["host_tables"]),
    )


def _constant(name: str, array: NDArray[Any], entry: Mapping[str, Any]) -> NDArray[Any]:
    if "bits" in entry:
        packing = Packing(entry["bits"], entry["step"], entry["offset"])
        array = packing.values(unpack(array, packing.width, entry["shape"]), entry["dtype"])
    found = (str(array.dtype), list(array.shape))
    if found != (entry["dtype"], entry["shape"]):
        raise ValueError(f"constant {name} is {found}, not {entry}")
    return array


def _attribute(value: Any) -> AttributeValue:
    if isinstance(value, list):
        return tuple(value)
    if isinstance(value, (int, str, bool)):
        return value
    raise TypeError(f"attribute {value!r}")
