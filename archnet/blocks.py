"""Finds the blocks of a network: the longest repeated part between its bottlenecks."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from archnet.network import Network, Site
from archnet.operators import Op

NORMS = frozenset({Op.LAYER_NORM, Op.RMS_NORM})


@dataclass(frozen=True, slots=True)
class Block:
    """A run of consecutive sites between two bottlenecks.

    Attributes:
        name: "block 0", "block 1", ...; "head" and "tail" for what comes before and after; with
            "encoder " or "decoder " in front where there are both.
        sites: names in execution order.
        output: the site whose value is all that the rest of the network sees of this block.
    """

    name: str
    sites: tuple[str, ...]
    output: str


def bottlenecks(sites: Sequence[Site], outputs: Collection[str]) -> list[int]:
    """Indices of sites behind which their own value is the only live one.

    Args:
        sites: in execution order; what they read that none of them makes is given.
        outputs: sites whose values are wanted at the end.
    """
    last_use: dict[str, int] = {}
    for index, site in enumerate(sites):
        for source in site.inputs:
            last_use[source] = index
    for name in outputs:
        last_use[name] = len(sites)
    live: set[str] = set()
    found = []
    for index, site in enumerate(sites):
        if last_use.get(site.name, -1) > index:
            live.add(site.name)
        live -= {name for name in live if last_use[name] <= index}
        if live == {site.name}:
            found.append(index)
    return found


def _signature(sites: Sequence[Site]) -> tuple[object, ...]:
    """What a segment looks like apart from its names: operators and how they are wired."""
    position = {site.name: i for i, site in enumerate(sites)}
    return tuple((site.op, tuple(position.get(name, -1) for name in site.inputs)) for site in sites)


def _best_run(segments: Sequence[Sequence[Site]]) -> tuple[int, int, int]:
    """(start, period, repetitions) of the run that covers most segments.

    Of runs that cover as many, one whose blocks end in a norm comes first (its output has the same
    scale for every token, which is what distillation compares), then the shorter period.
    """
    signatures = [_signature(segment) for segment in segments]
    best, best_rank = (0, 0, 0), (0, False)
    for period in range(1, len(signatures) // 2 + 1):
        for start in range(len(signatures) - 2 * period + 1):
            unit = signatures[start : start + period]
            count = 1
            while signatures[start + count * period : start + (count + 1) * period] == unit:
                count += 1
            rank = (count * period, segments[start + period - 1][-1].op in NORMS)
            if count > 1 and rank > best_rank:
                best, best_rank = (start, period, count), rank
    return best


def find_blocks(network: Network) -> tuple[Block, ...]:
    """Split a network into head, repeated blocks and tail.

    A network without repetition is one block. An encoder-decoder is split twice, with the encoder's last
    value as given for the decoder: "encoder block 0", "decoder block 0", ... A convolutional network,
    whose blocks differ in size, is split behind its residual Adds.
    """
    if any(site.op is Op.CONV for site in network.sites) and not any(
        site.op is Op.ATTENTION for site in network.sites
    ):
        return _residual_blocks(network)
    begin = next((i for i, s in enumerate(network.sites) if "decoder_input_ids" in s.inputs), 0)
    if not begin:
        return _split(network.sites, set(network.outputs.values()), "")
    encoder, decoder = network.sites[:begin], network.sites[begin:]
    handed = {name for site in decoder for name in site.inputs} & {site.name for site in encoder}
    outputs = set(network.outputs.values())
    return (*_split(encoder, handed | outputs, "encoder "), *_split(decoder, outputs, "decoder "))


def _split(sites: Sequence[Site], outputs: Collection[str], side: str) -> tuple[Block, ...]:
    starts = [0, *(cut + 1 for cut in bottlenecks(sites, outputs))]
    segments = [sites[a:b] for a, b in zip(starts, [*starts[1:], len(sites)], strict=True)]
    segments = [segment for segment in segments if segment]
    start, period, count = _best_run(segments)
    if count == 0:
        return (_block(f"{side}block 0", sites),)
    blocks = []
    head = [site for segment in segments[:start] for site in segment]
    if head:
        blocks.append(_block(f"{side}head", head))
    for i in range(count):
        unit = segments[start + i * period : start + (i + 1) * period]
        blocks.append(_block(f"{side}block {i}", [site for segment in unit for site in segment]))
    tail = [site for segment in segments[start + count * period :] for site in segment]
    if tail:
        blocks.append(_block(f"{side}tail", tail))
    return tuple(blocks)


def _residual_blocks(network: Network) -> tuple[Block, ...]:
    """Blocks that end with a residual Add, or with the ReLU behind it."""
    sites, readers = network.sites, network.consumers()
    cuts = bottlenecks(sites, set(network.outputs.values()))
    makers = {site.name: site.op for site in sites}

    def ends(index: int) -> bool:
        site = sites[index]
        if site.op is Op.ADD:
            return len(site.inputs) == 2 and [r.op for r in readers[site.name]] != [Op.RELU]
        return site.op is Op.RELU and makers.get(site.inputs[0]) is Op.ADD

    found = [cut for cut in cuts if ends(cut)]
    if not found:
        return (_block("block 0", sites),)
    start = max((cut for cut in cuts if cut < found[0] and sites[cut].op is not Op.ADD), default=-1) + 1
    blocks = [_block("head", sites[:start])] if start else []
    for number, end in enumerate(found):
        blocks.append(_block(f"block {number}", sites[start : end + 1]))
        start = end + 1
    if start < len(sites):
        blocks.append(_block("tail", sites[start:]))
    return tuple(blocks)


def _block(name: str, sites: Sequence[Site]) -> Block:
    return Block(name, tuple(site.name for site in sites), sites[-1].name)


def with_blocks(network: Network, blocks: Sequence[Block]) -> Network:
    """The same network with every site's `block` filled in."""
    owner = {site: block.name for block in blocks for site in block.sites}
    return replace(
        network, sites=tuple(replace(site, block=owner.get(site.name, "")) for site in network.sites)
    )
