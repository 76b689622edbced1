"""What a chip's compiler does with each operator alone: runs it, leaves it to another processor, or refuses.

A profile says what a chip runs because its own compiler said so, given a network of that one operator
(`archnet.single_operators`). This asks again, by the chip's route, as `archnet compile` goes it.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from archnet import __version__
from archnet.build import BuildDir
from archnet.config import Bits, ConvertSettings
from archnet.errors import ArchNetError, nearest
from archnet.export.host_split import NothingLeft
from archnet.operators import Op
from archnet.routes import CompileJob, compile_by_route
from archnet.single_network import SEQUENCE
from archnet.single_operators import OPERATORS, WEIGHTED, random_inputs, single_operator
from archnet.storage import save_graph
from archnet.targets.chips import Chip, find_chip
from archnet.targets.profile import Profile, load_profile
from archnet.targets.toolchain import find_toolchain

PROBE_SECONDS = 300.0

TOKENS = SEQUENCE - 4
"""Of a sentence: fewer than the greatest, so that padding and cropping have something to do."""

NETWORK = "network"
"""Name of the probe of operators that were seen in whole networks only, such as beside another one."""

SAMPLES = 4
"""Random inputs that a compiler gets to calibrate with, where it does that."""

Outcome = Literal["native", "fallback", "host", "refused"]
"""On the chip; on another processor; done before or after the chip's program; no form, or an error."""


@dataclass(frozen=True, slots=True)
class OperatorProbe:
    """One question and its answer.

    Attributes:
        op: name of the operator.
        case: what the network of it is, a key of `archnet.single_operators.OPERATORS`.
        bits: widths as a profile names them, "w8a8" or "a8".
        outcome: see `Outcome`.
        message: what runs elsewhere, or why it is refused; the tool's own words where there are any.
    """

    op: str
    case: str
    bits: str
    outcome: Outcome
    message: str = ""


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """The answers for a chip, and whose they are.

    Attributes:
        chip: its name.
        tool: the compiler and its version, as it said itself.
        archnet: version.
        profile: that `archnet convert --target` takes for the chip.
        operators: the answers, in the order of the questions.
        contradictions: where the profile lists an operator at a width, and the chip did not run it.
        only_in_networks: the same where the profile's probe is "network": the operator was seen on the chip
            beside others, and is not run alone.
        unlisted: what the chip ran and the profile does not list, as "Add a4".
    """

    chip: str
    tool: str
    archnet: str
    profile: str
    operators: tuple[OperatorProbe, ...]
    contradictions: tuple[str, ...]
    only_in_networks: tuple[str, ...]
    unlisted: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, slots=True)
class _Question:
    op: Op
    case: str
    bits: Bits

    @property
    def width(self) -> str:
        return str(self.bits) if self.op in WEIGHTED else f"a{self.bits.activations}"


def probe(
    target: str,
    operators: Sequence[str] = (),
    *,
    seconds: float = PROBE_SECONDS,
    tell: Callable[[OperatorProbe, int, int], None] = lambda answer, done, of: None,
) -> ProbeReport:
    """Ask a chip's compiler about operators, at every width of the chip's profile.

    Args:
        target: a name of `archnet.targets.chips.CHIPS`.
        operators: their names; all when empty.
        seconds: time limit of the compiler for one network.
        tell: called with each answer, how many there are so far, and how many there will be.

    Raises:
        ArchNetError: an unknown target or operator, or no toolchain.
    """
    chip = find_chip(target)
    tool = ""
    if chip.toolchain is not None:
        toolchain = find_toolchain(chip.toolchain)
        toolchain.require()
        tool = toolchain.tool
    profile = load_profile(chip.profile)
    questions = _questions(profile, operators)
    answers: list[OperatorProbe] = []
    for question in questions:
        answer, said = _ask(chip, profile, question, seconds)
        answers.append(answer)
        tool = said or tool
        tell(answer, len(answers), len(questions))
    return ProbeReport(chip.name, tool, __version__, profile.name, tuple(answers), *compare(profile, answers))


def compare(
    profile: Profile, answers: Sequence[OperatorProbe]
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """`ProbeReport.contradictions`, `only_in_networks` and `unlisted` of a profile."""
    wrong: list[str] = []
    beside: list[str] = []
    run: dict[tuple[str, str], bool] = {}
    for answer in answers:
        done = answer.outcome in ("native", "host")
        listed = _listed(profile, answer)
        if listed and not done:
            in_networks = profile.operators[Op(answer.op)].probe.name == NETWORK
            (beside if in_networks else wrong).append(
                f"{answer.op} {answer.bits} ({answer.case}): {answer.outcome}, {answer.message}"
            )
        if not listed:
            key = answer.op, answer.bits
            run[key] = run.get(key, True) and done
    return tuple(wrong), tuple(beside), tuple(f"{op} {bits}" for (op, bits), every in run.items() if every)


def _listed(profile: Profile, answer: OperatorProbe) -> bool:
    """Whether a profile lists this; tables of embeddings have the width of weights there."""
    support = profile.operators.get(Op(answer.op))
    if support is None:
        return False
    return answer.bits in support.bits or (
        Op(answer.op) is Op.EMBEDDING and any(width.startswith("w") for width in support.bits)
    )


def _questions(profile: Profile, operators: Sequence[str]) -> list[_Question]:
    known = [str(op) for op in OPERATORS]
    for name in operators:
        if name not in known:
            raise ArchNetError(f"no operator {name!r} can stand alone", fix=nearest(name, known))
    asked = []
    for op, cases in OPERATORS.items():
        if operators and str(op) not in operators:
            continue
        weights = profile.weight_bits if op in WEIGHTED else profile.weight_bits[:1]
        widths = [Bits(w, a) for w in weights for a in profile.activation_bits]
        asked += [_Question(op, case, bits) for case in cases for bits in widths]
    return asked


def _ask(chip: Chip, profile: Profile, question: _Question, seconds: float) -> tuple[OperatorProbe, str]:
    """The answer, and the compiler as it names itself where it compiled something."""
    said = ""

    def answer(outcome: Outcome, message: str = "") -> tuple[OperatorProbe, str]:
        return OperatorProbe(str(question.op), question.case, question.width, outcome, message), said

    with tempfile.TemporaryDirectory(prefix="archnet-probe-") as place:
        base = Path(place)
        graph = single_operator(question.op, question.case, question.bits, profile.softmax_levels)
        settings = ConvertSettings(profile.name, question.bits)
        with BuildDir.open_for_convert(base / "build", settings, "") as build:
            save_graph(graph, build.graph_dir)
            build.finish({})
        folder = base / "compiled"
        folder.mkdir()
        sequence = TOKENS if any("sequence" in spec.shape for spec in graph.inputs) else None
        build = BuildDir.open_finished(base / "build")
        samples = random_inputs(graph, SAMPLES, TOKENS)
        job = CompileJob(chip, build, folder, base / "log", seconds, sequence, samples)
        try:
            summary = compile_by_route(job)
        except NothingLeft as error:
            return answer("host", error.problem)
        except ArchNetError as error:
            # The log lies in a folder that is gone when this is read.
            return answer("refused", error.problem.split(f" (its log: {base}")[0].split(" (all of them: ")[0])
    said = summary.tool
    if summary.fallback_operators:
        return answer("fallback", ", ".join(summary.fallbacks))
    return answer("native" if summary.native_operators else "host")
