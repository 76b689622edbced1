"""Training with the parts of the paper's method: the order of blocks, their weights, and interruptions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from archnet.blocks import find_blocks
from archnet.converters.fold import Affine
from archnet.distill import Objective, Schedule, objective_for, train, with_adaptation
from archnet.engine import StageContext
from archnet.executor import NetworkModule
from archnet.method import Method
from archnet.rewrite import Rewritten, rewrite, token_statistics
from tests.archnet.test_distill import Batches, Context
from tests.small_encoder import captured_encoder, padded_batch

NETWORK = captured_encoder(layers=2, head=True)
STATES = [block.output for block in find_blocks(NETWORK) if block.name != "tail"]
PAPER = Method(periods="blocks", block_decay=0.8, adaptation="teacher-attention")


def objective_of(method: Method, teacher: NetworkModule) -> Objective:
    own = {site.name: Affine(site.name) for site in NETWORK.sites}
    objective = objective_for(NETWORK, STATES, own, method)
    assert list(objective.states) == STATES
    return with_adaptation(objective, teacher, padded_batch(), method.adaptation, {})


def run(
    context: Context,
    steps: int,
    method: Method,
    watch: Callable[[Rewritten, NetworkModule], None] = lambda rewritten, student: None,
) -> NetworkModule:
    """Train; `watch` is called before every step."""
    torch.manual_seed(0)
    teacher = NetworkModule(NETWORK).eval().requires_grad_(False)
    rewritten = rewrite(NETWORK, token_statistics(teacher, [padded_batch()]))
    student = rewritten.module()

    def on_step(progress: Callable[[str], float]) -> None:
        rewritten.move(progress)
        watch(rewritten, student)

    train(
        cast(StageContext, context),
        student,
        teacher,
        objective_of(method, teacher),
        Batches(),
        Schedule(steps, 1e-3, ramp=0.5),
        on_step=on_step,
    )
    return student


def test_blocks_are_trained_in_turn_and_go_on_in_later_periods() -> None:
    watched: list[tuple[dict[str, Tensor], dict[str, float]]] = []

    def watch(rewritten: Rewritten, student: NetworkModule) -> None:
        weights = {
            block: student.parameter(NETWORK.site(name), "weight").detach().clone()
            for block, name in (("block 0", "layers.0.up"), ("block 1", "layers.1.up"), ("tail", "head"))
        }
        progress = {site.block: rewritten.modules[site.name].progress for site in rewritten.network.sites
                    if site.name in rewritten.modules}  # fmt: skip
        watched.append((weights, progress))

    run(Context(), 24, Method(periods="blocks"), watch)
    # 24 * 84 / 134 are 15 steps for three blocks.
    spans = {"head": range(5), "block 0": range(5, 10), "block 1": range(10, 15), "": range(15, 24)}
    weights, progress = zip(*watched, strict=True)

    def moves(block: str, steps: range) -> list[bool]:
        return [not torch.equal(weights[i][block], weights[i + 1][block]) for i in steps]

    assert moves("block 0", spans["head"]) == [False] * 5
    assert moves("block 0", range(5, 24)) == [True] * 19
    assert moves("block 1", range(10)) == [False] * 10
    assert moves("block 1", range(10, 24)) == [True] * 14
    assert moves("tail", range(15)) == [False] * 15
    assert moves("tail", range(15, 24)) == [True] * 9
    assert [progress[i]["block 0"] for i in (4, 5, 6, 7, 8, 24)] == [0.0, 0.0, 0.4, 0.8, 1.0, 1.0]
    assert [progress[i]["block 1"] for i in (9, 10, 12, 13, 24)] == [0.0, 0.0, 0.8, 1.0, 1.0]
    assert [progress[i]["tail"] for i in (14, 15, 24)] == [0.0, 0.0, 1.0]


def test_a_period_compares_the_blocks_up_to_its_own() -> None:
    teacher = NetworkModule(NETWORK)
    whole = objective_of(Method(periods="blocks", block_decay=0.5), teacher)
    parts = [whole.during(period) for period in whole.periods(100)]
    assert [list(part.states) for part in parts] == [STATES[:1], STATES[:2], STATES, STATES]
    assert [set(part.rows) for part in parts] == [set(), set(), set(), {NETWORK.outputs["head"]}]
    batch = padded_batch()
    with torch.no_grad():
        wanted = teacher(batch)
        got = {name: value + 0.1 * value.square() for name, value in wanted.items()}
        alone = [Objective({n: Affine(n)}, {}, whole.masks).loss(wanted, got, batch) for n in STATES]
        found = [part.loss(wanted, got, batch) for part in parts[:3]]
    mask = batch["attention_mask"].bool()
    a, b = wanted[STATES[1]][mask], got[STATES[1]][mask]
    torch.testing.assert_close(alone[1], (a - b).square().mean() / a.var())
    formula = [
        alone[0],
        (alone[0] + 2 * alone[1]) / 3,
        (alone[0] + 2 * alone[1] + 4 * alone[2]) / 7,
    ]
    torch.testing.assert_close(found, formula)


@pytest.mark.parametrize("stop", [2, 4, 7])
def test_an_interrupted_training_ends_with_the_same_weights(stop: int) -> None:
    whole, again = (run(Context(), 9, PAPER) for _ in range(2))
    stopped = Context(stop=stop)
    with pytest.raises(KeyboardInterrupt):
        run(stopped, 9, PAPER)
    context = Context(saved=stopped.saved)
    resumed = dict(run(context, 9, PAPER).named_parameters())
    assert context.summary["tokens"] == sum(int(Batches().batch(i)["attention_mask"].sum()) for i in range(9))
    trained = [name for name in resumed if name.startswith("adaptation.")]
    assert len(trained) == 2 * (6 + 4)  # three layers and a gate of two, for each state that is no output
    for name, parameter in whole.named_parameters():
        assert torch.equal(parameter, resumed[name]), name
        assert torch.equal(parameter, dict(again.named_parameters())[name]), name


def test_what_lies_behind_the_block_is_not_computed() -> None:
    class Refused(torch.nn.Module):
        def forward(self, *inputs: Tensor) -> Tensor:
            raise AssertionError("this site was not to run")

    whole = NetworkModule(NETWORK)
    module = NetworkModule(NETWORK, {"layers.1.query": Refused()})
    batch = padded_batch()
    found = module(batch, keep=set(STATES[:2]))
    assert set(found) == set(STATES[:2])
    for name, value in whole(batch, keep=set(STATES)).items():
        assert name not in found or torch.equal(found[name], value)
    for keep in (set(STATES), set(), None):
        with pytest.raises(AssertionError, match="was not to run"):
            module(batch, keep)


def test_steps_are_shown_with_the_block_that_is_new() -> None:
    class Shown(Context):
        def __init__(self) -> None:
            super().__init__()
            self.blocks: list[tuple[str, str]] = []

        def progress(self, step: int, steps: int, **rest: Any) -> None:
            self.blocks.append((rest["block"], rest["detail"]))

    context = Shown()
    run(context, 8, PAPER)
    assert context.blocks[::2] == [
        ("head", "homotopy 0.00"),
        ("block 0", "homotopy 0.00"),
        ("block 1", "homotopy 1.00"),
        ("", "homotopy 0.67"),
    ]
