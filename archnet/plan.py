"""Which site of a model becomes what on a target, or why it cannot; every refusal before any training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch

from archnet.calibration.rotation import OUTWARD, outputs_apart
from archnet.calibration.widths import Wider
from archnet.config import NORM_FORMS, Bits, HeadWidth
from archnet.converters import converter_for, residual
from archnet.converters.activation import follows_linear
from archnet.converters.attention import forms_of
from archnet.converters.base import TokenStatistics
from archnet.converters.fold import fold
from archnet.converters.layer_norm import NORMS, norm_form
from archnet.converters.narrow_ffn import feed_forwards
from archnet.converters.narrow_heads import narrowed_to
from archnet.converters.softmax import OTHER_ARITHMETIC, biased, cap_of, relative
from archnet.errors import ArchNetError
from archnet.network import Network, Site, groups_of
from archnet.operators import Op
from archnet.plan_translation import NOT_MIXED, attention_place, rejects
from archnet.plan_widths import missing_widths, wider_than_asked
from archnet.rewrite import materialize, rewrite
from archnet.targets import Profile

Action = Literal["keep", "replace", "fold", "host", "refuse"]

EMBEDDING_FORMS: Mapping[str, tuple[Action, str]] = {
    "gather": ("keep", "integer look-up"),
    "one-hot": ("replace", "fully connected over one-hot ids, the same integers"),
    "code": ("replace", "fully connected over the one-hot codes of a token, code table on the host"),
    "host": ("host", "table of integers that the host looks up"),
}

KEPT: Mapping[Op, tuple[tuple[Op, ...], str]] = {
    Op.LINEAR: ((Op.LINEAR,), "integer fully connected layer"),
    Op.ADD: ((Op.ADD,), "integer Add"),
    Op.MUL: ((Op.MUL,), "integer product, element by element"),
    Op.RELU: ((Op.RELU,), "fused into the layer before it"),
    Op.CLIP: ((Op.RELU,), "the layer before it saturates at its limits"),
    Op.MEAN_POOL: ((Op.MEAN_POOL,), "integer mean over valid tokens"),
    Op.TOKEN_MEAN: ((Op.TRANSPOSE, Op.LINEAR, Op.RESHAPE), "fully connected over tokens with equal weights"),
    Op.SELECT: ((Op.SELECT,), "selection of one token"),
    Op.CONCAT: ((Op.CONCAT,), "features side by side"),
    Op.CONV: ((Op.CONV,), "integer convolution"),
    Op.MAX_POOL: ((Op.MAX_POOL,), "maximum of integers"),
    Op.AVG_POOL: ((Op.CONV,), "integer convolution of each channel with equal weights"),
    Op.TO_TOKENS: ((Op.RESHAPE, Op.TRANSPOSE), "Reshape and Transpose"),
    Op.TO_MAP: ((Op.TRANSPOSE, Op.RESHAPE), "Transpose and Reshape"),
    Op.PREPEND: ((Op.PREPEND,), "a row of zeros, to which a constant is added"),
    Op.SHIFT: ((Op.SHIFT,), "the features of neighbouring tokens, zeros where there is none"),
    Op.WINDOWS: ((Op.WINDOWS,), "the tokens of an image in the order of windows, or back"),
    Op.RESHAPE: ((Op.RESHAPE,), "the features of neighbouring tokens in one"),
    Op.FLATTEN: ((Op.RESHAPE,), "Reshape"),
    Op.BATCH_NORM: ((), "folded into the fully connected layers around it"),
}


SUMMED_PRODUCT = "it is added or joined as it is; a product's scale follows from its operands"

POOLED_INSIDE = "its mean over tokens is read by another operator; only an output can be pooled"


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of one site.

    Attributes:
        op: the operator, or the ATen name of one that is not known.
        action: "keep" (runs as an integer operator), "replace", "fold" (vanishes), "host" (runs on the
            host, named in the report), "refuse".
        becomes: the operators that stand for it.
        reason: why it is refused, or becomes something else than was asked for.
    """

    site: str
    op: str
    action: Action
    becomes: str
    reason: str = ""
    block: str = ""
    count: int = 1


OF_CHIP: Mapping[str, Decision] = {
    "translation": Decision(
        "decoder", "decoder", "host", "the chip gets the encoder; the decoder runs on the host"
    ),
    "language": Decision(
        "decoder", "decoder", "refuse", "",
        "a language model is a decoder, which takes a step a token with a cache that the host moves, and the "
        "compiler behind this target was not asked about such steps; take another, such as onnxruntime",
    ),
}  # fmt: skip
"""What becomes of the decoder of a kind of model on a target whose chips get no decoders' steps."""


@dataclass(frozen=True, slots=True)
class Plan:
    """All decisions for one model on one target.

    Attributes:
        bits: the widths that were asked for.
        wider: what has more bits than that, and why.
    """

    model: str
    target: str
    decisions: tuple[Decision, ...]
    bits: str = ""
    wider: tuple[Wider, ...] = ()

    @property
    def refusals(self) -> tuple[Decision, ...]:
        """The decisions that make a conversion impossible."""
        return tuple(d for d in self.decisions if d.action == "refuse")

    def refusals_by_reason(self) -> list[tuple[str, str, str]]:
        """Operator, where it is, and why it is refused; what every layer repeats is one of them."""
        sites: dict[tuple[str, str], list[str]] = {}
        for refused in self.refusals:
            sites.setdefault((refused.op, refused.reason), []).append(refused.site)
        return [
            (op, f"{first} and {len(others)} more" if others else first, reason)
            for (op, reason), (first, *others) in sites.items()
        ]

    def require(self) -> None:
        """Raise one ArchNetError that lists every refusal."""
        if not self.refusals:
            return
        lines = "".join(f"\n    {where} ({op}): {reason}" for op, where, reason in self.refusals_by_reason())
        raise ArchNetError(
            f"{len(self.refusals)} operators of {self.model} have no form that {self.target} can run:{lines}",
            fix="choose another --target, or add a converter (docs/add_a_converter.md)",
        )

    def to_json(self) -> dict[str, Any]:
        """As JSON; `from_json` reads it back."""
        return {
            "model": self.model,
            "target": self.target,
            "decisions": [asdict(d) for d in self.decisions],
            "asked_bits": self.bits,
            "wider": [asdict(w) for w in self.wider],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Plan:
        """Read what `to_json` wrote."""
        decisions = tuple(Decision(**d) for d in value["decisions"])
        wider = tuple(Wider(**w) for w in value.get("wider", ()))
        return cls(value["model"], value["target"], decisions, value.get("asked_bits", ""), wider)


def make_plan(
    network: Network,
    profile: Profile,
    *,
    model: str,
    embedding: str,
    attention: str = "softmax",
    norms: str = NORM_FORMS[0],
    bits: Bits | None = None,
    head_width: HeadWidth | None = None,
    ffn_width: int | None = None,
) -> Plan:
    """Decide for every site; nothing is trained and no weight is read.

    Args:
        network: captured, with blocks.
        embedding: form of the word embedding, one of the profile's.
        attention: form of attention, one of the profile's.
        norms: form that norms take, one of NORM_FORMS.
        bits: widths of weights and activations; by default the target's first.
        head_width: what heads of attention are narrowed to; None: they stay.
        ffn_width: features that feed-forward parts are narrowed to; None: they stay.
    """
    bits = bits or Bits(profile.weight_bits[0], profile.activation_bits[0])
    decisions = [_decide(site, network, profile, embedding, attention, norms) for site in network.sites]
    if head_width is not None:
        decisions = [_narrower(d, network, head_width) for d in decisions]
    if ffn_width is not None:
        decisions = _narrower_ffn(decisions, network, ffn_width)
    decisions += [
        Decision(
            f"output {name}", str(Op.NORMALIZE), "host", "part of the output's dequantization", "float32"
        )
        for name in sorted(network.normalized)
    ]
    decisions += [
        Decision(f"output {name}", str(Op.TANH), "host", "part of the output's dequantization", "float32")
        for name, site in sorted(network.outputs.items())
        if network.site(site).op is Op.LINEAR and cap_of(network.site(site))
    ]
    plan = Plan(model, profile.name, tuple(decisions), str(bits))
    if plan.refusals:
        return plan
    try:
        folded = _folded(network, attention, norms)
    except ArchNetError as error:
        refused = Decision("norms", "BatchNorm", "refuse", "", error.problem)
        return replace(plan, decisions=(*decisions, refused))
    decisions += [_outward(site) for site in folded.sites if site.attributes.get(OUTWARD)]
    if not profile.supports(Op.ADD):
        folded = residual.adds_as_concats(folded)
    lacking = [
        Decision(f"{op} at {bits}", str(op), "refuse", "", reason, count=count)
        for op, count, reason in missing_widths(folded, bits, profile)
    ]
    return replace(plan, decisions=(*decisions, *lacking), wider=wider_than_asked(folded, bits))


def _decide(
    site: Site, network: Network, profile: Profile, embedding: str, attention: str, norms: str
) -> Decision:
    if site.op is Op.OTHER:
        return _refuse(site, str(site.attributes["reason"]))
    if "decoder_input_ids" in network.inputs and (reason := rejects(site, network)) is not None:
        return _refuse(site, reason)
    if site.op is Op.EMBEDDING:
        return _embedding(site, profile, embedding)
    if site.op is Op.ATTENTION:
        return _attention(site, network, profile, attention)
    converter = converter_for(site.op, norm_form(site, network, norms) if site.op in NORMS else "")
    if converter is not None:
        reason = converter.rejects(site, network) or _missing(profile, converter.needs)
        if reason is not None:
            return _refuse(site, reason)
        return Decision(site.name, str(site.op), "replace", converter.becomes, block=site.block)
    if site.op in (Op.ADD, Op.MEAN_POOL) and not profile.supports(site.op):
        return _instead(site, network, profile)
    if site.op not in KEPT:
        return _refuse(site, "no converter knows this operator")
    needs, becomes = KEPT[site.op]
    reason = _missing(profile, needs)
    if site.op in (Op.RELU, Op.CLIP):
        reason = reason or follows_linear(site, network)
    if site.op is Op.MUL and any(r.op in (Op.ADD, Op.CONCAT) for r in network.consumers()[site.name]):
        reason = reason or (SUMMED_PRODUCT if len(site.inputs) == 2 else None)
    if site.op is Op.MEAN_POOL and network.consumers()[site.name]:
        reason = reason or POOLED_INSIDE
    if reason is not None:
        return _refuse(site, reason)
    if site.op is Op.ADD and len(site.inputs) == 1:
        return Decision(site.name, str(site.op), "fold", "constant table of integers", block=site.block)
    action: Action = "fold" if site.op is Op.BATCH_NORM else "keep"
    return Decision(site.name, str(site.op), action, becomes, block=site.block)


def _outward(site: Site) -> Decision:
    becomes = "added: a layer from the rotated residual stream to the output's own channels"
    return Decision(site.name, str(site.op), "keep", becomes, block=site.block)


def _instead(site: Site, network: Network, profile: Profile) -> Decision:
    """What becomes of an Add or of a mean over tokens on a target that has none."""
    if site.op is Op.ADD:
        needs = residual.NEEDS if len(site.inputs) > 1 else residual.NEEDS_FOR_TABLE
        reason = _missing(profile, needs)
        if reason is not None:
            return _refuse(site, f"{profile.why_not(Op.ADD)}; {reason}")
        return Decision(site.name, str(site.op), "replace", residual.BECOMES, block=site.block)
    if network.consumers()[site.name]:
        return _refuse(site, POOLED_INSIDE)
    becomes = "mean over valid tokens, part of the output's dequantization"
    return Decision(site.name, str(site.op), "host", becomes, "float32", site.block)


def _embedding(site: Site, profile: Profile, form: str) -> Decision:
    if form not in profile.embedding_forms:
        return _refuse(site, f"{profile.name} has no embedding form '{form}'")
    action, becomes = EMBEDDING_FORMS[form]
    return Decision(site.name, str(site.op), action, becomes, block=site.block)


def _attention(site: Site, network: Network, profile: Profile, asked: str) -> Decision:
    if asked not in profile.attention_forms:
        return _refuse(site, f"{profile.name} has no attention form '{asked}'")
    causal = bool(site.attributes.get("causal", False))
    form = forms_of(network, asked)[site.name]
    place = attention_place(site, network)
    where, other = f"{place}: " if place else "", "" if form == asked else NOT_MIXED[place]
    masked = (Op.MASK,) if site.attributes["masked"] or causal else ()
    added = _added(site)
    converter = converter_for(site.op, form)
    if converter is not None:
        needs = (*converter.needs, *((*added, *masked) if form in OTHER_ARITHMETIC else ()))
        reason = converter.rejects(site, network) or _missing_in_attention(site, profile, needs)
        if reason is not None:
            return _refuse(site, f"{other}; {form} instead: {reason}" if other else reason)
        becomes = converter.becomes
        if form in OTHER_ARITHMETIC:
            op, words = OTHER_ARITHMETIC[form]
            becomes = f"{', '.join((Op.MATMUL, *added, *masked, op, Op.MATMUL))}: {words}"
        return Decision(site.name, str(site.op), "replace", where + becomes, other, site.block)
    scores = (Op.MATMUL, *added, *masked, Op.SOFTMAX)
    reason = _missing_in_attention(site, profile, scores)
    if reason is not None:
        return _refuse(site, reason)
    becomes = ", ".join((*scores, Op.MATMUL)) + " in integers"
    return Decision(site.name, str(site.op), "keep", where + becomes, block=site.block)


def _narrower(decision: Decision, network: Network, width: HeadWidth) -> Decision:
    """The same decision, of an attention with narrower heads, or why they stay."""
    if decision.op != Op.ATTENTION or decision.action == "refuse":
        return decision
    site = network.site(decision.site)
    becomes, reason = narrowed_to(site, network, width)
    if reason is not None:
        return replace(
            decision, reason="; ".join(filter(None, (decision.reason, f"its heads stay: {reason}")))
        )
    return replace(decision, becomes=f"{decision.becomes}; {becomes}")


def _narrower_ffn(decisions: Sequence[Decision], network: Network, width: int) -> list[Decision]:
    """The same decisions; those of the layers behind narrower feed-forward parts say so, or why they stay."""
    parts = {part.down.name: part for part in feed_forwards(network)}

    def said(decision: Decision) -> Decision:
        part = parts.get(decision.site)
        if part is None or decision.action == "refuse":
            return decision
        reason = part.narrowed_to(width)
        if reason is not None:
            return replace(decision, reason=f"its feed-forward part stays: {reason}")
        becomes = f"{decision.becomes}; reads {width} instead of {part.features} features"
        return replace(decision, becomes=becomes)

    return [said(decision) for decision in decisions]


def _added(site: Site) -> tuple[Op, ...]:
    """What bounds the scores of attention, and adds constants of positions or products with distances."""
    if not (terms := relative(site)):
        return (*((Op.LOOKUP,) if cap_of(site) else ()), *((Op.ADD,) if biased(site) else ()))
    turned = (Op.TRANSPOSE,) if "relative_queries" in site.parameters else ()
    return (*(Op.RELATIVE_MATMUL,) * terms, *turned, *(Op.ADD,) * terms)


def _missing_in_attention(site: Site, profile: Profile, needs: Sequence[Op]) -> str | None:
    reason = _missing(profile, tuple(dict.fromkeys(needs)))
    if reason is not None and relative(site) and not profile.supports(Op.RELATIVE_MATMUL):
        return f"its scores have terms of distances (DeBERTa): {reason}"
    return reason


def _refuse(site: Site, reason: str) -> Decision:
    return Decision(site.name, str(site.attributes.get("aten", site.op)), "refuse", "", reason, site.block)


def _missing(profile: Profile, needs: Sequence[Op]) -> str | None:
    reasons = [reason for op in needs if (reason := profile.why_not(op)) is not None]
    return "; ".join(reasons) or None


def _folded(network: Network, attention: str, norms: str) -> Network:
    """The network as it will be once its norms are folded, made with statistics that nobody measured.

    Raises:
        ArchNetError: they cannot fold.
    """
    meta = {key: torch.ones_like(value[..., :1].expand_as(value)) for key, value in network.tensors.items()}
    shape_only = Network(network.inputs, network.sites, meta, network.outputs, network.normalized)
    statistics = {
        site.name: TokenStatistics(
            torch.zeros_like(shape_only.parameter(site, "bias")), torch.ones(groups_of(site))
        )
        for site in network.sites
        if site.op in NORMS
    }
    student = rewrite(shape_only, statistics, attention=attention, norms=norms)
    folded = fold(materialize(student.network, student.modules, shape_only.tensors))
    return outputs_apart(folded).network
