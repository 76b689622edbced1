"""Image networks in ONNX Runtime and TVM: the reference's integers, every tensor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from archnet.backends.base import feed
from archnet.backends.onnxruntime import OnnxRuntimeBackend
from archnet.config import Bits
from archnet.export.onnx import build_onnx
from archnet.operators import Op
from archnet.reference import execute
from tests.image_graphs import Kind, image_graph, images

CASES = [
    ("cnn", "w8a8", "softmax"), ("cnn", "w2a4", "softmax"), ("vit", "w8a8", "softmax"),
    ("vit", "w4a4", "softmax"), ("vit", "w8a8", "relu"), ("dinov2", "w8a8", "softmax"),
    ("beit", "w8a8", "softmax"), ("beit", "w4a4", "softmax"), ("swin", "w8a8", "softmax"),
    ("swin", "w4a4", "table"), ("swin_padded", "w8a8", "table"), ("swinv2", "w8a8", "table"),
    ("pvt_v2", "w8a8", "table"), ("segformer", "w4a4", "softmax"), ("convnext", "w8a8", "softmax"),
    ("convnext", "w4a4", "softmax"), ("mobile", "w8a8", "softmax"), ("mobile", "w4a4", "softmax"),
    ("dinov3", "w8a8", "table"), ("mobilevit", "w8a8", "table"), ("mobilevit", "w4a4", "softmax"),
]  # fmt: skip


@pytest.mark.parametrize("linear", ["convolution", "gemm"])
@pytest.mark.parametrize(("kind", "bits", "attention"), CASES)
def test_onnx_runtime_gives_the_integers_of_the_reference(
    kind: Kind, bits: str, attention: str, linear: str
) -> None:
    graph = image_graph(kind, Bits.parse(bits), attention)
    inputs = {"pixel_values": images(3, seed=4)["pixel_values"].numpy()}
    backend = OnnxRuntimeBackend(graph, build_onnx(graph, linear=linear))  # type: ignore[arg-type]
    shown = backend.tensors(inputs)
    wanted = execute(graph, feed(graph, inputs), [node.output for node in graph.nodes])
    softmax = False
    for node in graph.nodes:
        softmax |= node.op is Op.SOFTMAX  # computed in float there, so what follows may differ by a little
        if node.output in shown:
            difference = np.abs(shown[node.output].astype(int) - wanted[node.output].astype(int))
            assert difference.max() <= (2 if softmax else 0), node.name


@pytest.mark.parametrize(("kind", "bits", "attention"), CASES)
def test_tvm_gives_the_integers_of_the_reference(
    kind: Kind, bits: str, attention: str, tmp_path: Path
) -> None:
    """Both of the library that is deployed, whose operators are fused, and of the one with every tensor."""
    pytest.importorskip("tvm")
    from archnet.backends.tvm import TvmBackend
    from archnet.export.tvm import compile_tvm

    graph = image_graph(kind, Bits.parse(bits), attention)
    inputs = {"pixel_values": images(3, seed=4)["pixel_values"].numpy()}
    compile_tvm(graph, tmp_path, tensors=True)
    backend = TvmBackend(graph, tmp_path)
    every, deployed = backend.tensors(inputs), backend.run_integers(inputs)
    assert deployed.keys() == {output.tensor for output in graph.outputs}
    wanted = execute(graph, feed(graph, inputs), every)
    for name, value in [*every.items(), *deployed.items()]:
        np.testing.assert_array_equal(value, wanted[name], err_msg=name)
