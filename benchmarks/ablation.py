"""What each part of the paper's method is worth: one model converted in several ways, all else being equal.

Every variant is a conversion as `archnet convert` makes it, from the same model, unlabelled data and seed.
The labelled data only measures: the float original, and each integer network in ONNX Runtime. Variants that
distil alike share the distillation. What is finished is kept in the cache folder: the same command goes on
where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from accuracy import machine
from rich.console import Console
from rich.table import Table
from rich.text import Text
from side_by_side.program import run_program
from side_by_side.recipes import RECIPES
from side_by_side.rows import Limits, Row, our_row, peer_row
from side_by_side.store import key_of
from side_by_side.subject import Question, Subject
from side_by_side.tasks import SUBJECTS

from archnet.api import convert
from archnet.build import BuildDir
from archnet.cli.display import choose_display
from archnet.config import PRESETS
from archnet.errors import ArchNetError, nearest
from archnet.events import read_log
from archnet.method import Method
from archnet.presets import PRESETS_OF, Preset
from archnet.quickstart import model_folder
from archnet.targets import load_profile

EXAMPLES = """examples:
  python benchmarks/ablation.py --data sentences.txt --task-data SICK_trial.txt --bits w4a4 --steps 300
  python benchmarks/ablation.py --task images --model ./vit --data train.zip --task-data test.zip --bits w2a4
  python benchmarks/ablation.py --task translation --model ./ende --data train.en --task-data test.en \\
      --references test.de --seq-len 64 --bits w4a4 --variants baseline blocks paper --json ablation.json
"""

LAST_SHARE = 10
"""The final loss is the mean of the last tenth of the steps: single batches differ."""


@dataclass(frozen=True)
class Variant:
    """One way to learn: its name on the command line, in words, and what it is."""

    name: str
    title: str
    method: Method


VARIANTS = (
    Variant("baseline", "LSQ, all blocks at once", Method()),
    Variant("dorefa", "DoReFa", Method(quantizer="dorefa")),
    Variant("blocks", "progressive: one block after the other", Method(periods="blocks")),
    Variant("decay", "losses of earlier blocks times 0.8^k", Method(block_decay=0.8)),
    Variant("residual", "Residual Feature Adaptation", Method(adaptation="residual")),
    Variant("attention", "the same with Teacher Attention", Method(adaptation="teacher-attention")),
    Variant("greedy", "translation: no words, greedy sequences", Method(sequences="greedy")),
    Variant("paper", "all of the paper's", Method("dorefa", "blocks", 0.8, "teacher-attention")),
)


@dataclass(frozen=True)
class Result:
    """What a variant came to, or why there is nothing.

    Attributes:
        loss: at the end of the last stage, as that variant counts it.
        score, sets: through the integer network, in ONNX Runtime.
        drop: points below the float original.
        seconds: of all stages, a shared distillation included.
        seen: tokens or pictures that all stages have trained on together, repetitions counted.
    """

    variant: str
    title: str
    method: Mapping[str, str | float]
    reason: str | None = None
    loss: float | None = None
    score: float | None = None
    drop: float | None = None
    seconds: float | None = None
    seen: int | None = None
    unit: str = ""
    sets: Mapping[str, float] = field(default_factory=dict)


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").strip(),
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--task", default="sts", choices=sorted(SUBJECTS), help="what is scored (default: sts)")
    add("--model", type=Path, help="the float model (default: all-MiniLM-L6-v2 of its package)")
    add("--data", type=Path, required=True, help="unlabelled data, all that is learned from")
    add("--task-data", type=Path, nargs="+", required=True, help="labelled files that only measure")
    add("--references", type=Path, help="the references of a translation")
    add("--bits", default="w4a4", help="widths of weights and activations (default: w4a4)")
    add("--target", default="onnxruntime", help="a target's name or profile (default: onnxruntime)")
    add("--preset", default="balanced", choices=PRESETS, help="how long to train (default: balanced)")
    add("--steps", type=int, help="so many steps of distillation, and as much less quantization: a short run")
    add("--seq-len", type=int, default=128, help="longest sequence in tokens (default: 128)")
    add("--seed", type=int, default=0, help="of all random numbers (default: 0)")
    names = [variant.name for variant in VARIANTS]
    add("--variants", nargs="+", default=names, help=f"some of {', '.join(names)} (default: all)")
    add("--limit", type=int, help="so many examples of each labelled set: a try, not a result")
    add("--cache", type=Path, default=Path("ablation-cache"), help="where builds and scores are kept")
    add("--threads", type=int, default=2, help="of the networks that are scored (default: 2)")
    add("--score-seconds", type=float, default=1800, help="scoring is stopped after so long (default: 1800)")
    add("--json", type=Path, help="write everything to this file")
    found = parser.parse_args(arguments)
    if found.steps is not None and found.steps < 1:
        parser.error("--steps must be 1 or more")
    if found.limit is not None and found.limit < 3:
        parser.error("--limit must be 3 or more")
    return found


def chosen(names: Sequence[str]) -> list[Variant]:
    """The variants of these names, in the order of `VARIANTS`.

    Raises:
        ArchNetError: there is none of a name.
    """
    for name in names:
        if not any(name == variant.name for variant in VARIANTS):
            known = nearest(name, [variant.name for variant in VARIANTS])
            raise ArchNetError(f"there is no variant {name!r}", fix=f"choose another; {known}")
    return [variant for variant in VARIANTS if variant.name in names]


def shortened(preset: Preset, steps: int) -> Preset:
    """A preset of so many steps of distillation, and of quantization in proportion."""
    quantize = max(1, round(preset.quantize.steps * steps / preset.distil.steps))
    return replace(
        preset,
        distil=replace(preset.distil, steps=steps),
        quantize=replace(preset.quantize, steps=quantize),
    )


@contextmanager
def preset_of(name: str, steps: int | None) -> Iterator[None]:
    """While this is open the preset has so many steps."""
    tables = list(PRESETS_OF.values())
    before = [table[name] for table in tables]
    for table, preset in zip(tables, before, strict=True):
        table[name] = preset if steps is None else shortened(preset, steps)
    try:
        yield
    finally:
        for table, preset in zip(tables, before, strict=True):
            table[name] = preset


def place_of(arguments: argparse.Namespace, subject: Subject, method: Method) -> Path:
    """The build folder of a variant, named by all that decides it."""
    key = key_of(
        source=subject.source_sha256,
        data=str(arguments.data.resolve()),
        bits=arguments.bits,
        target=arguments.target,
        presets=[asdict(table[arguments.preset]) for table in PRESETS_OF.values()],
        steps=arguments.steps,
        seq_len=arguments.seq_len,
        seed=arguments.seed,
        method=method.to_json(),
    )
    return Path(arguments.cache) / "builds" / key


def is_finished(place: Path) -> bool:
    """Whether an earlier run has made this build."""
    return (place / "manifest.json").is_file()


def made(
    arguments: argparse.Namespace, variant: Variant, place: Path, reuse: Path | None, console: Console
) -> None:
    """Convert, or go on with it.

    Raises:
        ArchNetError: the model, the data or a setting cannot be used.
    """
    method = variant.method
    with (
        preset_of(arguments.preset, arguments.steps),
        choose_display(console, f"{variant.name}: {variant.title}, in {place}") as events,
    ):
        convert(
            arguments.model,
            arguments.data,
            target=arguments.target,
            bits=arguments.bits,
            out=place,
            preset=arguments.preset,
            seq_len=arguments.seq_len,
            seed=arguments.seed,
            reuse=reuse,
            quantizer=method.quantizer,
            periods=method.periods,
            block_decay=method.block_decay,
            adaptation=method.adaptation,
            sequences=method.sequences,
            events=events,
        )


def results_of(arguments: argparse.Namespace, subject: Subject, console: Console) -> Iterator[Result]:
    """Every variant in turn, behind the float original; each is kept before the next begins."""
    seconds = arguments.score_seconds
    limits = Limits(seconds, seconds, arguments.threads, timed=False, retry=False)
    original = peer_row(RECIPES[0], RECIPES[0].widths[0], subject, arguments.cache, limits)
    yield Result("float", "the original", {}, original.reason, score=original.score, sets=original.sets)
    distilled: dict[Method, Path] = {}
    for variant in chosen(arguments.variants):
        place = place_of(arguments, subject, variant.method)
        alike = replace(variant.method, quantizer=Method().quantizer)
        try:
            if not is_finished(place):
                made(arguments, variant, place, distilled.get(alike), console)
            distilled.setdefault(alike, place)
            row = our_row(place, "onnxruntime", subject, arguments.cache, limits)
            yield measured(variant, place, row, original.score)
        except ArchNetError as error:
            yield Result(variant.name, variant.title, variant.method.to_json(), error.problem)


def measured(variant: Variant, place: Path, row: Row, original: float | None) -> Result:
    """A variant's result, from its score and the log of its build."""
    records = list(read_log(BuildDir.open_finished(place).log))
    losses = [
        float(str(r["loss"])) for r in records if str(r.get("stage")).startswith("quantize") and r.get("loss")
    ]
    last = losses[-max(1, len(losses) // LAST_SHARE) :]
    seen, unit = trained_on(records)
    return Result(
        variant.name,
        variant.title,
        variant.method.to_json(),
        row.reason,
        loss=sum(last) / len(last) if last else None,
        score=row.score,
        drop=None if row.score is None or original is None else original - row.score,
        seconds=row.seconds,
        seen=seen,
        unit=unit,
        sets=row.sets,
    )


def trained_on(records: Sequence[Mapping[str, object]]) -> tuple[int | None, str]:
    """How much the stages of a log have trained on, and what that counts."""
    ends = {r["stage"]: r["summary"] for r in records if r.get("event") == "stage_finished"}
    for unit in ("tokens", "pictures"):
        found = [s[unit] for s in ends.values() if isinstance(s, dict) and isinstance(s.get(unit), int)]
        if found:
            return sum(found), unit
    return None, ""


def table_of(results: Sequence[Result], title: str) -> Table:
    """One line a variant."""
    unit = next((r.unit for r in results if r.unit), "seen")
    table = Table(title=title, title_justify="left")
    table.add_column("variant", no_wrap=True)
    table.add_column("", overflow="fold")
    for name in ("final loss", "score", "drop", "seconds", f"{unit} seen"):
        table.add_column(name, justify="right", no_wrap=True)
    for r in results:
        score = "failed" if r.reason else _figure(r.score, "{:.2f}")
        cells = [_figure(r.loss, "{:.4f}"), score, _figure(r.drop, "{:+.2f}")]
        cells += [_figure(r.seconds, "{:.0f}"), _figure(r.seen, "{:,}")]
        table.add_row(*(Text(cell) for cell in (r.variant, r.title, *cells)))
    return table


def _figure(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def compare(arguments: argparse.Namespace, console: Console) -> None:
    arguments.cache.mkdir(parents=True, exist_ok=True)
    arguments.cache = arguments.cache.resolve()
    if arguments.model is None:
        if arguments.task != "sts":
            raise ArchNetError(f"the task {arguments.task} has no model of its own", fix="give --model")
        arguments.model = model_folder()
    chosen(arguments.variants)
    load_profile(arguments.target).ask_bits(arguments.bits, None)
    subject = SUBJECTS[arguments.task](
        Question(
            arguments.model,
            arguments.data,
            tuple(arguments.task_data),
            arguments.references,
            arguments.cache,
            arguments.limit,
        )
    )
    settings = {
        "bits": arguments.bits,
        "target": arguments.target,
        "preset": arguments.preset,
        "steps": arguments.steps,
        "seq_len": arguments.seq_len,
        "seed": arguments.seed,
        "limit": arguments.limit,
    }
    head: dict[str, Any] = {"model": subject.folder.name, "metric": subject.metric, "data": subject.data}
    results: list[Result] = []
    for result in results_of(arguments, subject, console):
        results.append(result)
        figure = result.reason or _figure(result.score, "{:.2f}")
        console.print(f"{result.variant}: {figure}", style="dim", highlight=False, markup=False)
        if arguments.json:
            rows = [asdict(r) for r in results]
            record = {**head, "settings": settings, "machine": machine(), "rows": rows}
            arguments.json.write_text(json.dumps(record, indent=1) + "\n")
    title = f"{subject.folder.name} at {arguments.bits}, {subject.metric}: {subject.data}"
    if arguments.limit or arguments.steps:
        title += " (a short run)"
    Console(width=max(Console().width, 110)).print(table_of(results, title))


def main(command: Sequence[str] | None = None) -> int:
    arguments = parse_arguments(command)
    return run_program(lambda console: compare(arguments, console))


if __name__ == "__main__":
    sys.exit(main())
