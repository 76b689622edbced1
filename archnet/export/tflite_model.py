"""Builds one TFLite flatbuffer with the schema classes of ai-edge-litert: no converter, no second opinion.

Imported only when a TFLite file is written or run: ai-edge-litert is an optional dependency.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

SCHEMA_VERSION = 3
INT32: int = schema.TensorType.INT32
FILE_IDENTIFIER = b"TFL3"

_TYPES: Mapping[str, int] = {
    "int8": schema.TensorType.INT8,
    "int16": schema.TensorType.INT16,
    "int32": schema.TensorType.INT32,
    "int64": schema.TensorType.INT64,
}

# The options' class, which is named after the operator, where there are any to give.
_OPTIONS: Mapping[str, str] = {
    "ADD": "AddOptions",
    "BATCH_MATMUL": "BatchMatMulOptions",
    "CONCATENATION": "ConcatenationOptions",
    "CONV_2D": "Conv2DOptions",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions",
    "EXP": "ExpOptions",
    "FULLY_CONNECTED": "FullyConnectedOptions",
    "MAXIMUM": "MaximumMinimumOptions",
    "MAX_POOL_2D": "Pool2DOptions",
    "MINIMUM": "MaximumMinimumOptions",
    "MUL": "MulOptions",
    "PAD": "PadOptions",
    "PADV2": "PadV2Options",
    "QUANTIZE": "QuantizeOptions",
    "RESHAPE": "ReshapeOptions",
    "SLICE": "SliceOptions",
    "SOFTMAX": "SoftmaxOptions",
    "SUB": "SubOptions",
    "TRANSPOSE": "TransposeOptions",
}

# The first version of each operator that has int8 kernels with what is used here (per-channel weights of
# fully connected layers: 12, four or more dimensions of a Transpose: 2, ...).
_VERSIONS: Mapping[str, int] = {
    "ADD": 2,
    "BATCH_MATMUL": 2,
    "CONCATENATION": 2,
    "CONV_2D": 3,
    "DEPTHWISE_CONV_2D": 3,
    "EXP": 2,
    "FULLY_CONNECTED": 12,
    "LOG": 2,
    "MAXIMUM": 2,
    "MAX_POOL_2D": 2,
    "MINIMUM": 2,
    "MUL": 2,
    "PAD": 2,
    "PADV2": 2,
    "QUANTIZE": 2,
    "SLICE": 2,
    "SOFTMAX": 2,
    "SUB": 2,
    "TRANSPOSE": 2,
}


@dataclass(frozen=True, slots=True)
class Quantization:
    """scale (real value of 1; one, or one a channel), zero point, and the axis of the channels."""

    scale: float | NDArray[np.float32]
    zero_point: int = 0
    axis: int = 0


@dataclass
class TfliteBuilder:
    """Tensors, operators and buffers of one model; tensors are known by their index.

    Attributes:
        operators: name of each operator in execution order, for counting.
    """

    tensors: list[Any] = field(default_factory=list)
    operators: list[str] = field(default_factory=list)
    constants: set[int] = field(default_factory=set)
    _nodes: list[Any] = field(default_factory=list)
    _buffers: list[Any] = field(default_factory=lambda: [schema.BufferT()])
    _codes: dict[tuple[str, int], int] = field(default_factory=dict)
    _shared: dict[tuple[str, bytes, tuple[int, ...]], int] = field(default_factory=dict)

    def tensor(
        self, name: str, shape: Sequence[int], dtype: str, quantization: Quantization | None, buffer: int = 0
    ) -> int:
        """A new activation."""
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type = name, [int(s) for s in shape], _TYPES[dtype]
        tensor.buffer, tensor.hasRank = buffer, True
        if quantization is not None:
            q = schema.QuantizationParametersT()
            scales = np.atleast_1d(np.asarray(quantization.scale, np.float32))
            q.scale = [float(s) for s in scales]
            q.zeroPoint = [quantization.zero_point] * len(scales)
            q.quantizedDimension = quantization.axis
            tensor.quantization = q
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def constant(self, name: str, values: NDArray[Any], quantization: Quantization | None = None) -> int:
        """A tensor that the file holds; unquantized ones (shapes, paddings) are shared."""
        values = np.ascontiguousarray(values)
        key = (values.dtype.name, values.tobytes(), values.shape)
        if quantization is None and key in self._shared:
            return self._shared[key]
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(values.tobytes(), np.uint8)
        self._buffers.append(buffer)
        index = self.tensor(name, values.shape, values.dtype.name, quantization, len(self._buffers) - 1)
        self.constants.add(index)
        if quantization is None:
            self._shared[key] = index
        return index

    def node(
        self, op: str, inputs: Sequence[int], output: int, *, version: int | None = None, **options: Any
    ) -> int:
        """An operator: its BuiltinOperator name, input tensors (-1: left out) and options by field name."""
        key = op, version or _VERSIONS.get(op, 1)
        node = schema.OperatorT()
        node.opcodeIndex = self._codes.setdefault(key, len(self._codes))
        node.inputs, node.outputs = list(inputs), [output]
        if op in _OPTIONS:
            node.builtinOptionsType = getattr(schema.BuiltinOptions, _OPTIONS[op])
            node.builtinOptions = getattr(schema, f"{_OPTIONS[op]}T")()
            for name, value in options.items():
                if not hasattr(node.builtinOptions, name):
                    raise TypeError(f"{op} has no option {name}")
                setattr(node.builtinOptions, name, value)
        self._nodes.append(node)
        self.operators.append(op)
        return output

    def build(
        self, name: str, inputs: Sequence[int], outputs: Sequence[int], metadata: Mapping[str, bytes]
    ) -> bytes:
        """The file: the same bytes for the same calls."""
        graph = schema.SubGraphT()
        graph.name, graph.tensors, graph.operators = name, self.tensors, self._nodes
        graph.inputs, graph.outputs = list(inputs), list(outputs)
        model = schema.ModelT()
        model.version, model.description, model.subgraphs = SCHEMA_VERSION, "archnet", [graph]
        model.operatorCodes = [_code(op, version) for op, version in self._codes]
        model.metadata = []
        buffers = list(self._buffers)
        for key, content in metadata.items():
            entry, buffer = schema.MetadataT(), schema.BufferT()
            entry.name, entry.buffer = key, len(buffers)
            buffer.data = np.frombuffer(content, np.uint8)
            model.metadata.append(entry)
            buffers.append(buffer)
        model.buffers = buffers
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), file_identifier=FILE_IDENTIFIER)
        return bytes(builder.Output())


def read_metadata(content: bytes, key: str) -> bytes | None:
    """The metadata of this name in a TFLite file, or None."""
    model = schema.Model.GetRootAs(content, 0)
    for i in range(model.MetadataLength()):
        entry = model.Metadata(i)
        if entry is not None and entry.Name() == key.encode():
            data = model.Buffers(entry.Buffer()).DataAsNumpy()
            return b"" if isinstance(data, int) else bytes(data.tobytes())
    return None


def _code(op: str, version: int) -> Any:
    code = schema.OperatorCodeT()
    code.builtinCode = getattr(schema.BuiltinOperator, op)
    # The field of files from before there were more than 127 operators.
    code.deprecatedBuiltinCode = min(
        code.builtinCode, schema.BuiltinOperator.PLACEHOLDER_FOR_GREATER_OP_CODES
    )
    code.version = version
    return code
