"""The integer operators of image networks against PyTorch, and a frozen network against its student."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from archnet.backends.base import feed, quantize_input
from archnet.backends.reference import ReferenceBackend
from archnet.config import Bits
from archnet.errors import ArchNetError
from archnet.graph import Node, TensorSpec
from archnet.graph_check import validate_graph
from archnet.operators import Op
from archnet.reference import run_node
from tests.image_graphs import Kind, image_graph, images, quantized_model

RNG = np.random.default_rng(3)


def run(op: Op, inputs: list[NDArray[Any]], dtype: str, **attributes: Any) -> NDArray[Any]:
    node = Node(op, "n", (), "y", attributes)
    return run_node(node, inputs, TensorSpec("y", (), dtype, 8, 1.0), {})


@pytest.mark.parametrize(
    ("groups", "stride", "pads"),
    [(1, (1, 1), (1, 1, 1, 1)), (2, (2, 1), (0, 2, 0, 2)), (4, (1, 1), (0, 0, 0, 0))],
    ids=["dense", "groups", "each-channel"],
)
def test_convolution_is_that_of_torch_requantized(
    groups: int, stride: tuple[int, int], pads: tuple[int, int, int, int]
) -> None:
    x = RNG.integers(-128, 128, (2, 4, 7, 6), dtype=np.int8)
    weight = RNG.integers(-127, 128, (8, 4 // groups, 3, 2), dtype=np.int8)
    bias = RNG.integers(-5000, 5000, 8, dtype=np.int32)
    multiplier = RNG.integers(100, 900, 8, dtype=np.int32)
    exact = F.conv2d(
        torch.from_numpy(x).double(), torch.from_numpy(weight).double(), torch.from_numpy(bias).double(),
        stride, (pads[0], pads[1]), groups=groups,
    )  # fmt: skip
    scaled = exact * torch.from_numpy(multiplier)[:, None, None] / 2**16
    wanted = scaled.round().clamp(0, 255).numpy().astype(np.uint8)
    inputs = [x, weight, bias, multiplier, np.ones(8, np.float32)]
    got = run(Op.CONV, inputs, "uint8", strides=stride, pads=pads, groups=groups)
    np.testing.assert_array_equal(got, wanted)


def test_max_pool_is_that_of_torch() -> None:
    x = RNG.integers(-128, -50, (2, 3, 7, 6), dtype=np.int8)
    wanted = F.max_pool2d(torch.from_numpy(x).float(), (3, 2), (2, 1), (1, 1)).numpy().astype(np.int8)
    got = run(Op.MAX_POOL, [x], "int8", kernel=(3, 2), strides=(2, 1), pads=(1, 1, 1, 1))
    np.testing.assert_array_equal(got, wanted)


def test_prepend_puts_rows_of_zeros_in_front() -> None:
    x = RNG.integers(-9, 9, (2, 3, 4), dtype=np.int8)
    got = run(Op.PREPEND, [x], "int8", rows=2)
    assert got.shape == (2, 5, 4)
    assert not got[:, :2].any()
    np.testing.assert_array_equal(got[:, 2:], x)


@pytest.mark.parametrize("bits", ["w8a8", "w4a4", "w2a4"])
@pytest.mark.parametrize(
    "kind",
    [
        *("cnn", "mobile", "vit", "dinov2", "beit", "convnext", "dinov3", "mobilevit"),
        *("swin", "swin_padded", "swinv2", "pvt_v2", "segformer"),
    ],
)
def test_a_frozen_network_is_valid_and_near_its_student(kind: Kind, bits: str) -> None:
    graph = image_graph(kind, Bits.parse(bits))
    validate_graph(graph)
    batch = images(4, seed=9)
    _, folded, student = quantized_model(kind, Bits.parse(bits))
    with torch.no_grad():
        values = student(batch)
    wanted = values[folded.network.outputs["logits"]].numpy()
    got = ReferenceBackend(graph).run({"pixel_values": batch["pixel_values"].numpy()})["logits"]
    similarity = (got * wanted).sum(1) / (np.linalg.norm(got, axis=1) * np.linalg.norm(wanted, axis=1))
    assert similarity.min() > (0.99 if bits == "w8a8" else 0.9)


def test_float_images_are_quantized_and_integers_are_taken_as_they_are() -> None:
    graph = image_graph("cnn", Bits(8, 8))
    spec = graph.inputs[0]
    values = np.array([0.0, 2.5 * (spec.scale or 0), 1e9, -1e9], np.float32)
    assert quantize_input(spec, values).tolist() == [0, 2, 127, -128]
    pixels = images(2)["pixel_values"].numpy()
    fed = feed(graph, {"pixel_values": pixels})
    np.testing.assert_array_equal(feed(graph, fed)["pixel_values"], fed["pixel_values"])


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (np.full((1, 3, 16, 16), np.nan, np.float32), "values that are no numbers"),
        (np.zeros((1, 3, 8, 8), np.float32), r"has shape \(1, 3, 8, 8\), not \(batch, 3, 16, 16\)"),
    ],
    ids=["nan", "size"],
)
def test_images_that_do_not_fit_are_refused(values: NDArray[np.float32], text: str) -> None:
    with pytest.raises(ArchNetError, match=text):
        feed(image_graph("cnn", Bits(8, 8)), {"pixel_values": values})
