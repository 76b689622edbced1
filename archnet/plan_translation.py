"""What an encoder-decoder must look like so that its decoder can run one token at a time."""

from __future__ import annotations

from archnet.incremental import decoder_sites
from archnet.network import Network, Site
from archnet.operators import Op
from archnet.valid import row_masks

STEPWISE = frozenset(
    {
        *(Op.EMBEDDING, Op.LINEAR, Op.ADD, Op.ATTENTION, Op.LAYER_NORM, Op.RMS_NORM, Op.BATCH_NORM),
        *(Op.RELU, Op.GELU, Op.SILU, Op.TANH, Op.CLIP, Op.REQUANTIZE),
    }
)
"""Operators that give a token the same value whether or not others are computed with it."""


def rejects(site: Site, network: Network) -> str | None:
    """Why this site of an encoder-decoder cannot be converted, or None."""
    if site.name in network.outputs.values() and not site.attributes.get("logits", False):
        return "the output of an encoder-decoder must be a fully connected layer: the logits of its words"
    behind = {s.name for s in decoder_sites(network)}
    if site.name not in behind:
        return None
    if site.op not in STEPWISE:
        return "it stands in the decoder, where only operators that work token by token are known"
    reads_target = site.op is Op.ATTENTION and row_masks(network)[site.inputs[1]] == "decoder_attention_mask"
    if reads_target and not site.attributes.get("causal", False):
        return "the decoder looks at tokens that are still to come, so it cannot run token by token"
    return None
