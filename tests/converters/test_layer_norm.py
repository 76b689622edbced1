"""The homotopy from LayerNorm and RMSNorm to a static affine, at both ends and between."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from archnet.converters.base import TokenStatistics
from archnet.converters.homotopy import set_progress
from archnet.converters.layer_norm import NormConverter, NormCorrection, NormToBatchNorm, ResidualGain
from archnet.executor import NetworkModule
from archnet.network import Network, Site
from archnet.operators import Op


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(1)) * 3 + 1


@pytest.mark.parametrize("centred", [True, False])
def test_progress_0_is_the_norm(x: torch.Tensor, centred: bool) -> None:
    module = NormToBatchNorm(torch.full((8,), 5.0), torch.tensor([7.0]), 1e-5, centred=centred)
    wanted = F.layer_norm(x, (8,), eps=1e-5) if centred else F.rms_norm(x, (8,), eps=1e-5)
    torch.testing.assert_close(module(x), wanted)


def test_progress_1_is_its_affine(x: torch.Tensor) -> None:
    mean = torch.linspace(-1, 1, 8)
    module = NormToBatchNorm(mean, torch.tensor([2.5]), 1e-5)
    set_progress(module, 1.0)
    torch.testing.assert_close(module(x), (x - mean) / 2.5)
    weight, bias = module.affine()
    torch.testing.assert_close(module(x), x * weight + bias)


def test_between_is_the_formula(x: torch.Tensor) -> None:
    mean, g = torch.linspace(-1, 1, 8), 0.3
    module = NormToBatchNorm(mean, torch.tensor([2.5]), 0.0)
    set_progress(module, g)
    mu, sigma = x.mean(-1, keepdim=True), x.std(-1, keepdim=True, unbiased=False)
    wanted = (x - (1 - g) * mu - g * mean) / (sigma ** (1 - g) * 2.5**g)
    torch.testing.assert_close(module(x), wanted)


def test_continuous_at_1(x: torch.Tensor) -> None:
    module = NormToBatchNorm(torch.zeros(8), torch.tensor([2.0]), 1e-5)
    set_progress(module, 1.0 - 1e-6)
    almost = module(x)
    set_progress(module, 1.0)
    torch.testing.assert_close(almost, module(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("g", [0.0, 0.3, 1.0])
def test_heads_are_normalised_each_by_itself(x: torch.Tensor, centred: bool, g: float) -> None:
    mean, scale = torch.linspace(-1, 1, 8), torch.tensor([2.5, 4.0])
    module = NormToBatchNorm(mean, scale, 1e-5, centred=centred)
    set_progress(module, g)
    alone = [
        NormToBatchNorm(mean[i : i + 4], s[None], 1e-5, centred=centred)
        for i, s in ((0, scale[0]), (4, scale[1]))
    ]
    for one in alone:
        set_progress(one, g)
    torch.testing.assert_close(module(x), torch.cat([alone[0](x[..., :4]), alone[1](x[..., 4:])], -1))
    if g == 1.0:
        weight, bias = module.affine()
        torch.testing.assert_close(module(x), x * weight + bias)


def test_residual_gain_becomes_one_number(x: torch.Tensor) -> None:
    weight, bias = torch.linspace(0.5, 2.0, 8), torch.linspace(-1, 1, 8)
    module = ResidualGain(weight, bias)
    torch.testing.assert_close(module(x), x * weight + bias)
    set_progress(module, 1.0)
    gain, shift = module.affine()
    assert bool((gain == weight.median()).all())
    torch.testing.assert_close(module(x), x * gain + shift)


def norm_network(*, residual: bool) -> Network:
    parameters = {"weight": "w", "bias": "b"}
    sites = [Site("words", Op.EMBEDDING, ("input_ids",), {"table": "t"})]
    sites.append(Site("norm", Op.LAYER_NORM, ("words",), parameters, {"eps": 1e-5}, "block 0"))
    if residual:
        sites.append(Site("sum", Op.ADD, ("norm", "words")))
    tensors = {"w": torch.ones(4), "b": torch.zeros(4), "t": torch.randn(5, 4)}
    return Network(("input_ids",), tuple(sites), tensors, {"output": sites[-1].name})


@pytest.mark.parametrize("residual", [False, True])
def test_an_add_reads_a_copy_with_one_gain(residual: bool) -> None:
    network = norm_network(residual=residual)
    statistics = TokenStatistics(torch.zeros(4), torch.ones(1))
    built = NormConverter(Op.LAYER_NORM).build(network.site("norm"), network, statistics)
    names = ["norm.normalize", "norm", *(["norm.residual"] if residual else [])]
    assert [site.name for site in built.sites] == names
    assert all(site.op is Op.BATCH_NORM and site.block == "block 0" for site in built.sites)
    assert built.residual == ("norm.residual" if residual else "")
    assert set(built.modules) == set(names) - {"norm"}


def trained_correction(features: int = 8) -> NormCorrection:
    module = NormCorrection(features, seed=3)
    generator = torch.Generator().manual_seed(4)
    torch.nn.init.normal_(module.back, generator=generator)
    torch.nn.init.normal_(module.bias, generator=generator)
    return module


@pytest.mark.parametrize("progress", [0.0, 0.4, 1.0])
def test_a_correction_is_the_formula(x: torch.Tensor, progress: float) -> None:
    module = trained_correction()
    set_progress(module, progress)
    hidden = (x @ module.weight.T + module.bias).clamp_min(0)
    torch.testing.assert_close(module(x), x + progress * hidden @ module.back.T)
    assert module.weight.shape == (4, 8)


def test_an_untrained_correction_corrects_nothing(x: torch.Tensor) -> None:
    module = NormCorrection(8, seed=3)
    set_progress(module, 1.0)
    assert bool((module(x) == x).all())
    assert bool((module.weight != NormCorrection(8, seed=4).weight).all())


@torch.no_grad()
def test_a_correction_expands_to_layers_that_compute_it() -> None:
    module = trained_correction(4)
    set_progress(module, 1.0)
    table = torch.randn(5, 4)
    words = Site("words", Op.EMBEDDING, ("input_ids",), {"table": "t"}, block="block 0")
    expansion = module.expand(Site("fix", Op.BATCH_NORM, ("words",), block="block 0"))
    ops = [(site.name, site.op, site.block) for site in expansion.sites]
    assert ops == [
        ("fix.hidden", Op.LINEAR, "block 0"),
        ("fix.relu", Op.RELU, "block 0"),
        ("fix.back", Op.LINEAR, "block 0"),
        ("fix", Op.ADD, "block 0"),
    ]
    tensors = {"t": table, **expansion.tensors}
    network = Network(("input_ids",), (words, *expansion.sites), tensors, {"output": "fix"})
    got = NetworkModule(network)({"input_ids": torch.arange(5)[None]})["fix"]
    torch.testing.assert_close(got, module(table[None]))


def test_a_corrected_norm_is_read_corrected_by_everything() -> None:
    network = norm_network(residual=True)
    converter = NormConverter(Op.LAYER_NORM, "corrected")
    built = converter.build(network.site("norm"), network, TokenStatistics(torch.zeros(4), torch.ones(1)))
    assert {site.name: site.inputs for site in built.sites} == {
        "norm.normalize": ("words",),
        "norm.correct": ("norm.normalize",),
        "norm": ("norm.correct",),
        "norm.residual": ("norm.correct",),
    }
    assert isinstance(built.modules["norm.correct"], NormCorrection)
    assert set(converter.needs) == {Op.BATCH_NORM, Op.LINEAR, Op.RELU}
