"""The tables that commands print on a terminal."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from archnet.atomic import human_bytes
from archnet.calibration.image_settings import SETTINGS_FILE
from archnet.cli.progress_state import human_seconds
from archnet.parts import is_image, is_translation, part_names
from archnet.results import PERPLEXITY, group_emulated
from archnet.targets.chips import CHIPS, in_words, needs_compiler

if TYPE_CHECKING:
    from archnet.original import OriginalSummary
    from archnet.plan import Plan
    from archnet.probing import ProbeReport
    from archnet.results import LatencyRow, TensorAgreement, ValidationResult
    from archnet.targets.chips import Chip, CompileSummary
    from archnet.targets.profile import Profile
    from archnet.targets.toolchain import Toolchain

_ACTIONS = {
    "keep": ("native", "green"),
    "replace": ("replaced", "cyan"),
    "fold": ("folded", "cyan"),
    "host": ("on the host", "yellow"),
    "refuse": ("REFUSED", "bold red"),
}


RANGE_NOTE = "95%: paired bootstrap over the samples; a range that holds 0 may be chance"

_OUTCOMES = {"native": "green", "host": "yellow", "fallback": "bold red", "refused": "bold red"}


def _table(*columns: str, right: Sequence[str] = ()) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return table


def targets_table(profiles: Sequence[Profile]) -> Table:
    """Every target: what it is, at which widths, with which forms of embedding and attention, as what.

    Any width of weights goes with any of activations.
    """
    table = _table("target", "bits", "embedding", "attention", "exports")
    for column in table.columns[2:]:
        column.max_width = 13
    for profile in profiles:
        widths = (("w", profile.weight_bits), ("a", profile.activation_bits))
        bits = "\n".join(f"{kind}{' '.join(map(str, numbers))}" for kind, numbers in widths)
        lists = (profile.embedding_forms, profile.attention_forms, profile.exports)
        name = Text.assemble((profile.name, "bold"), "\n", profile.title)
        table.add_row(name, bits, *map(" ".join, lists))
    return table


def toolchains_table(toolchains: Sequence[Toolchain]) -> Table:
    """One row a compiler: whether it is installed, its size (as measured where it is) and licence."""
    table = _table("compiler", "what it is", "installed", "size", "licence", right=["size"])
    for toolchain in toolchains:
        found = toolchain.installed()
        state = (
            "no" if found is None else (found[0] if found == toolchain.packages else f"{found[0]} (other)")
        )
        table.add_row(
            toolchain.name,
            toolchain.title,
            state,
            human_bytes(toolchain.measured() or toolchain.bytes),
            toolchain.licence,
        )
    return table


def chips_table(chips: Sequence[Chip]) -> Table:
    """One row a chip, those of one compiler together."""
    table = _table("compiler", "compile --target", "chip", "convert --target")
    before: str | None = ""
    for chip in sorted(chips, key=lambda chip: chip.toolchain or ""):
        name = chip.toolchain or "part of Arch-Net"
        table.add_row("" if name == before else name, Text(chip.name, "bold"), chip.title, chip.profile)
        before = name
    return table


def compiled_table(summary: CompileSummary) -> Table:
    """What a chip's compiler says: where operators run, and what it tells of cycles and memory."""
    table = Table.grid(padding=(0, 2))
    cycles = "" if summary.cycles is None else f"{summary.cycles:,}"
    time = "" if summary.milliseconds is None else f"{summary.milliseconds:.3f} ms"
    for name, value in (
        ("network", summary.part),
        ("compiler", ", ".join(filter(None, (summary.tool, summary.configuration)))),
        ("operators", f"{summary.native_operators} on the chip, {summary.fallback_operators} elsewhere"),
        ("elsewhere", in_words(summary.fallbacks)),
        ("in float", ", ".join(summary.float_operators)),
        ("cycles" if cycles else "time", f"{cycles} ({time})" if cycles and time else cycles or time),
        ("SRAM", _bytes(summary.sram_bytes)),
        ("other memory", _bytes(summary.other_bytes)),
        ("binary", _bytes(summary.binary_bytes)),
    ):
        if value:
            table.add_row(Text(name, "bold"), Text(value))
    return table


def original_table(answer: OriginalSummary) -> Group:
    """What a chip's compiler made of the float original, or why it made nothing of it."""
    length = answer.compiled.sequence if answer.compiled is not None else None
    tokens = f", {length} tokens" if length is not None else ""
    whose = f"the original's {answer.part}" if answer.part else "the original"
    title = Text(f"{whose}, unchanged, on {answer.target}{tokens}", "bold")
    if answer.compiled is None:
        return Group(title, Text.assemble(("refused  ", "bold red"), answer.refused))
    return Group(title, compiled_table(answer.compiled))


def probe_table(report: ProbeReport) -> Group:
    """What a chip's compiler did with each operator, cases that share an answer together, and the profile."""
    table = _table("operator", "bits", "", "tried", "message")
    groups: dict[tuple[str, str, str, str], list[str]] = {}
    for answer in report.operators:
        key = answer.op, answer.bits, answer.outcome, answer.message
        groups.setdefault(key, []).append(answer.case)
    for (op, bits, outcome, message), cases in groups.items():
        table.add_row(op, bits, Text(outcome, _OUTCOMES[outcome]), ", ".join(cases), Text(message, "dim"))
    if report.contradictions:
        said = [Text(f"answers contradict the profile {report.profile}:", "bold red")]
        said += [Text(f"  {line}") for line in report.contradictions]
    else:
        said = [Text(f"no answer contradicts the profile {report.profile}", "green")]
    if report.only_in_networks:
        said.append(Text("listed because it ran in whole networks, and not run alone:", "yellow"))
        said += [Text(f"  {line}") for line in report.only_in_networks]
    if report.unlisted:
        said.append(Text(f"run in every case, and not listed: {', '.join(report.unlisted)}"))
    return Group(table, Text(f"{report.chip}: {report.tool}", "bold"), *said)


def _bytes(size: int | None) -> str:
    return "" if size is None else human_bytes(size)


def plan_table(plan: Plan) -> Group:
    """Every operator of a model: how many, and what becomes of them; refusals last."""
    table = _table("operator", "count", "", "becomes", "reason", right=["count"])
    groups: Counter[tuple[str, str, str, str]] = Counter()
    for decision in plan.decisions:
        if decision.action != "refuse":
            groups[str(decision.op), decision.action, decision.becomes, decision.reason] += decision.count
    for (op, action, becomes, reason), count in sorted(groups.items()):
        word, style = _ACTIONS[action]
        table.add_row(op, str(count), Text(word, style), becomes, Text(reason, "dim"))
    title = f"{plan.model} on target {plan.target}" + (f", {plan.bits}" if plan.bits else "")
    parts: list[RenderableType] = [Text(title, "bold"), table]
    if plan.wider:
        parts += [Text(f"Wider than {plan.bits}:", "bold"), _wider_table(plan)]
    if plan.refusals:
        parts += [Text("Cannot be converted:", "bold red"), _refusal_table(plan)]
    return Group(*parts)


def _wider_table(plan: Plan) -> Table:
    """What has more bits than was asked for, and why."""
    table = _table("what", "bits", "count", "why", right=["bits", "count"])
    for kind in plan.wider:
        table.add_row(kind.what, str(kind.bits), str(kind.count), Text(kind.reason, "dim"))
    return table


def _refusal_table(plan: Plan) -> Table:
    table = _table("operator", "where", "why")
    for op, where, reason in plan.refusals_by_reason():
        table.add_row(Text(op, "red"), where, reason)
    return table


def validation_table(result: ValidationResult) -> Group:
    """The score of the float original and of every backend, and where their integers differ."""
    if result.task is None:
        title = f"agreement with the float original, {result.agreement_samples} examples"
    else:
        title = f"{result.task}: {result.metric}, {result.samples} samples of {result.data}"
    scored = ["score", "drop"] if result.task is not None else []
    ranged = any(row.drop_range is not None for row in result.scores)
    scored += ["95% of it"] if ranged else []
    beside = [PERPLEXITY] if PERPLEXITY in result.float_score.parts else []
    numbers = [*scored, *beside, "cosine", "SQNR dB"]
    table = _table("backend", *numbers, right=numbers)
    for row in (result.float_score, *result.scores) if scored else result.scores:
        task = [_number(row.score, 2), _number(row.drop, 2)] if scored else []
        task += [_range(row.drop_range)] if ranged else []
        task += [_number(row.parts.get(name), 2) for name in beside]
        table.add_row(row.backend, *task, _number(row.cosine, 5), _number(row.sqnr_db, 1))
    parts: list[RenderableType] = [Text(title, "bold"), table]
    if ranged:
        parts.append(Text(RANGE_NOTE, "dim"))
    if result.tensors:
        parts.append(_agreement_table(result.tensors))
    parts += [
        Text(f"{group.backend} computes {group.count} {group.op} in its own way: {group.reason}")
        for group in group_emulated(result.emulated)
    ]
    parts.append(_verdict(result))
    return Group(*parts)


def _agreement_table(tensors: Sequence[TensorAgreement]) -> Table:
    """One row a backend and scope: tensors compared, how many differ from the reference, by how much."""
    table = _table("integers of", "compared by", "tensors", "differ", "elements", "most LSB")
    for backend, scope in sorted({(t.backend, t.scope) for t in tensors}):
        rows = [t for t in tensors if (t.backend, t.scope) == (backend, scope)]
        elements, differing = sum(t.elements for t in rows), sum(t.differing for t in rows)
        table.add_row(
            backend,
            scope,
            str(len(rows)),
            str(sum(t.differing > 0 for t in rows)),
            f"{differing} of {elements}",
            str(max(t.max_lsb for t in rows)),
        )
    return table


def _verdict(result: ValidationResult) -> Text:
    if result.max_drop is None:
        return Text("no --max-drop given: nothing was demanded", "dim")
    worst = result.worst_drop
    seen = "no score was measured" if worst is None else f"the worst backend drops {worst:.2f} points"
    word, style = ("passed", "bold green") if result.passed else ("FAILED", "bold red")
    return Text(f"{word}: {seen}, {result.max_drop:g} allowed", style)


def latency_table(rows: Sequence[LatencyRow], *, images: bool = False) -> Table:
    """Float original against the integer network, median milliseconds of paired runs.

    Args:
        images: whether a row's `sequence` is the height of pictures.
    """
    size = "pixels high" if images else "tokens"
    numbers = ["batch", size, "threads", "float ms", "integer ms", "speed-up"]
    table = _table("backend", *numbers, right=numbers)
    for row in rows:
        table.add_row(
            row.backend,
            str(row.batch),
            str(row.sequence),
            str(row.threads),
            f"{row.float_ms:.2f}",
            f"{row.int8_ms:.2f}",
            f"{row.ratio:.2f}x" if row.ratio >= 0.095 else f"{row.ratio:.2g}x",
        )
    return table


def end_table(folder: Path, metrics: Mapping[str, Any], program: str = "archnet") -> Group:
    """What a conversion made: score if known, size, time, memory, where the report is, what to do next.

    Args:
        folder: the finished build.
        metrics: the content of its metrics.json.
        program: what to type for the command line.
    """
    table = Table.grid(padding=(0, 2))
    for name, value in _end_rows(folder, metrics):
        table.add_row(Text(name, "bold"), Text(value))
    place = shlex.quote(str(folder))
    # A program that was started by its path is in an environment whose Python is beside it.
    python = str(Path(program).with_name("python")) if "/" in program else "python"
    part = folder / part_names(folder)[-1]
    use, what = "encode", "hello"
    if part_names(folder) != ("",):
        use = "translate" if is_translation(folder) else "complete"
    if (folder / SETTINGS_FILE).is_file():
        use, what = "classify", "picture.jpg"
    call = f"{python} -c \"import archnet; print(archnet.load('{folder}').{use}(['{what}']))\""
    if is_image(folder) and use == "encode":
        call = f"{program} run {place} --inputs data.npz --outputs outputs.npz"
    following = [
        *_compile_commands(program, place, metrics),
        f"{program} validate {place}",
        f"{program} bench {place}",
        *(
            f"{program} export {place} --format {form}"
            for form, file in (("onnx", "onnx/model.onnx"), ("tvm", "tvm"))
            if not (part / file).exists()
        ),
        call,
    ]
    return Group(
        Text("\ndone", "bold green"),
        table,
        Text("\nnext:", "bold"),
        *(Text(f"  {line}", no_wrap=True, overflow="ignore") for line in following),
    )


def _compile_commands(program: str, place: str, metrics: Mapping[str, Any]) -> list[str]:
    """How to get from a network for a chip's profile to the first of its chips."""
    profile = str((metrics.get("settings") or {}).get("target"))
    chips = [chip.name for chip in CHIPS if chip.profile == profile]
    return [f"{program} compile {place} --target {chips[0]}"] if needs_compiler(profile) else []


def _end_rows(folder: Path, metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = [("folder", str(folder))]
    validation = metrics.get("validation")
    if validation and validation.get("task"):
        floats = validation["float_score"]["score"]
        scores = [f"{s['backend']} {_number(s['score'], 2)}" for s in validation["scores"]]
        rows.append(("score", f"float {_number(floats, 2)}; {', '.join(scores)} ({validation['metric']})"))
    elif validation:
        rows.append(("like the original", _agreement(validation)))
    sizes = metrics.get("sizes") or {}
    wanted = [(name, size) for name, size in sizes.items() if name.endswith((".onnx", ".so"))]
    if wanted:
        rows.append(("size", ", ".join(f"{name} {human_bytes(size)}" for name, size in wanted)))
    seconds = metrics.get("seconds") or {}
    if seconds:
        rows.append(("time", human_seconds(sum(seconds.values()))))
    if metrics.get("peak_memory_bytes"):
        rows.append(("peak memory", human_bytes(metrics["peak_memory_bytes"])))
    if (folder / "report.html").exists():
        rows.append(("report", str(folder / "report.html")))
    return rows


def _agreement(validation: Mapping[str, Any]) -> str:
    parts = [f"{score['backend']} {_number(score.get('cosine'), 4)}" for score in validation["scores"]]
    return f"cosine {', '.join(parts)} ({validation['agreement_samples']} examples)"


def _range(ends: Sequence[float] | None) -> str:
    return "-" if ends is None else f"{ends[0]:.2f} to {ends[1]:.2f}"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
