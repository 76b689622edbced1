"""Replacements: one file an operator, each from what a chip lacks to what it has.

`CONVERTERS` is all there is: no registration, no discovery. Add a converter by adding it here
(docs/add_a_converter.md).
"""

from __future__ import annotations

from archnet.converters.activation import ActivationConverter
from archnet.converters.attention import MixingConverter
from archnet.converters.base import Converter
from archnet.converters.layer_norm import NormConverter
from archnet.converters.softmax import SoftmaxConverter
from archnet.operators import Op

CONVERTERS: tuple[Converter, ...] = (
    NormConverter(Op.LAYER_NORM, "static"),
    NormConverter(Op.LAYER_NORM, "corrected"),
    NormConverter(Op.RMS_NORM, "static"),
    NormConverter(Op.RMS_NORM, "corrected"),
    ActivationConverter(Op.GELU),
    ActivationConverter(Op.SILU),
    ActivationConverter(Op.RECTIFIER),
    ActivationConverter(Op.TANH),
    ActivationConverter(Op.SIGMOID),
    SoftmaxConverter("table"),
    SoftmaxConverter("logsum"),
    SoftmaxConverter("relu"),
    MixingConverter(),
)


def converter_for(op: Op, form: str = "") -> Converter | None:
    """The converter of an operator, or None.

    Args:
        form: that attention or a norm is to take; attention's "softmax" has no converter, because it is
            kept.
    """
    return next((c for c in CONVERTERS if c.source is op and c.form == form), None)
