"""Products with rows of distances in TensorIR (DeBERTa's attention)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from archnet.export.tvm_tir import (
    convert,
    i32,
    i64,
    load,
    local,
    parallel,
    product,
    requantize,
    saturation_limit,
    serial,
    store,
    unflatten,
)

if TYPE_CHECKING:
    from archnet.export.tvm_operators import OperatorCall


def relative_matmul(call: OperatorCall) -> None:
    """Tokens times the row of each other token's distance; no product of another distance is computed."""
    x, table, _ = call.inputs
    multiplier = call.integer("multiplier")
    limit = i32(saturation_limit(multiplier, call.output.range))
    _, rows, width = call.operands[1].shape
    assert isinstance(rows, int)
    *lead, tokens = call.sizes
    with parallel(product(lead)) as flat:
        *batch, own = unflatten(flat, lead)
        with serial(tokens) as other:
            total = local((1,), "int32")
            store(total, i32(0), 0)
            with serial(call.builder.size(width)) as k:
                row = load(table, batch[1], i64((rows - 1) // 2) + other - own, k)
                term = convert(load(x, *batch, own, k), "int32") * convert(row, "int32")
                store(total, load(total, 0) + term, 0)
            value = requantize(load(total, 0), i32(multiplier), limit, call.output.range)
            store(call.result, convert(value, call.output.dtype), *batch, own, other)
