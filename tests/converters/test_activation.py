"""Blends of smooth activations with piecewise linear ones, and where they can stand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from archnet.converters.activation import ActivationConverter
from archnet.converters.homotopy import set_progress
from archnet.network import Network, Site, SiteAttribute
from archnet.operators import Op

X = torch.linspace(-6, 6, 121)
CASES = [
    pytest.param(Op.GELU, {"approximate": "none"}, F.gelu(X), X.relu(), id="gelu"),
    pytest.param(Op.GELU, {"approximate": "tanh"}, F.gelu(X, approximate="tanh"), X.relu(), id="gelu-tanh"),
    pytest.param(Op.SILU, {}, F.silu(X), X.relu(), id="silu"),
    pytest.param(Op.SILU, {"slope": 1.702}, X * torch.sigmoid(1.702 * X), X.relu(), id="quick-gelu"),
    pytest.param(Op.TANH, {}, X.tanh(), F.hardtanh(X), id="tanh"),
]


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
