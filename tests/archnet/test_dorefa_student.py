"""A student with DoReFa's quantizers: the same function when settled, and the integers that it simulated."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest
import torch

from archnet.calibration.dorefa import DoReFaWeightQuantizer
from archnet.calibration.lsq import ActivationQuantizer
from archnet.code_embedding import with_code_embedding
from archnet.config import Bits
from archnet.converters.residual import adds_as_concats
from archnet.distill import Schedule, objective_for
from archnet.dorefa_student import settle_dorefa, use_dorefa
from archnet.engine import StageContext
from archnet.freeze import freeze
from archnet.graph_check import validate_graph
from archnet.operators import Op
from archnet.quantize import Phase, first_start, next_start, train_phase
from archnet.quantized_layers import QuantizedConv, QuantizedLinear
from archnet.quantized_student import QuantizedStudent
from tests.archnet.test_distill import Batches, Context
from tests.archnet.test_freeze import most_off, prepared, run_site
from tests.image_graphs import folded_model, images
from tests.small_encoder import LENGTH, padded_batch

CALIBRATION = [padded_batch(seed) for seed in range(3)]


def shaken(student: QuantizedStudent) -> None:
    """Move everything that is trained, as training would."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in student.parameters():
            if parameter.requires_grad and parameter.dim() > 1:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(0.3 * parameter.abs().mean() * noise)


@pytest.mark.parametrize("form", ["table", "code", "concat"])
def test_settling_changes_nothing(form: str) -> None:
    network = prepared("post-norm")[1].network
    if form == "code":
        network = with_code_embedding(network, seed=0)
    if form == "concat":
        network = adds_as_concats(network)
    student = QuantizedStudent(network, Bits(4, 8))
    use_dorefa(student)
    student.calibrate(CALIBRATION)
    shaken(student)
    made = [m for m in student.modules() if isinstance(m, DoReFaWeightQuantizer)]
    fixed = [
        m for m in student.overrides.values() if isinstance(m, QuantizedLinear) and not m.weight.requires_grad
    ]
    layers = [s for s in network.sites if s.op is Op.LINEAR]
    assert len(made) + len(fixed) == len(layers) + (form == "code")
    assert bool(fixed) == (form == "concat")
    with torch.no_grad():
        before = student(padded_batch(7))
        settle_dorefa(student)
        after = student(padded_batch(7))
    assert not any(isinstance(m, DoReFaWeightQuantizer) for m in student.modules())
    for name, value in before.items():
        assert torch.equal(value, after[name]), name


def test_convolutions_settle_too() -> None:
    _, folded = folded_model("cnn")
    student = QuantizedStudent(folded.network, Bits(2, 4))
    use_dorefa(student)
    student.calibrate([images(4)])
    shaken(student)
    kinds = {type(m) for m in student.overrides.values() if isinstance(m, QuantizedLinear)}
    assert QuantizedConv in kinds
    with torch.no_grad():
        before = student(images(2, seed=3))
        settle_dorefa(student)
        after = student(images(2, seed=3))
    for name, value in before.items():
        assert torch.equal(value, after[name]), name


@pytest.mark.parametrize("bits", ["w8a8", "w4a4", "w3a6", "w2a4"])
def test_the_frozen_integers_are_those_that_were_simulated(bits: str) -> None:
    teacher, folded = prepared("post-norm")
    student = QuantizedStudent(folded.network, Bits.parse(bits))
    use_dorefa(student)
    student.calibrate(CALIBRATION)
    student.raise_fine_steps()
    shaken(student)
    batch = padded_batch(7)
    simulated = {}
    for site in student.network.sites:
        module = student.override(site.name) if site.op is Op.LINEAR else None
        if isinstance(module, QuantizedLinear):
            quantizer = cast(DoReFaWeightQuantizer, module.quantizer)
            with torch.no_grad():
                scale = quantizer.scale_of(quantizer.bounded(module.weight))
                integers = quantizer(module.weight) / scale[:, None]
            simulated[site.name] = (
                module.quantizer.bits, integers.double().numpy(), scale[:, None].double().numpy()
            )  # fmt: skip
    with torch.no_grad():
        values = student(batch)
    settle_dorefa(student)
    outputs = {name: folded.values[site] for name, site in teacher.outputs.items()}
    graph = freeze(student, outputs, name="dorefa", max_sequence=LENGTH, embedding="gather")
    validate_graph(graph)
    assert len(simulated) >= 6
    for name, (width, weights, scales) in simulated.items():
        frozen = graph.constants[f"{name}.weight"].astype(np.float64)
        if width == 8:  # freezing moves scales a little, and 127 steps of them by more than one
            moved = graph.constants[f"{name}.weight_scale"][:, None].astype(np.float64)
            off = np.abs(frozen - weights * scales / moved)
            assert off[np.abs(frozen) < 127].max() <= 0.51, name
        else:
            np.testing.assert_allclose(frozen, weights, rtol=0, atol=1e-3)
    compared = 0
    for site in student.network.sites:
        spec = graph.tensors.get(site.name)
        if spec is None or spec.scale is None or site.op in (Op.MEAN_POOL, Op.EMBEDDING):
            continue
        got = run_site(graph, site, values, batch).astype(np.float64)
        difference = np.abs(got - values[site.name].numpy() / spec.scale)
        beyond = difference - most_off(student, graph, site, spec.scale, values)
        if beyond.ndim == 3:
            beyond = beyond[batch["attention_mask"].bool().numpy()]
        assert beyond.max() <= 0, site.name
        compared += 1
    assert compared >= 10


def test_two_phases_with_fixed_ranges() -> None:
    teacher, folded = prepared("post-norm")
    calibration = [padded_batch(0)]
    start = first_start(folded, calibration)
    plain = QuantizedStudent(folded.network, Bits(4, 4))
    plain.calibrate(calibration)
    plain.raise_fine_steps()

    def phase(bits: Bits) -> QuantizedStudent:
        return train_phase(
            cast(StageContext, Context()),
            start,
            Phase(bits, Schedule(3, 1e-3), 0),
            teacher=teacher,
            objective=objective_for(teacher, [], folded.values),
            batches=Batches(),
            calibration=calibration,
            quantizer="dorefa",
        )

    first = phase(Bits(4, 4))
    quantizers = [m for m in first.modules() if isinstance(m, ActivationQuantizer)]
    assert len(quantizers) > 10
    for name, step in first.activation_steps().items():
        torch.testing.assert_close(step, plain.activation_steps()[name], rtol=0.05, atol=0.0)
    site = folded.network.site("layers.0.query")
    learned = first.trained(folded.network)[site.parameters["weight"]]
    change = (learned - folded.network.parameter(site, "weight")).abs().max()
    assert 0 < float(change) < 0.02
    start = next_start(start, first, calibration)
    second = phase(Bits(2, 4))
    assert not any(isinstance(m, DoReFaWeightQuantizer) for m in second.modules())
    assert isinstance(second.override(site.name), QuantizedLinear)
