"""What a conversion starts from, checked before anything is written or trained."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from archnet.blocks import Block, find_blocks, with_blocks
from archnet.calibration.token_batches import TokenBatches
from archnet.capture import INPUTS, LANGUAGE_INPUTS, TRANSLATION_INPUTS, capture, capture_image
from archnet.config import NORM_FORMS, Bits, ConvertSettings, HeadWidth
from archnet.converters.layer_norm import NORMS
from archnet.converters.narrow_ffn import feed_forwards
from archnet.converters.narrow_heads import narrowed_to
from archnet.distill import Batches
from archnet.errors import ArchNetError
from archnet.image_job import check_kind, image_batches
from archnet.network import Network
from archnet.operators import Op
from archnet.plan import OF_CHIP, Plan, make_plan
from archnet.plan_strict import strict_refusals
from archnet.presets import BUCKETS, PRESETS_OF, Preset
from archnet.quantize import (
    Phase,
    falling,
    falling_layers,
)
from archnet.sources.source import Kind, Source
from archnet.targets import Profile
from archnet.targets.chips import takes_decoders
from archnet.valid import MASKS

STAGES = ("distil", "bits", "freeze", "export")
"""The second only where widths are chosen; one for every width that training falls through follows it."""


_INPUTS_OF: Mapping[Kind, tuple[str, ...]] = {"translation": TRANSLATION_INPUTS, "language": LANGUAGE_INPUTS}


class TrainingBatches(Batches, Protocol):
    """Batches of known size."""

    def __len__(self) -> int:
        """The number of sentences."""

    def warnings(self) -> list[str]:
        """What to tell the user of the data, or None."""


@dataclass(frozen=True, slots=True)
class Job:
    """Everything that a conversion starts from; all of it is checked."""

    source: Source
    profile: Profile
    settings: ConvertSettings
    teacher: Network
    blocks: tuple[Block, ...]
    plan: Plan
    batches: TrainingBatches
    data_sha256: str

    @property
    def preset(self) -> Preset:
        """The schedules."""
        return PRESETS_OF[self.source.kind][self.settings.preset]

    def phases(self, layers: Mapping[str, Bits] | None = None) -> tuple[Phase, ...]:
        """The widths that quantization falls through; each sees other batches than those before it.

        Args:
            layers: with widths of their own.
        """
        first, phases = self.preset.distil.steps, []
        bits = self.settings.bits
        path: list[tuple[Bits, Mapping[str, Bits]]] = [(step, {}) for step in falling(bits)]
        if layers:
            path = [(bits, step) for step in falling_layers(layers)]
        for i, (step, own) in enumerate(path, 1):
            narrowest = min([step, *own.values()])
            schedule = self.preset.quantize_at(narrowest)
            name = phase_name(narrowest, self.settings, last=i == len(path))
            phases.append(Phase(step, schedule, first, own, name))
            first += schedule.steps
        return tuple(phases)


def captured(source: Source, seq_len: int) -> tuple[Network, tuple[Block, ...]]:
    """The teacher as a network with blocks.

    Raises:
        ArchNetError: the model cannot be captured.
    """
    if source.kind == "image":
        network = capture_image(source.module, source.image_size).network
        blocks = find_blocks(network)
        return with_blocks(network, blocks), blocks
    padding = source.config.get("pad_token_id")
    found = capture(
        source.module,
        max_sequence=seq_len,
        pooling=source.pooling,
        normalize=source.normalize,
        padding_id=padding if isinstance(padding, int) else None,
        inputs=_INPUTS_OF.get(source.kind, INPUTS),
    )
    blocks = find_blocks(found.network)
    return with_blocks(found.network, blocks), blocks


def planned(
    source: Source,
    teacher: Network,
    profile: Profile,
    *,
    embedding: str,
    attention: str,
    norms: str,
    bits: Bits,
    head_width: HeadWidth | None,
    ffn_width: int | None,
) -> Plan:
    """What becomes of every site, for strict targets of convolutions in blocks, for chips of a decoder.

    Raises:
        ArchNetError: norms are to take another form, heads or feed-forward parts another width, and the
            model has none.
    """
    if norms != NORM_FORMS[0] and all(site.op not in NORMS for site in teacher.sites):
        raise ArchNetError(
            f"--norms {norms} is of LayerNorm and RMSNorm, and {source.name} has neither",
            fix="leave --norms out",
        )
    if head_width is not None:
        _check_heads(teacher, head_width, source.name)
    if ffn_width is not None:
        _check_ffn(teacher, ffn_width, source.name)
    plan = make_plan(
        teacher,
        profile,
        model=source.name,
        embedding=embedding,
        attention=attention,
        norms=norms,
        bits=bits,
        head_width=head_width,
        ffn_width=ffn_width,
    )
    if not takes_decoders(profile.name) and source.kind in ("translation", "language"):
        return replace(plan, decisions=(*plan.decisions, OF_CHIP[source.kind]))
    if source.kind != "image" or profile.convolution != "3x3" or plan.refusals:
        return plan
    return replace(plan, decisions=(*plan.decisions, *strict_refusals(teacher, source.image_size)))


def _check_heads(teacher: Network, width: HeadWidth, model: str) -> None:
    """Refuse a width that no head can have.

    Raises:
        ArchNetError: there is no attention, or all of it would stay as it is.
    """
    attentions = [site for site in teacher.sites if site.op is Op.ATTENTION]
    if not attentions:
        raise ArchNetError(
            f"--head-width {width} is of attention, and {model} has none", fix="leave --head-width out"
        )
    reasons = [narrowed_to(site, teacher, width)[1] for site in attentions]
    if None not in reasons:
        raise ArchNetError(
            f"--head-width {width} leaves the heads of {model} as they are: {reasons[0]}",
            fix="give fewer features, or leave --head-width out",
        )


def _check_ffn(teacher: Network, width: int, model: str) -> None:
    """Refuse a width that no feed-forward part can have.

    Raises:
        ArchNetError: there is none, or all would stay as they are.
    """
    parts = feed_forwards(teacher)
    if not parts:
        raise ArchNetError(
            f"--ffn-width {width} is of fully connected layers with nothing but activations between them, "
            f"and {model} has none",
            fix="leave --ffn-width out",
        )
    reasons = [part.narrowed_to(width) for part in parts]
    if None not in reasons:
        raise ArchNetError(
            f"--ffn-width {width} leaves the feed-forward parts of {model} as they are (the first: "
            f"{reasons[0]})",
            fix="give fewer features, or leave --ffn-width out",
        )


def prepare(
    source: Source,
    data: Sequence[str] | Path,
    profile: Profile,
    settings: ConvertSettings,
    tell: Callable[[], None] = lambda: None,
) -> Job:
    """Capture and plan; every refusal comes before anything is written or trained.

    Args:
        data: sentences, or the place of pictures.
        tell: called when capturing, planning and tokenizing begin.
    """
    profile.choose_bits(settings.bits)
    check_kind(source, data)
    tell()
    teacher, blocks = captured(source, settings.seq_len)
    tell()
    plan = planned(
        source,
        teacher,
        profile,
        embedding=settings.embedding,
        attention=settings.attention,
        norms=settings.norms,
        bits=settings.bits,
        head_width=settings.head_width,
        ffn_width=settings.ffn_width,
    )
    plan.require()
    tell()
    preset = PRESETS_OF[source.kind][settings.preset]
    if isinstance(data, Path):
        images, digest = image_batches(source, data, batch_size=preset.batch_size, seed=settings.seed)
        return Job(source, profile, settings, teacher, blocks, plan, images, digest)
    batches = TokenBatches(
        source.require_tokenizer(),
        data,
        max_length=settings.seq_len,
        batch_size=preset.batch_size,
        seed=settings.seed,
        buckets=BUCKETS,
        max_tokens=preset.max_tokens,
        of_decoder=source.kind == "language",
    )
    _check_ids(source, teacher, batches)
    digest = hashlib.sha256("\n".join(data).encode()).hexdigest()
    return Job(source, profile, settings, teacher, blocks, plan, batches, digest)


def _check_ids(source: Source, teacher: Network, batches: TokenBatches) -> None:
    """Refuse a tokenizer that knows words that the model's table does not have.

    Raises:
        ArchNetError: a token of the data, or padding, is beyond the table.
    """
    tables = [
        len(teacher.parameter(site, "table"))
        for site in teacher.sites
        if site.op is Op.EMBEDDING and site.inputs[0] in MASKS and "table" in site.parameters
    ]
    highest = max(batches.pad_id, *(int(row.max()) for row in batches.rows()))
    if tables and highest >= min(tables):
        raise ArchNetError(
            f"the tokenizer of {source.name} gives token {highest}, but the model has {min(tables)} words",
            fix="put the tokenizer that the model was trained with beside its weights",
        )


def stages_of(settings: ConvertSettings) -> tuple[str, ...]:
    """The stages that these settings need, in order."""
    names = [name for name in STAGES if name != "bits" or settings.max_drop is not None]
    widths = [phase_name(bits, settings, last=True) for bits in falling(settings.bits)]
    return tuple(names[:-2] + widths + names[-2:])


def phase_name(bits: Bits, settings: ConvertSettings, *, last: bool) -> str:
    """The name of the stage that trains at some widths, of which `bits` are the narrowest.

    What is chosen is not known before, so that the last stage has a name without widths then.
    """
    if settings.max_drop is None:
        return f"quantize-{bits}"
    return "quantize-auto" if last else f"quantize-auto-{bits}"


def with_settings(settings: ConvertSettings, source: Source, profile: Profile) -> ConvertSettings:
    """Settings with what the model and the target bound: the longest sequence."""
    longest = min(settings.seq_len, source.max_length, profile.max_sequence)
    return replace(settings, seq_len=longest)
