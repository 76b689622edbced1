"""From the folded float student to integers: quantizers on every tensor, trained in falling bit widths.

Few bits are reached by way of more: weights of 4 bits first, then activations, then the widths asked
for. Each phase starts from the weights that the phase before it trained, with steps chosen anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from archnet.config import Bits
from archnet.converters.fold import Folded
from archnet.distill import Batches, Objective, Schedule, train
from archnet.engine import StageContext
from archnet.executor import NetworkModule
from archnet.network import Network
from archnet.operators import Op
from archnet.quantized_student import QuantizedStudent

FIRST_BITS = 4
"""Weights fall to this width first, while activations still have 8 bits."""


@dataclass(frozen=True, slots=True)
class Phase:
    """One width on the way.

    Attributes:
        bits: of this phase.
        schedule: of its training.
        first_batch: index of its first batch.
    """

    bits: Bits
    schedule: Schedule
    first_batch: int


def falling(bits: Bits) -> tuple[Bits, ...]:
    """The widths that training passes through, the asked one last."""
    first = max(bits.weights, FIRST_BITS)
    path = (Bits(first, 8), Bits(first, bits.activations), bits)
    steps = dict.fromkeys(step for step in path if step != Bits(8, 8))
    return tuple(steps) or (bits,)


def train_phase(
    context: StageContext,
    folded: Folded,
    phase: Phase,
    *,
    teacher: Network,
    objective: Objective,
    batches: Batches,
    calibration: Sequence[Mapping[str, Tensor]],
) -> QuantizedStudent:
    """Train a student at one width; it is on the CPU when it is returned.

    Args:
        folded: the network, as distillation or the phase before left it.
        objective: what is compared with the teacher.
        calibration: batches for the first steps of the quantizers and the biases.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    student = QuantizedStudent(folded.network, phase.bits)
    student.calibrate(calibration)
    student.raise_fine_steps()
    weighted = {site.name for site in folded.network.sites if site.op is Op.LINEAR}
    with torch.no_grad():
        wanted = NetworkModule(folded.network)(calibration[0], keep=weighted)
    student.correct_biases(calibration[0], wanted)
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
    return student


def with_trained(folded: Folded, student: QuantizedStudent) -> Folded:
    """The float network with the weights that a student has learned."""
    return replace(folded, network=replace(folded.network, tensors=student.trained(folded.network)))
