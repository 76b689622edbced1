"""What a captured network says in two sites and means as one."""

from __future__ import annotations

from dataclasses import replace

import torch

from archnet.aten_image import IMAGE_INPUT
from archnet.network import Network, Site
from archnet.operators import Op


def with_logits(network: Network) -> Network:
    """Mark the layers that score words of a target or classes of an image: their results are int32."""
    if "decoder_input_ids" in network.inputs:
        outputs = set(network.outputs.values())
    elif IMAGE_INPUT in network.inputs:
        outputs = {site for name, site in network.outputs.items() if name == "logits"}
    else:
        return network
    return replace(
        network,
        sites=tuple(
            replace(site, attributes={**site.attributes, "logits": True})
            if site.name in outputs and site.op is Op.LINEAR
            else site
            for site in network.sites
        ),
    )


def with_biases(network: Network) -> Network:
    """Constants added to a fully connected layer (the bias of an output vocabulary) go into its bias.

    So do those that are added to gains of features, which are an affine map then.

    Only where the constant is the same at every position and nothing else reads the layer.
    """
    readers = network.consumers()
    tensors, sites = dict(network.tensors), {site.name: site for site in network.sites}
    merged: dict[str, str] = {}
    for site in network.sites:
        source = sites.get(site.inputs[0]) if site.inputs else None
        if (
            site.op is not Op.ADD
            or len(site.inputs) != 1
            or source is None
            or source.op
            not in (
                Op.LINEAR,
                Op.BATCH_NORM,
            )
        ):
            continue
        table = network.parameter(site, "table")
        alone = len(readers[source.name]) == 1 and source.name not in network.outputs.values()
        if alone and bool((table == table[:1]).all()):
            tensors[source.parameters["bias"]] = tensors[source.parameters["bias"]] + table[0]
            merged[site.name] = source.name

    def renamed(site: Site) -> Site:
        return replace(site, inputs=tuple(merged.get(name, name) for name in site.inputs))

    return replace(
        network,
        sites=tuple(renamed(site) for site in network.sites if site.name not in merged),
        tensors=tensors,
        outputs={name: merged.get(site, site) for name, site in network.outputs.items()},
    ).pruned()


TAKES_GAINS = frozenset(
    (Op.LINEAR, Op.LAYER_NORM, Op.RMS_NORM, Op.BATCH_NORM, Op.MEAN_POOL, Op.TOKEN_MEAN, Op.SELECT)
)
"""Operators that gains of what they read fold into, or pass through."""


def with_layers(network: Network) -> Network:
    """Gains of features that would not fold into what reads them, as fully connected layers."""
    readers, sites = network.consumers(), {site.name: site for site in network.sites}

    def takes(reader: Site, gains: Site) -> bool:
        others = [sites[name] for name in reader.inputs if name != gains.name and name in sites]
        once = reader.inputs.count(gains.name) == 1
        into_branch = all(other.op is Op.LINEAR and len(readers[other.name]) == 1 for other in others)
        return reader.op in TAKES_GAINS or (reader.op is Op.ADD and once and into_branch)

    tensors, made = dict(network.tensors), list(network.sites)
    for index, site in enumerate(network.sites):
        if site.op is Op.BATCH_NORM and not all(takes(reader, site) for reader in readers[site.name]):
            key = site.parameters["weight"]
            tensors[key] = torch.diag(tensors[key])
            made[index] = replace(site, op=Op.LINEAR)
    return replace(network, sites=tuple(made), tensors=tensors)
