"""Trained student -> QuantizedGraph: integers fixed, nothing left to choose.

Scales are moved by less than one part in a thousand so that every factor between tensors is a short
fixed-point number that float32 runtimes reproduce exactly (archnet/calibration/affine.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from archnet.calibration.affine import (
    fit_linear_scales,
    fit_operand_scale,
    fit_output_scale,
    fit_weight_scale,
    quantize_affine,
)
from archnet.calibration.observers import round_weights
from archnet.calibration.widths import IMAGES, PASSING, STORED_BITS, fused_reader
from archnet.converters.fold import Affine
from archnet.errors import ArchNetError
from archnet.freeze_attention import relu_context
from archnet.freeze_embedding import freeze_embedding, position_rows
from archnet.freeze_image import average_pool, convolution, flatten, max_pool, prepend, to_tokens
from archnet.freeze_mixing import freeze_concat, freeze_rows, freeze_token_mix
from archnet.graph import (
    WIDEN_SHIFT,
    AttributeValue,
    Dim,
    GraphOutput,
    HostTable,
    Node,
    QuantizedGraph,
    TensorSpec,
)
from archnet.network import Network, Site
from archnet.operators import Op
from archnet.quantized_student import (
    LARGEST_FACTOR,
    QuantizedAttention,
    QuantizedLinear,
    QuantizedStudent,
    QuantizedTableAdd,
)

TOKENS: tuple[Dim, ...] = ("batch", "sequence")
SOFTMAX_TABLE_SHIFT = 20


def numpy_of(tensor: Tensor) -> NDArray[np.float32]:
    """A detached float32 array."""
    array: NDArray[np.float32] = tensor.detach().to(torch.float32).cpu().numpy()
    return array


@dataclass
class GraphBuilder:
    """Collects nodes, tensors and constants of the integer network."""

    network: Network
    student: QuantizedStudent
    max_sequence: int
    scales: dict[str, float] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    tensors: dict[str, TensorSpec] = field(default_factory=dict)
    constants: dict[str, NDArray[np.generic]] = field(default_factory=dict)
    host_tables: list[HostTable] = field(default_factory=list)
    inputs: list[TensorSpec] = field(default_factory=list)
    values: dict[str, str] = field(default_factory=dict)
    ids: dict[str, tuple[Dim, ...]] = field(default_factory=lambda: {"input_ids": TOKENS})
    """Shape of each input of token ids, whether the network or the host reads it."""
    position: str | None = None
    """Input that names each row's position, for a network that reads one token at a time."""
    embedding: str = "gather"

    def add(
        self,
        op: Op,
        site: Site,
        part: str,
        inputs: tuple[str, ...],
        spec: TensorSpec,
        **attributes: AttributeValue,
    ) -> str:
        """Append a node; returns its output's name."""
        name = f"{site.name}/{part}" if part else site.name
        self.nodes.append(Node(op, name, inputs, spec.name, attributes, site.block))
        self.tensors[spec.name] = spec
        return spec.name

    def constant(self, name: str, value: NDArray[np.generic]) -> str:
        """Register a constant; returns its name."""
        self.constants[name] = np.ascontiguousarray(value)
        return name

    def input(self, spec: TensorSpec) -> str:
        """Register an input of the network once; returns its name."""
        if spec.name not in self.tensors:
            self.inputs.append(spec)
            self.tensors[spec.name] = spec
        return spec.name

    def spec(self, name: str) -> TensorSpec:
        """The tensor that stands for a site."""
        return self.tensors[self.values[name]]

    def scale(self, name: str) -> float:
        """Its scale."""
        scale = self.spec(name).scale
        assert scale is not None
        return scale

    def graph(self, name: str, outputs: tuple[GraphOutput, ...]) -> QuantizedGraph:
        """What was collected."""
        return QuantizedGraph(
            name, tuple(self.inputs), outputs, tuple(self.nodes), self.tensors, self.constants,
            self.max_sequence, tuple(self.host_tables),
        )  # fmt: skip

    def activation(self, site: str, suffix: str, shape: tuple[Dim, ...]) -> TensorSpec:
        """The quantized result of a site, as its quantizer and the fitted scales say."""
        observer = self.student.observer(site)
        assert observer is not None
        dtype = "int8" if observer.signed else "uint8"
        return TensorSpec(f"{site}{suffix}", shape, dtype, observer.bits, self.scales[site])


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
    """The scale of every site's result; operands of an Add are fitted to the Add, last one first."""
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
        for operand in (_owner(student.network, name) for name in site.inputs):
            if operand not in pinned and operand in scales:
                scales[operand] = operand_scale(scales[operand], total)
                pinned.add(operand)
    return scales


def _owner(network: Network, name: str) -> str:
    """The site whose quantizer made the integers that a site passes on."""
    while name not in network.inputs and network.site(name).op in PASSING:
        name = network.site(name).inputs[0]
    return name


def operand_scale(wished: float, scale_y: float) -> float:
    """`fit_operand_scale`, stepping away from the wished scale where no number near it matches."""
    for step in sorted(range(-16, 17), key=abs):
        with suppress(ArchNetError):
            return fit_operand_scale(wished * (1.0 + step / 256), scale_y)[1]
    return float(np.float32(wished))


def _linear(b: GraphBuilder, site: Site) -> None:
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
    b.values[site.name] = b.values[result] = emit_linear(
        b, site, source.name, out, weight, bias, numpy_of(module.quantizer.scale), module.quantizer.bits
    )


def output_scales(b: GraphBuilder, out: TensorSpec) -> list[float] | None:
    """Scales near a tensor's own that it may have as well; None where it is free.

    An Add wants operand scales that match its own. Tensors that are joined need one common scale.
    """
    assert out.scale is not None
    readers = b.network.consumers().get(out.name, [])
    if all(reader.op not in (Op.ADD, Op.CONCAT) for reader in readers):
        return None
    if len(readers) > 1 or readers[0].op is Op.CONCAT:
        return [out.scale]
    scale_y = b.scales[readers[0].name]
    found = {out.scale}
    for step in range(-64, 65):
        with suppress(ArchNetError):
            found.add(fit_operand_scale(out.scale * (1.0 + step / 4096), scale_y)[1])
    return sorted(found)


def emit_linear(
    b: GraphBuilder,
    site: Site,
    source: str,
    out: TensorSpec,
    weight: NDArray[np.float32],
    bias: NDArray[np.float32],
    weight_scale: NDArray[np.float32],
    bits: int,
) -> str:
    """One fully connected node: weight (channels, inputs) and bias float32, wished scales (channels,)."""
    return emit_weighted(b, site, Op.LINEAR, source, out, weight, bias, weight_scale, bits)


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
    try:
        multiplier, scale = fit_weight_scale(wished, scale_x, out.scale)
    except ArchNetError:  # a pair of scales without a match in some channel: another output scale has one
        among = output_scales(b, out)
        multiplier, scale, scale_y = fit_linear_scales(wished, scale_x, out.scale, among=among)
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
        right = _table_rows(b, site, out.scale, left.shape[1])
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


def _table_rows(b: GraphBuilder, site: Site, scale_y: float, positions: Dim) -> str:
    """A constant table (positions) as integers in a scale that suits the Add."""
    module = b.student.override(site.name)
    assert isinstance(module, QuantizedTableAdd)
    # A network that reads one token at a time looks its row up among all of them.
    rows = b.max_sequence if isinstance(positions, str) or b.position is not None else positions
    table = numpy_of(module.table)[:rows]
    scale = operand_scale(module.quantizer.scale, scale_y)
    integers = quantize_affine(table, scale, bits=module.quantizer.bits).astype(np.int8)
    if b.position is not None:
        return position_rows(b, site, integers, module.quantizer.bits, scale)
    name = b.constant(f"{site.name}.table", integers)
    spec = TensorSpec(f"{site.name}/rows", (positions, table.shape[1]), "int8", module.quantizer.bits, scale)
    return b.add(Op.SLICE, site, "rows", (name,), spec)


def _attention(b: GraphBuilder, site: Site) -> None:
    module = b.student.override(site.name)
    assert isinstance(module, QuantizedAttention)
    query, key, value = (split_heads(b, site, i, module.heads) for i in range(3))
    if site.attributes.get("form") == "relu":
        b.values[site.name] = merge_heads(b, site, relu_context(b, site, query, key, value), module.heads)
        return
    mask = site.inputs[3] if len(site.inputs) > 3 else None
    context = softmax_context(b, site, (query, key, value), mask)
    b.values[site.name] = merge_heads(b, site, context, module.heads)


def softmax_context(b: GraphBuilder, site: Site, parts: tuple[str, str, str], mask: str | None) -> str:
    """Scores, mask, softmax and the shares' sums of values.

    Args:
        parts: query (batch, heads, queries, width), key and value (batch, heads, keys, width).
        mask: input of (batch, keys), or None.

    Returns:
        (batch, heads, queries, width).
    """
    module = b.student.override(site.name)
    assert isinstance(module, QuantizedAttention)
    query, key, value = parts
    bits = module.scores.bits
    scale_q, scale_k = (b.tensors[n].scale or 0.0 for n in (query, key))
    wished = max(module.scores.scale, scale_q * scale_k / LARGEST_FACTOR)
    multiplier, scale = fit_output_scale(wished, scale_q, scale_k)
    square: tuple[Dim, ...] = (*b.tensors[query].shape[:3], b.tensors[key].shape[2])
    spec = TensorSpec(f"{site.name}/scores", square, "int8", bits, scale)
    scores = b.add(Op.MATMUL, site, "scores", (query, key), spec, transpose_b=True, multiplier=multiplier)
    if mask is not None:
        spec = TensorSpec(f"{site.name}/masked", square, "int8", bits, scale)
        scores = b.add(Op.MASK, site, "masked", (scores, mask), spec)
    powers = np.rint(2.0**SOFTMAX_TABLE_SHIFT * np.exp(-np.arange(256) * scale)).astype(np.int32)
    table = b.constant(f"{site.name}.softmax_table", powers)
    share = float(np.float32(1.0 / module.levels))
    spec = TensorSpec(f"{site.name}/probabilities", square, "uint8", module.share_bits, share)
    softmax = Op.TABLE_SOFTMAX if site.attributes.get("form") == "table" else Op.SOFTMAX
    shares = b.add(softmax, site, "probabilities", (scores, table), spec)
    heads_shape: tuple[Dim, ...] = (*square[:3], b.tensors[value].shape[-1])
    scale_v = b.tensors[value].scale or 0.0
    wished = max(b.scales[site.name], share * scale_v / LARGEST_FACTOR)
    multiplier, scale = fit_output_scale(wished, share, scale_v)
    observer = b.student.observer(site.name)
    assert observer is not None
    spec = TensorSpec(f"{site.name}/heads", heads_shape, "int8", observer.bits, scale)
    return b.add(Op.MATMUL, site, "heads", (shares, value), spec, transpose_b=False, multiplier=multiplier)


def split_heads(b: GraphBuilder, site: Site, index: int, heads: int) -> str:
    """Query, key or value (index 0 to 2): (batch, tokens, features) -> (batch, heads, tokens, width)."""
    source = b.spec(site.inputs[index])
    part = ("query", "key", "value")[index]
    width = int(source.shape[-1]) // heads
    split: tuple[Dim, ...] = (*source.shape[:2], heads, width)
    spec = TensorSpec(f"{site.name}/{part}_split", split, source.dtype, source.bits, source.scale)
    flat = b.add(Op.RESHAPE, site, f"{part}_split", (source.name,), spec, shape=split)
    swapped: tuple[Dim, ...] = (source.shape[0], heads, source.shape[1], width)
    spec = TensorSpec(f"{site.name}/{part}_heads", swapped, source.dtype, source.bits, source.scale)
    return b.add(Op.TRANSPOSE, site, f"{part}_heads", (flat,), spec, perm=(0, 2, 1, 3))


def merge_heads(b: GraphBuilder, site: Site, context: str, heads: int) -> str:
    """(batch, heads, tokens, width) -> (batch, tokens, features), the site's result."""
    source = b.tensors[context]
    tokens = (source.shape[0], source.shape[2])
    width = int(source.shape[-1])
    split: tuple[Dim, ...] = (*tokens, heads, width)
    spec = TensorSpec(f"{site.name}/joined", split, source.dtype, source.bits, source.scale)
    back = b.add(Op.TRANSPOSE, site, "joined", (context,), spec, perm=(0, 2, 1, 3))
    flat: tuple[Dim, ...] = (*tokens, heads * width)
    spec = TensorSpec(site.name, flat, source.dtype, source.bits, source.scale)
    return b.add(Op.RESHAPE, site, "", (back,), spec, shape=flat)


def _select(b: GraphBuilder, site: Site) -> None:
    source = b.spec(site.inputs[0])
    spec = TensorSpec(site.name, ("batch", source.shape[-1]), source.dtype, source.bits, source.scale)
    index = int(site.attributes["index"])
    b.values[site.name] = b.add(Op.SELECT, site, "", (source.name,), spec, axis=1, index=index)


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
    Op.LINEAR: _linear,
    Op.RELU: _fused,
    Op.ADD: _add,
    Op.ATTENTION: _attention,
    Op.TOKEN_MIX: freeze_token_mix,
    Op.CONCAT: freeze_concat,
    Op.SLICE: freeze_rows,
    Op.SELECT: _select,
    Op.MEAN_POOL: _mean_pool,
    Op.CLIP: _fused,
    Op.REQUANTIZE: _requantize,
    Op.CONV: convolution,
    Op.AVG_POOL: average_pool,
    Op.MAX_POOL: max_pool,
    Op.TO_TOKENS: to_tokens,
    Op.PREPEND: prepend,
    Op.FLATTEN: flatten,
}
