"""Chips that `archnet compile` compiles for, and what their compilers say of a network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from archnet.errors import ArchNetError, nearest


@dataclass(frozen=True, slots=True)
class Chip:
    """A chip, or a configuration of one.

    Attributes:
        name: what `archnet compile --target` takes.
        title: one line for people.
        route: the module of `archnet.routes` that compiles for it.
        toolchain: of `archnet.targets.toolchain`, that its compiler is in; None when it is one of Arch-Net's
            own packages.
        profile: what `archnet convert --target` takes for it.
        decoders: whether it gets the steps of decoders; the others' compilers were not asked.
    """

    name: str
    title: str
    route: str
    toolchain: str | None
    profile: str
    decoders: bool = True


@dataclass(frozen=True, slots=True)
class CompileSummary:
    """What a compiler says about a network that it has compiled. None is what it does not say.

    Attributes:
        target: the chip's name.
        part: of a build of two networks, which one it is about (`archnet.parts`).
        tool: the compiler and its version.
        native_operators: operators that the chip runs, as the compiler counts them.
        fallback_operators: operators that it leaves to another processor.
        fallbacks: what those are: kind and name.
        binary: name of the compiled file in the folder.
        binary_bytes: its size.
        sequence: tokens of a sentence, for networks that read tokens.
        configuration: what the figures are for, such as clocks and memories.
        cycles: of one inference, all in all.
        milliseconds: of one inference.
        sram_bytes: most on-chip memory at a time.
        other_bytes: of other memories (DRAM, flash).
        macs: multiply-accumulates.
        float_operators: what the target computes in float though it is on the chip: kind and name.
    """

    target: str
    tool: str
    native_operators: int
    fallback_operators: int
    fallbacks: tuple[str, ...]
    binary: str
    binary_bytes: int
    sequence: int | None = None
    configuration: str = ""
    cycles: int | None = None
    milliseconds: float | None = None
    sram_bytes: int | None = None
    other_bytes: int | None = None
    macs: int | None = None
    float_operators: tuple[str, ...] = ()
    part: str = ""


_NAMED = 8
"""Operators that are told by name; where there are more, each kind is told once."""


def in_words(operators: Sequence[str]) -> str:
    """What a CompileSummary lists in a line for people.

    Args:
        operators: each a kind with a name in brackets; what a compiler has counted already stays as it is.
    """
    if len(operators) <= _NAMED or not all(" (" in entry for entry in operators):
        return ", ".join(operators)
    kinds = Counter(entry.partition(" (")[0] for entry in operators)
    return ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())


def _ethos(name: str, title: str, profile: str) -> Chip:
    return Chip(name, title, "ethos_u", "ethos-u", profile)


def _executorch(chip: Chip) -> Chip:
    """The same chip, by a program for ExecuTorch's runtime."""
    name, title = chip.name.replace("ethos", "executorch"), f"{chip.title}, as an ExecuTorch program"
    return replace(chip, name=name, title=title, route="executorch", toolchain="executorch")


def _htp(version: str, example: str) -> Chip:
    title = f"Qualcomm Hexagon tensor processor v{version}, as in {example}"
    return Chip(f"qualcomm-htp-v{version}", title, "qualcomm", "qualcomm", "qualcomm-htp", decoders=False)


_ETHOS = (
    _ethos("ethos-u55-128", "Arm Ethos-U55, 128 multiply-accumulates a cycle", "ethos-u55"),
    _ethos("ethos-u55-256", "Arm Ethos-U55, 256 multiply-accumulates a cycle", "ethos-u55"),
    _ethos("ethos-u65-256", "Arm Ethos-U65, 256 multiply-accumulates a cycle", "ethos-u65"),
    _ethos("ethos-u85-256", "Arm Ethos-U85, 256 multiply-accumulates a cycle", "ethos-u85"),
)

CHIPS: tuple[Chip, ...] = (
    *_ETHOS,
    *(_executorch(chip) for chip in _ETHOS),
    _htp("73", "Snapdragon 8 Gen 2"),
    _htp("75", "Snapdragon 8 Gen 3"),
    _htp("79", "Snapdragon 8 Elite"),
    Chip("openvino", "Intel and other processors, by OpenVINO", "openvino", "openvino", "onnxruntime"),
    Chip("iree", "This machine's processor, by IREE", "iree", "iree", "onnxruntime"),
    Chip("onnxruntime", "This machine's processor, by ONNX Runtime", "onnxruntime", None, "onnxruntime"),
    Chip("tvm-x86-64", "x86-64 processors with AVX2, by TVM", "tvm", None, "tvm"),
    Chip("tvm-aarch64", "64-bit Arm processors, by TVM", "tvm", None, "tvm"),
    Chip("tvm-riscv64", "64-bit RISC-V processors, by TVM", "tvm", None, "tvm"),
    Chip("tvm-c", "Any processor with a C compiler, by TVM as C source", "tvm", None, "tvm"),
    Chip("k230", "Kendryte K230, its KPU", "k230", "kendryte", "k230"),
    Chip("rk3588", "Rockchip RK3588", "rockchip", "rockchip", "rockchip", decoders=False),
    Chip("rk3576", "Rockchip RK3576", "rockchip", "rockchip", "rockchip", decoders=False),
    Chip("bm1684x", "Sophgo BM1684X", "sophgo", "sophgo", "sophgo"),
    Chip("bm1688", "Sophgo BM1688, one of its two cores", "sophgo", "sophgo", "sophgo"),
)


def needs_compiler(profile: str) -> bool:
    """Whether a network for this profile runs on its chips only as a vendor's compiler makes it."""
    chips = [chip for chip in CHIPS if chip.profile == profile]
    return bool(chips) and all(chip.toolchain is not None for chip in chips)


def takes_decoders(profile: str) -> bool:
    """Whether the chips of this profile get the steps of decoders; so does what is no chip."""
    return all(chip.decoders for chip in CHIPS if chip.profile == profile)


def find_chip(name: str) -> Chip:
    """The chip of this name.

    Raises:
        ArchNetError: there is none; the nearest names are told.
    """
    for chip in CHIPS:
        if chip.name == name:
            return chip
    known = [chip.name for chip in CHIPS]
    raise ArchNetError(f"--target {name!r} cannot be compiled for", fix=nearest(name, known))
