"""A conversion from the model to the finished build folder, stage by stage."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from archnet.adaptation import Learned, load_learned, save_learned
from archnet.artifacts import (
    export_artifacts,
    manifest_of,
    missing_tflite,
    missing_tvm,
    read_done,
    record,
    write_done,
)
from archnet.build import BuildDir, estimate_build_bytes
from archnet.engine import Engine
from archnet.events import EventSink, ignore
from archnet.job import Job
from archnet.network_storage import load_folded, save_folded
from archnet.operators import Op
from archnet.parts import load_parts, save_parts
from archnet.preparation import PREPARE
from archnet.quantize import (
    first_start,
    load_start,
    save_start,
)
from archnet.records import curves_of
from archnet.results import read_metrics
from archnet.reuse import REUSABLE_STAGES, check_reusable, shared_waypoint, take_stages
from archnet.training import (
    as_asked,
    calibration_of,
    chosen_widths,
    distil,
    equalized,
    integers,
    quantize,
    with_translations,
)

QUANTIZED_STEP = 1.7
"""How long a step with quantizers takes against one without, about; for the time that is shown as left."""

TRANSLATE_STEPS = 600.0
"""How long the teacher's translation of the data takes in distillation steps, about."""

CHOICE_STEPS = 30.0
"""How long the choice of widths takes in distillation steps, about."""

FREEZE_STEPS = 5.0
"""How long the integers take in distillation steps, about."""

EXPORT_STEPS = 20.0
"""How long the export takes in distillation steps, about."""


def run(
    job: Job,
    out: Path,
    *,
    command: Sequence[str] = (),
    reuse: Path | None = None,
    events: EventSink = ignore,
) -> Path:
    """Convert into a build folder; goes on where an earlier run of the same job was stopped.

    Args:
        job: what to convert.
        out: the build folder.
        command: for the manifest.
        reuse: a finished build of the same model, data and settings but for widths and target; its
            distillation is taken instead of done again.
        events: told of progress.

    Raises:
        ArchNetError: the folder belongs to another job, is in use, or the disk is full; `reuse` does not fit.
    """
    shared = [s for s in REUSABLE_STAGES if s != "translate" or job.source.kind == "translation"]
    other = BuildDir.open_finished(reuse) if reuse is not None else None
    if other is not None:
        check_reusable(
            other,
            job.settings,
            source_sha256=job.source.sha256,
            data_sha256=job.data_sha256,
            stages=shared,
            attends=any(site.op is Op.ATTENTION for site in job.teacher.sites),
        )
        shared += shared_waypoint(other, job.settings)
    parameters = sum(t.numel() for t in job.teacher.tensors.values())
    with BuildDir.open_for_convert(
        out,
        job.settings,
        job.source.sha256,
        data_sha256=job.data_sha256,
        needed_bytes=estimate_build_bytes(parameters),
    ) as build:
        if build.finished:
            return out
        taken = take_stages(build, other, shared) if other is not None else []
        phases = job.phases()
        with Engine(build, events, _expected(job), earlier=(PREPARE,)) as engine:
            if taken:
                engine.note(f"taken from {reuse}: {', '.join(taken)}")
            missing = (missing_tvm(job.profile), missing_tflite(job.profile))
            for note in (*job.source.notes, *job.batches.warnings(), *missing):
                if note:
                    engine.note(note)
            build.write_json(build.plan, job.plan.to_json())
            if job.source.kind == "translation":
                job = with_translations(job, engine)
            distilled = engine.stage(
                "distil",
                lambda context: distil(job, context),
                save_learned(save_folded),
                load_learned(load_folded),
            )
            folded = equalized(job, distilled.result)
            shaped = as_asked(job, folded, job.settings.seed)
            choice = chosen_widths(job, shaped, engine)
            if choice is not None:
                engine.note(choice.sentence())
                build.write_json(build.plan, {**job.plan.to_json(), "bits": choice.to_json()})
                phases = job.phases(choice.narrowed)
            start = Learned(first_start(shaped, calibration_of(job)), distilled.adaptation)
            for phase in phases:
                start = engine.stage(
                    phase.stage,
                    partial(quantize, job, phase, start),
                    save_learned(save_start),
                    load_learned(load_start),
                )
            trained = start.result
            parts = engine.stage(
                "freeze", lambda context: integers(job, phases[-1], trained), save_parts, load_parts
            )
            engine.stage(
                "export", lambda context: export_artifacts(job, build, parts, context), write_done, read_done
            )
        reused = [] if other is None else curves_of(read_metrics(other.metrics), shared)
        record(job, build, folded, parts, reused)
        build.finish(manifest_of(job, parts, command, choice))
    from archnet.report import write_report

    write_report(out)
    return out


def _expected(job: Job) -> dict[str, float]:
    """The stages that follow the preparation, with the time that each takes in distillation steps, about."""
    expected = {
        "translate": TRANSLATE_STEPS,
        "distil": float(job.preset.distil.steps),
        "bits": CHOICE_STEPS,
        **{phase.stage: QUANTIZED_STEP * phase.schedule.steps for phase in job.phases()},
        "freeze": FREEZE_STEPS,
        "export": EXPORT_STEPS,
    }
    unused = {"translate"} if job.source.kind != "translation" else set()
    unused |= {"bits"} if job.settings.max_drop is None else set()
    return {name: steps for name, steps in expected.items() if name not in unused}
