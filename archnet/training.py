"""The stages of a conversion that learn: translations, distillation, the choice of widths, quantization."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from archnet.adaptation import Learned
from archnet.attention_statistics import attention_statistics
from archnet.bit_choice import BitChoice, choose_bits, load_choice, save_choice
from archnet.calibration.attention_balance import balance_attention
from archnet.calibration.equalization import EXPONENT, FEW_BITS_EXPONENT, GATED_EXPONENT, equalize
from archnet.calibration.pair_batches import PairBatches
from archnet.calibration.rotation import outputs_apart, rotate
from archnet.calibration.token_batches import TokenBatches
from archnet.code_embedding import with_code_embedding
from archnet.converters.base import Statistics
from archnet.converters.fold import Affine, Folded, fold
from archnet.converters.narrow_ffn import narrow_ffn
from archnet.converters.narrow_heads import narrow_heads
from archnet.converters.residual import adds_as_concats
from archnet.converters.softmax import with_softmax_form
from archnet.distill import Objective, objective_for, train, with_adaptation
from archnet.engine import Engine, StageContext
from archnet.executor import NetworkModule
from archnet.freeze import freeze
from archnet.freeze_translation import freeze_translation
from archnet.graph import QuantizedGraph
from archnet.job import Job
from archnet.moments import head_moments, hidden_moments
from archnet.network import Network
from archnet.operators import Op
from archnet.presets import CALIBRATION_BATCHES, PAIR_BUCKETS
from archnet.quantize import (
    Phase,
    Start,
    next_start,
    train_phase,
    trained_student,
)
from archnet.quantized_student import channel_statistics, with_share_levels
from archnet.rewrite import materialize, rewrite, token_statistics
from archnet.strict_maps import as_strict_maps
from archnet.translations import load_translations, save_translations, translate_sources

CHOICE_BATCHES = 2

BEAMS = 4
"""Of the teacher's search, where the student learns its words."""


def with_translations(job: Job, engine: Engine) -> Job:
    """The same job with sources and the teacher's translations of them as its batches."""
    sources, settings = job.batches, job.source.generation
    assert isinstance(sources, TokenBatches)
    assert settings is not None
    rows = engine.stage(
        "translate",
        lambda context: translate_sources(
            context, job.teacher, sources.rows(), settings,
            pad_id=sources.pad_id, max_length=job.settings.seq_len,
            beams=BEAMS if job.settings.method.sequences == "beams" else 1,
        ),
        save_translations,
        load_translations,
    )  # fmt: skip
    save_translations(rows, engine.build.path)
    pairs = PairBatches(
        sources.rows(),
        rows,
        pad_ids=(sources.pad_id, settings.pad),
        end=settings.ends[0] if job.settings.method.sequences == "beams" else None,
        max_length=job.settings.seq_len,
        batch_size=job.preset.batch_size,
        seed=job.settings.seed,
        buckets=PAIR_BUCKETS,
        max_tokens=job.preset.max_tokens // 2,
    )
    return replace(job, batches=pairs)


def chosen_widths(job: Job, folded: Folded, engine: Engine) -> BitChoice | None:
    """The widths of the layers, where they are to be chosen."""
    max_drop = job.settings.max_drop
    if max_drop is None:
        return None

    def compute(context: StageContext) -> BitChoice:
        return choose_bits(
            folded.network,
            [folded.values[site] for site in job.teacher.outputs.values()],
            calibration_of(job)[:CHOICE_BATCHES],
            job.profile,
            widest=job.settings.bits,
            embedding=job.settings.embedding,
            max_drop=max_drop,
            tell=lambda done, of: context.progress(done, of, unit="measurements"),
        )

    return engine.stage("bits", compute, save_choice, load_choice)


def calibration_of(job: Job) -> list[dict[str, Tensor]]:
    return job.batches.calibration(CALIBRATION_BATCHES)


def distil(job: Job, context: StageContext) -> Learned[Folded]:
    """LayerNorm, GELU and the like go, some parts get narrower; the result has only what the target has."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    teacher = NetworkModule(job.teacher).eval().requires_grad_(False)
    statistics: dict[str, Statistics] = {**token_statistics(teacher, calibration_of(job))}
    if job.settings.attention == "mixing":
        statistics |= attention_statistics(teacher, calibration_of(job), job.settings.seq_len)
    begin = narrowed(job, teacher, context)
    rewritten = rewrite(begin, statistics, attention=job.settings.attention, norms=job.settings.norms)
    student = rewritten.module()
    for site in rewritten.network.sites:
        if site.op is Op.EMBEDDING:
            student.parameter(site, "table").requires_grad_(False)
    objective = _objective(job, _itself(job.teacher), {})
    learns = bool(rewritten.modules) or begin is not job.teacher
    if learns:  # a network of convolutions and ReLU has nothing to replace
        train(
            context,
            student.to(device),
            teacher.to(device),
            objective,
            job.batches,
            job.preset.distil,
            on_step=rewritten.move,
        )
    folded = fold(materialize(rewritten.network, rewritten.modules, _on_cpu(student)))
    return Learned(folded, _adaptation(objective) if learns else {})


def narrowed(job: Job, teacher: NetworkModule, context: StageContext) -> Network:
    """The teacher's network with the narrower heads and feed-forward parts that were asked for."""
    begin, heads, ffn = job.teacher, job.settings.head_width, job.settings.ffn_width
    if heads is not None:
        attends = narrow_heads(begin, head_moments(teacher, calibration_of(job)), heads)
        begin = attends.network
        context.summary |= {
            "scores kept": f"{attends.scores:.1%}",
            "results kept": f"{attends.results:.1%}",
        }
    if ffn is not None:
        feeds = narrow_ffn(begin, hidden_moments(teacher, calibration_of(job), ffn), ffn)
        begin = feeds.network
        context.summary |= {"feed-forward kept": f"{feeds.kept:.1%}"}
    return begin


def equalized(job: Job, folded: Folded) -> Folded:
    """The same function with channels that few bits serve well: equalized, streams rotated."""
    folded = outputs_apart(folded)
    channels = channel_statistics(folded.network, calibration_of(job))
    bits = job.settings.bits
    few = bits.weights < 8 or job.settings.max_drop is not None
    equal = equalize(
        balance_attention(folded, channels),
        channels,
        outputs=job.teacher.outputs.values(),
        exponent=FEW_BITS_EXPONENT if few else EXPONENT,
        gated_exponent=GATED_EXPONENT if bits.activations < 8 else None,
    )
    return rotate(equal)


def _itself(network: Network) -> Mapping[str, Affine]:
    """Before anything folds, every site stands for itself."""
    return {site.name: Affine(site.name) for site in network.sites}


def _on_cpu(student: NetworkModule) -> dict[str, Tensor]:
    student.to("cpu")
    return {key: value.clone() for key, value in student.tensors().items()}


def _objective(job: Job, values: Mapping[str, Affine], adaptation: Mapping[str, Tensor]) -> Objective:
    """What the student is compared on, given what the teacher's sites are of its own.

    Args:
        adaptation: tensors that the stage before has trained.
    """
    outputs = [block.output for block in job.blocks if not block.name.endswith("tail")]
    method = job.settings.method
    teacher, batch = NetworkModule(job.teacher).eval(), job.batches.calibration(1)[0]
    objective = objective_for(job.teacher, outputs, values, method)
    return with_adaptation(objective, teacher, batch, method.adaptation, adaptation)


def _adaptation(objective: Objective) -> dict[str, Tensor]:
    """What has been trained of the adaptation."""
    if objective.adaptation is None:
        return {}
    return {name: tensor.clone() for name, tensor in objective.adaptation.cpu().state_dict().items()}


def quantize(job: Job, phase: Phase, start: Learned[Start], context: StageContext) -> Learned[Start]:
    """What a phase trains, still in float, with the steps of its quantizers."""
    objective = _objective(job, start.result.folded.values, start.adaptation)
    student = train_phase(
        context,
        start.result,
        phase,
        teacher=job.teacher,
        objective=objective,
        batches=job.batches,
        calibration=calibration_of(job),
        quantizer=job.settings.method.quantizer,
    )
    return Learned(next_start(start.result, student, calibration_of(job)), _adaptation(objective))


def as_asked(job: Job, folded: Folded, seed: int) -> Folded:
    """The network with the embedding, the sums and the softmax that were asked for."""
    network = folded.network
    if job.settings.embedding == "code":
        network = with_code_embedding(network, seed=seed)
    if not job.profile.supports(Op.ADD):
        network = adds_as_concats(network)
    network = with_softmax_form(network, job.settings.attention)
    network = with_share_levels(network, job.profile.softmax_levels)
    return replace(folded, network=network)


def integers(job: Job, phase: Phase, trained: Start) -> Mapping[str, QuantizedGraph]:
    """The integer networks of what the last phase has trained."""
    student = trained_student(trained, phase)
    outputs = {name: trained.folded.values[site] for name, site in job.teacher.outputs.items()}
    name, longest, embedding = job.source.name, job.settings.seq_len, job.settings.embedding
    if job.source.generation is not None:
        return freeze_translation(student, outputs, name=name, max_sequence=longest, embedding=embedding)
    graph = freeze(
        student,
        outputs,
        name=name,
        max_sequence=longest,
        embedding=embedding,
        pool_on_host=not job.profile.supports(Op.MEAN_POOL),
        size=job.source.image_size if job.source.kind == "image" else None,
    )
    return {"": as_strict_maps(graph) if job.profile.convolution == "3x3" else graph}
