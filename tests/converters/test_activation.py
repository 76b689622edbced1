"""Blends of smooth activations with piecewise linear ones, and where they can stand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from archnet.calibration.widths import unsigned_sites
from archnet.converters.activation import POINTS, ActivationConverter, interpolated
from archnet.converters.fold import fold
from archnet.converters.homotopy import set_progress
from archnet.executor import NetworkModule
from archnet.network import Network, Site, SiteAttribute
from archnet.operators import Op
from archnet.rewrite import materialize

X = torch.linspace(-6, 6, 121)
CASES = [
    pytest.param(Op.GELU, {"approximate": "none"}, F.gelu(X), X.relu(), id="gelu"),
    pytest.param(Op.GELU, {"approximate": "tanh"}, F.gelu(X, approximate="tanh"), X.relu(), id="gelu-tanh"),
    pytest.param(Op.SILU, {}, F.silu(X), X.relu(), id="silu"),
    pytest.param(Op.SILU, {"slope": 1.702}, X * torch.sigmoid(1.702 * X), X.relu(), id="quick-gelu"),
    pytest.param(Op.TANH, {}, X.tanh(), F.hardtanh(X), id="tanh"),
]


@pytest.mark.parametrize("function", [F.hardswish, F.mish, F.elu, F.softplus])
def test_samples_give_the_function(function: Callable[[torch.Tensor], torch.Tensor]) -> None:
    samples = function(POINTS).float()
    x = torch.linspace(-30, 30, 5000, requires_grad=True)
    got, wanted = interpolated(x, samples), function(x)
    torch.testing.assert_close(
        got, wanted, rtol=1e-5, atol=3e-3
    )  # Mish is still 0.0027 from 0 at the last sample
    small = torch.logspace(-8, -1, 99)
    for one in (small, -small):
        zero = interpolated(torch.zeros(1), samples), function(torch.zeros(1))
        torch.testing.assert_close(
            interpolated(one, samples) - zero[0], function(one) - zero[1], rtol=2e-3, atol=3e-7
        )
    inside = (x.detach().abs() < 7.9).float()
    slopes = [torch.autograd.grad((y * inside).sum(), x, retain_graph=True)[0] for y in (got, wanted)]
    torch.testing.assert_close(*slopes, rtol=0, atol=6e-3)


def network(op: Op, attributes: dict[str, SiteAttribute], *, shared: bool = False) -> Network:
    sites = [
        Site("words", Op.EMBEDDING, ("input_ids",)),
        Site("up", Op.LINEAR, ("words",)),
        Site("act", op, ("up",), {}, attributes),
    ]
    if shared:
        sites.append(Site("sum", Op.ADD, ("act", "up")))
    return Network(("input_ids",), tuple(sites), {}, {"output": sites[-1].name})


@pytest.mark.parametrize(("op", "attributes", "smooth", "straight"), CASES)
def test_blend_moves_from_the_one_to_the_other(
    op: Op, attributes: dict[str, SiteAttribute], smooth: torch.Tensor, straight: torch.Tensor
) -> None:
    net = network(op, attributes)
    built = ActivationConverter(op).build(net.site("act"), net, None)
    (module,) = built.modules.values()
    torch.testing.assert_close(module(X), smooth)
    set_progress(module, 0.25)
    torch.testing.assert_close(module(X), 0.75 * smooth + 0.25 * straight)
    set_progress(module, 1.0)
    assert torch.equal(module(X), straight)
    assert [site.op for site in built.sites] == [Op.CLIP if op is Op.TANH else Op.RELU]


def test_a_rectifier_moves_from_its_samples_to_relu() -> None:
    samples = F.hardswish(POINTS).float()
    site = Site("act", Op.RECTIFIER, ("up",), {"samples": "act.samples"})
    sites = (Site("words", Op.EMBEDDING, ("input_ids",)), Site("up", Op.LINEAR, ("words",)), site)
    net = Network(("input_ids",), sites, {"act.samples": samples}, {"output": "act"})
    built = ActivationConverter(Op.RECTIFIER).build(site, net, None)
    (module,), (new,) = built.modules.values(), built.sites
    torch.testing.assert_close(module(X), F.hardswish(X), rtol=0, atol=1e-5)
    set_progress(module, 1.0)
    assert torch.equal(module(X), X.relu())
    assert (new.op, new.parameters) == (Op.RELU, {})


def test_a_sigmoid_becomes_limits_behind_a_scaled_layer() -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "words.table": torch.randn(9, 4, generator=generator),
        "up.weight": torch.randn(6, 4, generator=generator) * 3,
        "up.bias": torch.randn(6, generator=generator),
    }
    sites = (
        Site("words", Op.EMBEDDING, ("input_ids",), {"table": "words.table"}),
        Site("up", Op.LINEAR, ("words",), {"weight": "up.weight", "bias": "up.bias"}),
        Site("act", Op.SIGMOID, ("up",)),
    )
    net = Network(("input_ids",), sites, tensors, {"output": "act"})
    ids = {"input_ids": torch.arange(9)[None]}
    layer = NetworkModule(net)(ids)["up"]
    built = ActivationConverter(Op.SIGMOID).build(net.site("act"), net, None)
    (module,) = built.modules.values()
    torch.testing.assert_close(module(layer), layer.sigmoid())
    set_progress(module, 0.25)
    hard = (layer / 5 + 0.5).clamp(0, 1)
    torch.testing.assert_close(module(layer), 0.75 * layer.sigmoid() + 0.25 * hard)
    set_progress(module, 1.0)
    student = replace(net, sites=(*sites[:2], *built.sites))
    made = fold(materialize(student, built.modules, net.tensors))
    assert [site.op for site in made.network.sites] == [Op.EMBEDDING, Op.LINEAR, Op.CLIP]
    assert made.values["act"].plain
    torch.testing.assert_close(NetworkModule(made.network)(ids)["act"], hard)
    assert unsigned_sites(made.network) == {"act"}


def test_a_sigmoid_behind_a_convolution_is_refused() -> None:
    sites = (Site("conv", Op.CONV, ("pixel_values",)), Site("act", Op.SIGMOID, ("conv",)))
    net = Network(("pixel_values",), sites, {}, {"output": "act"})
    assert (
        ActivationConverter(Op.SIGMOID).rejects(sites[1], net) == "it does not follow a fully connected layer"
    )


def test_stands_behind_a_fully_connected_layer_of_its_own() -> None:
    converter = ActivationConverter(Op.GELU)
    good, shared = network(Op.GELU, {}), network(Op.GELU, {}, shared=True)
    assert converter.rejects(good.site("act"), good) is None
    assert (
        converter.rejects(shared.site("act"), shared)
        == "the fully connected layer before it is read by other operators too"
    )
    loose = Network(("x",), (Site("act", Op.GELU, ("x",)),), {}, {"output": "act"})
    assert converter.rejects(loose.site("act"), loose) == "it does not follow a fully connected layer"
