"""Residual Add -> Concat and a fully connected layer with identity weights (arXiv 2111.01135), exactly.

With [,] for features side by side and I the identity,

    a + b = [I, I] [a, b]

and a constant table t that is added (positions) is concatenated like a tensor: a + t = [I, I] [a, t].
A concatenation has one scale for all its parts, so in integers the layer computes round((a + b) m / 2**16)
with weights of 1 and 0, which is what an Add with equal multipliers computes.

Of maps (batch, channels, height, width) channels stand side by side, and the layer is a convolution 1x1.

A part must be made in the common scale. A fully connected layer that only this concatenation needs in
its scale is; what cannot be (a look-up table's rows, an unsigned tensor, a tensor that is a part of
another concatenation) passes through a layer of its own with weights I.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from archnet.network import Network, Site
from archnet.operators import Op

BECOMES = "Concat, fully connected with identity weights"
NEEDS = (Op.CONCAT, Op.LINEAR)
NEEDS_FOR_TABLE = (*NEEDS, Op.SLICE)

FROM_MAPS = (Op.TO_TOKENS, Op.FLATTEN)
"""Operators that make features of a map."""

IDENTITY = "identity"
"""Attribute of fully connected sites whose weights are 0 and 1 and stay so."""


def adds_as_concats(network: Network) -> Network:
    """The same function without Add.

    Args:
        network: folded.
    """
    return _Rewriter(network).run()


@dataclass
class _Rewriter:
    source: Network
    sites: list[Site] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    parts: set[str] = field(default_factory=set)
    """Sites that are part of a concatenation already."""
    maps: frozenset[str] = frozenset()
    """Sites whose results are maps."""

    def run(self) -> Network:
        self.tensors |= self.source.tensors
        widths, maps = _widths(self.source)
        self.maps = maps
        readers = self.source.consumers()
        for site in self.source.sites:
            if site.op is not Op.ADD:
                self.sites.append(site)
                continue
            width = widths[site.name]
            operands = [self._part(site, name, width, readers) for name in site.inputs]
            if len(operands) == 1:
                operands.append(self._rows(site, operands[0]))
            joined = replace(
                site, name=f"{site.name}.parts", op=Op.CONCAT, inputs=tuple(operands), parameters={}
            )
            self.sites.append(joined)
            self._identity(site.name, joined.name, torch.eye(width).repeat(1, 2), site)
        return replace(self.source, sites=tuple(self.sites), tensors=self.tensors).pruned()

    def _part(self, add: Site, name: str, width: int, readers: Mapping[str, list[Site]]) -> str:
        """What stands for an operand in the concatenation."""
        made = next((site for site in self.sites if site.name == name), None)
        following = [reader.op for reader in readers.get(name, [])]
        free = (
            made is not None and made.op in (Op.LINEAR, Op.CONV) and following not in ([Op.RELU], [Op.CLIP])
        )
        if free and name not in self.parts:
            self.parts.add(name)
            return name
        part = f"{add.name}.part{add.inputs.index(name)}"
        if part in self.parts:  # an Add of a tensor to itself
            part = f"{add.name}.part1"
        self._identity(part, name, torch.eye(width), add)
        self.parts.add(part)
        return part

    def _rows(self, add: Site, beside: str) -> str:
        """The constant table as a tensor of its own."""
        rows = f"{add.name}.rows"
        self.sites.append(
            Site(rows, Op.SLICE, (beside,), {"table": add.parameters["table"]}, block=add.block)
        )
        return rows

    def _identity(self, name: str, source: str, weight: Tensor, add: Site) -> None:
        keys = {"weight": f"{name}.weight", "bias": f"{name}.bias"}
        op, attributes = Op.LINEAR, {IDENTITY: 1}
        if add.name in self.maps:
            op, weight = Op.CONV, weight[:, :, None, None]
            attributes |= {"stride_y": 1, "stride_x": 1, "pad_y": 0, "pad_x": 0, "groups": 1}
        self.tensors[keys["weight"]] = weight
        self.tensors[keys["bias"]] = torch.zeros(len(weight))
        self.sites.append(Site(name, op, (source,), keys, attributes, add.block))


def _widths(network: Network) -> tuple[dict[str, int], frozenset[str]]:
    """Features or channels of every site that carries some, and the sites whose results are maps."""
    widths: dict[str, int] = {}
    maps: set[str] = set()
    for site in network.sites:
        first = site.inputs[0] if site.inputs else ""
        if site.op is Op.CONV or (first in maps and site.op not in FROM_MAPS):
            maps.add(site.name)
        if site.op in (Op.LINEAR, Op.CONV):
            widths[site.name] = len(network.parameter(site, "bias"))
        elif site.op is Op.EMBEDDING:
            role = "table" if "table" in site.parameters else "books"
            widths[site.name] = network.parameter(site, role).shape[-1]
        elif site.op is Op.CONCAT:
            widths[site.name] = sum(widths[name] for name in site.inputs)
        elif site.op is Op.ATTENTION:
            widths[site.name] = widths[site.inputs[2]]
        elif first in widths:
            widths[site.name] = widths[first]
    return widths, frozenset(maps)
