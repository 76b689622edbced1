"""Convolutions and pooling in the strict family compute what they did, integer by integer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from archnet.backends.base import feed
from archnet.config import Bits
from archnet.graph_check import validate_graph
from archnet.operators import Op
from archnet.reference import execute
from archnet.strict_maps import Axis, as_strict_maps, blocked_weights
from tests.image_graphs import Kind, image_graph, images

CASES = [
    pytest.param(1, 1, 0, 1, id="1x1"),
    pytest.param(1, 2, 0, 1, id="1x1-stride-2"),
    pytest.param(3, 1, 1, 1, id="3x3"),
    pytest.param(3, 2, 1, 2, id="3x3-stride-2-groups"),
    pytest.param(3, 1, 1, 4, id="depthwise"),
    pytest.param(5, 1, 2, 1, id="5x5"),
    pytest.param(7, 2, 3, 1, id="7x7-stride-2"),
    pytest.param(7, 1, 3, 2, id="7x7-groups"),
    pytest.param(4, 4, 0, 1, id="patches"),
]


@pytest.mark.parametrize(("kernel", "stride", "pad", "groups"), CASES)
def test_a_kernel_over_blocks_is_the_kernel(kernel: int, stride: int, pad: int, groups: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(-128, 128, (2, 4, 24, 24), generator=generator).double()
    weight = torch.randint(-128, 128, (8, 4 // groups, kernel, kernel), generator=generator)
    wanted = F.conv2d(x, weight.double(), stride=stride, padding=pad, groups=groups)
    axis = Axis.find(kernel, stride, pad, 24, wanted.shape[-1])
    assert axis is not None
    blocks = torch.from_numpy(blocked_weights(weight.numpy().astype(np.int8), groups, axis, axis)).double()
    f, b = axis.pixels, axis.results
    cut = x.reshape(2, 4, 24 // f, f, 24 // f, f).permute(0, 3, 5, 1, 2, 4).reshape(2, f * f * 4, 24 // f, -1)
    made = F.conv2d(cut, blocks, padding=1)
    size = made.shape[-1]
    joined = made.reshape(2, b, b, 8, size, size).permute(0, 3, 4, 1, 5, 2).reshape(wanted.shape)
    assert torch.equal(joined, wanted)
    assert blocks.shape == (b * b * 8, f * f * 4, 3, 3)


def test_maps_that_are_no_whole_number_of_blocks_have_no_form() -> None:
    assert Axis.find(7, 2, 3, 34, 17) is None  # 17 results cannot be cut in equal blocks
    assert Axis.find(3, 1, 0, 24, 22) is None  # the map shrinks at its edges
    assert Axis.find(4, 4, 0, 32, 8) == Axis(4, 4, 0, 1)


@pytest.mark.parametrize("kind", ["cnn", "vit", "dinov2"])
def test_the_network_has_the_same_integers(kind: Kind) -> None:
    graph = image_graph(kind, Bits(8, 8))
    strict = as_strict_maps(graph)
    validate_graph(strict)
    for node in strict.nodes:
        if node.op is Op.CONV:
            assert strict.constants[node.inputs[1]].shape[2:] == (3, 3)
            assert max(strict.constants[node.inputs[1]].shape[:2]) <= 512
            assert (node.attributes["strides"], node.attributes["pads"]) == ((1, 1), (1, 1, 1, 1))
            assert node.attributes["groups"] == 1
        if node.op is Op.MAX_POOL:
            assert node.attributes["kernel"] == (2, 2)
    feeds = feed(graph, {name: value.numpy() for name, value in images(3, seed=9).items()})
    kept = [node.output for node in graph.nodes]
    wanted, got = execute(graph, feeds, kept), execute(strict, feeds, kept)
    for name in kept:
        np.testing.assert_array_equal(got[name], wanted[name], err_msg=name)
