"""Results of stages that other conversions can start from: kept in a finished build, taken by `--reuse`.

A conversion to other widths, for another target, with another form of the embedding or of softmax begins with
the very translations and the very distilled network of an earlier one; one to weights of fewer than 4 bits
also with what was trained at 4, where all else is equal. They lie in DIR/stages, sealed as they were made, so
that what a conversion starts from is found to be whole before it is used.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from archnet import __version__, atomic
from archnet.checkpoint import read_seal
from archnet.config import SOFTMAX_FORMS, Bits, ConvertSettings
from archnet.errors import ArchNetError

if TYPE_CHECKING:
    from archnet.build import BuildDir

REUSABLE_STAGES = ("translate", "distil")
"""Stages whose results do not depend on bits, target and form of the embedding, in their order."""

WAYPOINT_BITS = 4
"""Weights of fewer bits are reached by way of this width; what was trained at it is kept too."""


def waypoint(settings: ConvertSettings) -> str | None:
    """The stage at WAYPOINT_BITS that a conversion has; None when it has none."""
    if settings.bits.weights > WAYPOINT_BITS or settings.max_drop is not None:
        return None
    return f"quantize-{Bits(WAYPOINT_BITS, settings.bits.activations)}"


def keep_stages(build: BuildDir) -> None:
    """Move the results of `REUSABLE_STAGES` and the waypoint from a build's checkpoints to its DIR/stages."""
    for stage in filter(None, (*REUSABLE_STAGES, waypoint(build.settings))):
        result, place = build.checkpoints_dir / stage / "result", build.stages_dir / stage
        if result.is_dir() and not place.exists():
            build.stages_dir.mkdir(exist_ok=True)
            result.rename(place)


def check_reusable(
    other: BuildDir,
    settings: ConvertSettings,
    *,
    source_sha256: str,
    data_sha256: str,
    stages: Sequence[str],
    attends: bool = True,
) -> None:
    """Refuse to take stages of a build that was made from something else, or that has them no more.

    Args:
        other: a finished build.
        settings: of the conversion that is to take them.
        source_sha256: of its model's weights.
        data_sha256: of its data.
        stages: of `REUSABLE_STAGES`, those that it has.
        attends: whether the model has attention; the target's form of it says nothing otherwise.

    Raises:
        ArchNetError: model, data, version, or a setting that these stages depend on differ; or one is
            missing or damaged.
    """
    theirs = other.settings
    same = not attends or {settings.attention, theirs.attention} <= set(SOFTMAX_FORMS)
    mine = replace(
        settings,
        target=theirs.target,
        target_sha256=theirs.target_sha256,
        bits=theirs.bits,
        max_drop=theirs.max_drop,
        embedding=theirs.embedding,
        attention=theirs.attention if same else settings.attention,
        method=replace(settings.method, quantizer=theirs.method.quantizer),
    )
    differences = theirs.differences(mine)
    for name, old, new in (
        ("model weights", other.source_sha256, source_sha256),
        ("data", other.data_sha256, data_sha256),
    ):
        if old != new:
            differences.append(f"{name}: sha256 {old[:12] or 'none'} -> {new[:12] or 'none'}")
    if other.version != __version__:
        differences.append(f"archnet version: {other.version} -> {__version__}")
    if differences:
        raise ArchNetError(
            f"--reuse {other.path}: its distillation is of something else: {'; '.join(differences)}",
            fix="name a build of the same model, data and settings but for bits, target, embedding, form of "
            "softmax and quantizer, or leave --reuse out",
        )
    for stage in stages:
        place = other.stages_dir / stage
        if read_seal(place) is None:
            raise ArchNetError(
                f"--reuse {other.path}: {place} is {'damaged' if place.exists() else 'gone'}",
                fix="leave --reuse out: the distillation is then done again",
            )


def shared_waypoint(other: BuildDir, settings: ConvertSettings) -> list[str]:
    """The waypoint of another build that a conversion can start from as well, in a list; [] when none fits.

    It fits where all settings but the width of the weights are equal, and its result is whole.

    Args:
        other: a build that `check_reusable` has accepted for these settings.
    """
    stage = waypoint(settings)
    if stage is None or stage != waypoint(other.settings):
        return []
    if other.settings.differences(replace(settings, bits=other.settings.bits)):
        return []
    return [stage] if read_seal(other.stages_dir / stage) is not None else []


def take_stages(build: BuildDir, other: BuildDir, stages: Sequence[str]) -> list[str]:
    """Copy the results of stages from another build, where this one has none yet.

    Returns:
        The stages that were copied.

    Raises:
        ArchNetError: the disk is full.
    """
    taken = []
    for stage in stages:
        place: Path = build.checkpoints_dir / stage / "result"
        if not place.exists():
            unfinished = place.with_name(f".{place.name}.{os.getpid()}{atomic.TEMPORARY_MARK}")
            with atomic.disk_errors(place):
                shutil.copytree(other.stages_dir / stage, unfinished)
                unfinished.rename(place)
            taken.append(stage)
    return taken
