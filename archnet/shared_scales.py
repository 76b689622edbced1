"""Quantizers that several tensors share, because a concatenation has one scale for all its parts."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from archnet.calibration.widths import PASSING
from archnet.network import Network
from archnet.operators import Op


def share_quantizers(network: Network, observe: dict[str, nn.Module]) -> None:
    """Give the parts of every concatenation of features the first one's quantizer, and itself none.

    Args:
        observe: site -> quantizer of its result; changed in place.
    """
    for site in network.sites:
        if site.op is Op.CONCAT:
            first, *others = (made_by(network, name) for name in site.inputs)
            observe |= dict.fromkeys(others, observe[first])
            del observe[site.name]


def made_by(network: Network, name: str) -> str:
    """The site whose quantizer makes the integers that a site passes on."""
    while name not in network.inputs and network.site(name).op in PASSING:
        name = network.site(name).inputs[0]
    return name


def sharing(quantizers: Mapping[str, nn.Module]) -> list[tuple[nn.Module, list[str]]]:
    """Every quantizer once, with the names of all that share it."""
    groups: dict[int, tuple[nn.Module, list[str]]] = {}
    for name, quantizer in quantizers.items():
        groups.setdefault(id(quantizer), (quantizer, []))[1].append(name)
    return list(groups.values())
