"""Schedules, the loss against NumPy, and training that goes on where it stopped."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from archnet.calibration.pair_batches import NEXT_IDS, UNKNOWN
from archnet.converters.fold import Affine
from archnet.distill import (
    OUTPUT_WEIGHT,
    WORDS_WEIGHT,
    Objective,
    Schedule,
    make_optimizer,
    objective_for,
    train,
)
from archnet.engine import StageContext
from archnet.errors import ArchNetError
from archnet.executor import NetworkModule
from archnet.quantized_layers import QuantizedLinear
from archnet.rewrite import rewrite, token_statistics
from tests.small_encoder import captured_encoder, padded_batch


def test_schedule() -> None:
    schedule = Schedule(100, 1e-3, ramp=0.5, warm_up=0.2)
    rates = [schedule.rate_at(step) for step in range(101)]
    assert max(rates) == pytest.approx(1e-3)
    assert int(np.argmax(rates)) == 20
    assert rates[0] == pytest.approx(0.04e-3)
    assert rates[100] == pytest.approx(1e-6)
    kept = [schedule.rate_at(step, 60) for step in range(101)]
    assert kept[:20] == rates[:20]
    assert kept[20:61] == pytest.approx([1e-3] * 41)
    assert kept[80] == pytest.approx(1e-3 * (0.001 + 0.999 / 2))
    assert kept[100] == pytest.approx(1e-6)


def test_loss_is_its_formula() -> None:
    rng = np.random.default_rng(0)
    wanted, got = (rng.normal(size=(2, 5, 3)).astype(np.float32) for _ in range(2))
    row, other = (rng.normal(size=(2, 3)).astype(np.float32) for _ in range(2))
    gain = np.array([1.0, 2.0, -1.0], np.float32)
    mask = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    objective = Objective(
        {"s": Affine("c", torch.from_numpy(gain))}, {"r": Affine("d")}, {"s": "attention_mask"}
    )
    assert objective.teacher_sites == {"s", "r"}
    assert objective.student_sites == {"c", "d"}
    teacher = {"s": torch.from_numpy(wanted), "r": torch.from_numpy(row)}
    student = {"c": torch.from_numpy(got), "d": torch.from_numpy(other)}
    batch = {"attention_mask": torch.from_numpy(mask)}
    loss = float(objective.loss(teacher, student, batch))
    a, b = wanted[mask == 1], (got * gain)[mask == 1]
    cosine = (row * other).sum(1) / np.linalg.norm(row, axis=1) / np.linalg.norm(other, axis=1)
    formula = ((a - b) ** 2).mean() / a.var(ddof=1) + OUTPUT_WEIGHT * (1 - cosine).mean()
    assert loss == pytest.approx(float(formula), rel=1e-4)
    teacher["s"][0, 3:] = 1e6  # padding does not count
    assert float(objective.loss(teacher, student, batch)) == pytest.approx(loss)


def test_logits_are_compared_as_distributions() -> None:
    generator = torch.Generator().manual_seed(2)
    wanted, got = (torch.randn(2, 3, 7, generator=generator) for _ in range(2))
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    objective = Objective({}, {}, {"l": "decoder_attention_mask"}, {"l": Affine("m")})
    assert (objective.teacher_sites, objective.student_sites) == ({"l"}, {"m"})
    loss = objective.loss({"l": wanted}, {"m": got}, {"decoder_attention_mask": mask})
    rows = mask.bool()
    formula = torch.nn.functional.kl_div(
        got[rows].log_softmax(-1), wanted[rows].log_softmax(-1), log_target=True, reduction="batchmean"
    )
    torch.testing.assert_close(loss, formula)


def test_words_that_the_teacher_chose_count_as_right() -> None:
    generator = torch.Generator().manual_seed(3)
    wanted, got = (torch.randn(2, 3, 7, generator=generator) for _ in range(2))
    batch = {"decoder_attention_mask": torch.tensor([[1, 1, 0], [1, 1, 1]])}
    objective = Objective({}, {}, {"l": "decoder_attention_mask"}, {"l": Affine("m")})
    alone = objective.loss({"l": wanted}, {"m": got}, batch)
    words = torch.tensor([[4, 0, UNKNOWN], [2, 6, UNKNOWN]])  # padding, and a word that is not known
    both = objective.loss({"l": wanted}, {"m": got}, {**batch, NEXT_IDS: words})
    chosen = got.log_softmax(-1)[[0, 0, 1, 1], [0, 1, 0, 1], [4, 0, 2, 6]]
    torch.testing.assert_close(both - alone, WORDS_WEIGHT * -chosen.mean())


def test_quantizer_steps_learn_more_slowly() -> None:
    module = QuantizedLinear(torch.randn(3, 4), torch.zeros(3), 8)
    weights, steps = make_optimizer(module, 1e-2).param_groups
    assert [len(group["params"]) for group in (weights, steps)] == [2, 1]
    assert steps["params"][0] is module.quantizer.step
    assert steps["lr"] == pytest.approx(0.1 * weights["lr"])


class Context:
    """What training needs of a stage, in memory; a checkpoint is due after every step."""

    def __init__(self, stop: int | None = None, saved: tuple[Any, Any] | None = None) -> None:
        self.stop, self.saved = stop, saved
        self.losses: list[float] = []
        self.summary: dict[str, Any] = {}

    def progress(self, step: int, steps: int, **rest: Any) -> None:
        self.losses.append(rest["loss"])

    def checkpoint_due(self) -> bool:
        return True

    def save_checkpoint(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        self.saved = ({name: tensor.clone() for name, tensor in tensors.items()}, state)
        if self.stop == state["step"]:
            raise KeyboardInterrupt

    def load_checkpoint(self) -> tuple[Any, Any] | None:
        return self.saved


class Batches:
    def batch(self, step: int) -> dict[str, Tensor]:
        return padded_batch(step % 4)

    def calibration(self, n: int) -> list[dict[str, Tensor]]:
        return [padded_batch(100 + i) for i in range(n)]


NETWORK = captured_encoder(head=True)


def run(context: Context, steps: int, batches: Batches | None = None) -> NetworkModule:
    batches = batches or Batches()
    teacher = (
        (Scaled if isinstance(batches, Poisoned) else NetworkModule)(NETWORK).eval().requires_grad_(False)
    )
    rewritten = rewrite(NETWORK, token_statistics(teacher, [padded_batch()]))
    student = rewritten.module()
    values = {site.name: Affine(site.name) for site in NETWORK.sites}
    objective = objective_for(NETWORK, [NETWORK.outputs["states"]], values)
    assert set(objective.rows) == {NETWORK.outputs["head"]}
    assert set(objective.states) == {NETWORK.outputs["states"]}
    train(
        cast(StageContext, context),
        student,
        teacher,
        objective,
        batches,
        Schedule(steps, 5e-3, ramp=0.3),
        on_step=rewritten.move,
    )
    return student


def test_training_follows_the_teacher() -> None:
    context = Context()
    run(context, 40)
    assert context.losses[0] < 1e-3  # at progress 0 the student is the teacher
    worst = max(context.losses)
    assert context.losses[-1] < 0.5 * worst


def test_an_interrupted_training_ends_with_the_same_weights() -> None:
    whole = run(Context(), 6)
    stopped = Context(stop=3)
    with pytest.raises(KeyboardInterrupt):
        run(stopped, 6)
    resumed = run(Context(saved=stopped.saved), 6)
    for name, parameter in whole.named_parameters():
        assert torch.equal(parameter, dict(resumed.named_parameters())[name]), name


class Poisoned(Batches):
    """Batches of which some make the teacher's states NaN."""

    def __init__(self, bad: Callable[[int], bool]) -> None:
        self.bad = bad

    def batch(self, step: int) -> dict[str, Tensor]:
        batch = super().batch(step)
        return {**batch, "scale": torch.tensor(float("nan") if self.bad(step) else 1.0)}


class Scaled(NetworkModule):
    """A teacher whose states are multiplied by what the batch says."""

    def forward(self, inputs: Mapping[str, Tensor], keep: Collection[str] | None = None) -> dict[str, Tensor]:
        return {
            name: value * inputs.get("scale", torch.ones(()))
            for name, value in super().forward(inputs, keep).items()
        }


@pytest.mark.parametrize("steps", [60, 6])
def test_a_training_that_learns_nothing_any_more_is_stopped(steps: int) -> None:
    context = Context()
    with pytest.raises(ArchNetError, match="training diverged") as caught:
        run(context, steps, Poisoned(lambda step: step >= (5 if steps == 60 else 0)))
    assert f"for {min(20, steps)} steps, up to step {25 if steps == 60 else steps}," in caught.value.problem
    assert "--seed" in caught.value.fix


def test_a_training_that_ends_in_nan_is_no_result() -> None:
    with pytest.raises(ArchNetError, match="for 3 steps, up to step 30, its gradient has not been finite"):
        run(Context(), 30, Poisoned(lambda step: step >= 27))


@pytest.mark.parametrize("bad", [1, 2])
def test_single_batches_without_a_gradient_are_passed_over(bad: int) -> None:
    student = run(Context(), 30, Poisoned(lambda step: step % 3 == bad))
    assert all(bool(p.isfinite().all()) for p in student.parameters())
