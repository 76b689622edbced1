"""How a conversion learns: the parts of the paper's method that can be chosen.

arXiv 2111.01135 with the code that its authors published (github.com/megvii-research/Arch-Net), and its
journal version (10.1016/j.neunet.2025.107384). The journal's text was not at hand: what it calls Teacher
Attention is taken from that code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Self

from archnet.errors import ArchNetError, nearest

QUANTIZERS = ("lsq", "dorefa")
PERIODS = ("all", "blocks")
ADAPTATIONS = ("none", "residual", "teacher-attention")
SEQUENCES = ("beams", "greedy")


@dataclass(frozen=True, slots=True)
class Method:
    """The parts of the method; the defaults take none of the paper's.

    Attributes:
        quantizer: "lsq" learns every step size (arXiv 1902.08153); "dorefa" limits weights by tanh and keeps
            the ranges of activations (arXiv 1606.06160; `archnet/calibration/dorefa.py`).
        periods: "all" trains every block from the first step; "blocks" one after the other
            (`archnet/periods.py`).
        block_decay: a block's loss counts this much less for each block behind it; the paper's is 0.8.
        adaptation: "none" compares states as they are; "residual" through Residual Feature Adaptation,
            "teacher-attention" through one that weighs channels by the teacher's state
            (`archnet/adaptation.py`).
        sequences: of encoder-decoders: "beams" lets the decoder read what the teacher's beam search
            translates, whose words count as right beside the teacher's distribution (sequence-level and
            word-level knowledge distillation, arXiv 1606.07947, sections 3.1 and 3.2); "greedy" lets it read
            the teacher's greedy translations and compares distributions alone.

    Raises:
        ArchNetError: a value is out of range; known names are suggested.
    """

    quantizer: str = QUANTIZERS[0]
    periods: str = PERIODS[0]
    block_decay: float = 1.0
    adaptation: str = ADAPTATIONS[0]
    sequences: str = SEQUENCES[0]

    def __post_init__(self) -> None:
        for option, value, known in (
            ("--quantizer", self.quantizer, QUANTIZERS),
            ("--periods", self.periods, PERIODS),
            ("--adaptation", self.adaptation, ADAPTATIONS),
            ("--sequences", self.sequences, SEQUENCES),
        ):
            if value not in known:
                raise ArchNetError(
                    f"{option} {value!r} does not exist", fix=f"choose another; {nearest(value, known)}"
                )
        if not 0 < self.block_decay <= 1:
            raise ArchNetError(
                f"--block-decay {self.block_decay:g} is out of range",
                fix="give a number above 0 and up to 1 (every block counts alike); the paper's is 0.8",
            )

    def to_json(self) -> dict[str, str | float]:
        """All fields as a JSON object."""
        return asdict(self)

    def chosen(self) -> dict[str, str | float]:
        """Those fields that are not the defaults; `from_json` reads them back."""
        default = Method().to_json()
        return {name: value for name, value in self.to_json().items() if value != default[name]}

    @classmethod
    def from_json(cls, value: Mapping[str, str | int | float]) -> Self:
        """Read what `to_json` or `chosen` wrote; other keys are left alone.

        Raises:
            ArchNetError: a value is out of range.
        """
        default = cls()
        return cls(
            quantizer=str(value.get("quantizer", default.quantizer)),
            periods=str(value.get("periods", default.periods)),
            block_decay=float(value.get("block_decay", default.block_decay)),
            adaptation=str(value.get("adaptation", default.adaptation)),
            sequences=str(value.get("sequences", default.sequences)),
        )
