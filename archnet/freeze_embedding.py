"""The forms that a word embedding takes in the integer network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from archnet.calibration.affine import quantize_affine
from archnet.calibration.widths import STORED_BITS
from archnet.graph import Dim, HostTable, TensorSpec
from archnet.network import Site
from archnet.operators import Op
from archnet.quantized_student import QuantizedCodes

if TYPE_CHECKING:
    from archnet.freeze import GraphBuilder

TOKENS: tuple[Dim, ...] = ("batch", "sequence")


def freeze_embedding(b: GraphBuilder, site: Site, form: str) -> None:
    """Emit a word embedding in one of its forms.

    A table of fewer than 8 bits is looked up as multiples of a step, so that its rows are int8 on the
    scale of what they are added to.

    "gather": look-up in an int8 table. "one-hot": fully connected over one-hot ids, the same integers.
    "host": the host looks up the int8 rows. "code": the host looks up a few small numbers a token, the
    network sums the rows of their code books with one fully connected layer over their one-hot forms.
    """
    if form == "code":
        _codes(b, site)
        return
    table = b.network.parameter(site, "table")
    bits = b.student.widths.weights[site.name]
    step = 2 ** (STORED_BITS - bits)
    scale = b.scales[site.name]
    integers = (quantize_affine(table.numpy(), scale * step, bits=bits) * step).astype(np.int8)
    out = TensorSpec(site.name, (*TOKENS, table.shape[1]), "int8", STORED_BITS, scale)
    widths = {"weight_bits": bits, "step": step} if step > 1 else {}
    vocabulary, width = integers.shape
    if form == "host":
        name = b.constant(f"{site.name}.table", integers)
        rows = TensorSpec("token_rows", (*TOKENS, width), "int8", STORED_BITS, scale)
        b.host_tables.append(HostTable("input_ids", rows.name, name))
        b.values[site.name] = b.input(rows)
    elif form == "one-hot":
        spec = TensorSpec(f"{site.name}/one_hot", (*TOKENS, vocabulary), "uint8", 1, 1.0)
        hot = b.add(Op.ONE_HOT, site, "one_hot", ("input_ids",), spec, depth=vocabulary)
        inputs = (
            hot,
            b.constant(f"{site.name}.weight", integers.T),
            b.constant(f"{site.name}.bias", np.zeros(width, np.int32)),
            b.constant(f"{site.name}.multiplier", np.full(width, 2**16, np.int32)),
            b.constant(f"{site.name}.weight_scale", np.full(width, scale, np.float32)),
        )
        b.values[site.name] = b.add(Op.LINEAR, site, "", inputs, out, **{"weight_bits": bits, **widths})
    else:
        name = b.constant(f"{site.name}.table", integers)
        b.values[site.name] = b.add(Op.EMBEDDING, site, "", ("input_ids", name), out, **widths)


def _codes(b: GraphBuilder, site: Site) -> None:
    from archnet.freeze import emit_linear, numpy_of

    module = b.student.override(site.name)
    assert isinstance(module, QuantizedCodes)
    digits, depth, width = module.books.shape
    name = b.constant(f"{site.name}.codes", module.codes.numpy().astype(np.int32))
    codes = TensorSpec("token_codes", (*TOKENS, digits), "int64", 64)
    b.host_tables.append(HostTable("input_ids", codes.name, name))
    b.input(codes)
    spec = TensorSpec(f"{site.name}/one_hot", (*TOKENS, digits * depth), "uint8", 1, 1.0)
    hot = b.add(Op.ONE_HOT, site, "one_hot", (codes.name,), spec, depth=depth)
    weight = numpy_of(module.matrix())
    out = b.activation(site.name, "", (*TOKENS, width))
    bias = np.zeros(width, np.float32)
    scale = numpy_of(module.quantizer.scale)
    b.values[site.name] = emit_linear(b, site, hot, out, weight, bias, scale, module.quantizer.bits)
