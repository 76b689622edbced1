"""Widths in a plan: what stays wider than was asked for, and what the target does not run."""

from __future__ import annotations

from collections import Counter

from archnet.calibration.rotation import OUTWARD
from archnet.calibration.widths import STORED_BITS, WEIGHTED, Wider, assign, narrowed
from archnet.config import Bits
from archnet.converters.softmax import relative
from archnet.network import Network
from archnet.operators import Op
from archnet.targets import Profile

_STORED = (Op.ADD, Op.MUL, Op.MEAN_POOL)
"""Operators whose operands and results are stored with STORED_BITS."""


def wider_than_asked(folded: Network, bits: Bits) -> tuple[Wider, ...]:
    """What has more bits than was asked for, by kind, with the reasons."""
    return assign(narrowed(folded, bits), bits).wider


def missing_widths(folded: Network, bits: Bits, profile: Profile) -> list[tuple[Op, int, str]]:
    """(operator, how many, why) for each operator that the target runs, but not at the width needed."""
    network = narrowed(folded, bits)
    widths = assign(network, bits)
    found: Counter[tuple[Op, str]] = Counter()
    for site in network.sites:
        if site.attributes.get(OUTWARD):
            needs = [(site.op, Bits(STORED_BITS, STORED_BITS))]
        elif site.op in WEIGHTED:
            needs = [(site.op, Bits(widths.weights[site.name], bits.activations))]
        elif site.op is Op.ATTENTION:
            products = (Op.MATMUL, Op.MEAN_MATMUL) if site.attributes.get("form") == "relu" else (Op.MATMUL,)
            operands = {bits.activations, widths.shares[site.name]}
            needs = [(op, Bits(STORED_BITS, width)) for op in products for width in sorted(operands)]
            if relative(site):
                needs.append((Op.RELATIVE_MATMUL, Bits(STORED_BITS, bits.activations)))
        elif site.op is Op.REQUANTIZE:
            needs = [(Op.REQUANTIZE, Bits(STORED_BITS, bits.activations))]
        else:
            needs = [(site.op, Bits(STORED_BITS, STORED_BITS))] if site.op in _STORED else []
        for op, wanted in needs:
            reason = profile.why_not(op, wanted) if op in profile.operators else None
            if reason is not None:
                found[op, reason] += 1
    return [(op, count, reason) for (op, reason), count in found.items()]
