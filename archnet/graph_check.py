"""Checks that a QuantizedGraph is well formed and that no 32-bit accumulator can overflow.

A graph that passes runs in the reference executor for every allowed input, and its constants keep the
promises that exporters rely on (docs/file_formats.md).
"""

from __future__ import annotations

import math

import numpy as np

from archnet.errors import ArchNetError
from archnet.graph import GraphOutput, QuantizedGraph, TensorSpec
from archnet.node_check import MAX_SEQUENCE, SYMBOLS, Fault, check_range, require
from archnet.node_check_operators import check_node

_DTYPE_BITS = {"int8": 8, "uint8": 8, "int32": 32, "int64": 64}


def validate_graph(graph: QuantizedGraph) -> None:
    """Check names, order, dtypes, shapes, scales, constants' ranges and accumulators.

    Raises:
        ArchNetError: the first fault, with the node's or tensor's name.
    """
    try:
        _check_names(graph)
        if not 1 <= graph.max_sequence <= MAX_SEQUENCE:
            raise Fault(f"max_sequence is {graph.max_sequence}, not in 1 .. {MAX_SEQUENCE}")
        for key, spec in graph.tensors.items():
            _check_spec(key, spec)
        known = {spec.name for spec in graph.inputs}
        for node in graph.nodes:
            check_node(graph, node, known)
            known.add(node.output)
        for output in graph.outputs:
            _check_output(graph, output, known)
        _check_host_tables(graph)
    except Fault as fault:
        raise ArchNetError(
            f"the integer network {graph.name!r} is not valid: {fault}", fix="run archnet convert again"
        ) from None


def _check_names(graph: QuantizedGraph) -> None:
    made = [spec.name for spec in graph.inputs] + [node.output for node in graph.nodes]
    for name in made:
        require(name in graph.tensors, f"tensor {name} has no TensorSpec")
        require(name not in graph.constants, f"{name} names a tensor and a constant")
    require(len(set(made)) == len(made), "a tensor is made twice")
    spare = sorted(set(graph.tensors) - set(made))
    require(not spare, f"no node makes the tensors {', '.join(spare)}")
    for spec in graph.inputs:
        require(graph.tensors[spec.name] == spec, f"input {spec.name} differs from its entry in tensors")
    names = [node.name for node in graph.nodes]
    require(len(set(names)) == len(names), "two nodes have the same name")
    require(bool(graph.outputs), "it has no output")
    outputs = [output.name for output in graph.outputs]
    require(len(set(outputs)) == len(outputs), "two outputs have the same name")


def _check_spec(key: str, spec: TensorSpec) -> None:
    where = f"tensor {key}"
    require(spec.name == key, f"{where} calls itself {spec.name}")
    require(spec.dtype in _DTYPE_BITS, f"{where} has dtype {spec.dtype}")
    require(1 <= spec.bits <= _DTYPE_BITS[spec.dtype], f"{where} has {spec.bits} bits in {spec.dtype}")
    for dim in spec.shape:
        good = dim in SYMBOLS if isinstance(dim, str) else dim >= 1
        require(good, f"{where} has shape {spec.shape}")
    if spec.dtype == "int64":
        require(spec.scale is None, f"{where} is int64 and has a scale")
    else:
        require(spec.scale is not None, f"{where} has no scale")
        assert spec.scale is not None
        tiny = float(np.finfo(np.float32).tiny)
        good = math.isfinite(spec.scale) and tiny <= spec.scale <= float(np.finfo(np.float32).max)
        require(good, f"{where} has scale {spec.scale}")


def _check_output(graph: QuantizedGraph, output: GraphOutput, known: set[str]) -> None:
    where = f"output {output.name}"
    require(output.tensor in known, f"{where} takes the tensor {output.tensor}, which no node makes")
    shape = graph.tensors[output.tensor].shape
    width = shape[-1]
    if output.pool:
        masks = [spec for spec in graph.inputs if spec.name == output.pool]
        good = len(shape) == 3 and len(masks) == 1 and masks[0].shape == shape[:2]
        require(good, f"{where} is pooled by {output.pool}, which is no mask of its tokens")
    scale = output.scale
    require(scale.dtype == np.float32, f"{where} has a scale of {scale.dtype}")
    require(scale.shape in ((1,), (width,)), f"{where} has {scale.shape} scales for {width} channels")
    require(bool((np.isfinite(scale) & (scale > 0)).all()), f"{where} has a scale that is not positive")
    require(math.isfinite(output.cap) and output.cap >= 0, f"{where} is bounded to {output.cap}")
    if output.integers:
        good = graph.tensors[output.tensor].dtype in ("int8", "uint8")
        good = good and not output.normalize and not output.cap
        require(good, f"{where} hands on integers, which only int8 and uint8 can be")


def _check_host_tables(graph: QuantizedGraph) -> None:
    inputs = {spec.name: spec for spec in graph.inputs}
    for host in graph.host_tables:
        where = f"host table {host.table}"
        require(host.target in inputs, f"{where} feeds {host.target}, which is no input")
        require(host.source not in inputs, f"{where} reads {host.source}, which the network reads itself")
        require(host.table in graph.constants, f"{where} is no constant")
        table, spec = graph.constants[host.table], inputs[host.target]
        require(table.ndim == 2 and table.shape[1] == spec.shape[-1], f"{where} has shape {table.shape}")
        wanted = "int32" if spec.dtype == "int64" else spec.dtype
        require(table.dtype == wanted, f"{where} holds {table.dtype}, not {wanted}")
        if spec.dtype != "int64":
            check_range(where, table, spec.range)
