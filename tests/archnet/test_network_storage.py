"""A folded network survives the disk bit by bit."""

from __future__ import annotations

from pathlib import Path

import torch

from archnet.converters.fold import Affine, Folded
from archnet.network import Network, Site
from archnet.network_storage import load_folded, save_folded
from archnet.operators import Op


def test_folded_network_comes_back(tmp_path: Path) -> None:
    shared = torch.randn(4)
    sites = (
        Site("a.words", Op.EMBEDDING, ("input_ids",), {"table": "a/t"}, {}, "head"),
        Site("b", Op.LINEAR, ("a.words",), {"weight": "w", "bias": "s"}, {}, "block 0"),
        Site("c", Op.ATTENTION, ("b", "b", "b"), {}, {"heads": 2, "scale": 0.5, "masked": True}),
    )
    tensors = {"a/t": torch.randn(6, 4), "w": torch.randn(4, 8)[:, ::2], "s": shared}
    network = Network(("input_ids", "attention_mask"), sites, tensors, {"o": "c"}, frozenset({"o"}))
    values = {
        "a.words": Affine("a.words"),
        "norm/x": Affine("b", shared, None),
        "norm": Affine("b", shared, torch.zeros(1).expand(4)),
    }
    save_folded(Folded(network, values), tmp_path)
    loaded = load_folded(tmp_path)
    assert loaded.network.sites == sites
    assert (loaded.network.inputs, loaded.network.outputs) == (network.inputs, network.outputs)
    assert loaded.network.normalized == {"o"}
    assert {k: v.tolist() for k, v in loaded.network.tensors.items()} == {
        k: v.tolist() for k, v in tensors.items()
    }
    assert loaded.values["a.words"].plain
    for name, affine in values.items():
        found = loaded.values[name]
        assert found.carrier == affine.carrier
        for a, b in ((affine.weight, found.weight), (affine.bias, found.bias)):
            assert (a is None) == (b is None)
            assert a is None or b is None or torch.equal(a, b)
