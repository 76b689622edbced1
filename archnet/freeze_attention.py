"""Attention as integer nodes: scores, mask, softmax or ReLU weights, and the weighted values."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from archnet.calibration.affine import MAX_MULTIPLIER, fit_output_scale, operand_scale, quantize_affine
from archnet.calibration.log_sum import log_sum_tables
from archnet.calibration.lsq import ActivationQuantizer
from archnet.converters.softmax import of_windows, window_of
from archnet.freeze_embedding import position_rows
from archnet.freeze_relative import with_distances
from archnet.graph import (
    Dim,
    TensorSpec,
)
from archnet.graph_builder import GraphBuilder, numpy_of
from archnet.network import Site
from archnet.operators import Op
from archnet.quantized_attention import QuantizedRelativeAttention, QuantizedReluAttention
from archnet.quantized_layers import QuantizedAttention
from archnet.quantized_student import LARGEST_FACTOR
from archnet.reference import first_positions

SOFTMAX_TABLE_SHIFT = 20


def freeze_attention(b: GraphBuilder, site: Site) -> None:
    module = b.student.override(site.name)
    assert isinstance(module, QuantizedAttention)
    query, key, value = (split_heads(b, site, i, module.heads) for i in range(3))
    mask = site.inputs[3] if len(site.inputs) > 3 else None
    attended = context(b, site, (query, key, value), mask)
    b.values[site.name] = merge_heads(b, site, attended, module.heads)


def context(b: GraphBuilder, site: Site, parts: tuple[str, str, str], mask: str | None) -> str:
    """What a query's weights make of the values, in the form that the site has.

    Args:
        parts: query (batch, heads, queries, width), key and value (batch, heads, keys, width).
        mask: input of (batch, keys) that is not 0 for the keys that are seen, or None where all are.

    Returns:
        (batch, heads, queries, width).
    """
    relu = site.attributes.get("form") == "relu"
    return _relu_context(b, site, parts, mask) if relu else _softmax_context(b, site, parts, mask)


def _softmax_context(b: GraphBuilder, site: Site, parts: tuple[str, str, str], mask: str | None) -> str:
    """Scores, mask, softmax and the shares' sums of values."""
    module = b.student.override(site.name)
    assert isinstance(module, QuantizedAttention)
    value, bits = parts[2], module.scores.bits
    scores = _products(b, site, parts, module)
    if isinstance(module, QuantizedRelativeAttention):
        scores = with_distances(b, site, scores, parts, module)
    elif module.bias is not None:
        scores = _with_bias(b, site, scores, module)
    square, scale = b.tensors[scores].shape, b.tensors[scores].scale or 0.0
    if mask is not None:
        spec = TensorSpec(f"{site.name}/masked", square, "int8", bits, scale)
        scores = b.add(Op.MASK, site, "masked", (scores, mask), spec)
    share = float(np.float32(1.0 / module.levels))
    spec = TensorSpec(f"{site.name}/probabilities", square, "uint8", module.share_bits, share)
    shares = _shares(b, site, scores, spec)
    heads_shape: tuple[Dim, ...] = (*square[:3], b.tensors[value].shape[-1])
    scale_v = b.tensors[value].scale or 0.0
    wished = max(b.scales[site.name], share * scale_v / LARGEST_FACTOR)
    multiplier, scale = fit_output_scale(wished, share, scale_v)
    observer = b.student.observer(site.name)
    assert observer is not None
    spec = TensorSpec(f"{site.name}/heads", heads_shape, "int8", observer.bits, scale)
    return b.add(Op.MATMUL, site, "heads", (shares, value), spec, transpose_b=False, multiplier=multiplier)


def _shares(b: GraphBuilder, site: Site, scores: str, spec: TensorSpec) -> str:
    """Softmax of the scores, in the form that the site has."""
    scale = b.tensors[scores].scale or 0.0
    if site.attributes.get("form") == "logsum":
        tables = log_sum_tables(scale, spec.levels, spec.range[1])
        names = [b.constant(f"{site.name}.{part}", table) for part, table in tables.constants.items()]
        return b.add(Op.LOG_SUM_SOFTMAX, site, "probabilities", (scores, *names), spec, **tables.attributes)
    powers = np.rint(2.0**SOFTMAX_TABLE_SHIFT * np.exp(-np.arange(256) * scale)).astype(np.int32)
    table = b.constant(f"{site.name}.softmax_table", powers)
    softmax = Op.TABLE_SOFTMAX if site.attributes.get("form") == "table" else Op.SOFTMAX
    return b.add(softmax, site, "probabilities", (scores, table), spec)


def _products(b: GraphBuilder, site: Site, parts: tuple[str, str, str], module: QuantizedAttention) -> str:
    """Queries times keys: the scores, or where something is added to them what it is added to.

    Where they are bounded, that is a table of the products.
    """
    added = module.products
    part, quantizer = ("scores", module.scores) if added is None else ("products", added)
    if not module.cap:
        return _product(b, site, parts, part, quantizer)
    products = b.tensors[_product(b, site, parts, "unbounded", module.unbounded)]
    reals = np.arange(-128, 128) * (products.scale or 0.0)
    scale = float(np.float32(quantizer.scale))
    table = quantize_affine(module.cap * np.tanh(reals / module.cap), scale, bits=quantizer.bits)
    name = b.constant(f"{site.name}.bound", table.astype(np.int8))
    spec = TensorSpec(f"{site.name}/{part}", products.shape, "int8", quantizer.bits, scale)
    return b.add(Op.LOOKUP, site, part, (products.name, name), spec, function=f"{module.cap:g} * tanh")


def _product(
    b: GraphBuilder, site: Site, parts: tuple[str, str, str], part: str, quantizer: ActivationQuantizer
) -> str:
    query, key, _ = parts
    scale_q, scale_k = (b.tensors[n].scale or 0.0 for n in (query, key))
    wished = max(quantizer.scale, scale_q * scale_k / LARGEST_FACTOR)
    multiplier, scale = fit_output_scale(wished, scale_q, scale_k)
    square: tuple[Dim, ...] = (*b.tensors[query].shape[:3], b.tensors[key].shape[2])
    spec = TensorSpec(f"{site.name}/{part}", square, "int8", quantizer.bits, scale)
    return b.add(Op.MATMUL, site, part, (query, key), spec, transpose_b=True, multiplier=multiplier)


def _with_bias(b: GraphBuilder, site: Site, products: str, module: QuantizedAttention) -> str:
    """The products plus a table of integers for each pair of positions."""
    assert module.bias is not None
    square, scale_p = b.tensors[products].shape, b.tensors[products].scale or 0.0
    multiplier_a, scale = fit_output_scale(max(module.scores.scale, scale_p / LARGEST_FACTOR), scale_p)
    # What a window hides is far below all scores: a factor below 2 cuts it off where the sum saturates.
    scale_b = operand_scale(min(module.pairs.scale, LARGEST_FACTOR * scale), scale)
    bias = numpy_of(of_windows(module.bias, int(square[1])))
    table = quantize_affine(bias, scale_b, bits=module.pairs.bits).astype(np.int8)
    rows = _pairs if b.position is None else _pairs_of_a_token
    pairs = rows(b, site, table, square, module.pairs.bits, scale_b)
    multiplier_b = int(np.rint(scale_b / scale * 2**16))
    spec = TensorSpec(f"{site.name}/scores", square, "int8", module.scores.bits, scale)
    return b.add(
        Op.ADD, site, "scores", (products, pairs), spec, multiplier_a=multiplier_a, multiplier_b=multiplier_b
    )


def _pairs(
    b: GraphBuilder, site: Site, table: NDArray[np.int8], square: tuple[Dim, ...], bits: int, scale: float
) -> str:
    """A table of pairs of positions, (heads or 1, positions, positions), as far as a sequence goes."""
    positions = [b.max_sequence if isinstance(dim, str) else dim for dim in square[2:]]
    constant = b.constant(f"{site.name}.bias", first_positions(table, positions))
    # A window is one for all heads.
    spec = TensorSpec(f"{site.name}/bias", (len(table), *square[2:]), "int8", bits, scale)
    return b.add(Op.SLICE, site, "bias", (constant,), spec)


def _pairs_of_a_token(
    b: GraphBuilder, site: Site, table: NDArray[np.int8], square: tuple[Dim, ...], bits: int, scale: float
) -> str:
    """The row of one token's position against the places of its cache, the last of which is its own."""
    heads, rows = len(table), b.max_sequence
    table = table[:, :rows, :rows]
    own = np.diagonal(table, axis1=1, axis2=2)[:, :, None]
    by_row = np.concatenate([table[:, :, : rows - 1], own], axis=2).transpose(1, 0, 2).reshape(rows, -1)
    looked_up = position_rows(b, replace(site, name=f"{site.name}/bias"), by_row, bits, scale)
    split: tuple[Dim, ...] = ("batch", 1, heads, rows)
    spec = TensorSpec(f"{site.name}/bias_split", split, "int8", bits, scale)
    name = b.add(Op.RESHAPE, site, "bias_split", (looked_up,), spec, shape=split)
    spec = TensorSpec(f"{site.name}/bias", ("batch", heads, 1, rows), "int8", bits, scale)
    return b.add(Op.TRANSPOSE, site, "bias", (name,), spec, perm=(0, 2, 1, 3))


def split_heads(b: GraphBuilder, site: Site, index: int, heads: int) -> str:
    """Query, key or value (index 0 to 2): (batch, tokens, features) -> (batch, heads, tokens, width).

    In windows the tokens of every head are cut into them: (batch, heads * windows, window, width).
    """
    source = b.spec(site.inputs[index])
    part = ("query", "key", "value")[index]
    width = int(source.shape[-1]) // heads
    split: tuple[Dim, ...] = (*source.shape[:2], heads, width)
    spec = TensorSpec(f"{site.name}/{part}_split", split, source.dtype, source.bits, source.scale)
    flat = b.add(Op.RESHAPE, site, f"{part}_split", (source.name,), spec, shape=split)
    swapped: tuple[Dim, ...] = (source.shape[0], heads, source.shape[1], width)
    spec = TensorSpec(f"{site.name}/{part}_heads", swapped, source.dtype, source.bits, source.scale)
    by_head = b.add(Op.TRANSPOSE, site, f"{part}_heads", (flat,), spec, perm=(0, 2, 1, 3))
    if not (window := window_of(site)):
        return by_head
    cut: tuple[Dim, ...] = (source.shape[0], heads * (int(source.shape[1]) // window), window, width)
    spec = replace(spec, name=f"{site.name}/{part}_windows", shape=cut)
    return b.add(Op.RESHAPE, site, f"{part}_windows", (by_head,), spec, shape=cut)


def merge_heads(b: GraphBuilder, site: Site, context: str, heads: int) -> str:
    """(batch, heads, tokens, width), or in windows, -> (batch, tokens, features), the site's result."""
    source = b.tensors[context]
    if window := window_of(site):
        tokens = int(source.shape[1]) // heads * window
        spec = replace(
            source, name=f"{site.name}/by_head", shape=(source.shape[0], heads, tokens, source.shape[3])
        )
        context = b.add(Op.RESHAPE, site, "by_head", (context,), spec, shape=spec.shape)
        source = spec
    rows = (source.shape[0], source.shape[2])
    width = int(source.shape[-1])
    split: tuple[Dim, ...] = (*rows, heads, width)
    spec = TensorSpec(f"{site.name}/joined", split, source.dtype, source.bits, source.scale)
    back = b.add(Op.TRANSPOSE, site, "joined", (context,), spec, perm=(0, 2, 1, 3))
    flat: tuple[Dim, ...] = (*rows, heads * width)
    spec = TensorSpec(site.name, flat, source.dtype, source.bits, source.scale)
    return b.add(Op.RESHAPE, site, "", (back,), spec, shape=flat)


def _relu_context(b: GraphBuilder, site: Site, parts: tuple[str, str, str], mask: str | None) -> str:
    """max(query @ key.T, 0), and the mean of what values it weighs over the keys that are seen.

    The means of n keys have the multiplier of their sum over n.
    """
    query, key, value = parts
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
    shape: tuple[Dim, ...] = (*square[:3], b.tensors[value].shape[-1])
    spec = TensorSpec(f"{site.name}/heads", shape, "int8", observer.bits, b.scales[site.name])
    inputs = (scores, value, constant, *(() if mask is None else (mask,)))
    return b.add(Op.MEAN_MATMUL, site, "heads", inputs, spec)
