"""A tiny captured language model, its folded student and the integer graph of its step, for several tests."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from archnet.calibration.equalization import equalize
from archnet.capture import LANGUAGE_INPUTS, capture
from archnet.config import Bits
from archnet.converters.fold import Folded, fold
from archnet.converters.homotopy import set_progress
from archnet.executor import NetworkModule
from archnet.freeze_translation import freeze_translation
from archnet.graph import QuantizedGraph
from archnet.network import Network
from archnet.parts import DECODER
from archnet.quantized_student import QuantizedStudent, channel_statistics, with_share_levels
from archnet.rewrite import materialize, rewrite, token_statistics
from archnet.sources.writer import LanguageModel
from tests.hf_writers import PAD, make_language_model

LENGTH = 12


def text_batch(seed: int, *, length: int = 9) -> dict[str, Tensor]:
    """Three texts with padding on the right of the last two."""
    ids = torch.randint(5, 90, (3, length), generator=torch.Generator().manual_seed(seed))
    mask = torch.ones_like(ids)
    mask[1, length - 2 :] = 0
    mask[2, 3:] = 0
    ids[mask == 0] = PAD
    return {"decoder_input_ids": ids, "decoder_attention_mask": mask}


@cache
def captured_language(family: str = "gpt2") -> Network:
    """The network of a tiny model."""
    model = LanguageModel(make_language_model(family))
    return capture(model, max_sequence=LENGTH, padding_id=PAD, inputs=LANGUAGE_INPUTS).network


@cache
def folded_language(family: str = "gpt2", attention: str = "softmax") -> Folded:
    """An untrained student at progress 1, folded and equalized: the function does not matter here."""
    teacher = captured_language(family)
    batches = [text_batch(seed) for seed in range(3)]
    rewritten = rewrite(teacher, token_statistics(NetworkModule(teacher), batches), attention=attention)
    student = rewritten.module()
    set_progress(student, 1.0)
    folded = fold(materialize(rewritten.network, rewritten.modules, student.tensors()))
    statistics = channel_statistics(folded.network, batches)
    return equalize(folded, statistics, outputs=teacher.outputs.values())


@cache
def frozen_language(
    family: str = "gpt2", bits: str = "w8a8", attention: str = "softmax", levels: int = 255
) -> tuple[QuantizedStudent, QuantizedGraph]:
    """A calibrated student and the graph of its step."""
    folded = folded_language(family, attention)
    student = QuantizedStudent(with_share_levels(folded.network, levels), Bits.parse(bits))
    with torch.no_grad():
        student.calibrate([text_batch(seed) for seed in range(3)])
        student.raise_fine_steps()
    outputs = {name: folded.values[site] for name, site in captured_language(family).outputs.items()}
    graphs = freeze_translation(student, outputs, name="tiny", max_sequence=LENGTH, embedding="gather")
    assert list(graphs) == [DECODER]
    return student, graphs[DECODER]
