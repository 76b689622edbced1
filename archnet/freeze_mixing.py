"""The integer nodes of concatenations, and of static token mixing: a fully connected layer a head."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from archnet.calibration.affine import quantize_affine
from archnet.freeze_linear import emit_weighted
from archnet.graph import AttributeValue, Dim
from archnet.graph_builder import GraphBuilder, numpy_of
from archnet.network import Site
from archnet.operators import Op


def freeze_concat(b: GraphBuilder, site: Site) -> None:
    """Features or channels side by side; every part was made in the scale of the whole."""
    parts = [b.spec(name) for name in site.inputs]
    first = parts[0].shape
    axis = 1 if len(first) == 4 else len(first) - 1
    total = sum(int(part.shape[axis]) for part in parts)
    shape: tuple[Dim, ...] = (*first[:axis], total, *first[axis + 1 :])
    spec = replace(parts[0], name=site.name, shape=shape)
    b.values[site.name] = b.add(Op.CONCAT, site, "", tuple(part.name for part in parts), spec, axis=axis)


def freeze_rows(b: GraphBuilder, site: Site) -> None:
    """The first rows of a constant table, the same for every sentence."""
    positions = b.spec(site.inputs[0]).shape[1]
    table = b.network.parameter(site, "table").numpy()
    table = table[: b.max_sequence if isinstance(positions, str) else positions]
    spec = b.activation(site.name, "", ("batch", positions, table.shape[1]))
    integers = quantize_affine(table, b.scales[site.name], bits=spec.bits).astype(np.int8)
    name = b.constant(f"{site.name}.table", integers)
    b.values[site.name] = b.add(Op.SLICE, site, "", (name,), spec)


def freeze_token_mix(b: GraphBuilder, site: Site) -> None:
    """(batch, sequence, features): padded with zeros, turned over, mixed head by head, and back."""
    from archnet.quantized_mixing import QuantizedTokenMix

    module = b.student.override(site.name)
    assert isinstance(module, QuantizedTokenMix)
    value = b.spec(site.inputs[0])
    heads, positions, _ = module.weight.shape
    features = int(value.shape[-1])
    width = features // heads
    out = b.activation(site.name, "", value.shape)

    def moved(op: Op, part: str, source: str, result: tuple[Dim, ...], **attributes: AttributeValue) -> str:
        spec = replace(b.tensors[source], name=f"{site.name}/{part}", shape=result)
        return b.add(op, site, part, (source,), spec, **attributes)

    fixed = value.shape[1] == positions and len(site.inputs) == 1
    padded = value.name
    if not fixed:
        mask = ("attention_mask",) if len(site.inputs) > 1 else ()
        spec = replace(value, name=f"{site.name}/padded", shape=("batch", positions, features))
        padded = b.add(Op.ZERO_PAD, site, "padded", (value.name, *mask), spec)
    turned = moved(Op.TRANSPOSE, "turned", padded, ("batch", features, positions), perm=(0, 2, 1))
    split: tuple[Dim, ...] = ("batch", heads, width, positions)
    parts = moved(Op.RESHAPE, "split", turned, split, shape=split)
    weight, bias, scale = numpy_of(module.weight), numpy_of(module.bias), module.quantizer.scale
    scales = numpy_of(scale).reshape(heads, positions)
    mixed = []
    for head in range(heads):
        one = replace(site, name=f"{site.name}/head {head}")
        row: tuple[Dim, ...] = ("batch", width, positions)
        source = moved(Op.SELECT, f"value {head}", parts, row, axis=1, index=head)
        result = replace(out, name=one.name, shape=row)
        mixed.append(
            emit_weighted(
                b,
                one,
                Op.LINEAR,
                source,
                result,
                weight[head],
                bias[head],
                scales[head],
                module.quantizer.bits,
            )
        )
    joined = replace(out, name=f"{site.name}/heads", shape=("batch", features, positions))
    whole = b.add(Op.CONCAT, site, "heads", tuple(mixed), joined, axis=1)
    if fixed:
        b.values[site.name] = b.add(Op.TRANSPOSE, site, "", (whole,), out, perm=(0, 2, 1))
        return
    back = moved(Op.TRANSPOSE, "back", whole, ("batch", positions, features), perm=(0, 2, 1))
    b.values[site.name] = b.add(Op.CROP, site, "", (back,), out)
