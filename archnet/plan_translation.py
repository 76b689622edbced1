"""What an encoder-decoder must look like so that its decoder can run one token at a time."""

from __future__ import annotations

from archnet.network import Network, Site, decoder_sites
from archnet.operators import Op
from archnet.valid import row_masks

STEPWISE = frozenset(
    {
        *(Op.EMBEDDING, Op.LINEAR, Op.ADD, Op.MUL, Op.ATTENTION, Op.LAYER_NORM, Op.RMS_NORM, Op.BATCH_NORM),
        *(Op.RELU, Op.GELU, Op.SILU, Op.TANH, Op.CLIP, Op.REQUANTIZE),
    }
)
"""Operators that give a token the same value whether or not others are computed with it."""


TO_ITSELF, TO_SOURCE = "decoder to itself", "decoder to the source"

NOT_MIXED = {
    TO_ITSELF: "no mixing: a step would look its place's row up and multiply it with values, as relu does",
    TO_SOURCE: "no mixing: no position tells which source word a translation has come to",
}
"""Why a decoder's attention becomes something else where mixing is asked for; see converters/attention.py."""


def attention_place(site: Site, network: Network) -> str:
    """Which attention of an encoder-decoder a site is; empty in other networks."""
    if "decoder_input_ids" not in network.inputs:
        return ""
    if site.name not in {s.name for s in decoder_sites(network)}:
        return "encoder"
    return TO_ITSELF if site.attributes.get("causal", False) else TO_SOURCE


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
