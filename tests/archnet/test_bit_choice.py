"""The choice of widths on a small network: what is measured, what a target allows, what is recorded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from archnet.bit_choice import VARIANCE_PER_POINT, BitChoice, choose_bits, load_choice, save_choice
from archnet.calibration.sensitivity import lost_variance, rounded_weight
from archnet.config import Bits
from archnet.converters.fold import Affine
from archnet.executor import NetworkModule
from archnet.network import Network, Site
from archnet.operators import Op
from archnet.targets import Profile, load_profile

WIDTH, VOCABULARY = 12, 40


def network() -> Network:
    """Embedding, two layers of which the second hardly matters, and their sum."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    tensors = {
        "table": random(VOCABULARY, WIDTH),
        "w1": random(WIDTH, WIDTH),
        "b1": random(WIDTH),
        "w2": random(WIDTH, WIDTH) * 0.02,
        "b2": random(WIDTH),
    }
    sites = (
        Site("words", Op.EMBEDDING, ("input_ids",), {"table": "table"}),
        Site("loud", Op.LINEAR, ("words",), {"weight": "w1", "bias": "b1"}),
        Site("quiet", Op.LINEAR, ("words",), {"weight": "w2", "bias": "b2"}),
        Site("sum", Op.ADD, ("loud", "quiet")),
    )
    return Network(("input_ids", "attention_mask"), sites, tensors, {"y": "sum"})


def batches() -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, VOCABULARY, (6, 7), generator=generator)
    mask = torch.ones_like(ids)
    mask[3:, 4:] = 0
    return [{"input_ids": ids, "attention_mask": mask}]


def choose(max_drop: float, profile: Profile | None = None, embedding: str = "host") -> BitChoice:
    return choose_bits(
        network(),
        [Affine("sum")],
        batches(),
        profile or load_profile("tvm"),
        widest=Bits(8, 8),
        embedding=embedding,
        max_drop=max_drop,
    )


def test_a_damage_is_that_of_the_one_layer_over_the_valid_tokens() -> None:
    damage = {layer.site: layer.damage for layer in choose(1.0).layers}
    assert set(damage) == {"words", "loud", "quiet"}
    net, batch = network(), batches()[0]
    changed = replace(net, tensors={**net.tensors, "w1": rounded_weight(net.tensors["w1"], 2)})
    valid = batch["attention_mask"].bool()
    with torch.no_grad():
        wanted, value = (NetworkModule(n)(batch)["sum"][valid] for n in (net, changed))
    assert damage["loud"][2] == pytest.approx(lost_variance([value], [wanted]), rel=1e-5)
    assert damage["loud"][2] > damage["loud"][4] > 0
    assert damage["quiet"][2] < damage["loud"][4]


def test_the_quiet_layer_is_narrowed_first() -> None:
    found = choose(0.001 / VARIANCE_PER_POINT)
    assert found.budget == pytest.approx(0.001)
    assert found.predicted <= found.budget
    assert found.widths == {"words": 8, "loud": 8, "quiet": 2}
    assert found.narrowed == {"quiet": Bits(2, 8)}
    wide, chosen = found.bytes
    assert wide - chosen == WIDTH * WIDTH * 3 // 4
    assert "1 layers with 2 bits, 2 layers with 8 bits" in found.sentence()
    assert "an estimate" in found.sentence()


def test_nothing_is_narrowed_for_nothing_and_all_for_much() -> None:
    assert choose(0.0).narrowed == {}
    assert choose(100.0).widths == {"words": 4, "loud": 2, "quiet": 2}, "tables have at least 4 bits"


def test_only_widths_that_the_target_runs_are_tried() -> None:
    profile = load_profile("tvm")
    four = replace(profile.operators[Op.LINEAR], bits=("w8a8", "w4a8"))
    limited = replace(profile, weight_bits=(8, 4), operators={**profile.operators, Op.LINEAR: four})
    assert choose(100.0, limited).widths == {"words": 4, "loud": 4, "quiet": 4}
    whole = replace(profile.operators[Op.EMBEDDING], bits=("w8a8",))
    gathers = replace(profile, operators={**profile.operators, Op.EMBEDDING: whole})
    assert choose(100.0, gathers, "gather").widths == {"loud": 2, "quiet": 2}


def test_the_network_is_as_it_was_and_the_choice_repeats() -> None:
    assert choose(0.3) == choose(0.3)


def test_a_choice_survives_the_disk(tmp_path: Path) -> None:
    found = choose(0.2)
    save_choice(found, tmp_path)
    assert load_choice(tmp_path) == found
