"""How long each preset trains; the figures come from docs/results.md."""

from __future__ import annotations

from dataclasses import dataclass

from archnet.distill import Schedule


@dataclass(frozen=True, slots=True)
class Preset:
    """Schedules of one preset.

    Attributes:
        distil: from the teacher to the student without norms.
        quantize: of the folded student with its quantizers.
        batch_size: sentences in a batch of short sentences.
        max_tokens: upper bound of sentences x padded length of a batch.
    """

    distil: Schedule
    quantize: Schedule
    batch_size: int = 160
    max_tokens: int = 3072


PRESETS = {
    "fast": Preset(Schedule(850, 4e-4, ramp=0.5), Schedule(120, 1e-4, warm_up=0.1)),
    "balanced": Preset(Schedule(1000, 4e-4, ramp=0.5), Schedule(160, 1e-4, warm_up=0.1)),
    "best": Preset(Schedule(4000, 4e-4, ramp=0.5), Schedule(1000, 1e-4, warm_up=0.1)),
}

BUCKETS = (16, 24, 32, 48, 64, 96, 128, 256, 512, 1024)
"""Padded lengths; a step of half an octave wastes less work than it costs memory."""

PAIR_BUCKETS = (8, 12, 16, 20, 24, 28, 32, 40, *BUCKETS[3:])
"""Of a source with its translation, which are short and both padded to the longer one's length."""

CALIBRATION_BATCHES = 8
