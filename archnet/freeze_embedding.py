"""The forms that a word embedding takes in the integer network."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from archnet.calibration.affine import quantize_affine
from archnet.calibration.widths import STORED_BITS
from archnet.freeze_linear import emit_weighted
from archnet.graph import HostTable, TensorSpec
from archnet.graph_builder import POSITION, GraphBuilder, numpy_of
from archnet.network import Site
from archnet.operators import Op
from archnet.quantized_layers import QuantizedCodes


def freeze_embedding(b: GraphBuilder, site: Site, form: str) -> None:
    """Emit a word embedding in one of its forms.

    A table of fewer than 8 bits is looked up as multiples of a step, so that its rows are int8 on the
    scale of what they are added to.

    "gather": look-up in an int8 table. "one-hot": fully connected over one-hot ids, the same integers.
    "host": the host looks up the int8 rows. "code": the host looks up a few small numbers a token, the
    network sums the rows of their code books with one fully connected layer over their one-hot forms.
    """
    ids = site.inputs[0]
    if form == "code":
        _codes(b, site, ids)
        return
    table = b.network.parameter(site, "table")
    tokens = b.ids[ids]
    bits = b.student.widths.weights[site.name]
    step = 2 ** (STORED_BITS - bits)
    scale = b.scales[site.name]
    integers = (quantize_affine(table.numpy(), scale * step, bits=bits) * step).astype(np.int8)
    width = integers.shape[1]
    out = TensorSpec(site.name, (*tokens, width), "int8", STORED_BITS, scale)
    widths = {"weight_bits": bits, "step": step} if step > 1 else {}
    if form == "host":
        name = b.constant(f"{site.name}.table", integers)
        rows = TensorSpec("token_rows", (*tokens, width), "int8", STORED_BITS, scale)
        b.host_tables.append(HostTable(ids, rows.name, name))
        b.values[site.name] = b.input(rows)
    elif form == "one-hot":
        b.values[site.name] = _one_hot_rows(b, site, "", ids, integers, out, {"weight_bits": bits, **widths})
    else:
        name = b.constant(f"{site.name}.table", integers)
        b.values[site.name] = b.add(Op.EMBEDDING, site, "", (ids, name), out, **widths)


def _one_hot_rows(
    b: GraphBuilder,
    site: Site,
    part: str,
    ids: str,
    table: NDArray[np.int8],
    out: TensorSpec,
    widths: Mapping[str, int],
) -> str:
    """The rows of a table by a fully connected layer over one-hot ids, the same integers as a look-up."""
    count, width = table.shape
    assert out.scale is not None
    spec = TensorSpec(f"{out.name}/one_hot", (*out.shape[:-1], count), "uint8", 1, 1.0)
    hot = b.add(Op.ONE_HOT, site, f"{part}one_hot", (ids,), spec, depth=count)
    inputs = (
        hot,
        b.constant(f"{out.name}.weight", table.T),
        b.constant(f"{out.name}.bias", np.zeros(width, np.int32)),
        b.constant(f"{out.name}.multiplier", np.full(width, 2**16, np.int32)),
        b.constant(f"{out.name}.weight_scale", np.full(width, out.scale, np.float32)),
    )
    return b.add(Op.LINEAR, site, part.removesuffix("_"), inputs, out, **widths)


def position_rows(b: GraphBuilder, site: Site, table: NDArray[np.int8], bits: int, scale: float) -> str:
    """The rows of a position table at the positions that the input POSITION (batch, 1) names.

    They come from where the rows of word embeddings come from; codes are of words alone.
    """
    assert b.position is not None
    out = TensorSpec(f"{site.name}/rows", (*b.position, table.shape[1]), "int8", bits, scale)
    if b.embedding in ("one-hot", "code"):
        return _one_hot_rows(b, site, "rows_", POSITION, table, out, {"weight_bits": bits})
    name = b.constant(f"{site.name}.table", table)
    if b.embedding == "host":
        b.host_tables.append(HostTable(POSITION, out.name, name))
        return b.input(out)
    return b.add(Op.EMBEDDING, site, "rows", (POSITION, name), out)


def _codes(b: GraphBuilder, site: Site, ids: str) -> None:
    module = b.student.override(site.name)
    assert isinstance(module, QuantizedCodes)
    digits, depth, width = module.books.shape
    name = b.constant(f"{site.name}.codes", module.codes.numpy().astype(np.int32))
    tokens = b.ids[ids]
    codes = TensorSpec("token_codes", (*tokens, digits), "int64", 64)
    b.host_tables.append(HostTable(ids, codes.name, name))
    b.input(codes)
    spec = TensorSpec(f"{site.name}/one_hot", (*tokens, digits * depth), "uint8", 1, 1.0)
    hot = b.add(Op.ONE_HOT, site, "one_hot", (codes.name,), spec, depth=depth)
    weight = numpy_of(module.matrix())
    out = b.activation(site.name, "", (*tokens, width))
    bias = np.zeros(width, np.float32)
    scale = numpy_of(module.quantizer.scale)
    b.values[site.name] = emit_weighted(
        b, site, Op.LINEAR, hot, out, weight, bias, scale, module.quantizer.bits
    )
