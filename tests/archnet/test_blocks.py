"""Blocks of networks whose wiring is written out by hand."""

from __future__ import annotations

from archnet.blocks import bottlenecks, find_blocks, with_blocks
from archnet.network import Network, Site
from archnet.operators import Op


def layered(layers: int, *, tail: bool) -> Network:
    """Embedding and norm, `layers` residual layers that end in a norm, and a selection."""
    sites = [Site("words", Op.EMBEDDING, ("input_ids",)), Site("norm", Op.LAYER_NORM, ("words",))]
    last = "norm"
    for i in range(layers):
        sites += [
            Site(f"{i}.up", Op.LINEAR, (last,)),
            Site(f"{i}.relu", Op.RELU, (f"{i}.up",)),
            Site(f"{i}.down", Op.LINEAR, (f"{i}.relu",)),
            Site(f"{i}.add", Op.ADD, (f"{i}.down", last)),
            Site(f"{i}.norm", Op.LAYER_NORM, (f"{i}.add",)),
        ]
        last = f"{i}.norm"
    if tail:
        sites.append(Site("first", Op.SELECT, (last,)))
        last = "first"
    return Network(("input_ids", "attention_mask"), tuple(sites), {}, {"output": last})


def test_bottlenecks_are_where_one_value_is_left() -> None:
    network = layered(1, tail=False)
    names = [network.sites[i].name for i in bottlenecks(network.sites, network.outputs.values())]
    assert names == ["words", "norm", "0.add", "0.norm"]


def test_repeated_layers_become_blocks_that_end_in_their_norm() -> None:
    blocks = find_blocks(layered(3, tail=True))
    assert [b.name for b in blocks] == ["head", "block 0", "block 1", "block 2", "tail"]
    assert [b.output for b in blocks] == ["norm", "0.norm", "1.norm", "2.norm", "first"]
    assert blocks[2].sites == ("1.up", "1.relu", "1.down", "1.add", "1.norm")


def test_every_site_is_in_exactly_one_block() -> None:
    network = layered(3, tail=True)
    owned = [name for block in find_blocks(network) for name in block.sites]
    assert owned == [site.name for site in network.sites]


def test_network_without_repetition_is_one_block() -> None:
    (block,) = find_blocks(layered(1, tail=False))
    assert (block.name, block.output) == ("block 0", "0.norm")


def test_an_output_inside_keeps_its_value_alive() -> None:
    network = layered(1, tail=False)
    both = Network(network.inputs, network.sites, {}, {"output": "0.norm", "early": "norm"})
    assert [both.sites[i].name for i in bottlenecks(both.sites, both.outputs.values())] == ["words", "norm"]


def test_sites_learn_their_block() -> None:
    network = layered(2, tail=False)
    named = with_blocks(network, find_blocks(network))
    assert named.site("1.up").block == "block 1"
    assert named.site("words").block == "head"


def decoder_layers(count: int) -> list[Site]:
    """Layers that read the encoder's last value "0.norm" as well as their own stream."""
    sites = [Site("targets", Op.EMBEDDING, ("decoder_input_ids",))]
    last = "targets"
    for i in range(count):
        sites += [
            Site(f"d{i}.key", Op.LINEAR, ("0.norm",)),
            Site(f"d{i}.attention", Op.ATTENTION, (last, f"d{i}.key", f"d{i}.key")),
            Site(f"d{i}.add", Op.ADD, (last, f"d{i}.attention")),
            Site(f"d{i}.norm", Op.LAYER_NORM, (f"d{i}.add",)),
        ]
        last = f"d{i}.norm"
    return [*sites, Site("logits", Op.LINEAR, (last,))]


def test_encoder_and_decoder_have_blocks_of_their_own() -> None:
    encoder = layered(1, tail=False)
    sites = (*encoder.sites, *decoder_layers(2))
    inputs = (*encoder.inputs, "decoder_input_ids", "decoder_attention_mask")
    network = Network(inputs, sites, {}, {"logits": "logits"})
    blocks = find_blocks(network)
    assert [(b.name, b.output) for b in blocks] == [
        ("encoder block 0", "0.norm"),
        ("decoder head", "targets"),
        ("decoder block 0", "d0.norm"),
        ("decoder block 1", "d1.norm"),
        ("decoder tail", "logits"),
    ]
    assert [name for block in blocks for name in block.sites] == [site.name for site in sites]
