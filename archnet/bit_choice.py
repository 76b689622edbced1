"""`--bits auto`: measures what fewer bits do to each layer, and gives each the width that the budget allows.

Weights only: activations keep the widest width of the target, because fewer of their bits make no file
smaller. No label is read. The user's budget is in points of the metric, what is measured is the share of
the output's variance that is lost; `VARIANCE_PER_POINT` goes from one to the other. It is an estimate: the
drop of a network is known when `archnet validate` has measured it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from archnet import atomic
from archnet.calibration.packing import packed_width
from archnet.calibration.rotation import OUTWARD
from archnet.calibration.sensitivity import (
    LayerDamage,
    choose_widths,
    lost_variance,
    rounded_table,
    rounded_weight,
    stored_bytes,
    total_damage,
)
from archnet.calibration.widths import LEAST_TABLE_BITS, WEIGHTED
from archnet.config import Bits
from archnet.converters.fold import Affine
from archnet.executor import NetworkModule
from archnet.network import Network, Site
from archnet.operators import Op
from archnet.targets import Profile
from archnet.valid import mask_of, row_masks, valid_rows

VARIANCE_PER_POINT = 0.1
"""Share of the output's variance that is taken to cost one point.

From all-MiniLM-L6-v2 with rounded weights and no training after it, in 14 assignments of 2, 3 and 4 bits:
against Spearman x 100 on 400 pairs of SICK's training part, least squares give 0.13 a point, single
assignments from 0.025 to more than 1. Training afterwards wins a part back. The measured shares of single
layers added up to 0.7 to 1.1 times what all together lost.
"""

ROWS = 32
"""Sentences (or images) of a calibration batch that are measured with."""


@dataclass(frozen=True, slots=True)
class BitChoice:
    """Which width each layer got, and why.

    Attributes:
        max_drop: points that the user allows.
        budget: share of the output's variance that this was taken for.
        predicted: share that the chosen widths lose together, each alone measured.
        widest: what layers have that are not narrowed.
        layers: what was measured.
        widths: site -> bits of its weights.
    """

    max_drop: float
    budget: float
    predicted: float
    widest: Bits
    layers: tuple[LayerDamage, ...]
    widths: Mapping[str, int]

    @property
    def narrowed(self) -> dict[str, Bits]:
        """The layers below the widest width."""
        return {
            name: Bits(width, self.widest.activations)
            for name, width in self.widths.items()
            if width < self.widest.weights
        }

    @property
    def bytes(self) -> tuple[int, int]:
        """Of all weights: at the widest width, and as chosen."""
        wide = sum(stored_bytes(layer.elements, self.widest.weights) for layer in self.layers)
        return wide, sum(stored_bytes(layer.elements, self.widths[layer.site]) for layer in self.layers)

    def sentence(self) -> str:
        """The choice in a sentence."""
        counts = {bits: list(self.widths.values()).count(bits) for bits in sorted(set(self.widths.values()))}
        parts = ", ".join(f"{count} layers with {bits} bits" for bits, count in counts.items())
        wide, chosen = self.bytes
        return (
            f"bits chosen: {parts}; weights take {atomic.human_bytes(chosen)} instead of "
            f"{atomic.human_bytes(wide)}; before training they lose about {self.predicted:.2%} of the "
            f"output's variance; {self.max_drop:g} points were taken for {self.budget:.2%} (an estimate)"
        )

    def to_json(self) -> dict[str, Any]:
        """As JSON; `from_json` reads it back."""
        layers = [
            {
                "site": layer.site,
                "elements": layer.elements,
                "bits": self.widths[layer.site],
                "damage": {str(bits): value for bits, value in layer.damage.items()},
            }
            for layer in self.layers
        ]
        return {
            "max_drop": self.max_drop,
            "budget": self.budget,
            "predicted": self.predicted,
            "widest": str(self.widest),
            "layers": layers,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> BitChoice:
        """Read what `to_json` wrote."""
        layers = tuple(
            LayerDamage(e["site"], e["elements"], {int(b): float(d) for b, d in e["damage"].items()})
            for e in value["layers"]
        )
        widths = {e["site"]: int(e["bits"]) for e in value["layers"]}
        widest = Bits.parse(value["widest"])
        return cls(value["max_drop"], value["budget"], value["predicted"], widest, layers, widths)


def save_choice(choice: BitChoice, folder: Path) -> None:
    """Write it into a stage's folder."""
    atomic.write_json(folder / "bits.json", choice.to_json())


def load_choice(folder: Path) -> BitChoice:
    """Read it from there."""
    return BitChoice.from_json(atomic.read_json(folder / "bits.json"))


def choose_bits(
    network: Network,
    outputs: Sequence[Affine],
    batches: Sequence[Mapping[str, Tensor]],
    profile: Profile,
    *,
    widest: Bits,
    embedding: str,
    max_drop: float,
    tell: Callable[[int, int], None] = lambda done, of: None,
) -> BitChoice:
    """Measure every layer at every width of the target, and choose.

    Args:
        network: folded, in float.
        outputs: of the folded network, what the user's outputs are made of.
        batches: unlabelled, keyed by the network's inputs.
        widest: what nothing is lost at.
        embedding: the form of the word embedding.
        max_drop: points of the metric.
        tell: called with the number of measurements done, and of all.
    """
    wanted = {site.name: _widths(site, profile, widest, embedding) for site in network.sites}
    sites = [site for site in network.sites if wanted[site.name]]
    layers = _measure(network, sites, wanted, outputs, batches, tell)
    budget = max_drop * VARIANCE_PER_POINT
    widths = choose_widths(layers, widest.weights, budget)
    return BitChoice(max_drop, budget, total_damage(layers, widths), widest, layers, widths)


def _is_wide(site: Site) -> bool:
    return bool(site.attributes.get("identity") or site.attributes.get(OUTWARD))


def _widths(site: Site, profile: Profile, widest: Bits, embedding: str) -> tuple[int, ...]:
    """The widths below the widest that the target runs this site at; of two that take the same bytes, one."""
    table = site.op is Op.EMBEDDING
    if (site.op not in WEIGHTED and not table) or _is_wide(site):
        return ()
    op = Op.EMBEDDING if table and embedding == "gather" else site.op if not table else Op.LINEAR
    usable = [
        bits
        for bits in sorted(profile.weight_bits, reverse=True)
        if bits < widest.weights
        and not ("table" in site.parameters and table and bits < LEAST_TABLE_BITS)
        and ((embedding == "host" and table) or profile.supports(op, Bits(bits, widest.activations)))
    ]
    best = {packed_width(bits) or bits: bits for bits in reversed(usable)}
    return tuple(best.values())


@torch.no_grad()
def _measure(
    network: Network,
    sites: Sequence[Site],
    widths: Mapping[str, Sequence[int]],
    outputs: Sequence[Affine],
    batches: Sequence[Mapping[str, Tensor]],
    tell: Callable[[int, int], None],
) -> tuple[LayerDamage, ...]:
    module = NetworkModule(network, clear_padding=True).eval()
    rows = [{name: value[:ROWS] for name, value in batch.items()} for batch in batches]
    reference = _run(module, outputs, rows)
    of, done = sum(len(widths[site.name]) for site in sites), 0
    found: list[LayerDamage] = []
    for site in sites:
        role = next(r for r in ("weight", "table", "books") if r in site.parameters)
        parameter = module.parameter(site, role)
        whole = parameter.detach().clone()
        damage: dict[int, float] = {}
        for bits in widths[site.name]:
            parameter.copy_(rounded_table(whole, bits) if role == "table" else rounded_weight(whole, bits))
            damage[bits] = lost_variance(_run(module, outputs, rows), reference)
            done += 1
            tell(done, of)
        parameter.copy_(whole)
        found.append(LayerDamage(site.name, whole.numel(), damage))
    return tuple(found)


def _run(
    module: NetworkModule, outputs: Sequence[Affine], batches: Sequence[Mapping[str, Tensor]]
) -> list[Tensor]:
    """Each output's valid rows over all batches."""
    masks = row_masks(module.network)
    carriers = {output.carrier for output in outputs}
    parts: list[list[Tensor]] = [[] for _ in outputs]
    for batch in batches:
        values = module(batch, keep=carriers)
        for part, output in zip(parts, outputs, strict=True):
            value = output.apply(values[output.carrier])
            part.append(valid_rows(value, mask_of(batch, masks[output.carrier])).float())
    return [torch.cat(part) for part in parts]
