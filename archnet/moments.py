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
    attentions = [site for site in teacher.network.sites if site.op is Op.ATTENTION]
    heads = {name: int(site.attributes["heads"]) for site in attentions for name in site.inputs[:3]}
    means, products = _means(teacher, batches, heads)
    apart = {name: _centred(products[name], mean) for name, mean in means.items()}
    return {
        site.name: HeadMoments(products[query], apart[key], apart[value], means[value])
        for site in attentions
        for query, key, value in [site.inputs[:3]]
    }


@torch.no_grad()
def hidden_moments(
    teacher: NetworkModule, batches: Sequence[Mapping[str, Tensor]], features: int
) -> dict[str, HiddenMoments]:
    """The moments of every feed-forward part of the teacher that has more than so many features."""
    parts = [part for part in feed_forwards(teacher.network) if part.narrowed_to(features) is None]
    means, products = _means(teacher, batches, {part.hidden: 1 for part in parts})
    return {name: HiddenMoments(mean[0], _centred(products[name], mean)[0]) for name, mean in means.items()}


def _means(
    teacher: NetworkModule, batches: Sequence[Mapping[str, Tensor]], groups: Mapping[str, int]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Mean features (groups, width), and their mean products (groups, width, width), over valid rows.

    Args:
        groups: which sites, and into how many groups their features fall (a head's are one).
    """
    masks = row_masks(teacher.network)
    sums: dict[str, tuple[int, Tensor, Tensor]] = {}
    for batch in batches:
        values = teacher(batch, keep=set(groups))
        for name, count in groups.items():
            rows = valid_rows(values[name].double(), mask_of(batch, masks[name]))
            rows = rows.reshape(len(rows), count, -1).transpose(0, 1)
            seen, total, products = sums.get(name, (0, torch.zeros(()), torch.zeros(())))
            sums[name] = seen + rows.shape[1], total + rows.sum(1), products + rows.mT @ rows
    return (
        {name: total / seen for name, (seen, total, _) in sums.items()},
        {name: products / seen for name, (seen, _, products) in sums.items()},
    )


def _centred(products: Tensor, mean: Tensor) -> Tensor:
    """Covariances from mean products and means."""
    return products - mean[:, :, None] * mean[:, None]
