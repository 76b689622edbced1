"""Which convolutions and pools of an image network have no form in the strict family, before any training."""

from __future__ import annotations

import torch

from archnet.executor import NetworkModule, strides
from archnet.network import Network, Site
from archnet.operators import Op
from archnet.plan import Decision
from archnet.strict_maps import axes_of, convolution_problem, pooling_problem


@torch.no_grad()
def strict_refusals(network: Network, size: tuple[int, int, int]) -> tuple[Decision, ...]:
    """A refusal for every site that cannot become 3x3 convolutions, 2x2 maxima or a fully connected layer.

    Args:
        size: channels, height and width of the images.
    """
    windows = [site for site in network.sites if site.op in (Op.CONV, Op.MAX_POOL, Op.AVG_POOL)]
    names = {name for site in windows for name in (site.name, site.inputs[0])}
    (images,) = network.inputs
    values = NetworkModule(network)({images: torch.zeros(1, *size)}, keep=names)
    found = []
    for site in windows:
        before, after = values[site.inputs[0]].shape, values[site.name].shape
        problem = _problem(network, site, before, after)
        if problem is not None:
            found.append(Decision(site.name, str(site.op), "refuse", "", problem, site.block))
    return tuple(found)


def _problem(network: Network, site: Site, before: torch.Size, after: torch.Size) -> str | None:
    stride, pad = strides(site)
    if site.op is Op.CONV:
        kernel = tuple(network.parameter(site, "weight").shape[2:])
    else:
        kernel = (int(site.attributes["kernel_y"]), int(site.attributes["kernel_x"]))
    if site.op is Op.MAX_POOL:
        return pooling_problem(kernel, stride, pad)
    if site.op is Op.AVG_POOL and kernel == tuple(before[2:]) and not any(pad):
        return None
    sizes = [(before[2 + i], after[2 + i]) for i in range(2)]
    return convolution_problem(axes_of(kernel, stride, pad, sizes), before[1])
