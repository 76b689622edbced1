"""INT4 and INT2 initializers in an exported ONNX file.

What is packed passes a Cast to bytes, and where its codes are not its values a Mul and an Add, on its way to
its DequantizeLinear. ONNX Runtime (1.31) folds these when it opens the file and then runs the same integer
kernels as with int8 initializers. Read directly, INT4 weights leave their layer in float and INT2 ones are
refused: its QLinearConv and QGemm take bytes only.
"""

from __future__ import annotations

from collections.abc import Mapping

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from archnet.calibration.packing import Packing

OPSETS = {4: (21, 10), 2: (25, 12)}
"""Width -> the first opset, with its IR version, whose Cast and DequantizeLinear take such tensors."""

_TYPES = {4: ml_dtypes.int4, 2: ml_dtypes.int2}
_BYTES = {"int8": TensorProto.INT8, "uint8": TensorProto.UINT8}


def pack_initializers(model: onnx.ModelProto, packings: Mapping[str, Packing]) -> dict[str, int]:
    """Store initializers in fewer bits, in place.

    Args:
        model: with initializers of int8 or uint8.
        packings: of initializers by name. Names that the model does not have are passed over.

    Returns:
        The names that were packed, with their width.
    """
    nodes: list[onnx.NodeProto] = []
    numbers: dict[str, onnx.TensorProto] = {}
    packed: dict[str, int] = {}
    for tensor in model.graph.initializer:
        if tensor.name not in packings:
            continue
        name, packing = tensor.name, packings[tensor.name]
        values = numpy_helper.to_array(tensor)
        source = f"{name}/int{packing.width}"
        tensor.CopyFrom(numpy_helper.from_array(packing.codes(values).astype(_TYPES[packing.width]), source))
        nodes += _unpacking(source, name, packing, tensor_type=_BYTES[str(values.dtype)], numbers=numbers)
        packed[name] = packing.width
    if packed:
        model.graph.initializer.extend(numbers.values())
        nodes += model.graph.node
        del model.graph.node[:]
        model.graph.node.extend(nodes)
        opset, ir_version = OPSETS[min(packed.values())]
        del model.opset_import[:]
        model.opset_import.append(helper.make_opsetid("", opset))
        model.ir_version = ir_version
    return packed


def _unpacking(
    source: str, name: str, packing: Packing, *, tensor_type: int, numbers: dict[str, onnx.TensorProto]
) -> list[onnx.NodeProto]:
    """The nodes that make bytes of the codes, and the numbers that they need."""
    if (packing.step, packing.offset) == (1, 0):
        return [helper.make_node("Cast", [source], [name], name=f"{name}/Cast", to=tensor_type)]
    value = f"{name}/wide"
    nodes = [helper.make_node("Cast", [source], [value], name=f"{value}/Cast", to=TensorProto.INT32)]
    for op, number, neutral in (("Mul", packing.step, 1), ("Add", packing.offset, 0)):
        if number == neutral:
            continue
        constant = f"packing:{number}"
        numbers[constant] = numpy_helper.from_array(np.array(number, np.int32), constant)
        result = f"{name}/{op}"
        nodes.append(helper.make_node(op, [value, constant], [result], name=f"{result}/{op}"))
        value = result
    nodes.append(helper.make_node("Cast", [value], [name], name=f"{name}/Cast", to=tensor_type))
    return nodes
