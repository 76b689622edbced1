"""Terms of distances in attention's scores as integer nodes (arXiv 2006.03654, section 3.1, eq. 4)."""

from __future__ import annotations

import numpy as np

from archnet.calibration.affine import fit_output_scale, fit_table_scale, operand_scale, quantize_affine
from archnet.graph import Dim, TensorSpec
from archnet.graph_builder import GraphBuilder, numpy_of
from archnet.network import Site
from archnet.operators import Op
from archnet.quantized_attention import QuantizedRelativeAttention, RelativeTerm
from archnet.quantized_student import LARGEST_FACTOR


def with_distances(
    b: GraphBuilder,
    site: Site,
    products: str,
    parts: tuple[str, str, str],
    module: QuantizedRelativeAttention,
) -> str:
    """The products plus what queries and keys make of distances: the scores.

    Scales are chosen from the scores down: each Add's operands, then the tables, so that every factor is
    exact and below 2. Before that they are raised to what their operands can give.

    Args:
        products: of queries and keys, (batch, heads, queries, keys).
        parts: query, key and value, (batch, heads, tokens, width).
    """
    square, scale_p = b.tensors[products].shape, b.tensors[products].scale or 0.0
    operands = dict(zip(("relative_keys", "relative_queries"), parts[:2], strict=True))
    wished = {role: _wished(b, operands[role], _term(module, role)) for role in module.terms}
    places = max(wished.values())
    if module.places is not None:
        places = max(module.places.scale, places / LARGEST_FACTOR)
    least = max(scale_p, places) / LARGEST_FACTOR
    multiplier_a, scale = fit_output_scale(max(module.scores.scale, least), scale_p)
    scale_b = operand_scale(places, scale)
    if module.places is None:
        (role,) = module.terms
        added = _relative(b, site, role, operands[role], module, scale_b)
    else:
        scales = {role: operand_scale(wished[role], scale_b) for role in wished}
        terms = [_relative(b, site, role, operands[role], module, scales[role]) for role in operands]
        added = _sum(b, site, "places", terms, TensorSpec(f"{site.name}/places", square, "int8", 8, scale_b))
    spec = TensorSpec(f"{site.name}/scores", square, "int8", module.scores.bits, scale)
    return _sum(b, site, "scores", [products, added], spec, multiplier_a)


def _term(module: QuantizedRelativeAttention, role: str) -> RelativeTerm:
    term = module.terms[role]
    assert isinstance(term, RelativeTerm)
    return term


def _wished(b: GraphBuilder, operand: str, term: RelativeTerm) -> float:
    """The scale of a term, no finer than what its products tell apart."""
    return max(term.result.scale, (b.tensors[operand].scale or 0.0) * term.table.scale / LARGEST_FACTOR)


def _relative(
    b: GraphBuilder, site: Site, role: str, operand: str, module: QuantizedRelativeAttention, scale: float
) -> str:
    """Queries or keys times the rows of their distances, on this scale; (batch, heads, queries, keys)."""
    term, source = _term(module, role), b.tensors[operand]
    bits, scale_x = term.table.bits, source.scale or 0.0
    wished = min(term.table.scale, LARGEST_FACTOR * scale / scale_x)
    multiplier, table_scale = fit_table_scale(wished, scale_x, scale)
    integers = quantize_affine(numpy_of(module.get_parameter(role)), table_scale, bits=bits)
    constants = (
        b.constant(f"{site.name}.{role}", integers.astype(np.int8)),
        b.constant(f"{site.name}.{role}.scale", np.array([table_scale], np.float32)),
    )
    square: tuple[Dim, ...] = (*source.shape[:3], source.shape[2])
    own = role == "relative_keys"
    part = role if own else f"{role}_by_key"
    spec = TensorSpec(f"{site.name}/{part}", square, "int8", term.result.bits, scale)
    name = b.add(Op.RELATIVE_MATMUL, site, part, (operand, *constants), spec, multiplier=multiplier)
    if own:
        return name
    spec = TensorSpec(f"{site.name}/{role}", square, "int8", term.result.bits, scale)
    return b.add(Op.TRANSPOSE, site, role, (name,), spec, perm=(0, 1, 3, 2))


def _sum(
    b: GraphBuilder, site: Site, part: str, names: list[str], spec: TensorSpec, first: int | None = None
) -> str:
    """An Add of two tensors; the first factor may be known already."""
    factors = [int(np.rint((b.tensors[name].scale or 0.0) / (spec.scale or 1.0) * 2**16)) for name in names]
    return b.add(
        Op.ADD, site, part, (names[0], names[1]), spec,
        multiplier_a=factors[0] if first is None else first, multiplier_b=factors[1],
    )  # fmt: skip
