"""Which rows count: by mask for tokens, all of them for images and pooled rows."""

from __future__ import annotations

import torch

from archnet.network import Network, Site
from archnet.operators import Op
from archnet.valid import row_masks, valid_rows


def test_masks_follow_the_tokens() -> None:
    sites = (
        Site("e", Op.EMBEDDING, ("input_ids",)),
        Site("d", Op.EMBEDDING, ("decoder_input_ids",)),
        Site("cross", Op.ATTENTION, ("d", "e", "e", "attention_mask")),
        Site("pool", Op.MEAN_POOL, ("e", "attention_mask")),
        Site("head", Op.LINEAR, ("pool",)),
        Site("map", Op.CONV, ("pixel_values",)),
    )
    inputs = ("input_ids", "attention_mask", "decoder_input_ids", "decoder_attention_mask", "pixel_values")
    masks = row_masks(Network(inputs, sites, {}, {"x": "head"}))
    assert masks["e"] == "attention_mask"
    assert masks["d"] == masks["cross"] == "decoder_attention_mask"
    assert masks["pool"] is masks["head"] is masks["map"] is None


def test_rows() -> None:
    tokens = torch.arange(12.0).reshape(2, 3, 2)
    mask = torch.tensor([[1, 0, 0], [1, 1, 0]])
    assert valid_rows(tokens, mask).tolist() == [[0, 1], [6, 7], [8, 9]]
    assert valid_rows(tokens, None).shape == (6, 2)
    image = torch.arange(24.0).reshape(1, 3, 2, 4)
    assert valid_rows(image, None).tolist()[1] == [1, 9, 17]
    assert valid_rows(torch.ones(5, 7), None).shape == (5, 7)
