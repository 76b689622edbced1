"""Falling widths: the path, and that a phase starts from what the one before it trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import torch
from torch import Tensor

from archnet.config import PRESETS, Bits
from archnet.converters.fold import Affine
from archnet.distill import Schedule, objective_for
from archnet.engine import StageContext
from archnet.freeze import freeze
from archnet.network import Network
from archnet.presets import PRESETS_OF
from archnet.quantize import (
    Phase,
    Start,
    falling,
    falling_layers,
    first_start,
    load_start,
    next_start,
    save_start,
    train_phase,
    trained_student,
)
from archnet.quantized_layers import QuantizedLinear
from archnet.quantized_student import QuantizedStudent, linear_means
from tests.archnet.test_distill import Batches, Context
from tests.archnet.test_freeze import prepared
from tests.small_encoder import padded_batch


@pytest.mark.parametrize(
    ("bits", "path"),
    [
        ("w8a8", ["w8a8"]),
        ("w8a4", ["w8a4"]),
        ("w4a8", ["w4a8"]),
        ("w4a4", ["w4a4"]),
        ("w3a6", ["w4a6", "w3a6"]),
        ("w2a4", ["w4a4", "w2a4"]),
        ("w2a8", ["w4a8", "w2a8"]),
    ],
)
def test_bits_fall_in_steps(bits: str, path: list[str]) -> None:
    assert [str(step) for step in falling(Bits.parse(bits))] == path


def test_layers_of_their_own_fall_by_way_of_four_bits() -> None:
    layers = {"a": Bits(2, 8), "b": Bits(4, 8)}
    assert falling_layers(layers) == ({"a": Bits(4, 8), "b": Bits(4, 8)}, layers)
    assert falling_layers({"b": Bits(4, 8)}) == ({"b": Bits(4, 8)},)


def test_fewer_bits_train_longer() -> None:
    preset = PRESETS_OF["text"]["balanced"]
    schedules = [preset.quantize_at(Bits.parse(bits)) for bits in ("w8a8", "w4a8", "w4a4", "w2a4")]
    assert schedules[0] == preset.quantize
    assert [s.steps for s in schedules] == sorted({s.steps for s in schedules})
    assert preset.quantize_at(Bits(8, 4)) == preset.quantize_at(Bits(4, 4))


def test_language_models_learn_faster_where_activations_are_narrow_and_only_there() -> None:
    language, other = (PRESETS_OF[kind]["balanced"] for kind in ("language", "translation"))
    for bits in (Bits(8, 8), Bits(4, 8), Bits(2, 4)):
        assert language.quantize_at(bits) == other.quantize_at(bits)
    narrow = other.quantize_at(Bits(4, 4))
    assert language.quantize_at(Bits(4, 4)) == replace(narrow, rate=4.0 * narrow.rate)


def test_every_kind_of_model_has_presets_of_each_name() -> None:
    assert {tuple(table) for table in PRESETS_OF.values()} == {PRESETS}
    steps = [[preset.distil.steps for preset in table.values()] for table in PRESETS_OF.values()]
    assert all(row == sorted(set(row)) for row in steps)
    assert (
        PRESETS_OF["translation"]["balanced"].distil.steps == 2 * PRESETS_OF["text"]["balanced"].distil.steps
    )


def frozen(student: QuantizedStudent, values: Mapping[str, Affine], teacher: Network) -> list[bytes]:
    """Every constant of the integer network."""
    outputs = {name: values[site] for name, site in teacher.outputs.items()}
    graph = freeze(student, outputs, name="x", max_sequence=16, embedding="gather", pool_on_host=True)
    return [graph.constants[name].tobytes() for name in sorted(graph.constants)]


def drift(student: QuantizedStudent, means: Mapping[str, Tensor], batch: dict[str, Tensor]) -> float:
    """How far the layers' means are from the wished ones."""
    found = linear_means(student, batch)
    return sum(float((found[name] - mean).abs().mean()) for name, mean in means.items())


def test_a_phase_goes_on_from_the_weights_before_it(tmp_path: Path) -> None:
    teacher, folded = prepared("post-norm")
    site = folded.network.site("layers.0.query")

    calibration = [padded_batch(0)]

    def phase(start: Start, bits: Bits) -> QuantizedStudent:
        return train_phase(
            cast(StageContext, Context()),
            start,
            Phase(bits, Schedule(3, 1e-3), 0),
            teacher=teacher,
            objective=objective_for(teacher, [], folded.values),
            batches=Batches(),
            calibration=calibration,
        )

    first = first_start(folded, calibration)
    student = phase(first, Bits(4, 4))
    second = next_start(first, student, calibration)
    save_start(second, tmp_path)
    second = load_start(tmp_path)
    learned = second.folded.network.parameter(site, "weight")
    assert second.folded.values.keys() == folded.values.keys()
    assert not torch.equal(learned, folded.network.parameter(site, "weight"))
    narrow = QuantizedStudent(second.folded.network, Bits(2, 4))
    assert second.steps is not None
    narrow.set_steps(second.steps)
    assert narrow.activation_steps() == student.activation_steps()
    narrow.raise_fine_steps()
    again = trained_student(second, Phase(Bits(4, 4), Schedule(3, 1e-3), 0))
    assert frozen(again, folded.values, teacher) == frozen(student, folded.values, teacher)
    before = drift(narrow, second.means, calibration[0])
    narrow.correct_biases(calibration[0], second.means)
    assert drift(narrow, second.means, calibration[0]) < 0.3 * before
    module = phase(second, Bits(2, 4)).override(site.name)
    assert isinstance(module, QuantizedLinear)
    change = (module.weight - learned).abs().max()
    assert 0 < change.item() < 0.02  # three steps of at most 1e-3 from where the first phase ended
