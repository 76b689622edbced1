"""Feature adaptation against NumPy, where it begins, and what it leaves alone."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from archnet.adaptation import Adaptation, Learned, load_learned, save_learned
from archnet.converters.fold import Affine
from archnet.distill import Objective, objective_for, with_adaptation
from archnet.executor import NetworkModule
from archnet.valid import valid_rows
from tests.small_encoder import captured_encoder, padded_batch

WIDTH = 32


def roughened(module: nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))


def values(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("attention", [False, True])
def test_tokens_are_adapted_by_its_formula(attention: bool) -> None:
    module = Adaptation(WIDTH, maps=False, attention=attention)
    roughened(module)
    state, teacher = values(2, 5, WIDTH, seed=1), values(2, 5, WIDTH, seed=2)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    found = module(state, teacher, mask).detach().numpy()
    p = {name: value.detach().numpy() for name, value in module.named_parameters()}
    x = state.numpy()
    weighed = x
    if attention:
        t = np.stack([teacher[0, :3].numpy().mean(0), teacher[1].numpy().mean(0)])
        hidden = np.maximum(t @ p["gate.0.weight"].T + p["gate.0.bias"], 0)
        assert hidden.shape == (2, 1)  # 32 / 24
        weighed = x / (1 + np.exp(-(hidden @ p["gate.2.weight"].T + p["gate.2.bias"])))[:, None]
    y = weighed
    for i in range(3):
        y = y @ p[f"layers.{i}.weight"].T + p[f"layers.{i}.bias"]
    assert p["layers.1.weight"].shape == (2, 2)  # 32 / 16
    np.testing.assert_allclose(found, x + y, rtol=1e-4, atol=1e-5)
    teacher[0, 3:] = 1e6  # padding does not weigh
    np.testing.assert_array_equal(module(state, teacher, mask).detach().numpy(), found)


def test_maps_are_adapted_by_convolutions() -> None:
    module = Adaptation(3, maps=True, attention=True)
    roughened(module)
    state, teacher = values(2, 3, 4, 4, seed=1), values(2, 3, 4, 4, seed=2)
    kernels = [tuple(p.shape) for p in module.layers.parameters()]
    assert kernels == [(3, 3, 1, 1), (3, 3, 3, 3), (3, 3, 1, 1)]
    found = module(state, teacher, None)
    assert module.gate is not None
    weighed = state * module.gate(teacher.flatten(2).mean(-1)).view(2, 3, 1, 1)
    first, middle, last = module.layers.parameters()
    inner = torch.einsum("oi,bihw->bohw", first[:, :, 0, 0], weighed)
    padded = nn.functional.pad(inner, (1, 1, 1, 1))
    windows = padded.unfold(2, 3, 1).unfold(3, 3, 1)
    inner = torch.einsum("oiyx,bihwyx->bohw", middle, windows)
    torch.testing.assert_close(found, state + torch.einsum("oi,bihw->bohw", last[:, :, 0, 0], inner))


NETWORK = captured_encoder(layers=2, head=True)
FIRST, LAST = "layers.0.norm_2", NETWORK.outputs["states"]


def objectives(kind: str) -> tuple[Objective, Objective]:
    """What is compared without and with the adaptation."""
    own = {site.name: Affine(site.name) for site in NETWORK.sites}
    plain = objective_for(NETWORK, [FIRST, LAST], own)
    torch.manual_seed(0)
    teacher = NetworkModule(NETWORK)
    return plain, with_adaptation(plain, teacher, padded_batch(), kind, {})


@pytest.mark.parametrize("kind", ["residual", "teacher-attention"])
def test_it_begins_as_nothing_and_leaves_outputs_alone(kind: str) -> None:
    plain, adapted = objectives(kind)
    assert adapted.adaptation is not None
    assert FIRST in adapted.adaptation
    assert LAST not in adapted.adaptation  # what the user gets
    batch, module = padded_batch(), NetworkModule(NETWORK)
    with torch.no_grad():
        teacher = module(batch)
        student = {name: value + 0.1 * value.square() for name, value in teacher.items()}
        torch.testing.assert_close(adapted.loss(teacher, student, batch), plain.loss(teacher, student, batch))
        roughened(adapted.adaptation)
        found = adapted.loss(teacher, student, batch)
        changed = adapted.adaptation(FIRST, student[FIRST], teacher[FIRST], batch["attention_mask"])
        wanted = plain.loss(teacher, {**student, FIRST: changed}, batch)
    torch.testing.assert_close(found, wanted)


def test_it_adapts_what_the_carrier_stands_for() -> None:
    gain = torch.tensor([2.0, -1.0, 0.5])
    objective = Objective({"s": Affine("c", gain)}, {}, {"s": None})
    adapted = with_adaptation(objective, _Fixed({"s": values(2, 3, 4, 4, seed=1)}), {}, "residual", {})
    assert adapted.adaptation is not None
    roughened(adapted.adaptation)
    carrier, teacher = values(2, 3, 4, 4, seed=2), values(2, 3, 4, 4, seed=3)
    got = adapted.adaptation("s", carrier * gain[:, None, None], teacher, None)
    wanted = valid_rows(teacher, None)
    loss = (valid_rows(got, None) - wanted).square().mean() / wanted.var()
    found = adapted.loss({"s": teacher}, {"c": carrier}, {"pixel_values": carrier})
    torch.testing.assert_close(found, loss)


class _Fixed(NetworkModule):
    """A teacher whose values are given."""

    def __init__(self, given: dict[str, Tensor]) -> None:
        super().__init__(NETWORK)
        self.given = given

    def forward(self, inputs: object, keep: object = None) -> dict[str, Tensor]:
        return self.given


def test_what_was_learned_goes_on_in_the_next_stage(tmp_path: Path) -> None:
    _, adapted = objectives("residual")
    assert adapted.adaptation is not None
    roughened(adapted.adaptation)
    state = adapted.adaptation.state_dict()

    def save(value: str, folder: Path) -> None:
        (folder / "value").write_text(value)

    def load(folder: Path) -> str:
        return (folder / "value").read_text()

    save_learned(save)(Learned("x", state), tmp_path)
    found = load_learned(load)(tmp_path)
    assert found.result == "x"
    own = {site.name: Affine(site.name) for site in NETWORK.sites}
    again = with_adaptation(
        objective_for(NETWORK, [FIRST, LAST], own),
        NetworkModule(NETWORK),
        padded_batch(),
        "residual",
        found.adaptation,
    )
    for name, tensor in cast(nn.Module, again.adaptation).state_dict().items():
        assert torch.equal(tensor, state[name]), name
    (tmp_path / "adaptation.safetensors").unlink()
    assert load_learned(load)(tmp_path) == Learned("x", {})  # a stage of a build without adaptation
