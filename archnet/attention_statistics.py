"""What a teacher's attention looks at, averaged by position: where static token mixing starts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from archnet.converters.attention import MixingConverter, forms_of
from archnet.converters.base import AttentionStatistics
from archnet.executor import MASKED, NetworkModule, attention_scores


@torch.no_grad()
def attention_statistics(
    teacher: NetworkModule, batches: Sequence[dict[str, Tensor]], max_sequence: int
) -> dict[str, AttentionStatistics]:
    """The mean weight of every pair of positions, over sentences that have both, where mixing can stand.

    A pair that no sentence has gets the mean of the pairs seen that are as far apart.

    Args:
        max_sequence: positions of the result, for sentences; images have as many as they have patches.
    """
    forms = forms_of(teacher.network, MixingConverter.form)
    sites = [site for site in teacher.network.sites if forms.get(site.name) == MixingConverter.form]
    found: dict[str, AttentionStatistics] = {}
    for site in sites:
        heads = int(site.attributes["heads"])
        positions = max_sequence
        total, count = torch.zeros(0), torch.zeros(0)
        for batch in batches:
            values = teacher(batch, keep=set(site.inputs))
            scores = attention_scores(teacher, site, *(values[name].float() for name in site.inputs[:2]))
            length = scores.shape[-1]
            if not len(count):
                positions = max_sequence if "input_ids" in teacher.network.inputs else length
                total, count = torch.zeros(heads, positions, positions), torch.zeros(positions, positions)
            valid = torch.ones(scores.shape[0], length)
            if len(site.inputs) > 3:
                valid = values[site.inputs[3]].float()
            weights = torch.softmax(scores + (1.0 - valid[:, None, None, :]) * MASKED, -1)
            pairs = valid[:, :, None] * valid[:, None, :]
            total[:, :length, :length] += (weights * pairs[:, None]).sum(0)
            count[:length, :length] += pairs.sum(0)
        found[site.name] = AttentionStatistics(_filled(total, count))
    return found


def _filled(total: Tensor, count: Tensor) -> Tensor:
    """total / count, and for pairs that never occurred the mean of their diagonal, or 0."""
    length = count.shape[0]
    positions = torch.arange(length)
    offset = positions[None, :] - positions[:, None] + length - 1
    sums = torch.zeros(total.shape[0], 2 * length - 1)
    sums.index_add_(1, offset.flatten(), total.flatten(1))
    counts = torch.zeros(2 * length - 1).index_add_(0, offset.flatten(), count.flatten())
    diagonal = (sums / counts.clamp_min(1.0))[:, offset]
    return torch.where(count > 0, total / count.clamp_min(1.0), diagonal)
