"""How long each preset trains; the figures come from docs/results.md."""

from __future__ import annotations

from dataclasses import dataclass, replace

from archnet.config import Bits
from archnet.distill import Schedule
from archnet.sources.source import Kind

WEIGHTS_BELOW_8 = (1.5, 2.5)
ACTIVATIONS_BELOW_8 = (5.0, 2.5)
WEIGHTS_BELOW_4 = (5.6, 5.0)
"""How much longer, and at how many times the rate, a width trains than 8 bits do."""


@dataclass(frozen=True, slots=True)
class Preset:
    """Schedules of one preset.

    Attributes:
        distil: from the teacher to the student without norms.
        quantize: of the folded student with its quantizers.
        batch_size: sentences in a batch of short sentences, or pictures.
        max_tokens: upper bound of sentences x padded length of a batch.
        narrow_rate: at how many times the usual rate activations of fewer than 8 bits learn.
    """

    distil: Schedule
    quantize: Schedule
    batch_size: int = 160
    max_tokens: int = 3072
    narrow_rate: float = 1.0

    def quantize_at(self, bits: Bits) -> Schedule:
        """The schedule of one width: the fewer bits, the longer and the faster it learns."""
        if bits.weights < 4:
            longer, faster = WEIGHTS_BELOW_4
        elif bits.activations < 8:
            longer, faster = ACTIVATIONS_BELOW_8[0], ACTIVATIONS_BELOW_8[1] * self.narrow_rate
        else:
            longer, faster = WEIGHTS_BELOW_8 if bits.weights < 8 else (1.0, 1.0)
        steps, rate = round(self.quantize.steps * longer), self.quantize.rate * faster
        return replace(self.quantize, steps=steps, rate=rate)

    def longer(self, distil: float, quantize: float) -> Preset:
        """The same with so many times the steps."""
        return replace(
            self,
            distil=replace(self.distil, steps=round(distil * self.distil.steps)),
            quantize=replace(self.quantize, steps=round(quantize * self.quantize.steps)),
        )


TEXT = {
    "fast": Preset(Schedule(850, 4e-4, ramp=0.5), Schedule(120, 2e-5, warm_up=0.1)),
    "balanced": Preset(Schedule(1000, 4e-4, ramp=0.5), Schedule(160, 2e-5, warm_up=0.1)),
    "best": Preset(Schedule(4000, 4e-4, ramp=0.5), Schedule(1000, 2e-5, warm_up=0.1)),
}

PICTURES = {
    "fast": Preset(Schedule(2400, 4e-4, ramp=0.5), Schedule(400, 2e-5, warm_up=0.1), batch_size=48),
    "balanced": Preset(Schedule(8000, 4e-4, ramp=0.5), Schedule(533, 2e-5, warm_up=0.1), batch_size=48),
    "best": Preset(Schedule(24000, 4e-4, ramp=0.5), Schedule(3333, 2e-5, warm_up=0.1), batch_size=48),
}
"""Small batches of pictures lose nothing against large ones, unlike those of sentences of few tokens."""

TRANSLATION = {name: preset.longer(2.0, 1.4) for name, preset in TEXT.items()}
"""An encoder and a decoder learn together; `balanced` is at most 15 epochs of Multi30k."""

LANGUAGE = {name: replace(preset, narrow_rate=4.0) for name, preset in TRANSLATION.items()}
"""Every token's distribution is scored, which 4 bits disturb more than the words of a search."""

PRESETS_OF: dict[Kind, dict[str, Preset]] = {
    "text": TEXT,
    "image": PICTURES,
    "translation": TRANSLATION,
    "language": LANGUAGE,
}
"""By the kind of model, then by the name that the user gives."""


BUCKETS = (16, 24, 32, 48, 64, 96, 128, 256, 512, 1024)
"""Padded lengths; a step of half an octave wastes less work than it costs memory."""

PAIR_BUCKETS = (8, 12, 16, 20, 24, 28, 32, 40, *BUCKETS[3:])
"""Of a source with its translation, which are short and both padded to the longer one's length."""

CALIBRATION_BATCHES = 8
