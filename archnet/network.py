"""The float network between capture and freeze: named sites that carry their parameters.

A site is one operator at the level of the field (LayerNorm, fully connected, attention), whatever
ATen nodes its library wrote it with. Every tensor is (batch, sequence, features) unless an operator
says otherwise. The same records describe the captured teacher, the student and the folded student.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from archnet.operators import Op

SiteAttribute = int | float | str | bool


@dataclass(frozen=True, slots=True)
class Site:
    """One operator of a float network.

    Attributes:
        name: unique; the path of the module that it came from where there is one.
        inputs: names of the sites (or of the network's inputs) that it reads.
        parameters: role ("weight", "bias", "table", ...) -> key in `Network.tensors`.
        attributes: heads and scale of attention, eps of a norm, ATen name of an unknown operator, ...
        block: name of the repeated block that it belongs to, or "".
    """

    name: str
    op: Op
    inputs: tuple[str, ...]
    parameters: Mapping[str, str] = field(default_factory=dict)
    attributes: Mapping[str, SiteAttribute] = field(default_factory=dict)
    block: str = ""


@dataclass(frozen=True, slots=True)
class Network:
    """Sites in execution order, their float32 tensors, and which sites are the outputs.

    Attributes:
        inputs: names of the network's inputs ("input_ids", "attention_mask").
        outputs: the user's output name -> site name.
        normalized: outputs that are divided by their L2 norm over the last axis.
    """

    inputs: tuple[str, ...]
    sites: tuple[Site, ...]
    tensors: Mapping[str, Tensor]
    outputs: Mapping[str, str]
    normalized: frozenset[str] = frozenset()

    def site(self, name: str) -> Site:
        """The site of that name (KeyError when there is none)."""
        for site in self.sites:
            if site.name == name:
                return site
        raise KeyError(name)

    def consumers(self) -> dict[str, list[Site]]:
        """For each site or input: the sites that read it, in order."""
        readers: dict[str, list[Site]] = {name: [] for name in self.inputs}
        for site in self.sites:
            readers.setdefault(site.name, [])
            for source in site.inputs:
                readers[source].append(site)
        return readers

    def parameter(self, site: Site, role: str) -> Tensor:
        """The float32 tensor that plays this role at the site."""
        return self.tensors[site.parameters[role]]

    def pruned(self) -> Network:
        """The same network without the sites and tensors that no output needs."""
        needed = set(self.outputs.values())
        kept: list[Site] = []
        for site in reversed(self.sites):
            if site.name in needed:
                kept.append(site)
                needed.update(site.inputs)
        used = {key for site in kept for key in site.parameters.values()}
        tensors = {key: value for key, value in self.tensors.items() if key in used}
        return replace(self, sites=tuple(reversed(kept)), tensors=tensors)


def groups_of(norm: Site) -> int:
    """How many groups of features a norm normalises, each by itself: one, or one for each head."""
    return int(norm.attributes.get("groups", 1))


def grouped(x: Tensor, groups: int) -> Tensor:
    """(..., features) -> (..., groups, features of a group), a view."""
    return x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups)


def decoder_sites(network: Network) -> tuple[Site, ...]:
    """The sites whose values depend on the tokens of the target; none but in an encoder-decoder."""
    found: list[Site] = []
    known = {"decoder_input_ids"}
    for site in network.sites:
        if known.intersection(site.inputs):
            known.add(site.name)
            found.append(site)
    return tuple(found)


def census(sites: Iterable[Site]) -> dict[str, int]:
    """How many sites of each operator; operators that no converter knows count by their ATen name."""
    counts: dict[str, int] = {}
    for site in sites:
        key = str(site.attributes.get("aten", site.op)) if site.op is Op.OTHER else str(site.op)
        counts[key] = counts.get(key, 0) + 1
    return counts


def detached(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous float32 copies on the CPU, without gradients."""
    return {k: v.detach().to("cpu", torch.float32).contiguous().clone() for k, v in tensors.items()}
