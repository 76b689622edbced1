"""What padding makes of a network without norms: nothing, and no gradient that is no number."""

from __future__ import annotations

import torch
from torch import Tensor

from archnet.executor import NetworkModule
from archnet.network import Network, Site
from archnet.operators import Op
from archnet.valid import valid_rows

WIDTH, PADDING = 3, 7
BATCH = {
    "input_ids": torch.tensor([[1, 2, 3, PADDING, PADDING], [4, 5, 6, 1, 2]]),
    "attention_mask": torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]),
}


def squares(blocks: int) -> Network:
    """x + W x^2 in every block: what is large grows by powers. The row of padding is large."""
    table = torch.linspace(-1.0, 1.0, 8 * WIDTH).reshape(8, WIDTH)
    table[PADDING] = 1e6
    sites = [Site("words", Op.EMBEDDING, ("input_ids",), {"table": "table"})]
    tensors = {"table": table}
    for block in range(blocks):
        last, name = sites[-1].name, f"{block}"
        tensors |= {f"{name}.weight": 0.3 * torch.eye(WIDTH), f"{name}.bias": torch.zeros(WIDTH)}
        keys = {"weight": f"{name}.weight", "bias": f"{name}.bias"}
        sites += [
            Site(f"{name}.square", Op.MUL, (last, last), block=name),
            Site(f"{name}.layer", Op.LINEAR, (f"{name}.square",), keys, block=name),
            Site(f"{name}.sum", Op.ADD, (last, f"{name}.layer"), block=name),
        ]
    inputs = ("input_ids", "attention_mask")
    return Network(inputs, tuple(sites), tensors, {"output": sites[-1].name})


def gradients(module: NetworkModule) -> dict[str, Tensor]:
    """Of the sum of squares of the rows that count."""
    output = module(BATCH)[module.network.outputs["output"]]
    torch.autograd.backward(valid_rows(output, BATCH["attention_mask"]).square().sum())
    return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


def test_padding_that_grows_without_bound_leaves_no_gradient() -> None:
    kept = gradients(NetworkModule(squares(5)))
    assert any(not bool(torch.isfinite(grad).all()) for grad in kept.values())
    cleared = gradients(NetworkModule(squares(5), clear_padding=True))
    assert all(bool(torch.isfinite(grad).all()) for grad in cleared.values())


def test_what_counts_is_not_changed() -> None:
    network = squares(2)
    with torch.no_grad():
        kept = NetworkModule(network)(BATCH)
        cleared = NetworkModule(network, clear_padding=True)(BATCH)
    mask = BATCH["attention_mask"]
    for site in network.sites:
        torch.testing.assert_close(valid_rows(cleared[site.name], mask), valid_rows(kept[site.name], mask))
    for name in ("0.sum", "1.sum"):
        assert bool((cleared[name][mask == 0] == 0).all())
    assert bool((cleared["words"][mask == 0] == 1e6).all())


def test_gradients_of_what_counts_are_the_same() -> None:
    kept, cleared = (gradients(NetworkModule(squares(2), clear_padding=clear)) for clear in (False, True))
    assert kept.keys() == cleared.keys()
    for name, grad in kept.items():
        torch.testing.assert_close(cleared[name], grad)
