"""Trained student -> QuantizedGraph: integers fixed, nothing left to choose.

Scales are moved by less than one part in a thousand so that every factor between tensors is a short
fixed-point number that float32 runtimes reproduce exactly (archnet/calibration/affine.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from archnet.calibration.affine import (
    MULTIPLIER_SHIFT,
    factor_scales,
    fit_output_scale,
    fit_table_scale,
    integer_range,
    operand_scale,
    operand_scale_beside,
    quantize_affine,
    snap_multiplier,
)
from archnet.calibration.widths import IMAGES, STORED_BITS, fused_reader
from archnet.converters.fold import Affine
from archnet.errors import ArchNetError
from archnet.freeze_attention import freeze_attention
from archnet.freeze_embedding import freeze_embedding, position_rows
from archnet.freeze_image import (
    average_pool,
    convolution,
    flatten,
    max_pool,
    prepend,
    to_map,
    to_tokens,
    token_mean,
)
from archnet.freeze_linear import freeze_linear
from archnet.freeze_mixing import freeze_concat, freeze_rows, freeze_token_mix
from archnet.graph import (
    WIDEN_SHIFT,
    Dim,
    GraphOutput,
    QuantizedGraph,
    TensorSpec,
)
from archnet.graph_builder import TOKENS, GraphBuilder, numpy_of
from archnet.network import Site
from archnet.operators import Op
from archnet.quantized_layers import QuantizedLinear, QuantizedTableAdd, QuantizedTableMul
from archnet.quantized_student import LARGEST_FACTOR, QuantizedStudent
from archnet.shared_scales import made_by
from archnet.windows import Windows


def freeze(
    student: QuantizedStudent,
    outputs: Mapping[str, Affine],
    *,
    name: str,
    max_sequence: int,
    embedding: str,
    pool_on_host: bool = False,
    size: tuple[int, int, int] | None = None,
) -> QuantizedGraph:
    """Turn a trained student into integers.

    Args:
        student: after training.
        outputs: the user's output name -> affine of the folded site that it stands for.
        name: of the graph.
        max_sequence: longest sequence, rows of the position tables.
        embedding: "gather", "one-hot", "host" or "code".
        pool_on_host: an output's mean over tokens is part of its dequantization, not a node.
        size: channels, height and width of an image network's images; None for other networks.
    """
    student.raise_fine_steps()
    network = student.network
    builder = GraphBuilder(network, student, max_sequence)
    builder.scales = fitted_scales(student)
    ids = TensorSpec("input_ids", TOKENS, "int64", 64)
    mask = TensorSpec("attention_mask", TOKENS, "int64", 64)
    builder.values = {"input_ids": "input_ids", "attention_mask": "attention_mask"}
    if size is not None:
        builder.values = {IMAGES: builder.input(images_spec(student, size))}
    elif embedding in ("gather", "one-hot"):
        builder.input(ids)
    for site in network.sites:
        if site.op is Op.EMBEDDING:
            freeze_embedding(builder, site, embedding)
            builder.input(mask)
        else:
            FREEZERS[site.op](builder, site)
    graph_outputs = tuple(
        _output(builder, key, affine, pool_on_host=pool_on_host) for key, affine in outputs.items()
    )
    return builder.graph(name, graph_outputs)


def images_spec(student: QuantizedStudent, size: tuple[int, int, int]) -> TensorSpec:
    """The input of an image network: normalised pixels as integers, which the host makes of float ones."""
    assert student.pixels is not None
    return TensorSpec(
        IMAGES, ("batch", *size), "int8", student.pixels.bits, float(np.float32(student.pixels.scale))
    )


def fitted_scales(student: QuantizedStudent) -> dict[str, float]:
    """The scale of every site's result; operands of an Add are fitted to the Add, last one first.

    Factors of a product that is narrower than they are have a scale that makes its multiplier exact: that is
    so small that the nearest one would move the product's few steps by as much as a thirtieth.
    """
    scales: dict[str, float] = {}
    for site in student.network.sites:
        observer = student.observer(site.name)
        if observer is not None:
            table_bits = student.widths.weights[site.name] if site.op is Op.EMBEDDING else STORED_BITS
            scales[site.name] = float(np.float32(observer.scale / 2 ** (STORED_BITS - table_bits)))
    pinned: set[str] = set()
    readers = student.network.consumers()
    for site in reversed(student.network.sites):
        if site.op is not Op.ADD:
            continue
        fused = fused_reader(site, readers)
        total = scales[site.name if fused is None else fused.name]
        operands = [made_by(student.network, name) for name in site.inputs]
        free = [operand for operand in operands if operand not in pinned and operand in scales]
        for operand in free:
            scales[operand] = operand_scale(scales[operand], total)
        pinned.update(free)
        for operand, other in zip(reversed(operands), operands, strict=True):
            if operand in free and other in scales and other != operand:
                ranges = _range(student, operand), _range(student, other)
                scales[operand] = operand_scale_beside(scales[operand], scales[other], total, ranges)
    for site in student.network.sites:
        narrow = student.widths.results[site.name] < STORED_BITS
        if site.op is Op.MUL and len(site.inputs) == 2 and narrow:
            _fit_factor(site, scales, pinned, student)
    return scales


def _range(student: QuantizedStudent, name: str) -> tuple[int, int]:
    """Of the integers that a site's result may be stored in, whatever its width."""
    observer = student.observer(name)
    assert observer is not None
    return integer_range(STORED_BITS, signed=observer.signed)


def _fit_factor(site: Site, scales: dict[str, float], pinned: set[str], student: QuantizedStudent) -> None:
    """Move the scale of one factor so that the product's has an exact multiplier."""
    left, right = (made_by(student.network, name) for name in site.inputs)
    free = next((name for name in (right, left) if name in scales and name not in pinned), None)
    if free is None or left == right or not scales.keys() >= {left, right}:
        return
    factor = scales[left] * scales[right] / scales[site.name]
    if factor >= LARGEST_FACTOR:
        return
    wished = scales[free] * snap_multiplier(factor) / 2**MULTIPLIER_SHIFT / factor
    other = scales[left if free == right else right]
    scales[free] = next(iter(factor_scales(wished, other, scales[site.name])), wished)
    pinned |= {left, right}


def _fused(b: GraphBuilder, site: Site) -> None:
    """ReLU and hard tanh: the operator before them saturates at its output's range."""
    if site.name not in b.values:
        raise AssertionError(
            f"{site.name}: the plan lets {site.op} stand only behind an operator that saturates"
        )


def _requantize(b: GraphBuilder, site: Site) -> None:
    source, observer = b.spec(site.inputs[0]), b.student.observer(site.name)
    assert observer is not None
    assert source.scale is not None
    multiplier, scale = fit_output_scale(b.scales[site.name], source.scale)
    dtype = "int8" if observer.signed else "uint8"
    spec = TensorSpec(site.name, source.shape, dtype, observer.bits, scale)
    b.values[site.name] = b.add(Op.REQUANTIZE, site, "", (source.name,), spec, multiplier=multiplier)


def _add(b: GraphBuilder, site: Site) -> None:
    left = b.spec(site.inputs[0])
    fused = fused_reader(site, b.network.consumers())
    result = site.name if fused is None else fused.name
    out = b.activation(result, "", left.shape)
    assert out.scale is not None
    if len(site.inputs) == 1:
        right = _table_rows(b, site, out.scale, left)
    else:
        right = b.values[site.inputs[1]]
    factors = {}
    for role, operand in (("multiplier_a", left.name), ("multiplier_b", right)):
        scale = b.tensors[operand].scale
        assert scale is not None
        factors[role] = int(np.rint(scale / out.scale * 2**16))
    b.values[site.name] = b.values[result] = b.add(
        Op.ADD, site, "", (left.name, right), out,
        multiplier_a=factors["multiplier_a"], multiplier_b=factors["multiplier_b"],
    )  # fmt: skip


def _mul(b: GraphBuilder, site: Site) -> None:
    """The product of two activations, or of one and a constant table."""
    if len(site.inputs) == 1:
        _mul_table(b, site)
        return
    left, right = (b.spec(name) for name in site.inputs)
    assert left.scale is not None
    assert right.scale is not None
    out = b.activation(site.name, "", left.shape)
    wished = max(b.scales[site.name], left.scale * right.scale / LARGEST_FACTOR)
    multiplier, scale = fit_output_scale(wished, left.scale, right.scale)
    names = (left.name, right.name)
    b.values[site.name] = b.add(Op.MUL, site, "", names, replace(out, scale=scale), multiplier=multiplier)


def _mul_table(b: GraphBuilder, site: Site) -> None:
    """Times a row of a table for each position; the table's scale is what makes the factor exact."""
    source, module = b.spec(site.inputs[0]), b.student.override(site.name)
    assert isinstance(module, QuantizedTableMul)
    out = b.activation(site.name, "", source.shape)
    assert source.scale is not None
    assert out.scale is not None
    most = LARGEST_FACTOR * out.scale / source.scale
    multiplier, scale = fit_table_scale(min(module.quantizer.scale, most), source.scale, out.scale)
    rows = _rows_of(b, site, module, scale, source.shape[1])
    b.values[site.name] = b.add(Op.MUL, site, "", (source.name, rows), out, multiplier=multiplier)


def _table_rows(b: GraphBuilder, site: Site, scale_y: float, other: TensorSpec) -> str:
    """A constant table (positions) as integers in a scale that suits the Add to another operand."""
    module = b.student.override(site.name)
    assert isinstance(module, QuantizedTableAdd)
    assert other.scale is not None
    ranges = integer_range(module.quantizer.bits), other.range
    scale = operand_scale_beside(module.quantizer.scale, other.scale, scale_y, ranges)
    return _rows_of(b, site, module, scale, other.shape[1])


def _rows_of(
    b: GraphBuilder,
    site: Site,
    module: QuantizedTableAdd | QuantizedTableMul,
    scale: float,
    positions: Dim,
) -> str:
    """The rows of a constant table in integers of a scale."""
    # A network that reads one token at a time looks its row up among all of them.
    rows = b.max_sequence if isinstance(positions, str) or b.position is not None else positions
    table = numpy_of(module.table)[:rows]
    integers = quantize_affine(table, scale, bits=module.quantizer.bits).astype(np.int8)
    if b.position is not None:
        return position_rows(b, site, integers, module.quantizer.bits, scale)
    name = b.constant(f"{site.name}.table", integers)
    spec = TensorSpec(f"{site.name}/rows", (positions, table.shape[1]), "int8", module.quantizer.bits, scale)
    return b.add(Op.SLICE, site, "rows", (name,), spec)


def _select(b: GraphBuilder, site: Site) -> None:
    source = b.spec(site.inputs[0])
    spec = TensorSpec(site.name, ("batch", source.shape[-1]), source.dtype, source.bits, source.scale)
    index = int(site.attributes["index"])
    b.values[site.name] = b.add(Op.SELECT, site, "", (source.name,), spec, axis=1, index=index)


def _shift(b: GraphBuilder, site: Site) -> None:
    source = b.spec(site.inputs[0])
    spec = replace(source, name=site.name)
    b.values[site.name] = b.add(Op.SHIFT, site, "", (source.name,), spec, by=int(site.attributes["by"]))


def _windows(b: GraphBuilder, site: Site) -> None:
    source, windows = b.spec(site.inputs[0]), Windows.of(site.attributes)
    spec = replace(source, name=site.name, shape=(source.shape[0], windows.tokens[1], source.shape[2]))
    b.values[site.name] = b.add(Op.WINDOWS, site, "", (source.name,), spec, **windows.attributes())


def _beside(b: GraphBuilder, site: Site) -> None:
    source, count = b.spec(site.inputs[0]), int(site.attributes["beside"])
    batch, tokens, features = source.shape
    shape: tuple[Dim, ...] = (batch, int(tokens) // count, count * int(features))
    spec = replace(source, name=site.name, shape=shape)
    b.values[site.name] = b.add(Op.RESHAPE, site, "", (source.name,), spec, shape=shape)


def _mean_pool(b: GraphBuilder, site: Site) -> None:
    """Pooling becomes a node when its output is emitted, with that output's offset."""
    b.values[site.name] = b.values[site.inputs[0]]


def _output(b: GraphBuilder, key: str, affine: Affine, *, pool_on_host: bool) -> GraphOutput:
    """int32 result and float32 scale a channel of one of the user's outputs."""
    site = next(s for s in b.network.sites if s.name == affine.carrier)
    source = b.spec(site.name)
    assert source.scale is not None
    if site.attributes.get("logits", False) and affine.plain:
        module = b.student.override(site.name)
        assert isinstance(module, QuantizedLinear)
        scales = np.float32(source.scale) * numpy_of(module.quantizer.scale)
        return GraphOutput(key, source.name, scales.astype(np.float32))
    width = int(source.shape[-1])
    unit = source.scale / 2**WIDEN_SHIFT
    gain = np.ones(width, np.float32) if affine.weight is None else numpy_of(affine.weight)
    shift = np.zeros(width, np.float32) if affine.bias is None else numpy_of(affine.bias)
    least = 1e-4 * np.median(np.abs(gain))
    if gain.min() < -least:
        raise ArchNetError(
            f"the output {key} has channels with a negative gain, which dequantization cannot have",
            fix="return the tensor before its last norm, or report the model",
        )
    gain = np.maximum(gain, least)
    offset = np.clip(np.rint(shift / (gain * unit)), -(2**29), 2**29).astype(np.int32)
    offset_name = b.constant(f"{key}.offset", offset)
    pooled = site.op is Op.MEAN_POOL
    if pooled and not pool_on_host:
        spec = TensorSpec(f"{key}/int32", ("batch", width), "int32", 32, source.scale)
        tensor = b.add(Op.MEAN_POOL, site, key, (source.name, "attention_mask", offset_name), spec)
    else:
        spec = TensorSpec(f"{key}/int32", source.shape, "int32", 32, source.scale)
        tensor = b.add(Op.WIDEN, site, key, (source.name, offset_name), spec)
    scale = (gain * unit).astype(np.float32)
    pool = "attention_mask" if pooled and pool_on_host else ""
    return GraphOutput(key, tensor, scale, key in b.network.normalized, pool=pool)


FREEZERS: dict[Op, Callable[[GraphBuilder, Site], None]] = {
    Op.LINEAR: freeze_linear,
    Op.RELU: _fused,
    Op.ADD: _add,
    Op.MUL: _mul,
    Op.ATTENTION: freeze_attention,
    Op.TOKEN_MIX: freeze_token_mix,
    Op.CONCAT: freeze_concat,
    Op.SLICE: freeze_rows,
    Op.SHIFT: _shift,
    Op.WINDOWS: _windows,
    Op.RESHAPE: _beside,
    Op.SELECT: _select,
    Op.MEAN_POOL: _mean_pool,
    Op.CLIP: _fused,
    Op.REQUANTIZE: _requantize,
    Op.CONV: convolution,
    Op.AVG_POOL: average_pool,
    Op.MAX_POOL: max_pool,
    Op.TO_TOKENS: to_tokens,
    Op.TO_MAP: to_map,
    Op.PREPEND: prepend,
    Op.FLATTEN: flatten,
    Op.TOKEN_MEAN: token_mean,
}
