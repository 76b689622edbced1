"""From the folded float student to integers: quantizers on every tensor, trained in falling bit widths.

Weights of fewer than 4 bits are reached by way of 4. The second phase starts from the weights that the
first one trained, with its activations' steps, and with biases that keep the means of its layers: what the
first phase learned holds with its quantizers only. Without them outliers that these cut off run through
the network, and nothing can be calibrated on that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from archnet.checkpoint import load_tensors, save_tensors
from archnet.config import Bits
from archnet.converters.fold import Folded
from archnet.distill import Batches, Objective, Schedule, train
from archnet.dorefa_student import settle_dorefa, use_dorefa
from archnet.engine import StageContext
from archnet.executor import NetworkModule
from archnet.network import Network
from archnet.network_storage import load_folded, save_folded
from archnet.quantized_student import QuantizedStudent, linear_means
from archnet.reuse import WAYPOINT_BITS

FIRST_BITS = WAYPOINT_BITS
"""Weights of fewer bits fall to this width first."""


@dataclass(frozen=True, slots=True)
class Start:
    """What a phase starts from.

    Attributes:
        folded: the network, as distillation or the phase before left it.
        means: of its fully connected sites on the first calibration batch, `linear_means`.
        steps: of the phase before, by activation quantizer; None before the first phase.
        weight_steps: of the phase before, by weight quantizer: with them the phase's student is what it was.
    """

    folded: Folded
    means: Mapping[str, Tensor]
    steps: Mapping[str, Tensor] | None = None
    weight_steps: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Phase:
    """One width on the way.

    Attributes:
        bits: of this phase.
        schedule: of its training.
        first_batch: index of its first batch.
        layers: that have widths of their own.
        stage: the name of its stage.
    """

    bits: Bits
    schedule: Schedule
    first_batch: int
    layers: Mapping[str, Bits] = field(default_factory=dict)
    stage: str = ""


def falling(bits: Bits) -> tuple[Bits, ...]:
    """The widths that training passes through, the asked one last."""
    first = max(bits.weights, FIRST_BITS)
    return tuple(dict.fromkeys((Bits(first, bits.activations), bits)))


def falling_layers(layers: Mapping[str, Bits]) -> tuple[Mapping[str, Bits], ...]:
    """The same where layers have widths of their own: those below FIRST_BITS have these bits first."""
    first = {name: Bits(max(own.weights, FIRST_BITS), own.activations) for name, own in layers.items()}
    return (layers,) if first == layers else (first, layers)


def train_phase(
    context: StageContext,
    start: Start,
    phase: Phase,
    *,
    teacher: Network,
    objective: Objective,
    batches: Batches,
    calibration: Sequence[Mapping[str, Tensor]],
    quantizer: str = "lsq",
) -> QuantizedStudent:
    """Train a student at one width; it is on the CPU when it is returned.

    Args:
        start: what it is made of.
        objective: what is compared with the teacher.
        calibration: batches for the first steps of the quantizers and the biases.
        quantizer: one of `QUANTIZERS`.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    student = QuantizedStudent(start.folded.network, phase.bits, phase.layers)
    if quantizer == "dorefa":
        use_dorefa(student)
    if start.steps is None:
        student.calibrate(calibration)
    else:
        student.set_steps(start.steps)
    student.raise_fine_steps()
    student.correct_biases(calibration[0], start.means)
    train(
        context,
        student.to(device),
        NetworkModule(teacher).eval().requires_grad_(False).to(device),
        objective,
        batches,
        phase.schedule,
        first_batch=phase.first_batch,
    )
    student.to("cpu")
    settle_dorefa(student)
    return student


def first_start(folded: Folded, calibration: Sequence[Mapping[str, Tensor]]) -> Start:
    """Start from what distillation left."""
    return Start(folded, linear_means(NetworkModule(folded.network, clear_padding=True), calibration[0]))


def next_start(start: Start, student: QuantizedStudent, calibration: Sequence[Mapping[str, Tensor]]) -> Start:
    """Start from what a phase has trained."""
    tensors = student.trained(start.folded.network)
    folded = replace(start.folded, network=replace(start.folded.network, tensors=tensors))
    means = linear_means(student, calibration[0])
    return Start(folded, means, student.activation_steps(), student.weight_steps())


def trained_student(start: Start, phase: Phase) -> QuantizedStudent:
    """The student that a phase has trained, made again of what `next_start` kept."""
    student = QuantizedStudent(start.folded.network, phase.bits, phase.layers)
    student.set_steps({**(start.steps or {}), **start.weight_steps})
    return student


def save_start(start: Start, folder: Path) -> None:
    """Write the network, the means and the steps."""
    save_folded(start.folded, folder)
    save_tensors(folder / "means.safetensors", {n: m.contiguous() for n, m in start.means.items()})
    save_tensors(folder / "steps.safetensors", dict(start.steps or {}))
    save_tensors(folder / "weight_steps.safetensors", dict(start.weight_steps))


def load_start(folder: Path) -> Start:
    """Read what `save_start` wrote."""
    names = ("means", "steps", "weight_steps")
    return Start(load_folded(folder), *(load_tensors(folder / f"{name}.safetensors") for name in names))
