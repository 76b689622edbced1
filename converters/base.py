"""What a converter is: it knows one operator, says whether it can replace it at a site, and replaces it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from archnet.converters.homotopy import Homotopy
from archnet.network import Network, Site
from archnet.operators import Op


@dataclass(frozen=True, slots=True)
class TokenStatistics:
    """What calibration data showed of the tensor that a norm reads.

    Attributes:
        mean: (features,) mean over tokens.
        deviation: (groups,) median over tokens of the deviation over the features of a group; a norm over all
            features has one group.
    """

    mean: Tensor
    deviation: Tensor


@dataclass(frozen=True, slots=True)
class AttentionStatistics:
    """What calibration data showed of an attention.

    Attributes:
        weights: (heads, positions, positions) mean weight of each key position for each query position.
    """

    weights: Tensor


Statistics = TokenStatistics | AttentionStatistics


@dataclass(frozen=True, slots=True)
class Expansion:
    """What a trained module leaves that is more than one site.

    Attributes:
        sites: in order; the last has the name of the site that the module stood for.
        tensors: their parameters.
    """

    sites: tuple[Site, ...]
    tensors: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Replacement:
    """What stands for a site in the student.

    Attributes:
        sites: in order; the one that keeps the site's name carries its value.
        modules: site name -> module that moves from the old operator to the new one.
        residual: name of the site that residual Adds read instead, or "".
    """

    sites: tuple[Site, ...]
    modules: Mapping[str, Homotopy] = field(default_factory=dict)
    residual: str = ""


class Converter(Protocol):
    """Replaces one operator.

    Attributes:
        source: the operator that it replaces.
        form: for an operator that has several replacements, the name of this one; else empty.
        needs: operators of the integer network that the target must have.
        becomes: what the operator turns into, in words for the plan.
    """

    source: Op
    form: str
    needs: tuple[Op, ...]
    becomes: str

    def rejects(self, site: Site, network: Network) -> str | None:
        """Why this site cannot be replaced, or None."""

    def build(self, site: Site, network: Network, statistics: Statistics | None) -> Replacement:
        """The replacement; `statistics` are given for norms, and for attention that becomes mixing."""
