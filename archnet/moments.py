"""What layers read over calibration data: what narrower heads and feed-forward parts are chosen from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from archnet.converters.narrow_ffn import HiddenMoments, feed_forwards
from archnet.converters.narrow_heads import HeadMoments
from archnet.executor import NetworkModule
from archnet.operators import Op
from archnet.valid import mask_of, row_masks, valid_rows


@torch.no_grad()
def head_moments(teacher: NetworkModule, batches: Sequence[Mapping[str, Tensor]]) -> dict[str, HeadMoments]:
    """The moments of every attention of the teacher over some batches."""
    network, masks = teacher.network, row_masks(teacher.network)
    attentions = [site for site in network.sites if site.op is Op.ATTENTION]
    sources = {name: int(site.attributes["heads"]) for site in attentions for name in site.inputs[:3]}
    sums: dict[str, tuple[int, Tensor, Tensor]] = {}
    for batch in batches:
        values = teacher(batch, keep=set(sources))
        for name, heads in sources.items():
            rows = valid_rows(values[name].double(), mask_of(batch, masks[name]))
            rows = rows.reshape(len(rows), heads, -1).transpose(0, 1)
            count, total, products = sums.get(name, (0, torch.zeros(()), torch.zeros(())))
            sums[name] = count + rows.shape[1], total + rows.sum(1), products + rows.mT @ rows
    means = {name: total / count for name, (count, total, _) in sums.items()}
    moments = {name: products / count for name, (count, _, products) in sums.items()}
    apart = {name: moments[name] - mean[:, :, None] * mean[:, None] for name, mean in means.items()}
    return {
        site.name: HeadMoments(moments[query], apart[key], apart[value], means[value])
        for site in attentions
        for query, key, value in [site.inputs[:3]]
    }


@torch.no_grad()
def hidden_moments(
    teacher: NetworkModule, batches: Sequence[Mapping[str, Tensor]], features: int
) -> dict[str, HiddenMoments]:
    """The moments of what every feed-forward part of the teacher has more than so many features of."""
    parts = [part for part in feed_forwards(teacher.network) if part.narrowed_to(features) is None]
    sources, masks = {part.hidden for part in parts}, row_masks(teacher.network)
    sums: dict[str, tuple[int, Tensor, Tensor]] = {}
    for batch in batches:
        values = teacher(batch, keep=sources)
        for name in sources:
            rows = valid_rows(values[name].double(), mask_of(batch, masks[name]))
            count, total, products = sums.get(name, (0, torch.zeros(()), torch.zeros(())))
            sums[name] = count + len(rows), total + rows.sum(0), products + rows.mT @ rows
    means = {name: total / count for name, (count, total, _) in sums.items()}
    return {
        name: HiddenMoments(means[name], products / count - torch.outer(means[name], means[name]))
        for name, (count, _, products) in sums.items()
    }
