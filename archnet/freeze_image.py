"""The integer nodes of image networks: convolutions, pooling, and the way from maps to tokens."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from archnet.calibration.widths import fused_reader
from archnet.executor import strides
from archnet.freeze_linear import emit_weighted
from archnet.graph import AttributeValue, Dim, TensorSpec
from archnet.graph_builder import GraphBuilder, numpy_of
from archnet.network import Site
from archnet.operators import Op
from archnet.quantized_layers import QuantizedConv

POOL_BITS = 2
"""Width of the weights of an average, which are all 1."""


def convolution(b: GraphBuilder, site: Site) -> None:
    """Conv, with the activation that alone reads it."""
    fused = fused_reader(site, b.network.consumers())
    result = site.name if fused is None else fused.name
    module = b.student.override(site.name)
    assert isinstance(module, QuantizedConv)
    weight = numpy_of(module.weight)
    attributes = _window(site, module.groups)
    source = b.spec(site.inputs[0])
    out = b.activation(result, "", _sizes(source.shape, weight.shape[0], site, weight.shape[2:]))
    b.values[site.name] = b.values[result] = emit_weighted(
        b, site, Op.CONV, source.name, out, weight, numpy_of(module.bias),
        numpy_of(module.quantizer.scale), module.quantizer.bits, **attributes,
    )  # fmt: skip


def average_pool(b: GraphBuilder, site: Site) -> None:
    """The mean over a window: a convolution of each channel by itself whose weights are all alike."""
    source = b.spec(site.inputs[0])
    channels = int(source.shape[1])
    kernel = (int(site.attributes["kernel_y"]), int(site.attributes["kernel_x"]))
    share = np.float32(1.0 / (kernel[0] * kernel[1]))
    out = b.activation(site.name, "", _sizes(source.shape, channels, site, kernel))
    b.values[site.name] = emit_weighted(
        b, site, Op.CONV, source.name, out,
        np.full((channels, 1, *kernel), share, np.float32), np.zeros(channels, np.float32),
        np.full(channels, share, np.float32), POOL_BITS, **_window(site, channels),
    )  # fmt: skip


def max_pool(b: GraphBuilder, site: Site) -> None:
    """The maximum over a window, of the integers as they are."""
    source = b.spec(site.inputs[0])
    kernel = (int(site.attributes["kernel_y"]), int(site.attributes["kernel_x"]))
    shape = _sizes(source.shape, int(source.shape[1]), site, kernel)
    spec = TensorSpec(site.name, shape, source.dtype, source.bits, source.scale)
    attributes = _window(site, 1)
    del attributes["groups"]
    b.values[site.name] = b.add(Op.MAX_POOL, site, "", (source.name,), spec, kernel=kernel, **attributes)


def to_tokens(b: GraphBuilder, site: Site) -> None:
    """(batch, channels, height, width) -> (batch, positions, channels)."""
    source = b.spec(site.inputs[0])
    channels, positions = int(source.shape[1]), int(source.shape[2]) * int(source.shape[3])
    flat: tuple[Dim, ...] = ("batch", channels, positions)
    spec = TensorSpec(f"{site.name}/flat", flat, source.dtype, source.bits, source.scale)
    name = b.add(Op.RESHAPE, site, "flat", (source.name,), spec, shape=flat)
    spec = TensorSpec(site.name, ("batch", positions, channels), source.dtype, source.bits, source.scale)
    b.values[site.name] = b.add(Op.TRANSPOSE, site, "", (name,), spec, perm=(0, 2, 1))


def to_map(b: GraphBuilder, site: Site) -> None:
    """(batch, positions, channels) -> (batch, channels, height, width)."""
    source = b.spec(site.inputs[0])
    positions, channels = int(source.shape[1]), int(source.shape[2])
    turned = replace(source, name=f"{site.name}/turned", shape=("batch", channels, positions))
    name = b.add(Op.TRANSPOSE, site, "turned", (source.name,), turned, perm=(0, 2, 1))
    shape: tuple[Dim, ...] = (
        "batch", channels, int(site.attributes["height"]), int(site.attributes["width"]),
    )  # fmt: skip
    spec = replace(source, name=site.name, shape=shape)
    b.values[site.name] = b.add(Op.RESHAPE, site, "", (name,), spec, shape=shape)


def token_mean(b: GraphBuilder, site: Site) -> None:
    """The mean over the tokens from one on: a layer over tokens whose weights are 0 and all alike."""
    source = b.spec(site.inputs[0])
    tokens, features = int(source.shape[1]), int(source.shape[2])
    first = int(site.attributes["first"])
    share = np.float32(1.0 / (tokens - first))
    turned = replace(source, name=f"{site.name}/turned", shape=("batch", features, tokens))
    name = b.add(Op.TRANSPOSE, site, "turned", (source.name,), turned, perm=(0, 2, 1))
    weight = np.zeros((1, tokens), np.float32)
    weight[:, first:] = share
    column = emit_weighted(
        b, replace(site, name=f"{site.name}/mean"), Op.LINEAR, name,
        b.activation(site.name, "/mean", ("batch", features, 1)),
        weight, np.zeros(1, np.float32), np.full(1, share, np.float32), POOL_BITS,
    )  # fmt: skip
    row = replace(b.tensors[column], name=site.name, shape=("batch", features))
    b.values[site.name] = b.add(Op.RESHAPE, site, "", (column,), row, shape=row.shape)


def prepend(b: GraphBuilder, site: Site) -> None:
    """Rows of zeros in front of the tokens; the table that is added next says what stands there."""
    source = b.spec(site.inputs[0])
    rows = int(site.attributes["rows"])
    shape: tuple[Dim, ...] = ("batch", int(source.shape[1]) + rows, source.shape[2])
    spec = TensorSpec(site.name, shape, source.dtype, source.bits, source.scale)
    b.values[site.name] = b.add(Op.PREPEND, site, "", (source.name,), spec, rows=rows)


def flatten(b: GraphBuilder, site: Site) -> None:
    """(batch, channels, height, width) -> (batch, features)."""
    source = b.spec(site.inputs[0])
    size = int(np.prod([int(dim) for dim in source.shape[1:]]))
    shape: tuple[Dim, ...] = ("batch", size)
    spec = TensorSpec(site.name, shape, source.dtype, source.bits, source.scale)
    b.values[site.name] = b.add(Op.RESHAPE, site, "", (source.name,), spec, shape=shape)


def _window(site: Site, groups: int) -> dict[str, AttributeValue]:
    stride, pad = strides(site)
    return {"strides": stride, "pads": (*pad, *pad), "groups": groups}


def _sizes(before: tuple[Dim, ...], channels: int, site: Site, kernel: tuple[int, ...]) -> tuple[Dim, ...]:
    stride, pad = strides(site)
    after = [(int(before[2 + i]) + 2 * pad[i] - kernel[i]) // stride[i] + 1 for i in range(2)]
    return ("batch", channels, *after)
