"""A tiny captured encoder-decoder, its folded student and its two integer graphs, for several tests."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from archnet.attention_statistics import attention_statistics
from archnet.calibration.equalization import equalize
from archnet.capture import TRANSLATION_INPUTS, capture
from archnet.config import Bits
from archnet.converters.base import Statistics
from archnet.converters.fold import Folded, fold
from archnet.converters.homotopy import set_progress
from archnet.executor import NetworkModule
from archnet.freeze_translation import freeze_translation
from archnet.generation import GenerationSettings
from archnet.graph import QuantizedGraph
from archnet.network import Network
from archnet.quantized_student import QuantizedStudent, channel_statistics, with_share_levels
from archnet.rewrite import materialize, rewrite, token_statistics
from archnet.sources.writer import TranslationModel
from tests.hf_writers import END, PAD, make_translation_model

LENGTH = 12
SETTINGS = GenerationSettings(PAD, (END,), PAD, forbidden=(PAD,))


def pair_batch(seed: int, *, source: int = 9, target: int = 7) -> dict[str, Tensor]:
    """Three sources and targets with padding on the right of the last two."""
    generator = torch.Generator().manual_seed(seed)
    values = {}
    for side, length in (("", source), ("decoder_", target)):
        ids = torch.randint(5, 90, (3, length), generator=generator)
        mask = torch.ones_like(ids)
        mask[1, length - 2 :] = 0
        mask[2, 3:] = 0
        ids[mask == 0] = PAD
        values |= {f"{side}input_ids": ids, f"{side}attention_mask": mask}
    return values


@cache
def captured_translation(family: str = "marian", seed: int = 0) -> Network:
    """The network of a tiny model, of one layer on either side."""
    model = TranslationModel(make_translation_model(family, layers=1, end_bias=2.0, seed=seed))
    return capture(model, max_sequence=LENGTH, padding_id=PAD, inputs=TRANSLATION_INPUTS).network


@cache
def folded_translation(family: str = "marian", attention: str = "softmax") -> Folded:
    """An untrained student at progress 1, folded and equalized: the function does not matter here."""
    teacher = captured_translation(family)
    batches = [pair_batch(seed) for seed in range(3)]
    module = NetworkModule(teacher)
    statistics: dict[str, Statistics] = {**token_statistics(module, batches)}
    statistics |= attention_statistics(module, batches, LENGTH)
    rewritten = rewrite(teacher, statistics, attention=attention)
    student = rewritten.module()
    set_progress(student, 1.0)
    folded = fold(materialize(rewritten.network, rewritten.modules, student.tensors()))
    statistics = channel_statistics(folded.network, batches)
    return equalize(folded, statistics, outputs=teacher.outputs.values())


@cache
def frozen_translation(
    family: str = "marian",
    bits: str = "w8a8",
    embedding: str = "gather",
    attention: str = "softmax",
    levels: int = 255,
) -> tuple[QuantizedStudent, dict[str, QuantizedGraph]]:
    """A calibrated student and its graphs."""
    folded = folded_translation(family, attention)
    student = QuantizedStudent(with_share_levels(folded.network, levels), Bits.parse(bits))
    with torch.no_grad():
        student.calibrate([pair_batch(seed) for seed in range(3)])
        student.raise_fine_steps()
    teacher = captured_translation(family)
    outputs = {name: folded.values[site] for name, site in teacher.outputs.items()}
    graphs = freeze_translation(student, outputs, name="tiny", max_sequence=LENGTH, embedding=embedding)
    return student, graphs
