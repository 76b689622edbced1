"""Folds every BatchNorm of a distilled network into its neighbours; nothing of it is left.

Each value of the network is kept as `value = weight * carrier + bias` (per channel), where the carrier
is what the folded network computes. Fully connected layers that read the value take weight and bias
in; at a residual Add the weight is divided out of the branch's last fully connected layer and the
biases move into its own bias, so that the stream itself is a plain sum. What is left at an output
becomes the output's dequantization.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from archnet.converters.softmax import RELATIVE
from archnet.errors import ArchNetError
from archnet.network import Network, Site
from archnet.operators import Op

ADD_ONE = "add a converter for this pattern (docs/add_a_converter.md)"
SMALLEST_GAIN = 1e-3
"""Gains below this share of their median are raised to it before they are divided by."""


@dataclass(frozen=True, slots=True)
class Affine:
    """value = weight * carrier + bias, per channel; None stands for 1 and 0.

    With a rotation R, (features, features), the carrier is turned back first: carrier R^T.
    """

    carrier: str
    weight: Tensor | None = None
    bias: Tensor | None = None
    rotation: Tensor | None = None

    @property
    def plain(self) -> bool:
        """Whether the value is the carrier itself."""
        return self.weight is None and self.bias is None and self.rotation is None

    def of(self, weight: Tensor, bias: Tensor | None = None) -> Affine:
        """The same value where the carrier has become another: what it was is weight * carrier + bias."""
        gain = weight if self.weight is None else self.weight * weight
        if bias is None:
            return replace(self, weight=gain)
        shift = bias if self.weight is None else self.weight * bias
        return replace(self, weight=gain, bias=shift if self.bias is None else self.bias + shift)

    def to(self, device: torch.device) -> Affine:
        """The same on a device."""

        def moved(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device)

        return Affine(self.carrier, moved(self.weight), moved(self.bias), moved(self.rotation))

    def alike(self, other: Affine) -> bool:
        """Whether both are the same function of their carriers, as two tokens of one norm are."""
        pairs = ((self.weight, other.weight), (self.bias, other.bias), (self.rotation, other.rotation))
        return all(a is b or (a is not None and b is not None and torch.equal(a, b)) for a, b in pairs)

    def apply(self, carrier: Tensor) -> Tensor:
        """The value, from the carrier's (..., features)."""
        if self.rotation is not None:
            carrier = carrier @ self.rotation.T
        if self.weight is not None:
            carrier = carrier * self.weight
        return carrier if self.bias is None else carrier + self.bias


@dataclass(frozen=True, slots=True)
class Folded:
    """A network without BatchNorm, and what its sites stand for in the unfolded one.

    Attributes:
        network: fully connected, Add, attention, ReLU, pooling, Gather only.
        values: site of the unfolded network -> affine of a site of the folded one.
    """

    network: Network
    values: Mapping[str, Affine]


@dataclass
class _Folder:
    source: Network
    sites: list[Site] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    values: dict[str, Affine] = field(default_factory=dict)

    def run(self) -> Folded:
        for name in self.source.inputs:
            self.values[name] = Affine(name)
        for site in self.source.sites:
            handler = _HANDLERS.get(site.op, _keep)
            handler(self, site)
        outputs = {name: self.values[site].carrier for name, site in self.source.outputs.items()}
        network = replace(self.source, sites=tuple(self.sites), tensors=self.tensors, outputs=outputs)
        return _scaled_scores(Folded(network, dict(self.values)))

    def emit(self, site: Site, inputs: tuple[str, ...], value: Affine | None = None) -> None:
        self.sites.append(replace(site, inputs=inputs))
        self.tensors |= {key: self.source.tensors[key] for key in site.parameters.values()}
        self.values[site.name] = value or Affine(site.name)

    def producer(self, name: str) -> Site | None:
        """The fully connected site that alone feeds this carrier, if its weights may be changed."""
        readers, made = self.source.consumers(), {site.name: site for site in self.sites}
        name = self.origin(name)
        alone = name in made and len(readers[name]) == 1
        return made[name] if alone and made[name].op is Op.LINEAR else None

    def origin(self, name: str) -> str:
        """What a carrier's numbers come from, if tokens have only been put into another order since."""
        readers, made = self.source.consumers(), {site.name: site for site in self.sites}
        while name in made and made[name].op is Op.WINDOWS and len(readers[name]) == 1:
            if adds_zeros(made[name]):
                break
            name = made[name].inputs[0]
        return name

    def put_into(self, producer: Site, gain: Tensor, shift: Tensor) -> None:
        """Make a fully connected layer's results gain * what they were + shift."""
        weight, bias = (producer.parameters[role] for role in ("weight", "bias"))
        self.tensors[weight] = self.tensors[weight] * gain[:, None]
        self.tensors[bias] = self.tensors[bias] * gain + shift
        undone = 1.0 / safe_gain(gain)
        for name, value in self.values.items():
            if self.origin(value.carrier) == producer.name:
                self.values[name] = value.of(undone, -shift * undone)


def _keep(folder: _Folder, site: Site) -> None:
    """An operator that is not linear: what it reads must be plain."""
    for name in site.inputs:
        if not folder.values[name].plain:
            raise ArchNetError(
                f"{site.name} ({site.op}) reads a norm directly; norms fold into fully connected layers only",
                fix=ADD_ONE,
            )
    folder.emit(site, tuple(folder.values[name].carrier for name in site.inputs))


def _batch_norm(folder: _Folder, site: Site) -> None:
    before = folder.values[site.inputs[0]]
    gain, shift = folder.source.parameter(site, "weight"), folder.source.parameter(site, "bias")
    weight = gain if before.weight is None else before.weight * gain
    bias = shift if before.bias is None else before.bias * gain + shift
    producer = folder.producer(before.carrier)
    if before.plain and producer is not None and len(folder.source.consumers()[site.inputs[0]]) == 1:
        folder.put_into(producer, gain, shift)
        folder.values[site.name] = Affine(before.carrier)
        return
    folder.values[site.name] = Affine(before.carrier, weight, bias)


def _linear(folder: _Folder, site: Site) -> None:
    before = folder.values[site.inputs[0]]
    folder.emit(site, (before.carrier,))
    weight, bias = folder.source.parameter(site, "weight"), folder.source.parameter(site, "bias")
    if before.bias is not None:
        bias = bias + weight @ before.bias
    if before.weight is not None:
        weight = weight * before.weight
    folder.tensors[site.parameters["weight"]] = weight.contiguous()
    folder.tensors[site.parameters["bias"]] = bias.contiguous()


def _add(folder: _Folder, site: Site) -> None:
    if len(site.inputs) == 1:
        _add_table(folder, site)
        return
    left, right = (folder.values[name] for name in site.inputs)
    if left.plain and right.plain:
        folder.emit(site, (left.carrier, right.carrier))
        return
    if left.alike(right):
        bias = None if left.bias is None else 2.0 * left.bias
        folder.emit(site, (left.carrier, right.carrier), Affine(site.name, left.weight, bias))
        return
    stream, branch = (right, left) if left.plain else (left, right)
    producer = folder.producer(branch.carrier) if branch.plain else None
    if producer is None:  # a sum of integers wants one scale a channel for both, which a layer can give
        branch = Affine(_as_layer(folder, site, branch, like=stream))
        producer = folder.sites[-1]
    key_w, key_b = producer.parameters["weight"], producer.parameters["bias"]
    bias = folder.tensors[key_b] if stream.bias is None else folder.tensors[key_b] + stream.bias
    gain = None if stream.weight is None else safe_gain(stream.weight)
    if gain is not None:
        folder.tensors[key_w] = folder.tensors[key_w] / gain[:, None]
        bias = bias / gain
    folder.tensors[key_b] = bias
    undone = None if stream.bias is None else -stream.bias
    for name in {producer.name, branch.carrier}:
        folder.values[name] = Affine(name, gain, undone)
    folder.emit(site, (stream.carrier, branch.carrier), Affine(site.name, gain))


def _add_table(folder: _Folder, site: Site) -> None:
    """Constant tables (positions, token types) that follow each other become one."""
    before = folder.values[site.inputs[0]]
    table = folder.source.parameter(site, "table")
    last = folder.sites[-1] if folder.sites else None
    if before.weight is not None:
        table = table / safe_gain(before.weight)
    if last is not None and last.name == before.carrier and last.op is Op.ADD and len(last.inputs) == 1:
        folder.tensors[last.parameters["table"]] = folder.tensors[last.parameters["table"]] + table
        folder.values[site.name] = before
        return
    folder.emit(site, (before.carrier,), Affine(site.name, before.weight, before.bias))
    folder.tensors[site.parameters["table"]] = table


def _linear_in_tokens(folder: _Folder, site: Site) -> None:
    """Pooling and selection of tokens commute with a per-channel affine."""
    before = folder.values[site.inputs[0]]
    rest = tuple(folder.values[name].carrier for name in site.inputs[1:])
    folder.emit(site, (before.carrier, *rest), Affine(site.name, before.weight, before.bias))


def _windows(folder: _Folder, site: Site) -> None:
    """Tokens in another order; zeros among them stand for the value itself, which a layer gives before."""
    before = folder.values[site.inputs[0]]
    if adds_zeros(site) and before.bias is not None:
        before = Affine(_as_layer(folder, site, before))
    folder.emit(site, (before.carrier,), Affine(site.name, before.weight, before.bias))


def _as_layer(folder: _Folder, site: Site, value: Affine, *, like: Affine | None = None) -> str:
    """A fully connected layer that gives a value of its carrier.

    Args:
        like: another value of as many channels, where this one may be plain.
    """
    vectors = (v for known in (value, like) if known for v in (known.bias, known.weight) if v is not None)
    some = next(vectors)
    gain = torch.ones_like(some) if value.weight is None else value.weight
    shift = torch.zeros_like(some) if value.bias is None else value.bias
    name = f"{site.name}/filled"
    keys = {"weight": f"{name}.weight", "bias": f"{name}.bias"}
    folder.sites.append(Site(name, Op.LINEAR, (value.carrier,), keys, block=site.block))
    folder.tensors |= {keys["weight"]: torch.diag(gain), keys["bias"]: shift.clone()}
    return name


def _to_map(folder: _Folder, site: Site) -> None:
    """Tokens as a map; convolutions that put zeros around it have these in place of the value itself."""
    before = folder.values[site.inputs[0]]
    readers = folder.source.consumers()[site.name]
    inside = all(r.op is Op.CONV and not r.attributes["pad_y"] and not r.attributes["pad_x"] for r in readers)
    if before.bias is not None and not inside:
        before = Affine(_as_layer(folder, site, before))
    folder.emit(site, (before.carrier,), Affine(site.name, before.weight, before.bias))


def _convolution(folder: _Folder, site: Site) -> None:
    """A convolution takes the affine of each channel of its map in, as fully connected layers do."""
    before = folder.values[site.inputs[0]]
    folder.emit(site, (before.carrier,))
    weight, bias = folder.source.parameter(site, "weight"), folder.source.parameter(site, "bias")
    groups = int(site.attributes["groups"])
    for role, numbers in (("bias", before.bias), ("weight", before.weight)):
        if numbers is None:
            continue
        # Output channel n reads the channels of group n // (outputs of a group).
        own = numbers.reshape(groups, 1, -1).expand(-1, len(weight) // groups, -1).reshape(len(weight), -1)
        if role == "bias":
            bias = bias + (weight.sum((2, 3)) * own).sum(1)
        else:
            weight = weight * own[:, :, None, None]
    folder.tensors[site.parameters["weight"]] = weight.contiguous()
    folder.tensors[site.parameters["bias"]] = bias.contiguous()


def adds_zeros(site: Site) -> bool:
    """Whether a site puts zeros among tokens, as windows do that a map does not fill."""
    if site.op is not Op.WINDOWS or site.attributes["inverse"]:
        return False
    return any(site.attributes[end] for end in ("pad_y", "pad_x"))


def _beside(folder: _Folder, site: Site) -> None:
    """The features of so many tokens in one: each has what it had."""
    before, count = folder.values[site.inputs[0]], int(site.attributes["beside"])
    weight, bias = (None if x is None else x.repeat(count) for x in (before.weight, before.bias))
    folder.emit(site, (before.carrier,), Affine(site.name, weight, bias))


def safe_gain(gain: Tensor) -> Tensor:
    """A gain that can be divided by: tiny entries are raised, keeping their sign."""
    least = SMALLEST_GAIN * gain.abs().median().clamp_min(1e-12)
    return torch.where(gain.abs() < least, torch.where(gain < 0, -least, least), gain)


def _scaled_scores(folded: Folded) -> Folded:
    """Move the 1/sqrt(width) of attention into the query's fully connected layer, or else the key's.

    Raises:
        ArchNetError: both are read by something else too.
    """
    network, values = folded.network, dict(folded.values)
    readers = network.consumers()
    tensors, sites = dict(network.tensors), list(network.sites)
    for index, site in enumerate(sites):
        if site.op is not Op.ATTENTION or site.attributes["scale"] == 1.0:
            continue
        scale = float(site.attributes["scale"])
        operands = [network.site(name) for name in site.inputs[:2] if name not in network.inputs]
        free = [s for s in operands if s.op is Op.LINEAR and len(readers[s.name]) == 1]
        if not free:
            raise ArchNetError(
                f"{site.name} ({site.op}) scales its scores, and neither query nor key is a fully connected "
                "layer of its own that could take the factor in",
                fix=ADD_ONE,
            )
        for role in ("weight", "bias"):
            tensors[free[0].parameters[role]] = tensors[free[0].parameters[role]] * scale
        # What is multiplied with the other of the two needs the factor itself.
        for role, own in zip(RELATIVE, site.inputs[:2], strict=True):
            if role in site.parameters and own != free[0].name:
                tensors[site.parameters[role]] = tensors[site.parameters[role]] * scale
        sites[index] = replace(site, attributes={**site.attributes, "scale": 1.0})
        undone = torch.full(tensors[free[0].parameters["bias"]].shape, 1.0 / scale)
        values |= {n: v.of(undone) for n, v in values.items() if v.carrier == free[0].name}
    return Folded(replace(network, sites=tuple(sites), tensors=tensors), values)


_HANDLERS = {
    Op.BATCH_NORM: _batch_norm,
    Op.LINEAR: _linear,
    Op.ADD: _add,
    Op.MEAN_POOL: _linear_in_tokens,
    Op.TOKEN_MEAN: _linear_in_tokens,
    Op.SELECT: _linear_in_tokens,
    Op.WINDOWS: _windows,
    Op.TO_MAP: _to_map,
    Op.CONV: _convolution,
    Op.RESHAPE: _beside,
}


def fold(network: Network) -> Folded:
    """Fold every BatchNorm of a network.

    Raises:
        ArchNetError: a norm is read by something that it cannot fold into.
    """
    return _Folder(network).run()
