"""BatchNorm of maps and of features, with the statistics that training has left in it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor, fx

from archnet.aten_image import arguments_of, window
from archnet.aten_scaled import takes_scale
from archnet.operators import Op
from archnet.token_values import Known, Unknown, Value, node_kind, scalar_of

if TYPE_CHECKING:
    from archnet.aten import Translator


def batch_norm(t: Translator, node: fx.Node) -> Known:
    """BatchNorm with its running statistics, of a map's channels or of features."""
    names = ("input", "weight", "bias", "running_mean", "running_var")
    given = arguments_of(node, names)
    source = given["input"]
    assert isinstance(source, fx.Node)
    x = t.value(source, "map", "row", "stacked", "tokens_t")
    mean, variance = t.tensor(given["running_mean"]), t.tensor(given["running_var"])
    training = node.args[5] is True and "no_training" not in node_kind(node)
    if training:
        raise Unknown("a BatchNorm with the statistics of the batch; put the model into eval mode")
    eps = scalar_of(node.args[-1] if node_kind(node) != "batch_norm" else node.args[7])
    inverse = (variance + (eps or 0.0)).rsqrt()
    gain = inverse * t.tensor(given["weight"]) if given.get("weight") is not None else inverse
    shift = (t.tensor(given["bias"]) if given.get("bias") is not None else 0.0) - mean * gain
    producer = next((site for site in t.sites if site.name == x.site), None)
    if x.layout != "map":
        return _features(t, node, x, gain, shift)
    if producer is not None and producer.op is Op.CONV and len(source.users) == 1:
        weight, bias = (producer.parameters[role] for role in ("weight", "bias"))
        t.tensors[weight] = (t.tensors[weight] * gain[:, None, None, None]).detach()
        t.tensors[bias] = (t.tensors[bias] * gain + shift).detach()
        return x
    parameters = {"weight": gain[:, None, None, None].clone(), "bias": shift}
    attributes = {**window((1, 1), (0, 0)), "groups": len(gain)}
    return Value(t.add_site(node, Op.CONV, (x.site,), parameters=parameters, attributes=attributes), "map")


def _features(t: Translator, node: fx.Node, x: Value, gain: Tensor, shift: Tensor) -> Value:
    """Features times a number each plus another: in the layer that alone makes them, or a site of its own."""
    producer = next(site for site in t.sites if site.name == x.site)
    if producer.op is Op.LINEAR and takes_scale(t, x):
        weight, bias = (producer.parameters[role] for role in ("weight", "bias"))
        t.tensors[weight] = t.tensors[weight] * gain[:, None]
        t.tensors[bias] = t.tensors[bias] * gain + shift
        return x
    parameters = {"weight": gain, "bias": shift}
    return replace(x, site=t.add_site(node, Op.BATCH_NORM, (x.site,), parameters=parameters))
