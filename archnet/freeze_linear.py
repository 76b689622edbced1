"""Fully connected layers as integer nodes: weights rounded, scales moved to exact multipliers."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from archnet.calibration.affine import (
    factor_scales,
    fit_linear_scales,
    fit_operand_scale,
    fit_weight_scale,
    without_ties,
)
from archnet.calibration.observers import round_weights
from archnet.calibration.widths import STORED_BITS, fused_reader
from archnet.errors import ArchNetError
from archnet.graph import (
    AttributeValue,
    TensorSpec,
)
from archnet.graph_builder import GraphBuilder, numpy_of
from archnet.network import Site
from archnet.operators import Op
from archnet.quantized_layers import QuantizedLinear
from archnet.quantized_student import LARGEST_FACTOR
from archnet.shared_scales import made_by

FAR = 0.03
"""A channel's scale that moves by more than this share wants another scale of the output."""


def freeze_linear(b: GraphBuilder, site: Site) -> None:
    fused = fused_reader(site, b.network.consumers())
    result = fused.name if fused is not None else site.name
    module = b.student.override(site.name)
    assert isinstance(module, QuantizedLinear)
    source = b.spec(site.inputs[0])
    weight, bias = numpy_of(module.weight), numpy_of(module.bias)
    if site.attributes.get("logits", False):
        b.values[site.name] = emit_wide_linear(b, site, source.name, module)
        return
    shape = (*source.shape[:-1], weight.shape[0])
    out = b.activation(result, "", shape)
    b.values[site.name] = b.values[result] = emit_weighted(
        b,
        site,
        Op.LINEAR,
        source.name,
        out,
        weight,
        bias,
        numpy_of(module.quantizer.scale),
        module.quantizer.bits,
    )


def output_scales(b: GraphBuilder, site: Site, out: TensorSpec) -> list[float] | None:
    """Scales near a tensor's own that it may have as well; None where it is free.

    An Add wants operand scales that match its own, a narrow product those with which it keeps its own.
    Tensors that are joined need one common scale.
    """
    assert out.scale is not None
    if site.op is Op.TOKEN_MIX:  # one of its heads, which are joined
        return [out.scale]
    readers = b.network.consumers().get(out.name, [])
    if len(readers) == 1 and _is_narrow_product(b, readers[0]):
        left, right = (made_by(b.network, name) for name in readers[0].inputs)
        other = b.scales.get(left if right == out.name else right)
        return factor_scales(out.scale, other, b.scales[readers[0].name]) or None if other else None
    if all(reader.op not in (Op.ADD, Op.CONCAT) for reader in readers):
        return None
    if len(readers) > 1 or readers[0].op is Op.CONCAT:
        return [out.scale]
    joined = fused_reader(readers[0], b.network.consumers())
    scale_y = b.scales[(joined or readers[0]).name]
    found = {out.scale}
    for step in range(-64, 65):
        with suppress(ArchNetError):
            found.add(fit_operand_scale(out.scale * (1.0 + step / 4096), scale_y)[1])
    left, right = readers[0].inputs[0], readers[0].inputs[-1]
    beside = b.values.get(left if right == out.name else right)
    if beside is None:
        return sorted(found)
    spec = b.tensors[beside]
    assert spec.scale is not None
    return sorted(without_ties(found, spec.scale, scale_y, (out.range, spec.range)))


def _is_narrow_product(b: GraphBuilder, site: Site) -> bool:
    narrow = b.student.widths.results[site.name] < STORED_BITS
    return narrow and site.op is Op.MUL and len(site.inputs) == 2 and site.inputs[0] != site.inputs[1]


def emit_weighted(
    b: GraphBuilder,
    site: Site,
    op: Op,
    source: str,
    out: TensorSpec,
    weight: NDArray[np.float32],
    bias: NDArray[np.float32],
    weight_scale: NDArray[np.float32],
    bits: int,
    **attributes: AttributeValue,
) -> str:
    """One node with weights: those (channels, ...) and bias float32, wished scales (channels,)."""
    scale_x = b.tensors[source].scale
    assert scale_x is not None
    assert out.scale is not None
    least = 1.5 / 2**16 * out.scale / scale_x  # a channel of zeros still needs a multiplier of at least 1
    most = LARGEST_FACTOR * out.scale / scale_x
    wished = np.clip(weight_scale, least, most).astype(np.float32)
    multiplier, scale, scale_y = _matched(b, site, wished, scale_x, out)
    out = replace(out, scale=scale_y)
    # What training saw are the rounded weights; where the scale moved, those are rounded to it.
    rows = weight.reshape(len(weight), -1)
    trained = round_weights(torch.from_numpy(rows / wished[:, None]), bits)
    moved = torch.from_numpy(wished / scale)[:, None]
    integers = round_weights(trained * moved, bits).numpy().astype(np.int8).reshape(weight.shape)
    offsets = np.rint(bias.astype(np.float64) / (float(scale_x) * scale.astype(np.float64)))
    limit = 2**30
    inputs = (
        source,
        b.constant(f"{site.name}.weight", integers),
        b.constant(f"{site.name}.bias", np.clip(offsets, -limit, limit).astype(np.int32)),
        b.constant(f"{site.name}.multiplier", multiplier),
        b.constant(f"{site.name}.weight_scale", scale),
    )
    return b.add(op, site, "", inputs, out, weight_bits=bits, **attributes)


def _matched(
    b: GraphBuilder, site: Site, wished: NDArray[np.float32], scale_x: float, out: TensorSpec
) -> tuple[NDArray[np.int32], NDArray[np.float32], float]:
    """(multipliers, weight scales, output scale): the tensor's own, unless some channel has no match near.

    A largest weight whose scale shrinks is cut off by as much, and weights of few bits keep their integers,
    so that a channel with a scale far away computes something else than it was trained to.
    """
    assert out.scale is not None
    with suppress(ArchNetError):
        multiplier, scale = fit_weight_scale(wished, scale_x, out.scale)
        if float(np.max(np.abs(scale / wished - 1.0))) <= FAR:
            return multiplier, scale, out.scale
    return fit_linear_scales(wished, scale_x, out.scale, among=output_scales(b, site, out))


def emit_wide_linear(b: GraphBuilder, site: Site, source: str, module: QuantizedLinear) -> str:
    """A fully connected layer whose accumulators are its result: int32, channel n in units of its own."""
    scale_x = b.tensors[source].scale
    assert scale_x is not None
    scale = numpy_of(module.quantizer.scale)
    weight, bits = module.weight.detach(), module.quantizer.bits
    integers = round_weights(weight / module.quantizer.scale[:, None], bits).numpy()
    offsets = np.rint(numpy_of(module.bias).astype(np.float64) / (float(scale_x) * scale.astype(np.float64)))
    inputs = (
        source,
        b.constant(f"{site.name}.weight", integers.astype(np.int8)),
        b.constant(f"{site.name}.bias", np.clip(offsets, -(2**30), 2**30).astype(np.int32)),
        b.constant(f"{site.name}.multiplier", np.full(len(scale), 2**16, np.int32)),
        b.constant(f"{site.name}.weight_scale", scale),
    )
    spec = TensorSpec(site.name, (*b.tensors[source].shape[:-1], len(scale)), "int32", 32, scale_x)
    return b.add(Op.LINEAR, site, "", inputs, spec, weight_bits=bits)
