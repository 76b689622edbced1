"""Scales without an exact multiplier in some channel: another output scale is taken, not an error."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from archnet.calibration.affine import accumulator_factor, fit_weight_scale, operand_scale
from archnet.config import Bits
from archnet.errors import ArchNetError
from archnet.freeze_linear import emit_weighted
from archnet.graph import TensorSpec
from archnet.graph_builder import GraphBuilder
from archnet.network import Network, Site
from archnet.operators import Op
from archnet.quantized_student import QuantizedStudent

SCALE_X, SCALE_Y = 0.01086263358592987, 0.003482222557067871
FACTOR = 0.0117
"""No float32 weight scale near this factor gives an odd multiplier exactly between these two scales."""


def builder(*, added: bool, relu: bool = False) -> tuple[GraphBuilder, Site]:
    """x -> a layer, and where asked for an Add that reads it, whose ReLU is a part of it."""
    weight, bias = torch.ones(2, 4), torch.zeros(2)
    layer = Site("layer", Op.LINEAR, ("x",), {"weight": "w", "bias": "b"})
    first = Site("x", Op.EMBEDDING, ("input_ids",), {"table": "t"})
    total = Site("sum", Op.ADD, ("layer", "other"))
    other = Site("other", Op.LINEAR, ("x",), {"weight": "v", "bias": "c"})
    sites = (first, layer, other, total) if added else (first, layer)
    if relu:
        sites = (*sites, Site("relu", Op.RELU, ("sum",)))
    tensors = {"w": weight, "b": bias, "v": weight, "c": bias, "t": torch.ones(3, 4)}
    network = Network(("input_ids",), sites, tensors, {"y": sites[-1].name})
    b = GraphBuilder(network, QuantizedStudent(network, Bits(8, 8)), 8)
    b.tensors["x"] = TensorSpec("x", ("batch", 4), "int8", 8, SCALE_X)
    b.scales["relu" if relu else "sum"] = 0.00513
    return b, layer


@pytest.mark.parametrize(("added", "relu"), [(False, False), (True, False), (True, True)])
def test_another_output_scale_is_taken(added: bool, relu: bool) -> None:
    b, site = builder(added=added, relu=relu)
    wished = np.full(2, FACTOR * SCALE_Y / SCALE_X, np.float32)
    with pytest.raises(ArchNetError, match="gives the multiplier exactly"):
        fit_weight_scale(wished, SCALE_X, SCALE_Y)
    out = TensorSpec("layer", ("batch", 2), "int8", 8, SCALE_Y)
    weight = np.ones((2, 4), np.float32) * wished[0] * 100
    emit_weighted(b, site, Op.LINEAR, "x", out, weight, np.zeros(2, np.float32), wished, 8)
    scale_y = b.tensors["layer"].scale
    assert scale_y is not None
    assert scale_y == pytest.approx(SCALE_Y, rel=0.02)
    scale = b.constants["layer.weight_scale"]
    factor = accumulator_factor(SCALE_X, scale, scale_y)
    assert (factor == b.constants["layer.multiplier"] / 2**16).all()
    assert b.constants["layer.weight"].astype(np.float64) * scale[:, None] == pytest.approx(weight, rel=0.02)
    if added:
        operand = np.float32(scale_y) / np.float32(next(iter(b.scales.values()))) * 2**16
        assert operand == np.rint(operand)


def test_a_channel_whose_only_match_is_far_away_gets_another_output_scale() -> None:
    scale_x, scale_y = 0.01152251660823822, 0.005311161745339632
    wished = np.full(2, 0.00119586, np.float32)
    _, far = fit_weight_scale(wished, scale_x, scale_y)
    assert float(np.abs(far / wished - 1).max()) > 0.06
    b, site = builder(added=False)
    b.tensors["x"] = TensorSpec("x", ("batch", 4), "int8", 8, scale_x)
    out = TensorSpec("layer", ("batch", 2), "int8", 8, scale_y)
    weight = np.full((2, 4), 127 * wished[0], np.float32)
    emit_weighted(b, site, Op.LINEAR, "x", out, weight, np.zeros(2, np.float32), wished, 8)
    scale = b.constants["layer.weight_scale"]
    assert b.constants["layer.weight"].astype(np.float64) * scale[:, None] == pytest.approx(weight, rel=0.01)
    assert b.tensors["layer"].scale == pytest.approx(scale_y, rel=1e-6)


@pytest.mark.parametrize("wished", [0.0, 1e-30, 1e-8])
def test_an_operand_that_is_next_to_nothing_gets_a_multiplier(wished: float) -> None:
    scale = operand_scale(wished, 0.5)
    assert np.rint(np.float32(scale) / np.float32(0.5) * 2**16) >= 1
    assert 127 * scale < 0.5 / 100
