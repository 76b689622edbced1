"""INT4 and INT2 initializers in an exported ONNX file.

What is packed passes a Cast to int8 on its way to its DequantizeLinear. ONNX Runtime (1.31) folds the Cast
when it opens the file and then runs the same integer kernels as with int8 initializers. Without it, it
leaves a layer with INT4 weights in float, and refuses INT2 ones: its QLinearConv and QGemm take bytes only.
"""

from __future__ import annotations

from collections.abc import Mapping

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSETS = {4: (21, 10), 2: (25, 12)}
"""Width -> the first opset, with its IR version, whose Cast and DequantizeLinear take such tensors."""

_TYPES = {4: ml_dtypes.int4, 2: ml_dtypes.int2}


def pack_initializers(model: onnx.ModelProto, widths: Mapping[str, int]) -> dict[str, int]:
    """Store initializers in fewer bits, in place.

    Args:
        model: initializers of int8, or of uint8 with zero point 128.
        widths: name -> 2 or 4. Names that the model does not have are passed over.

    Returns:
        The names that were packed, with their width.
    """
    casts: list[onnx.NodeProto] = []
    packed: dict[str, int] = {}
    for tensor in model.graph.initializer:
        if tensor.name not in widths:
            continue
        name, width = tensor.name, widths[tensor.name]
        values = numpy_helper.to_array(tensor)
        zero_point = 128 if values.dtype == np.uint8 else 0
        integers = (values.astype(np.int16) - zero_point).astype(_TYPES[width])
        source = f"{name}/int{width}"
        tensor.CopyFrom(numpy_helper.from_array(integers, source))
        casts += _casts(source, name, zero_point)
        packed[name] = width
    if packed:
        if any(node.op_type == "Add" for node in casts):
            model.graph.initializer.append(numpy_helper.from_array(np.array(128, np.int32), "packed/128"))
        nodes = [*casts, *model.graph.node]
        del model.graph.node[:]
        model.graph.node.extend(nodes)
        opset, ir_version = OPSETS[min(packed.values())]
        del model.opset_import[:]
        model.opset_import.append(helper.make_opsetid("", opset))
        model.ir_version = ir_version
    return packed


def _casts(source: str, name: str, zero_point: int) -> list[onnx.NodeProto]:
    """`source` as bytes: int8, or uint8 with the zero point added."""
    if not zero_point:
        return [helper.make_node("Cast", [source], [name], name=f"{name}/Cast", to=TensorProto.INT8)]
    wide, moved = f"{name}/wide", f"{name}/moved"
    return [
        helper.make_node("Cast", [source], [wide], name=f"{wide}/Cast", to=TensorProto.INT32),
        helper.make_node("Add", [wide, "packed/128"], [moved], name=f"{moved}/Add"),
        helper.make_node("Cast", [moved], [name], name=f"{name}/Cast", to=TensorProto.UINT8),
    ]
