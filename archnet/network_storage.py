"""A folded network on disk, between the stages that make it and those that quantize it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from archnet.atomic import read_json, write_json
from archnet.checkpoint import load_tensors, save_tensors
from archnet.converters.fold import Affine, Folded
from archnet.network import Network, Site
from archnet.operators import Op

ROLES = ("weight", "bias", "rotation")
"""Of an Affine, in the order of its fields."""


def save_folded(folded: Folded, folder: Path) -> None:
    """Write network.json and network.safetensors."""
    network = folded.network
    tensors: dict[str, Tensor] = {f"network/{key}": value for key, value in network.tensors.items()}
    values = {}
    for name, affine in folded.values.items():
        values[name] = {"carrier": affine.carrier}
        for role in ROLES:
            tensor = getattr(affine, role)
            if tensor is not None:
                values[name][role] = f"values/{name}/{role}"
                tensors[values[name][role]] = tensor
    record = {
        "inputs": list(network.inputs),
        "sites": [_site_json(site) for site in network.sites],
        "outputs": dict(network.outputs),
        "normalized": sorted(network.normalized),
        "values": values,
    }
    save_tensors(folder / "network.safetensors", {k: v.detach().contiguous() for k, v in tensors.items()})
    write_json(folder / "network.json", record)


def load_folded(folder: Path) -> Folded:
    """Read what `save_folded` wrote."""
    record: Mapping[str, Any] = read_json(folder / "network.json")
    tensors = load_tensors(folder / "network.safetensors")
    network = Network(
        tuple(record["inputs"]),
        tuple(_site_from(entry) for entry in record["sites"]),
        {key.removeprefix("network/"): t for key, t in tensors.items() if key.startswith("network/")},
        record["outputs"],
        frozenset(record["normalized"]),
    )
    values = {
        name: Affine(
            entry["carrier"],
            *(tensors[entry[role]] if role in entry else None for role in ROLES),
        )
        for name, entry in record["values"].items()
    }
    return Folded(network, values)


def _site_json(site: Site) -> dict[str, Any]:
    return {
        "name": site.name,
        "op": str(site.op),
        "inputs": list(site.inputs),
        "parameters": dict(site.parameters),
        "attributes": dict(site.attributes),
        "block": site.block,
    }


def _site_from(entry: Mapping[str, Any]) -> Site:
    return Site(
        entry["name"],
        Op(entry["op"]),
        tuple(entry["inputs"]),
        entry["parameters"],
        entry["attributes"],
        entry["block"],
    )
