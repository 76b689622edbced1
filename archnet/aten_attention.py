"""Handlers of the ATen nodes around attention: heads, scores, masks, softmax, products.

Scores travel as a record until they meet the values; views and transposes of heads are layouts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx

from archnet.aten_image import IMAGE_INPUT
from archnet.aten_moved import MERGED, as_moved, named, scaled_queries
from archnet.aten_pooling import masked
from archnet.aten_relative import refuse_beside_distances, tables_of, times_rows, transposed
from archnet.aten_tokens import times_matrix
from archnet.aten_windows import bias_of_windows
from archnet.converters.softmax import HIDDEN, of_windows
from archnet.network import SiteAttribute
from archnet.operators import Op
from archnet.side_values import (
    NEGLIGIBLE,
    bias_before,
    from_own_place,
    hides_padding,
    side_constant,
    visibility_of,
    window_of,
)
from archnet.token_values import (
    Known,
    Relative,
    Scores,
    Unknown,
    Value,
    node_kind,
    scalar_of,
)

if TYPE_CHECKING:
    from archnet.aten import Translator


def reshape(t: Translator, node: fx.Node) -> Known:
    source = node.args[0]
    assert isinstance(source, fx.Node)
    before, after = t.shape(source), t.shape(node)
    if before == after:
        return t.known[source]
    found = t.settled(source)
    if isinstance(found, Scores) and _only_apart(before, after, found.query.heads):
        return found
    if not isinstance(found, Value):
        raise Unknown("a reshape of attention scores")
    if found.layout == "tokens" and len(after) == 4 and before[:2] == after[:2]:
        return replace(found, layout="split", heads=after[2])
    if found.layout == "tokens" and after == (before[0] * before[1], before[2]):
        return replace(found, layout="stacked")
    if found.layout == "grid" and after == (before[0], before[1] * before[2], before[3]):
        return replace(found, layout="tokens")
    tokens = t.probes[0].values.get(found.tokens)
    if found.layout == "stacked" and tokens is not None and after[:-1] == tokens.shape:
        return replace(found, layout="tokens")
    if found.layout == "split" and len(after) == 3 and before[:2] == after[:2]:
        return replace(found, layout="tokens")
    raise Unknown(f"a reshape from {found.layout} {before} to {after}")


def _only_apart(before: tuple[int, ...], after: tuple[int, ...], heads: int) -> bool:
    """Whether a reshape of scores takes batch and heads apart, or together, and does nothing else.

    Or images and windows.
    """
    together, apart = sorted((before, after), key=len)
    if len(apart) == 5:
        return apart[2] == heads and together == (apart[0] * apart[1], *apart[2:])
    return len(apart) == 4 and apart[1] == heads and together == (apart[0] * heads, *apart[2:])


PERMUTED: dict[tuple[str, tuple[int, ...]], str] = {
    ("split", (0, 2, 1, 3)): "heads",
    ("heads", (0, 2, 1, 3)): "split",
    ("heads", (0, 1, 3, 2)): "heads_t",
    ("heads_t", (0, 1, 3, 2)): "heads",
    ("split", (0, 2, 3, 1)): "heads_t",
    ("tokens", (1, 0, 2)): "turned",
    ("turned", (1, 0, 2)): "tokens",
}


def permute(t: Translator, node: fx.Node) -> Known:
    source = node.args[0]
    assert isinstance(source, fx.Node)
    found = t.settled(source)
    rank = len(t.shape(source))
    if node_kind(node) == "transpose":
        a, b = (int(str(x)) % rank for x in node.args[1:3])
        order = list(range(rank))
        order[a], order[b] = order[b], order[a]
    else:
        dims: Any = node.args[1]
        order = [int(x) % rank for x in dims]
    if isinstance(found, Relative):
        return transposed(t, found, order)
    layout = PERMUTED.get((found.layout, tuple(order))) if isinstance(found, Value) else None
    if layout is None or not isinstance(found, Value):
        raise Unknown(f"a transposition {tuple(order)} outside attention heads")
    return replace(found, layout=layout)


def matmul(t: Translator, node: fx.Node) -> Known:
    left, right = node.args[0], node.args[1]
    found = t.known.get(left) if isinstance(left, fx.Node) else None
    if isinstance(found, Scores):
        return _weighted(t, node, found, t.value(right, "heads", "tokens"))
    if isinstance(right, fx.Node) and right not in t.known and t.is_constant(right):
        split = isinstance(x := t.settled(left), Value) and x.layout == "heads"
        return (times_rows if split else times_matrix)(t, node, left, t.tensor(right))
    query, key = t.scaled_value(left, "heads", "tokens"), t.scaled_value(right, *ONE_HEAD, *ONE_HEAD.values())
    if (query.layout, key.layout) not in (("heads", "heads_t"), ("tokens", "tokens_t")):
        raise Unknown("a product of two activations that is not query times key")
    return Scores(_in_heads(query), _in_heads(key), query.gain * key.gain)


ONE_HEAD = {"tokens": "heads", "tokens_t": "heads_t"}
"""Layouts of a single head's features, which have no axis of heads -> those with one."""


def _in_heads(x: Value) -> Value:
    """Features of a single head, or of several in one axis with the batch, as those of heads."""
    if x.layout in ONE_HEAD:
        return replace(x, layout=ONE_HEAD[x.layout], heads=1)
    return replace(x, layout=MERGED.get(x.layout, x.layout))


def _weighted(t: Translator, node: fx.Node, scores: Scores, value: Value) -> Value:
    """Probabilities times values, in the layout of these."""
    made = _attend(t, node, scores, _in_heads(value))
    return replace(made, layout=value.layout)


def batched(t: Translator, node: fx.Node) -> Known:
    """The same of three axes, of which the first is that of batch and heads; a bias may be added."""
    *added, left, right = node.args[: 3 if node_kind(node) == "baddbmm" else 2]
    found = t.known.get(left) if isinstance(left, fx.Node) else None
    if isinstance(found, Scores) and not added:
        return _weighted(t, node, found, t.value(right, "merged", "tokens"))
    if not added and isinstance(right, fx.Node) and right not in t.known and t.is_constant(right):
        return times_rows(t, node, left, t.tensor(right))
    query, key = t.scaled_value(left, "merged", "tokens"), t.scaled_value(right, "merged_t", "tokens_t")
    if (query.layout, key.layout) not in (("merged", "merged_t"), ("tokens", "tokens_t")):
        raise Unknown("a product of two activations that is not query times key")
    scale = query.gain * key.gain * float(str(node.kwargs.get("alpha", 1)))
    scores = Scores(_in_heads(query), _in_heads(key), scale)
    gain = float(str(node.kwargs.get("beta", 1)))
    if not added or gain == 0.0:
        return scores
    (bias,) = added
    if not isinstance(bias, fx.Node) or bias in t.known or gain < 0.0 or scale <= 0.0:
        raise Unknown("a product of two activations plus a token-dependent tensor")
    return replace(scores, addends=((bias, gain),))


def bounded(t: Translator, node: fx.Node) -> Known:
    """Scores that do not fall below a number at which a key is hidden anyway."""
    scores, least = node.args[:2]
    found = t.known.get(scores) if isinstance(scores, fx.Node) else None
    constant = isinstance(least, fx.Node) and least not in t.known and t.is_constant(least)
    if not isinstance(found, Scores) or not constant or bool((t.tensor(least) > NEGLIGIBLE).any()):
        raise Unknown("a maximum of other things than scores and a number that hides a key")
    return found


def filled(t: Translator, node: fx.Node) -> Known:
    """Token features with 0 in place of padding; or scores, some of which a mask hides."""
    if isinstance(scores := t.known.get(node.all_input_nodes[0]), Scores):
        return _hidden(t, node, scores)
    found = t.known.get(node.args[1]) if isinstance(node.args[1], fx.Node) else None
    if not isinstance(found, Scores):
        return masked(t, node)
    keep, rest = node.args[0], node.args[2]
    hidden = isinstance(rest, fx.Node) and rest not in t.known and t.is_constant(rest)
    if not isinstance(keep, fx.Node) or keep in t.known or not hidden or found.probabilities:
        raise Unknown("scores that are replaced by others")
    if bool((t.tensor(rest) > NEGLIGIBLE).any()):
        raise Unknown("scores that are replaced by a number that hides no key")
    return replace(found, addends=(*found.addends, (keep, 1.0)))


def _hidden(t: Translator, node: fx.Node, scores: Scores) -> Scores:
    """Scores that become negligible where a mask is set."""
    mask, rest = node.args[1:3]
    number = t.tensor(rest) if isinstance(rest, fx.Node) else torch.tensor(scalar_of(rest))
    if not isinstance(mask, fx.Node) or mask in t.known or scores.probabilities:
        raise Unknown("scores that are replaced by others")
    if bool((number > NEGLIGIBLE).any()):
        raise Unknown("scores that are replaced by a number that hides no key")
    return replace(scores, hidden=(*scores.hidden, mask))


def capped(t: Translator, node: fx.Node) -> Known:
    """Scores bounded by a tanh (Gemma 2, arXiv 2408.00118, section 2: logit soft-capping)."""
    found = t.known[node.all_input_nodes[0]]
    if not isinstance(found, Scores):
        raise Unknown("no converter knows this operator")
    if found.probabilities or found.addends or found.hidden or found.cap:
        raise Unknown("a tanh of scores that something was added to")
    return replace(found, cap=1.0)


def softmax(t: Translator, node: fx.Node) -> Known:
    found = t.known[node.all_input_nodes[0]]
    last = len(t.shape(node)) - 1
    if not isinstance(found, Scores) or found.probabilities or node.args[1] not in (-1, last):
        raise Unknown("a softmax outside attention")
    return replace(found, probabilities=True)


def attention(t: Translator, node: fx.Node) -> Known:
    if (single := t.scaled_value(node.args[0])).layout == "tokens":
        return _single_head(t, node, single)
    query = t.value(node.args[0], "heads")
    key, value = (_for_heads(t, argument, query.heads) for argument in node.args[1:3])
    return _fused(t, node, query, key, value)


def _single_head(t: Translator, node: fx.Node, query: Value) -> Value:
    """The same of (batch, tokens, features), which are one head's."""
    key, value = (t.scaled_value(argument, "tokens") for argument in node.args[1:3])
    return replace(_fused(t, node, *(_in_heads(x) for x in (query, key, value))), layout="tokens")


def _fused(t: Translator, node: fx.Node, query: Value, key: Value, value: Value) -> Value:
    """Scores, their mask, softmax and values in one operator."""
    args = dict(zip(("attn_mask", "dropout_p", "is_causal"), node.args[3:], strict=False)) | dict(node.kwargs)
    width = t.shape(node)[-1]
    scale = scalar_of(args.get("scale")) or width**-0.5
    mask = args.get("attn_mask")
    addends = ((mask, 1.0),) if isinstance(mask, fx.Node) else ()
    scores = Scores(query, key, scale * query.gain * key.gain, addends, probabilities=True)
    return _attend(t, node, scores, value, causal=bool(args.get("is_causal")))


def _for_heads(t: Translator, argument: object, heads: int) -> Value:
    """Keys or values; fewer heads of them than of queries are repeated, as the operator does by itself."""
    found = as_moved(t, argument) if isinstance(argument, fx.Node) and argument in t.known else None
    if found is None:
        return t.value(argument, "heads")
    assert isinstance(argument, fx.Node)
    times, rest = divmod(heads, t.shape(argument)[1])
    if times < 2 or rest:
        return t.value(argument, "heads")
    terms = tuple((i.repeat_interleave(times, 1), g.repeat_interleave(times, 1)) for i, g in found.terms)
    return named(t, argument, replace(found, terms=terms))


def _attend(t: Translator, node: fx.Node, scores: Scores, value: Value, *, causal: bool = False) -> Value:
    """One attention site out of scores, their addends and the values.

    Its inputs are query, key, value and, where padded keys are hidden, the mask of the keys' sequence.
    """
    if not scores.probabilities:
        raise Unknown("a product of three activations without softmax")
    query, key = scores.query, scores.key
    if {query.heads, key.heads, value.heads} != {query.heads} or value.gain != 1.0:
        raise Unknown("grouped heads, or values that are scaled")
    if key.tokens != value.tokens or (causal and key.tokens != query.tokens):
        raise Unknown("its keys and values come from different sequences")
    if {query.window, key.window, value.window} != {query.window} or (causal and query.window):
        raise Unknown("its queries, keys and values come from different windows")
    masked = False
    bias: Tensor | None = None
    for addend, gain in (*scores.addends, *((mask, 1.0) for mask in scores.hidden)):
        recorded = _recorded(t, addend, query.heads, hides=addend in scores.hidden)
        if query.window:
            seen, addend_bias = _addend_in_windows(t, recorded, query.heads)
        else:
            seen, addend_bias = _addend(t, recorded, query.tokens, key.tokens)
        masked |= seen == "padding"
        causal |= seen == "causal"
        if addend_bias is not None:
            # What hides keys still does, whatever it is multiplied by.
            addend_bias = torch.where(addend_bias > HIDDEN / 2, addend_bias * gain, addend_bias)
            bias = addend_bias if bias is None else _sum_of(bias, addend_bias)
    if "decoder_input_ids" in t.inputs and query.tokens == key.tokens and _hides_later(bias):
        causal, masked = True, False  # what is padding comes later than every token that counts
    fewer = bias is not None and t.inputs == (IMAGE_INPUT,) and bias.shape[-1] != bias.shape[-2]  # queries
    if bias is not None and not fewer and query.tokens == key.tokens and not query.window:
        bias = from_own_place(bias, causal=causal)
    if scores.relative:
        refuse_beside_distances(t, scores, positions=causal or bias is not None)
    if causal and "decoder_input_ids" not in t.inputs:  # a decoder alone reads whole texts here
        later = torch.ones(2 * (t.probes[0].input_ids.shape[1],), dtype=torch.bool).triu(1)
        bias = torch.where(later, HIDDEN, 0.0 if bias is None else bias)
        bias, causal = bias.reshape(-1, *later.shape), False
    parameters = tables_of(scores) if bias is None else {"bias": bias}
    scale = scores.scale * (scores.cap or 1.0)
    scale = scale if scores.relative else scaled_queries(t, query.site, scale)
    attributes: dict[str, SiteAttribute] = {"heads": query.heads, "scale": scale, "masked": masked}
    if scores.cap:
        attributes["cap"] = scores.cap
    if causal:
        attributes["causal"] = True
    if query.window:
        attributes["window"] = query.window
    inputs = (query.site, key.site, value.site, *((key.tokens,) if masked else ()))
    site = t.add_site(node, Op.ATTENTION, inputs, parameters=parameters, attributes=attributes)
    return Value(site, "heads", query.heads, tokens=query.tokens, window=query.window)


def _sum_of(one: Tensor, other: Tensor) -> Tensor:
    """Two biases in one; of windows one may be alike for all, and the other for each its own."""
    few, many = sorted((one, other), key=len)
    return of_windows(few, len(many)) + many


def _addend_in_windows(
    t: Translator, recorded: Sequence[Tensor], heads: int
) -> tuple[str | None, Tensor | None]:
    """What a tensor added to the scores of windows is: a bias (see `bias_of_windows`)."""
    pairs = zip(recorded, t.probes, strict=True)
    first, *others = (bias_of_windows(v, len(probe.values[IMAGE_INPUT]), heads) for v, probe in pairs)
    if not all(torch.equal(first, other) for other in others):
        raise Unknown("its attention mask depends on the image")
    return None, first


def _hides_later(bias: Tensor | None) -> bool:
    """Whether a bias (heads or 1, queries, keys) hides all keys behind a query's own place, as windows do."""
    if bias is None or bias.shape[-1] != bias.shape[-2]:
        return False
    later = torch.ones(bias.shape[-2:], dtype=torch.bool).triu(1)
    return bool((bias[..., later] <= HIDDEN / 2).all())


def _recorded(t: Translator, node: fx.Node, heads: int, *, hides: bool) -> list[Tensor]:
    """A mask or bias on the probes, batch and heads apart; True where a mask lets a query see a key."""
    values = []
    for recorded, probe in zip(t.recorded, t.probes, strict=True):
        batch = len(next(iter(probe.values.values())))
        value = t.tensor(node) if node.op == "get_attr" else recorded[node]
        if value.dim() == 3 and len(value) == batch * heads:
            value = value.reshape(batch, heads, *value.shape[1:])
        if hides and value.dtype != torch.bool:
            raise Unknown("scores that are hidden by something else than a mask")
        values.append(~value if hides else value)
    return values


def _addend(
    t: Translator, recorded: Sequence[Tensor], query_tokens: str, key_tokens: str
) -> tuple[str | None, Tensor | None]:
    """What a tensor added to the scores is: ("padding" of the keys or "causal", constant bias left over)."""
    first, second, padded = recorded
    full = side_constant(first, second, batched_rank=4)
    if query_tokens not in t.probes[2].values:
        return None, _bias_of_all(full)
    queries, keys = (t.probes[2].values[name] for name in (query_tokens, key_tokens))
    if full is None:
        raise Unknown("its attention mask depends on the tokens")
    seen = visibility_of(padded, queries, keys) if padded.dim() == 4 else None
    if seen is not None and seen == _visibility_at_length(t, second, query_tokens, key_tokens):
        return seen, None
    if query_tokens == key_tokens and (window := window_of(full, padded, keys)) is not None:
        return "padding", window
    if query_tokens == key_tokens and (below := bias_before(full, padded, keys)) is not None:
        return "causal", below
    if full.dtype == torch.bool:
        raise Unknown("its attention mask is neither the padding of the keys nor causal (a window?)")
    if bool((full <= -1e3).any()):
        raise Unknown("its attention mask hides keys that are neither padding nor to come (a window?)")
    bias = full.reshape(-1, *full.shape[-2:]).float()
    masked = padded.dim() == 4 and hides_padding(padded, keys)
    return "padding" if masked else None, bias if bool(bias.any()) else None


def _visibility_at_length(t: Translator, mask: Tensor, query_tokens: str, key_tokens: str) -> str | None:
    """What a mask lets a query see in the longest sequences: a wide window shows nowhere else."""
    queries, keys = (t.probes[1].values[name] for name in (query_tokens, key_tokens))
    return visibility_of(mask, queries, keys)


def _bias_of_all(full: Tensor | None) -> Tensor | None:
    """The constant bias that a mask amounts to where no token is padding (images); None for none."""
    if full is None or (full.dtype == torch.bool and not bool(full.all())):
        raise Unknown("its attention mask hides tokens of an image")
    if full.dtype == torch.bool or not bool(full.any()):
        return None
    return full.reshape(-1, *full.shape[-2:]).float()
