"""Which rows of a value count: a padded token's do not, every pixel's and every pooled row's do."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from archnet.network import Network
from archnet.operators import Op

MASKS: Mapping[str, str] = {"input_ids": "attention_mask", "decoder_input_ids": "decoder_attention_mask"}
"""Input of token ids -> the input that says which of them are no padding."""


def row_masks(network: Network) -> dict[str, str | None]:
    """For each site and input: the mask input over its tokens, or None where every row counts."""
    masks: dict[str, str | None] = {name: MASKS.get(name) for name in network.inputs}
    for site in network.sites:
        pooled = site.op in (Op.MEAN_POOL, Op.TOKEN_MEAN, Op.SELECT)
        masks[site.name] = None if pooled or not site.inputs else masks[site.inputs[0]]
    return masks


def valid_rows(value: Tensor, mask: Tensor | None) -> Tensor:
    """The rows of a value that count.

    Args:
        value: (batch, tokens, features), (batch, features), or (batch, channels, height, width).
        mask: int64 (batch, tokens), or None.

    Returns:
        (rows, features or channels).
    """
    if value.dim() == 4:
        value = value.movedim(1, -1)
    return value.flatten(0, -2) if mask is None else value[mask.bool()]


def mask_of(batch: Mapping[str, Tensor], name: str | None) -> Tensor | None:
    """The batch's mask of that name, or None."""
    return None if name is None else batch[name]
