"""Teacher -> student: sites that have a converter get its homotopy; and back to a plain network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from archnet.config import NORM_FORMS
from archnet.converters import converter_for
from archnet.converters.attention import forms_of
from archnet.converters.base import Statistics, TokenStatistics
from archnet.converters.homotopy import Homotopy, set_progress
from archnet.converters.layer_norm import NORMS, norm_form
from archnet.executor import NetworkModule
from archnet.network import Network, Site, grouped, groups_of
from archnet.operators import Op
from archnet.valid import mask_of, row_masks, valid_rows

SMALLEST_DEVIATION = 1e-6
"""Of a token whose features are all alike; the homotopy takes its logarithm."""


@dataclass(frozen=True, slots=True)
class Rewritten:
    """The student: a network, and the modules that replace some of its sites while it is trained."""

    network: Network
    modules: Mapping[str, Homotopy]

    def module(self) -> NetworkModule:
        """A trainable student at progress 0, where it computes what the teacher computes."""
        return NetworkModule(self.network, self.modules, clear_padding=True)

    def move(self, progress: Callable[[str], float]) -> None:
        """Move every module to the progress of its site's block."""
        for site in self.network.sites:
            if site.name in self.modules:
                set_progress(self.modules[site.name], progress(site.block))


@torch.no_grad()
def token_statistics(teacher: NetworkModule, batches: list[dict[str, Tensor]]) -> dict[str, TokenStatistics]:
    """What every norm of the teacher reads, over the valid tokens of some batches."""
    norms = [site for site in teacher.network.sites if site.op in NORMS]
    sources = {site.inputs[0] for site in norms}
    means: dict[str, list[Tensor]] = {name: [] for name in sources}
    deviations: dict[str, list[Tensor]] = {site.name: [] for site in norms}
    masks = row_masks(teacher.network)
    for batch in batches:
        values = teacher(batch, keep=sources)
        for name in sources:
            value = valid_rows(values[name].float(), mask_of(batch, masks[name]))
            means[name].append(value.mean(0))
            for site in norms:
                if site.inputs[0] == name:
                    deviation = grouped(value, groups_of(site)).std(-1, unbiased=False)
                    deviations[site.name].append(deviation.clamp_min(SMALLEST_DEVIATION))
    return {
        site.name: TokenStatistics(
            torch.stack(means[site.inputs[0]]).mean(0), torch.cat(deviations[site.name]).median(0).values
        )
        for site in norms
    }


def rewrite(
    network: Network,
    statistics: Mapping[str, Statistics],
    *,
    attention: str = "softmax",
    norms: str = NORM_FORMS[0],
) -> Rewritten:
    """Replace every site that has a converter.

    Args:
        network: the teacher.
        statistics: of every norm, and of every attention that becomes mixing, by site name.
        attention: the form that attention is to take, where it can (`forms_of`).
        norms: the form that norms are to take, one of NORM_FORMS.
    """
    forms = forms_of(network, attention)
    forms |= {site.name: norm_form(site, network, norms) for site in network.sites if site.op in NORMS}
    sites: list[Site] = []
    modules: dict[str, Homotopy] = {}
    residual: dict[str, str] = {}
    for site in network.sites:
        if site.op is Op.ADD:
            site = replace(site, inputs=tuple(residual.get(name, name) for name in site.inputs))
        converter = converter_for(site.op, forms.get(site.name, ""))
        if converter is None:
            sites.append(site)
            continue
        replacement = converter.build(site, network, statistics.get(site.name))
        sites.extend(replacement.sites)
        modules |= replacement.modules
        if replacement.residual:
            residual[site.name] = replacement.residual
    return Rewritten(replace(network, sites=tuple(sites)), modules)


def materialize(network: Network, modules: Mapping[str, Homotopy], tensors: Mapping[str, Tensor]) -> Network:
    """The student at progress 1 as a plain network: the trained tensors, and what the modules came to.

    Args:
        network: the student's.
        modules: trained; those with an `affine` become BatchNorm sites, those with an `expand` several.
        tensors: the student's trained tensors, as the network names them.
    """
    sites: list[Site] = []
    values = dict(tensors)
    for site in network.sites:
        expand = getattr(modules.get(site.name), "expand", None)
        if expand is not None:
            expansion = expand(site)
            sites.extend(expansion.sites)
            values |= expansion.tensors
            continue
        affine = getattr(modules.get(site.name), "affine", None)
        if affine is not None:
            keys = {"weight": f"{site.name}.gain", "bias": f"{site.name}.shift"}
            values[keys["weight"]], values[keys["bias"]] = affine()
            site = replace(site, parameters=keys)
        sites.append(site)
    return replace(network, sites=tuple(sites), tensors=values).pruned()
