"""Label-free distillation: the student's states and outputs follow the teacher's on unlabelled tokens.

The loss is the mean over blocks of mse(student, teacher) / var(teacher), over valid tokens, plus the
cosine distance of every output that has one row a sequence, plus the divergence of the next token's
distribution where the outputs are logits of a vocabulary. No label is read anywhere.

Blocks can be trained one after the other, count less the farther they are from the last one
(`archnet/periods.py`), and be compared through an adaptation (`archnet/adaptation.py`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from archnet.adaptation import Adaptations
from archnet.calibration.pair_batches import NEXT_IDS, UNKNOWN
from archnet.checkpoint import pack, unpack
from archnet.converters.fold import Affine
from archnet.engine import StageContext
from archnet.errors import ArchNetError
from archnet.executor import NetworkModule
from archnet.method import Method
from archnet.network import Network
from archnet.operators import Op
from archnet.periods import Period, block_progress, divisors, make_periods, period_at
from archnet.valid import MASKS, mask_of, row_masks, valid_rows

OUTPUT_WEIGHT = 10.0
"""Weight of the outputs' cosine distance against the states' relative error; chosen by docs/results.md."""

WORDS_WEIGHT = 0.5
"""Weight of the cross-entropy of the words that the teacher chose, where batches tell them."""

GRADIENT_NORM = 1.0

LOST_STEPS = 20
"""So many steps in a row without a finite gradient, in which nothing is learned, end a training."""

LOST_AT_THE_END = 3
"""Fewer end it where they are its last ones: what it has come to is what the next stage begins with."""

STEP_SIZE_RATE = 0.1
"""Learning rate of quantizer steps relative to that of weights."""

TIMED_PRODUCTS = 7
"""In each of two types; the fastest counts, as other load only makes one slower."""


BlockProgress = Callable[[str], float]
"""Progress of the homotopies of a block, by its name."""


class Batches(Protocol):
    """Unlabelled inputs, the same for the same step."""

    def batch(self, step: int) -> dict[str, Tensor]:
        """The network's inputs by name, batch first."""

    def calibration(self, n: int) -> list[dict[str, Tensor]]:
        """`n` batches that are independent of training."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how fast to train.

    Attributes:
        steps: optimizer steps.
        rate: peak of the one-cycle learning rate.
        ramp: share of a period's steps over which its homotopies go from 0 to 1; 0 when there are none.
        warm_up: share of the steps until the peak of the learning rate.
    """

    steps: int
    rate: float
    ramp: float = 0.0
    warm_up: float = 0.15

    def rate_at(self, step: int, fall: int = 0) -> float:
        """One-cycle learning rate: cosine up to the peak, cosine down to a thousandth of it.

        Args:
            fall: the step until which the peak is kept, where that is later than the peak itself.
        """
        peak = max(1.0, self.warm_up * self.steps)
        if step < peak:
            return self.rate * (0.04 + 0.96 * 0.5 * (1 - math.cos(math.pi * step / peak)))
        fall_from = max(peak, fall)
        done = max(0.0, step - fall_from) / max(1.0, self.steps - fall_from)
        return self.rate * (0.001 + 0.999 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


@dataclass(frozen=True, slots=True)
class Objective:
    """What the student is compared on.

    Attributes:
        states: teacher's site -> what it is of the student's.
        rows: the same for outputs with one row a sequence, (batch, features).
        masks: the mask input over each state's tokens; None where every row counts.
        logits: the same for scores of a vocabulary, which are compared as distributions.
        blocks: name and state of each block in order, where they are trained one after the other.
        decay: how much less a state counts for each one behind it (of the same mask: an encoder's are not
            behind a decoder's).
        adaptation: what states pass through before they are compared; trained with the student.
    """

    states: Mapping[str, Affine]
    rows: Mapping[str, Affine]
    masks: Mapping[str, str | None] = field(default_factory=dict)
    logits: Mapping[str, Affine] = field(default_factory=dict)
    blocks: tuple[tuple[str, str], ...] = ()
    decay: float = 1.0
    adaptation: Adaptations | None = None

    @property
    def teacher_sites(self) -> set[str]:
        """The values that the teacher must give."""
        return {*self.states, *self.rows, *self.logits}

    @property
    def student_sites(self) -> set[str]:
        """The values that the student must give."""
        compared = (*self.states.values(), *self.rows.values(), *self.logits.values())
        return {affine.carrier for affine in compared}

    def to(self, device: torch.device) -> Objective:
        """The same with its affines on a device."""

        def moved(values: Mapping[str, Affine]) -> dict[str, Affine]:
            return {name: affine.to(device) for name, affine in values.items()}

        adaptation = None if self.adaptation is None else self.adaptation.to(device)
        states, rows, logits = moved(self.states), moved(self.rows), moved(self.logits)
        return replace(self, states=states, rows=rows, logits=logits, adaptation=adaptation)

    def periods(self, steps: int) -> tuple[Period, ...]:
        """The periods of a training of so many steps."""
        return make_periods([block for block, _ in self.blocks], steps)

    def during(self, period: Period) -> Objective:
        """What is compared in one of the periods."""
        if not period.block:
            return self
        names = [block for block, _ in self.blocks]
        reached = {state for _, state in self.blocks[: names.index(period.block) + 1]}
        states = {name: affine for name, affine in self.states.items() if name in reached}
        return replace(self, states=states, rows={}, logits={})

    def loss(
        self, teacher: Mapping[str, Tensor], student: Mapping[str, Tensor], batch: Mapping[str, Tensor]
    ) -> Tensor:
        """The distillation loss, one float32 number.

        Args:
            teacher: its values of `teacher_sites`.
            student: its values of `student_sites`.
            batch: the inputs, for their masks.
        """
        total = torch.zeros((), device=next(iter(batch.values())).device)
        shares = divisors({name: self.masks[name] for name in self.states}, self.decay)
        for name, affine in self.states.items():
            mask = mask_of(batch, self.masks[name])
            wanted = valid_rows(teacher[name].float(), mask)
            got = self._state(name, student[affine.carrier].float(), teacher[name].float(), mask)
            total = total + (got - wanted).square().mean() / (wanted.var() * shares[name])
        for name, affine in self.rows.items():
            got = affine.apply(student[affine.carrier].float())
            distance = 1.0 - F.cosine_similarity(got, teacher[name].float())
            total = total + OUTPUT_WEIGHT * distance.mean() / len(self.rows)
        for name, affine in self.logits.items():
            mask = mask_of(batch, self.masks[name])
            wanted = valid_rows(teacher[name].float(), mask)
            got = valid_rows(affine.apply(student[affine.carrier].float()), mask)
            total = total + divergence(wanted, got)
            if NEXT_IDS in batch:
                words = batch[NEXT_IDS] if mask is None else batch[NEXT_IDS][mask.bool()]
                total = total + WORDS_WEIGHT * F.cross_entropy(got, words.flatten(), ignore_index=UNKNOWN)
        return total

    def _state(self, name: str, carrier: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
        """The rows of a student's state that count, as they are compared."""
        affine = self.states[name]
        if self.adaptation is None or name not in self.adaptation:
            return affine.apply(valid_rows(carrier, mask))
        if carrier.dim() == 4:
            state = affine.apply(carrier.movedim(1, -1)).movedim(-1, 1)
        else:
            state = affine.apply(carrier)
        return valid_rows(self.adaptation(name, state, teacher, mask), mask)


def divergence(wanted: Tensor, got: Tensor) -> Tensor:
    """Mean Kullback-Leibler divergence in nats of the distributions of two sets of logits, (rows, words)."""
    log_wanted, log_got = wanted.log_softmax(-1), got.log_softmax(-1)
    return (log_wanted.exp() * (log_wanted - log_got)).sum(-1).mean()


def objective_for(
    network: Network,
    block_outputs: Sequence[str],
    values: Mapping[str, Affine],
    method: Method | None = None,
) -> Objective:
    """Compare at the end of every block and at every output.

    Args:
        network: the teacher's.
        block_outputs: the site that each block ends with.
        values: teacher's site -> what it is of the student's.
        method: whose periods and decay are followed; adaptations are added by `with_adaptation`.
    """
    method = method or Method()
    outputs = set(network.outputs.values())
    logits = {name for name in outputs if network.site(name).attributes.get("logits", False)}
    rows = {name for name in outputs - logits if _is_row(network, name)}
    states = {*block_outputs, *outputs} - rows - logits
    ordered = [site.name for site in network.sites]
    compared = {name: values[name] for name in ordered if name in states and not _is_row(network, name)}
    in_turn = [n for n in block_outputs if n in compared] if method.periods == "blocks" else []
    return Objective(
        compared,
        {name: values[name] for name in ordered if name in rows},
        {name: mask for name, mask in row_masks(network).items() if name in states | logits},
        {name: values[name] for name in ordered if name in logits},
        tuple((network.site(name).block, name) for name in in_turn),
        method.block_decay,
    )


@torch.no_grad()
def with_adaptation(
    objective: Objective,
    teacher: NetworkModule,
    batch: Mapping[str, Tensor],
    kind: str,
    learned: Mapping[str, Tensor],
) -> Objective:
    """Compare every state that is no output of the network through an adaptation.

    Args:
        batch: inputs, for the shapes of states.
        kind: one of `ADAPTATIONS`.
        learned: tensors of the adaptation that the stage before has trained; none begins anew.
    """
    if kind == "none":
        return objective
    inner = set(objective.states) - set(teacher.network.outputs.values())
    values = teacher(batch, keep=inner) if inner else {}
    shapes = {name: values[name].shape for name in objective.states if name in inner}
    adaptation = Adaptations(shapes, attention=kind == "teacher-attention")
    if learned:
        adaptation.load_state_dict(learned)
    return replace(objective, adaptation=adaptation)


def _is_row(network: Network, name: str) -> bool:
    """Whether a site's value has no sequence axis any more."""
    while True:
        site = network.site(name)
        if site.op in (Op.MEAN_POOL, Op.TOKEN_MEAN, Op.SELECT, Op.FLATTEN):
            return True
        if site.op is Op.EMBEDDING or not site.inputs or site.inputs[0] in network.inputs:
            return False
        name = site.inputs[0]


def train(
    context: StageContext,
    student: NetworkModule,
    teacher: NetworkModule,
    objective: Objective,
    batches: Batches,
    schedule: Schedule,
    *,
    first_batch: int = 0,
    on_step: Callable[[BlockProgress], None] = lambda progress: None,
) -> None:
    """Train the student in place; goes on from the stage's checkpoint when there is one.

    Args:
        objective: its adaptation is trained too, and becomes a part of the student.
        first_batch: index of the first batch, so that stages see different ones.
        on_step: called with the progress of every block's homotopies before every step, and at the end.

    Raises:
        ArchNetError: the training has diverged.
    """
    objective = objective.to(next(student.parameters()).device)
    if objective.adaptation is not None:
        student.add_module("adaptation", objective.adaptation)
    optimizer = make_optimizer(student, schedule.rate)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    periods = objective.periods(schedule.steps)
    parts = {period: objective.during(period) for period in periods}
    begin, seen = _restore(context, student, optimizer)
    before, since, lost = seen, time.monotonic(), 0
    for step in range(begin, schedule.steps):
        period = period_at(periods, step)
        on_step(partial(block_progress, periods, step=step, ramp=schedule.ramp))
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate_at(step, periods[-1].begin) * group["ratio"]
        batch = batches.batch(first_batch + step)
        loss = _loss(student, teacher, parts[period], batch)
        lost = 0 if _update(optimizer, loss, parameters) else lost + 1
        if lost == min(LOST_STEPS, schedule.steps - begin):
            raise _diverged(step + 1, lost)
        seen += amount(batch)
        speed = (seen - before) / max(1e-6, time.monotonic() - since)
        detail = f"homotopy {period.progress(step, schedule.ramp):.2f}" if schedule.ramp else ""
        context.progress(
            step + 1, schedule.steps,
            block=period.block, loss=float(loss.detach()), speed=speed, unit=unit_of(batch), detail=detail,
        )  # fmt: skip
        if context.checkpoint_due() and step + 1 < schedule.steps:
            _save(context, student, optimizer, step + 1, seen)
    if lost >= min(LOST_AT_THE_END, max(1, schedule.steps - begin)):
        raise _diverged(schedule.steps, lost)
    on_step(lambda block: 1.0)
    context.summary["loss"] = float(loss.detach()) if schedule.steps > begin else None
    if schedule.steps > begin:
        context.summary[unit_of(batch)] = seen


def _update(optimizer: torch.optim.AdamW, loss: Tensor, parameters: list[nn.Parameter]) -> bool:
    """One step down the gradient; False, and nothing is changed, when that is not finite."""
    optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    finite = bool(torch.isfinite(nn.utils.clip_grad_norm_(parameters, GRADIENT_NORM)))
    if finite:
        optimizer.step()
    return finite


def _diverged(step: int, lost: int) -> ArchNetError:
    return ArchNetError(
        f"the training diverged: for {lost} steps, up to step {step}, its gradient has not been finite",
        fix="convert into a new folder with another --seed, a longer --preset or more data; "
        "if that does not help, see whether the original itself gives NaN for this data",
    )


def _loss(
    student: NetworkModule, teacher: NetworkModule, objective: Objective, batch: dict[str, Tensor]
) -> Tensor:
    device = next(student.parameters()).device
    batch = {name: value.to(device) for name, value in batch.items()}
    with torch.autocast(device.type, torch.bfloat16, enabled=has_fast_bfloat16(device)):
        with torch.no_grad():
            wanted = teacher(batch, keep=objective.teacher_sites)
        got = student(batch, keep=objective.student_sites)
    return objective.loss(wanted, got, batch)


def unit_of(batch: Mapping[str, Tensor]) -> str:
    """What `amount` counts."""
    return "tokens" if any(name in batch for name in MASKS.values()) else "pictures"


def amount(batch: Mapping[str, Tensor]) -> int:
    """How much a batch holds, for the speed that is shown: tokens without padding, else samples."""
    masks = [batch[name] for name in MASKS.values() if name in batch]
    return sum(int(mask.sum()) for mask in masks) if masks else len(next(iter(batch.values())))


@cache
def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 faster than float32.

    Processors are timed, because their instructions do not tell: an Intel Xeon whose AMX is switched off has
    AVX512_BF16 and takes up to twice as long with it. A run that goes on asks again, so it is computed as it
    began where the answer is clear; it is not recorded.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    if not any(bool(capabilities.get(name)) for name in ("avx512_bf16", "amx_bf16", "bf16")):
        return False  # emulated
    narrow = full = math.inf
    for _ in range(TIMED_PRODUCTS):
        narrow = min(narrow, _product_seconds(torch.bfloat16))
        full = min(full, _product_seconds(torch.float32))
    return narrow < full


def _product_seconds(dtype: torch.dtype) -> float:
    left, right = torch.ones(1024, 768, dtype=dtype), torch.ones(768, 768, dtype=dtype)
    began = time.perf_counter()
    F.linear(left, right)
    return time.perf_counter() - began


def make_optimizer(student: nn.Module, rate: float) -> torch.optim.AdamW:
    """AdamW without decay; quantizer steps learn more slowly than weights."""
    named = [(name, p) for name, p in student.named_parameters() if p.requires_grad]
    steps = [p for name, p in named if name.endswith(".step")]
    weights = [p for name, p in named if not name.endswith(".step")]
    groups = [
        {"params": weights, "lr": rate, "ratio": 1.0},
        {"params": steps, "lr": rate * STEP_SIZE_RATE, "ratio": STEP_SIZE_RATE},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], weight_decay=0.0, betas=(0.9, 0.98), fused=True
    )


def _save(
    context: StageContext, student: nn.Module, optimizer: torch.optim.AdamW, step: int, seen: int
) -> None:
    tensors: dict[str, Tensor] = {}
    state = {
        "step": step,
        "seen": seen,
        "student": pack(_trained(student), tensors, "student"),
        "optimizer": pack(optimizer.state_dict(), tensors, "optimizer"),
    }
    context.save_checkpoint(tensors, state)


def _restore(context: StageContext, student: nn.Module, optimizer: torch.optim.AdamW) -> tuple[int, int]:
    """The steps that an earlier run has done, and what their batches held together."""
    restored = context.load_checkpoint()
    if restored is None:
        return 0, 0
    tensors, state = restored
    student.load_state_dict(unpack(state["student"], tensors), strict=False)
    optimizer.load_state_dict(unpack(state["optimizer"], tensors))
    return int(state["step"]), int(state["seen"])


def _trained(student: nn.Module) -> dict[str, Tensor]:
    """The tensors that training changes."""
    return {name: p.detach() for name, p in student.named_parameters() if p.requires_grad}
