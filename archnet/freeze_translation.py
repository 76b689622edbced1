"""Trained decoder -> the QuantizedGraph of one step of it, and that of the encoder where there is one.

The encoder gives, for every cross attention, keys and values as integers (batch, heads, sequence,
width). The step reads one token a row, its position, those keys and values, and for every causal
attention a cache of a fixed size, integers (batch, heads, past, width); it gives the logits, and the
token's own key and value, which the host writes into the cache before the next step. Which places of
the cache are filled is the input "cache_mask" (batch, past + 1), whose last place is the token itself.
A language model is such a step alone, that reads no encoder's keys and values.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from archnet.converters.fold import Affine
from archnet.converters.softmax import cap_of
from archnet.errors import ArchNetError
from archnet.freeze import FREEZERS, fitted_scales
from archnet.freeze_attention import context, merge_heads, split_heads
from archnet.freeze_embedding import freeze_embedding
from archnet.graph import Dim, GraphOutput, QuantizedGraph, TensorSpec
from archnet.graph_builder import POSITION, GraphBuilder
from archnet.network import Site, decoder_sites
from archnet.operators import Op
from archnet.parts import DECODER, ENCODER
from archnet.quantized_layers import QuantizedAttention, QuantizedLinear
from archnet.quantized_student import QuantizedStudent

SOURCE: tuple[Dim, ...] = ("batch", "sequence")
TOKEN: tuple[Dim, ...] = ("batch", 1)


def freeze_translation(
    student: QuantizedStudent,
    outputs: Mapping[str, Affine],
    *,
    name: str,
    max_sequence: int,
    embedding: str,
) -> dict[str, QuantizedGraph]:
    """Turn a trained encoder-decoder, or a language model, into integers.

    Args:
        student: after training.
        outputs: "logits" -> the folded site, as it is.
        name: of the graphs, with " encoder" and " decoder" behind.
        max_sequence: most tokens of a source, and of what is written, its beginning included.
        embedding: "gather", "one-hot", "host" or "code".

    Returns:
        The graphs ENCODER (of an encoder-decoder) and DECODER.
    """
    scales = fitted_scales(student)
    encoder = GraphBuilder(student.network, student, max_sequence, scales=scales, embedding=embedding)
    step = GraphBuilder(student.network, student, max_sequence, scales=scales, embedding=embedding)
    translates = "input_ids" in student.network.inputs
    handed = _encoder(encoder) if translates else ()
    made = _step(step, encoder)
    logits = outputs["logits"]
    if not logits.plain:
        raise ArchNetError(
            "the logits are not the result of their layer", fix="report the model: this is a bug"
        )
    module = student.override(logits.carrier)
    assert isinstance(module, QuantizedLinear)
    scale = np.float32(step.scale(_source_of(student, logits.carrier))) * module.quantizer.scale.numpy()
    cap = cap_of(student.network.site(logits.carrier))
    result = GraphOutput("logits", step.values[logits.carrier], scale.astype(np.float32), cap=cap)
    decoder = step.graph(f"{name} {DECODER}", (result, *made))
    return (
        {ENCODER: encoder.graph(f"{name} {ENCODER}", handed), DECODER: decoder}
        if translates
        else {DECODER: decoder}
    )


def _source_of(student: QuantizedStudent, site: str) -> str:
    return student.network.site(site).inputs[0]


def _encoder(b: GraphBuilder) -> tuple[GraphOutput, ...]:
    """Emit the sites that do not depend on the target; its outputs are the cross keys and values."""
    behind = decoder_sites(b.network)
    names = {site.name for site in behind}
    b.values = {name: name for name in ("input_ids", "attention_mask")}
    if b.embedding in ("gather", "one-hot"):
        b.input(TensorSpec("input_ids", SOURCE, "int64", 64))
    for site in b.network.sites:
        if site.name in names:
            continue
        if site.op is Op.EMBEDDING:
            freeze_embedding(b, site, b.embedding)
            b.input(TensorSpec("attention_mask", SOURCE, "int64", 64))
        else:
            FREEZERS[site.op](b, site)
    outputs = []
    for number, site in enumerate(_attention_sites(behind, causal=False)):
        heads = int(site.attributes["heads"])
        for index, part in ((1, "key"), (2, "value")):
            tensor = split_heads(b, site, index, heads)
            outputs.append(_integers(b, f"cross_{part}_{number}", tensor))
    return tuple(outputs)


def _attention_sites(sites: tuple[Site, ...], *, causal: bool) -> list[Site]:
    return [s for s in sites if s.op is Op.ATTENTION and bool(s.attributes.get("causal", False)) is causal]


def _integers(b: GraphBuilder, name: str, tensor: str) -> GraphOutput:
    scale = b.tensors[tensor].scale
    assert scale is not None
    return GraphOutput(name, tensor, np.array([scale], np.float32), integers=True)


def _step(b: GraphBuilder, encoder: GraphBuilder) -> tuple[GraphOutput, ...]:
    """Emit the decoder for one token; its outputs are the token's own keys and values."""
    sites = decoder_sites(b.network)
    b.ids = {"decoder_input_ids": TOKEN}
    b.values = {"decoder_input_ids": "decoder_input_ids"}
    if b.embedding in ("gather", "one-hot"):
        b.input(TensorSpec("decoder_input_ids", TOKEN, "int64", 64))
    b.position = TOKEN
    if b.embedding != "host":
        b.input(TensorSpec(POSITION, TOKEN, "int64", 64))
    b.input(TensorSpec("cache_mask", ("batch", b.max_sequence), "int64", 64))
    if "attention_mask" in b.network.inputs:
        b.values["attention_mask"] = b.input(TensorSpec("attention_mask", SOURCE, "int64", 64))
    causal = [s.name for s in _attention_sites(sites, causal=True)]
    cross = [s.name for s in _attention_sites(sites, causal=False)]
    outputs: list[GraphOutput] = []
    for site in sites:
        if site.op is Op.EMBEDDING:
            freeze_embedding(b, site, b.embedding)
        elif site.name in causal:
            outputs += _self_attention(b, site, causal.index(site.name))
        elif site.name in cross:
            _cross_attention(b, site, cross.index(site.name), encoder)
        else:
            FREEZERS[site.op](b, site)
    return tuple(outputs)


def _self_attention(b: GraphBuilder, site: Site, number: int) -> list[GraphOutput]:
    """Attention of the token to the cache and to itself."""
    module = b.student.override(site.name)
    assert isinstance(module, QuantizedAttention)
    query = split_heads(b, site, 0, module.heads)
    outputs, joined = [], []
    for index, part in ((1, "key"), (2, "value")):
        own = b.tensors[split_heads(b, site, index, module.heads)]
        outputs.append(_integers(b, f"self_{part}_{number}", own.name))
        shape = (own.shape[0], own.shape[1], b.max_sequence - 1, own.shape[3])
        past = b.input(TensorSpec(f"cache_{part}_{number}", shape, own.dtype, own.bits, own.scale))
        whole = (*shape[:2], b.max_sequence, shape[3])
        spec = TensorSpec(f"{site.name}/{part}s", whole, own.dtype, own.bits, own.scale)
        joined.append(b.add(Op.CONCAT, site, f"{part}s", (past, own.name), spec, axis=2))
    attended = context(b, site, (query, joined[0], joined[1]), "cache_mask")
    b.values[site.name] = merge_heads(b, site, attended, module.heads)
    return outputs


def _cross_attention(b: GraphBuilder, site: Site, number: int, encoder: GraphBuilder) -> None:
    """Attention of the token to what the encoder has handed over."""
    module = b.student.override(site.name)
    assert isinstance(module, QuantizedAttention)
    query, given = split_heads(b, site, 0, module.heads), []
    for part in ("key", "value"):
        made = encoder.tensors[f"{site.name}/{part}_heads"]
        given.append(
            b.input(TensorSpec(f"cross_{part}_{number}", made.shape, made.dtype, made.bits, made.scale))
        )
    mask = "attention_mask" if len(site.inputs) > 3 else None
    attended = context(b, site, (query, given[0], given[1]), mask)
    b.values[site.name] = merge_heads(b, site, attended, module.heads)
