"""The integer nodes of attention with ReLU weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from archnet.calibration.affine import MAX_MULTIPLIER, fit_output_scale
from archnet.graph import Dim, TensorSpec
from archnet.network import Site
from archnet.operators import Op

if TYPE_CHECKING:
    from archnet.freeze import GraphBuilder


def relu_context(b: GraphBuilder, site: Site, query: str, key: str, value: str) -> str:
    """max(query @ key.T, 0), and the mean of what values it weighs over the valid keys.

    Args:
        query, key, value: tensors (batch, heads, sequence, width).

    Returns:
        (batch, heads, sequence, width). The means of n keys have the multiplier of their sum over n.
    """
    from archnet.quantized_attention import QuantizedReluAttention
    from archnet.quantized_student import LARGEST_FACTOR

    module = b.student.override(site.name)
    assert isinstance(module, QuantizedReluAttention)
    scale_q, scale_k, scale_v = (b.tensors[name].scale or 0.0 for name in (query, key, value))
    wished = max(module.scores.scale, scale_q * scale_k / LARGEST_FACTOR)
    multiplier, scale = fit_output_scale(wished, scale_q, scale_k)
    keys = b.tensors[key].shape[2]
    square: tuple[Dim, ...] = ("batch", module.heads, b.tensors[query].shape[2], keys)
    spec = TensorSpec(f"{site.name}/scores", square, "uint8", module.scores.bits, scale)
    scores = b.add(Op.MATMUL, site, "scores", (query, key), spec, transpose_b=True, multiplier=multiplier)
    observer = b.student.observer(site.name)
    assert observer is not None
    factor = scale * scale_v / b.scales[site.name]
    counts = np.arange(1, (b.max_sequence if isinstance(keys, str) else keys) + 1)
    multipliers = np.clip(np.rint(factor / counts * 2**16), 1, MAX_MULTIPLIER).astype(np.int32)
    constant = b.constant(f"{site.name}.multipliers", multipliers)
    mask = ("attention_mask",) if len(site.inputs) > 3 else ()
    shape = b.tensors[value].shape
    spec = TensorSpec(f"{site.name}/heads", shape, "int8", observer.bits, b.scales[site.name])
    return b.add(Op.MEAN_MATMUL, site, "heads", (scores, value, constant, *mask), spec)
