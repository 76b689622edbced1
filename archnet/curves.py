"""Names elementwise chains by the scalar function that they compute.

Libraries write GELU as pow, mul, add and tanh, or SiLU as a product with a sigmoid. A chain over one
tensor is evaluated on a grid and compared with the activations that are known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from archnet.converters.activation import POINTS
from archnet.network import SiteAttribute
from archnet.operators import Op

GRID = POINTS
_ONE = int((GRID - 1.0).abs().argmin())

TOLERANCE = 1e-5
"""Largest difference on the grid; the two forms of GELU differ by 5e-4."""

ELEMENTWISE = frozenset(
    "abs add celu clamp clamp_max clamp_min div elu erf exp gelu hardsigmoid hardswish hardtanh leaky_relu "
    "log_sigmoid maximum minimum mish mul neg pow reciprocal relu relu6 rsqrt rsub selu sigmoid silu "
    "softplus sqrt square sub tanh".split()
)
"""ATen operators that act on every element by itself."""

_ACTIVATIONS: tuple[tuple[Op, Mapping[str, SiteAttribute], Callable[[Tensor], Tensor]], ...] = (
    (Op.RELU, {}, F.relu),
    (Op.GELU, {"approximate": "none"}, F.gelu),
    (Op.GELU, {"approximate": "tanh"}, lambda x: F.gelu(x, approximate="tanh")),
    (Op.TANH, {}, torch.tanh),
    (Op.SIGMOID, {}, torch.sigmoid),
)


def evaluate(node: fx.Node, operands: Mapping[fx.Node, Tensor]) -> Tensor:
    """What an elementwise node computes of its operands' samples."""

    def sample(operand: fx.Node) -> Tensor:
        return operands[operand].clone()  # operators that work in place must not change the samples

    args = fx.node.map_arg(node.args, sample)
    kwargs = fx.node.map_arg(dict(node.kwargs), sample)
    assert callable(node.target)
    result: Tensor = node.target(*args, **kwargs)
    return result


def activation_of(samples: Tensor) -> tuple[Op, dict[str, SiteAttribute]] | None:
    """The activation with these samples on the grid, and its site attributes; None when none has."""
    for op, attributes, function in _ACTIVATIONS:
        if _same(samples, function(GRID)):
            return op, dict(attributes)
    if (limits := _limits_of(samples)) is not None:
        return Op.CLIP, dict(zip(("least", "most"), limits, strict=True))
    at_one = float(samples[_ONE])
    if not 0.0 < at_one < 1.0 or factor_of(samples) is not None:  # x / 2 is x * sigmoid(0 * x)
        return None
    slope = float(torch.logit(samples[_ONE]))  # of x * sigmoid(slope * x)
    if not _same(samples, GRID * torch.sigmoid(slope * GRID)):
        return None
    return Op.SILU, ({} if abs(slope - 1.0) < TOLERANCE else {"slope": slope})


def is_rectifier(samples: Tensor) -> bool:
    """Whether a function goes the way of ReLU: about as x far above 0, and next to nowhere far below.

    ELU, SELU, Mish, softplus, hard swish, a ReLU with a small slope below 0.
    """
    if samples.shape != GRID.shape or not bool(samples.isfinite().all()):
        return False
    step = samples.diff() / GRID.diff()
    return bool((step[-10:] - 1).abs().max() < 0.1) and bool(step[:10].abs().max() < 0.3)


def _limits_of(samples: Tensor) -> tuple[float, float] | None:
    """(least, most), when the samples are those of min(max(x, least), most): ReLU6, hard tanh.

    Only limits that the saturation of integers can have: from 0, or as far below it as above.
    """
    if samples.shape != GRID.shape:
        return None
    least, most = float(samples.min()), float(samples.max())
    fits = least in (0.0, -most) and 0.0 < most < float(GRID[-1])
    return (least, most) if fits and _same(samples, GRID.clamp(least, most)) else None


def cap_of_samples(samples: Tensor) -> float | None:
    """c, when the samples are those of c * tanh(x / c) for a c of at least 1."""
    last, reach = float(samples[-1]), float(GRID[-1])
    least, most = 1.0, 1e4
    for _ in range(100):  # it grows with c
        middle = (least + most) / 2
        least, most = (middle, most) if middle * math.tanh(reach / middle) < last else (least, middle)
    cap = round(least, 6)
    return cap if _same(samples, cap * torch.tanh(GRID / cap)) and factor_of(samples) is None else None


def is_squared_relu(samples: Tensor) -> bool:
    """Whether they are those of max(x, 0) squared."""
    return _same(samples, F.relu(GRID).square())


def factor_of(samples: Tensor) -> float | None:
    """c, when the samples are those of c * x."""
    factor = float(samples[_ONE])
    return factor if _same(samples, factor * GRID) else None


def _same(samples: Tensor, wanted: Tensor) -> bool:
    return samples.shape == wanted.shape and bool(((samples - wanted).abs() <= TOLERANCE).all())
