"""The rows of the comparison: made, scored, timed, each in processes of its own, and kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from archnet.build import BuildDir
from archnet.errors import ArchNetError
from archnet.results import read_metrics
from archnet.storage import load_graph
from side_by_side.environments import EnvironmentFailed, interpreter, versions
from side_by_side.processes import Child, ChildFailed
from side_by_side.recipe import Recipe
from side_by_side.recipes import find_recipe
from side_by_side.recipes.arch_net import BACKEND_FILES
from side_by_side.store import RowFolder
from side_by_side.subject import Subject


@dataclass(frozen=True)
class Row:
    """One network, or why there is none.

    Attributes:
        tool, bits: whose, and of how many bits.
        reason: why there is no score; None when there is one.
        cannot: the reason is the tool's own word that it does not do this, not a failure.
        score, sets: the mean over the sets, and each set's.
        size: bytes of the files that a user would ship.
        seconds, cpu_seconds, peak_bytes: of making it; ours keep no processor time.
        ms: of one pass; None when not measured, or when it only simulates integers.
        ours: made by Arch-Net.
    """

    tool: str
    bits: str
    reason: str | None = None
    cannot: bool = False
    score: float | None = None
    sets: Mapping[str, float] = field(default_factory=dict)
    size: int | None = None
    seconds: float | None = None
    cpu_seconds: float | None = None
    peak_bytes: int | None = None
    ms: float | None = None
    ours: bool = False
    simulated: bool = False
    scope: str = ""
    settings: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Limits:
    """How long a row may take, in seconds, on how many threads; whether it is timed, and failures retried."""

    make: float
    score: float
    threads: int
    timed: bool
    retry: bool


def peer_row(recipe: Recipe, bits: str, subject: Subject, cache: Path, limits: Limits) -> Row:
    """The row of a tool at a width: from the cache as far as it is there."""
    try:
        python = interpreter(recipe.environment, cache)
        found = versions(python, recipe.packages)
    except EnvironmentFailed as error:
        return Row(recipe.name, bits, reason=str(error))
    missing = [package for package in recipe.packages if package not in found]
    if missing:
        return Row(recipe.name, bits, reason=f"not installed: {', '.join(missing)}")
    folder = RowFolder.of(
        cache, recipe.name, bits, network=subject.folder.sha256, settings=recipe.settings, versions=found
    )
    made = folder.read("made")
    if made is None or _try_again(made, limits):
        made = _make(recipe, bits, subject, folder, python, limits)
    row = _described(recipe, bits, made, found)
    if row.reason is not None:
        return row
    return _measured(row, recipe.name, folder, python, subject, limits)


def our_row(build_dir: Path, backend: str, subject: Subject, cache: Path, limits: Limits) -> Row:
    """The row of a finished build folder.

    Raises:
        ArchNetError: it is no finished build, or of another model.
    """
    build = BuildDir.open_finished(build_dir)
    if build.source_sha256 != subject.source_sha256:
        raise ArchNetError(f"{build.path} was converted from another model", fix="give builds of --model")
    name = f"archnet:{backend}:{build.path}"
    recipe = find_recipe(name)
    metrics = read_metrics(build.metrics)
    stages, peak = metrics.get("seconds"), metrics.get("peak_memory_bytes")
    files = [f for f in sorted(build.path.glob(BACKEND_FILES[backend])) if f.name != "float.onnx"]
    row = Row(
        tool=recipe.name,
        bits=str(build.settings.bits),
        size=sum(file.stat().st_size for file in files),
        seconds=sum(stages.values()) if isinstance(stages, dict) else None,
        peak_bytes=peak if isinstance(peak, int) else None,
        ours=True,
        scope=recipe.scope,
        settings=recipe.settings,
    )
    stamps = [(str(f.relative_to(build.path)), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    folder = RowFolder.of(cache, recipe.name, row.bits, network=subject.folder.sha256, files=stamps)
    return _measured(row, name, folder, interpreter(None, cache), subject, limits, build)


def _try_again(made: Mapping[str, Any], limits: Limits) -> bool:
    if "failed" not in made:
        return False
    return limits.retry or (bool(made.get("late")) and limits.make > made["limit"])


def _make(
    recipe: Recipe, bits: str, subject: Subject, folder: RowFolder, python: Path, limits: Limits
) -> dict[str, Any]:
    folder.begin()
    arguments = [
        "make",
        recipe.name,
        bits,
        str(subject.folder.path),
        str(folder.network),
        str(limits.threads),
    ]
    with Child(python, arguments, threads=limits.threads, seconds=limits.make, log=folder.log) as child:
        try:
            made, _ = child.answer()
        except ChildFailed as error:
            made = {"failed": str(error), "late": "time limit" in str(error), "limit": limits.make}
    folder.write("made", made)
    return made


def _described(recipe: Recipe, bits: str, made: Mapping[str, Any], found: Mapping[str, str]) -> Row:
    reason = made.get("cannot") or made.get("failed")
    return Row(
        tool=recipe.name,
        bits=bits,
        reason=reason,
        cannot="cannot" in made,
        size=made.get("bytes"),
        seconds=made.get("seconds"),
        cpu_seconds=made.get("cpu_seconds"),
        peak_bytes=made.get("peak_bytes"),
        simulated=bits in recipe.simulated,
        scope=recipe.scope,
        settings=recipe.settings,
        versions=found,
    )


def _measured(
    row: Row,
    name: str,
    folder: RowFolder,
    python: Path,
    subject: Subject,
    limits: Limits,
    ours: BuildDir | None = None,
) -> Row:
    """The row with its score, and its time where that was asked for; `name` is the recipe's."""
    key = f"score-{subject.data_key}"
    score, latency = folder.read(key), folder.read("latency")
    if score is not None and "failed" in score and limits.retry:
        score = None
    untimed = limits.timed and bool(subject.timed) and not row.simulated and latency is None
    if score is None or (untimed and "failed" not in score):
        folder.path.mkdir(parents=True, exist_ok=True)
        arguments = [
            "serve",
            name,
            row.bits,
            str(subject.folder.path),
            str(folder.network),
            str(limits.threads),
        ]
        with Child(python, arguments, threads=limits.threads, seconds=limits.score, log=folder.log) as child:
            try:
                child.expect_ready()
                if score is None:
                    score = _scored(child, subject, ours)
                    folder.write(key, score)
                if untimed and not _too_short(ours, subject):
                    latency = _timed(child, subject)
                    folder.write("latency", latency)
            except (ChildFailed, ArchNetError) as error:
                score = {"failed": str(error)}
                folder.write(key, score)
    if "failed" in score:
        return replace(row, reason=str(score["failed"]))
    sets = {name: float(entry["score"]) for name, entry in score["sets"].items()}
    return replace(row, score=float(score["score"]), sets=sets, ms=latency["ms"] if latency else None)


def _scored(child: Child, subject: Subject, ours: BuildDir | None) -> dict[str, Any]:
    runs = {graph.name: child.run_of(graph.name) for graph in subject.folder.graphs}
    score = subject.score(runs) if ours is None else subject.score_ours(ours, runs)
    return score.to_json()


def _timed(child: Child, subject: Subject) -> dict[str, Any]:
    """Milliseconds of one pass of every graph together."""
    passes = [child.milliseconds(graph, inputs) for graph, inputs in subject.timed.items()]
    return {"ms": sum(passes), "shape": subject.shape}


def _too_short(ours: BuildDir | None, subject: Subject) -> bool:
    """Whether a build of ours takes fewer tokens than are timed."""
    if ours is None or "input_ids" not in subject.timed.get("model", {}):
        return False
    return bool(load_graph(ours.graph_dir).max_sequence < subject.timed["model"]["input_ids"].shape[1])
