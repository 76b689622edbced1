"""The operators of image networks in NumPy: parts of the definition in archnet/reference.py.

Maps are (batch, channels, height, width). `strides` are (down, right), `pads` (top, left, bottom, right).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from archnet.calibration.affine import requantize
from archnet.integer_product import integer_matmul

if TYPE_CHECKING:
    from archnet.reference import Call

Array = NDArray[Any]


def convolution(
    call: Call, x: Array, weight: Array, bias: Array, multiplier: Array, weight_scale: Array
) -> Array:
    """clamp(requantize(acc[b, n, y, x] + bias[n], multiplier[n])), acc = the products of weights and window:

    acc[b, n, y, x] = sum over k, i, j of x[b, first(n) + k, y * down - top + i, ...] * weight[n, k, i, j].
    x (B, C, H, W) int8 or uint8, padded with zeros; weight (N, C / groups, KH, KW) int8: output channel n
    reads the channels of its group, n // (N / groups); bias, multiplier (N,) int32 -> (B, N, H', W').
    weight_scale as in `linear`.
    """
    groups = call.integer("groups")
    windows = _windows(call, x, weight.shape[2:], 0)  # (B, C, H', W', KH, KW)
    batch, channels, height, width = windows.shape[:4]
    depth, rows = weight[0].size, weight.shape[0] // groups
    split = windows.reshape(batch, groups, channels // groups, height, width, -1)
    patches = split.transpose(1, 0, 3, 4, 2, 5).reshape(groups, -1, depth)
    products = integer_matmul(patches, weight.reshape(groups, rows, depth).swapaxes(1, 2))
    accumulator = products.transpose(1, 0, 2).reshape(batch, height, width, -1) + bias.astype(np.int64)
    return call.clamp(requantize(accumulator, multiplier)).transpose(0, 3, 1, 2)


def max_pool(call: Call, x: Array) -> Array:
    """The greatest integer of each window of `kernel` (height, width); padding counts for nothing."""
    low, _ = call.output.range
    windows = _windows(call, x, call.sizes("kernel"), low)
    return np.asarray(windows.max(axis=(-2, -1)), dtype=call.output.dtype)


def prepend(call: Call, x: Array) -> Array:
    """`rows` rows of zeros in front of axis 1: (B, S, C) -> (B, rows + S, C)."""
    return np.pad(x, ((0, 0), (call.integer("rows"), 0), (0, 0)))


def _windows(call: Call, x: Array, kernel: tuple[int, ...], fill: int) -> Array:
    """Every window of a padded map: (B, C, H', W', KH, KW)."""
    top, left, bottom, right = call.sizes("pads")
    down, across = call.sizes("strides")
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=fill)
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel, axis=(2, 3))
    return np.asarray(windows[:, :, ::down, ::across])
