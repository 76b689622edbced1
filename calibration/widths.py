"""How many bits every tensor of the integer network has, and why some have more than was asked for.

Weights of every fully connected layer and convolution have the asked width, and so have the tensors
that a chip sums products of: inputs of those layers, queries, keys, values and probabilities. What is only
added, looked up or multiplied element by element stays wider, and each such place is listed with its
reason. A tensor that is both added and so multiplied exists twice, stored and narrow, and a Requantize
makes one from the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from archnet.calibration.rotation import OUTWARD
from archnet.config import Bits
from archnet.converters.activation import limits_of
from archnet.converters.softmax import RELATIVE, window_of
from archnet.network import Network, Site
from archnet.operators import Op

STORED_BITS = 8
"""Width of tensors that are added, pooled, looked up or multiplied element by element: no chip gains from
fewer."""

ACCUMULATOR_BITS = 32

LEAST_TABLE_BITS = 4
"""An embedding's rows are never retrained, so they are not narrowed below this."""

WEIGHTED = (Op.LINEAR, Op.CONV, Op.TOKEN_MIX)
"""Operators that multiply activations by weights."""

PASSING = (
    Op.SELECT,
    Op.MEAN_POOL,
    Op.MAX_POOL,
    Op.TO_TOKENS,
    Op.TO_MAP,
    Op.PREPEND,
    Op.SHIFT,
    Op.WINDOWS,
    Op.RESHAPE,
    Op.FLATTEN,
)
"""Operators whose result is in the integers of what they read."""

FUSED = ([Op.RELU], [Op.CLIP])
"""What a weighted operator computes in its own saturation, when nothing else reads it."""

IMAGES = "pixel_values"
"""The input that images come in."""


@dataclass(frozen=True, slots=True)
class Wider:
    """One kind of tensor with more bits than was asked for: how many of them, and why."""

    what: str
    bits: int
    count: int
    reason: str


@dataclass(frozen=True, slots=True)
class Widths:
    """The widths of one network.

    Attributes:
        weights: bits of the weights (or tables) of a site.
        results: bits of a site's result.
        scores: bits of an attention's scores before the softmax, where it has one.
        shares: bits of an attention's weights: probabilities, or ReLU scores.
        wider: what has more bits than was asked for.
    """

    weights: Mapping[str, int]
    results: Mapping[str, int]
    scores: Mapping[str, int]
    shares: Mapping[str, int]
    wider: tuple[Wider, ...]


def narrowed(network: Network, bits: Bits, layers: Mapping[str, Bits] | None = None) -> Network:
    """The network with a Requantize before every product whose operand is stored wider.

    Args:
        network: folded.
        bits: of everything that `layers` does not name.
        layers: widths of single sites (fully connected layers, convolutions, attention).
    """
    layers = layers or {}
    stored = _results(network, bits, layers)
    sites: list[Site] = []
    made: set[str] = set()
    for site in network.sites:
        inputs = list(site.inputs)
        wanted = layers.get(site.name, bits).activations
        for index in _product_operands(site):
            name = inputs[index]
            if wanted >= stored.get(name, 0):
                continue
            narrow = f"{name}/a{wanted}"
            if narrow not in made:
                made.add(narrow)
                block = next(s.block for s in network.sites if s.name == name)
                sites.append(Site(narrow, Op.REQUANTIZE, (name,), attributes={"bits": wanted}, block=block))
            inputs[index] = narrow
        sites.append(replace(site, inputs=tuple(inputs)))
    return replace(network, sites=tuple(sites))


def assign(network: Network, bits: Bits, layers: Mapping[str, Bits] | None = None) -> Widths:
    """The widths of a network that `narrowed` returned for the same arguments."""
    layers = layers or {}
    weights: dict[str, int] = {}
    shares: dict[str, int] = {}
    scores: dict[str, int] = {}
    for site in network.sites:
        own = layers.get(site.name, bits)
        if site.attributes.get("identity") or site.attributes.get(OUTWARD):
            weights[site.name] = STORED_BITS
        elif site.op in WEIGHTED or "books" in site.parameters:
            weights[site.name] = own.weights
        elif site.op is Op.EMBEDDING:
            weights[site.name] = max(own.weights, LEAST_TABLE_BITS)
        elif site.op is Op.ATTENTION:
            shares[site.name] = own.activations
            if site.attributes.get("form") != "relu":  # whose scores are its weights
                scores[site.name] = STORED_BITS
                if _too_many_keys(keys_of(network, site), own.activations):
                    shares[site.name] = STORED_BITS
    results = _results(network, bits, layers)
    widths = Widths(weights, results, scores, shares, ())
    return replace(widths, wider=_wider(network, bits, widths))


def _too_many_keys(keys: int, bits: int) -> bool:
    """Whether a mean probability, 1 / keys, is less than half a unit of so many bits, and would vanish.

    Known of images, whose tokens are as many each time; sentences are mostly shorter than they may be.
    """
    return keys > 2 * ((1 << bits) - 1)


def keys_of(network: Network, attention: Site) -> int:
    """The number of keys that a query of an image sees; 0 for text, and where nothing tells it."""
    if IMAGES not in network.inputs:
        return 0
    if "bias" in attention.parameters:
        return int(network.parameter(attention, "bias").shape[-1])
    return window_of(attention) or places(network)


def places(network: Network) -> int:
    """The number of tokens that every image becomes; 0 for text, and where no table tells it."""
    tables = [network.parameter(s, "table") for s in network.sites if s.op is Op.ADD and len(s.inputs) == 1]
    rows = [int(table.shape[-2]) for table in tables]
    return max(rows, default=0) if IMAGES in network.inputs else 0


def fused_reader(site: Site, readers: Mapping[str, list[Site]]) -> Site | None:
    """The activation that the saturation of a site computes; None when there is none.

    An Add of two tensors has a ReLU in it, as a weighted operator has.
    """
    following = readers[site.name]
    ops = [reader.op for reader in following]
    joined = site.op is Op.ADD and len(site.inputs) == 2 and ops == [Op.RELU]
    return following[0] if joined or (site.op in WEIGHTED and ops in FUSED) else None


def unsigned_sites(network: Network) -> set[str]:
    """Sites whose results are never negative: ReLU, and what only chooses from one or averages it."""
    found: set[str] = set()
    for site in network.sites:
        follows = site.op in (*PASSING, Op.AVG_POOL, Op.TOKEN_MEAN, Op.REQUANTIZE) and site.inputs[0] in found
        limited = site.op is Op.CLIP and limits_of(site)[0] == 0.0
        if site.op is Op.RELU or limited or follows:
            found.add(site.name)
    return found


def _product_operands(site: Site) -> tuple[int, ...]:
    """Of which of a site's inputs it sums products (identity weights only add; an output stays whole).

    A product element by element sums none: it is one multiplication an element, where a layer has one for
    each channel of its result.
    """
    if site.attributes.get("identity") or site.attributes.get(OUTWARD):
        return ()
    if site.op in WEIGHTED:
        return (0,)
    return (0, 1, 2) if site.op is Op.ATTENTION else ()


def _results(network: Network, bits: Bits, layers: Mapping[str, Bits]) -> dict[str, int]:
    """Bits of every site's result: those that its products want, if it has no other reader."""
    readers = network.consumers()
    outputs = set(network.outputs.values())
    results: dict[str, int] = {}
    for site in network.sites:
        if site.op is Op.REQUANTIZE:
            results[site.name] = int(site.attributes["bits"])
        elif site.op in PASSING:
            results[site.name] = results.get(site.inputs[0], STORED_BITS)
        elif site.op is Op.CONCAT:  # whose parts are all in the integers of the first one
            results[site.name] = results[site.inputs[0]]
        else:
            results[site.name] = _wanted(site, readers, outputs, bits, layers)
    return results


def _wanted(
    site: Site,
    readers: Mapping[str, list[Site]],
    outputs: set[str],
    bits: Bits,
    layers: Mapping[str, Bits],
) -> int:
    fused = fused_reader(site, readers)
    following = readers[site.name if fused is None else fused.name]
    if [r.op for r in following] == [Op.CONCAT]:
        following = readers[following[0].name]
    if site.name in outputs or not following:
        return STORED_BITS
    widths = []
    for reader in following:
        operands = {reader.inputs[i] for i in _product_operands(reader)}
        if not operands:
            return STORED_BITS
        widths.append(layers.get(reader.name, bits).activations)
    return max(widths)


def _wider(network: Network, bits: Bits, widths: Widths) -> tuple[Wider, ...]:
    """What has more bits than was asked for, by kind."""
    weights, results, scores = widths.weights, widths.results, widths.scores
    found: list[Wider] = []

    def note(what: str, width: int, names: list[str], reason: str) -> None:
        if names:
            found.append(Wider(what, width, len(names), reason))

    logits = [s.name for s in network.sites if s.attributes.get("logits", False)]
    if bits.activations < STORED_BITS:
        ops = {site.name: site.op for site in network.sites}
        kept = [n for n, width in results.items() if width > bits.activations and ops[n] not in PASSING]
        sums = [n for n in kept if ops[n] is Op.ADD]
        gated = {name for site in network.sites if site.op is Op.MUL for name in site.inputs}
        factors = [n for n in kept if n in gated and n not in sums]
        readers = network.consumers()
        fused = [s.name for s in network.sites if getattr(fused_reader(s, readers), "name", None) in factors]
        apart = (*sums, *factors, *fused, *logits)
        rest = [n for n in kept if n not in apart and ops[n] is not Op.EMBEDDING]
        note("residual stream", STORED_BITS, sums, "errors of every layer add up in it; it is only added")
        note("factors of products element by element", STORED_BITS, factors, "fewer bits save no product")
        note("layers that only feed an Add or an output", STORED_BITS, rest, "their result is not multiplied")
        pixels = [name for name in network.inputs if name == IMAGES]
        note("images", STORED_BITS, pixels, "pixels come with 8 bits")
        note("attention scores", STORED_BITS, list(scores), "the softmax reads them, no product does")
        many = [name for name, width in widths.shares.items() if width > bits.activations]
        keys = max((keys_of(network, network.site(name)) for name in many), default=0)
        reason = f"their mean over {keys} tokens would round to 0"
        note("attention probabilities", STORED_BITS, many, reason)
    note("logits", ACCUMULATOR_BITS, logits, "the last layer's accumulators as they are")
    identities = {site.name for site in network.sites if site.attributes.get("identity")}
    above = [n for n, width in weights.items() if width > bits.weights]
    note("identity weights", STORED_BITS, [n for n in above if n in identities], "they only add")
    outward = [s.name for s in network.sites if s.attributes.get(OUTWARD)]
    if min(bits.weights, bits.activations) < STORED_BITS:
        reason = "what they give is the output itself"
        note("layers from the stream to an output", STORED_BITS, outward, reason)
    tables = [n for n in above if n not in (*identities, *outward)]
    note("embedding tables", LEAST_TABLE_BITS, tables, "their rows are looked up and not retrained")
    positions = [s.name for s in network.sites if s.op is Op.ADD and len(s.inputs) == 1]
    if bits.weights < STORED_BITS:
        note("position tables", STORED_BITS, positions, "constants that are only added to the stream")
        tables = [s.parameters[role] for s in network.sites for role in RELATIVE if role in s.parameters]
        reason = "constants of one scale, which queries and keys are multiplied with"
        note("tables of distances", STORED_BITS, tables, reason)
    return tuple(found)
