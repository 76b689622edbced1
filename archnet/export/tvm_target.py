"""The processors that a TVM library can be compiled for, and the linkers that make it a shared library."""

from __future__ import annotations

import importlib.util
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from archnet.errors import ArchNetError, nearest

HOST = "host"
"""The target that is this machine's own processor, with all that it can do."""


@dataclass(frozen=True, slots=True)
class Processor:
    """What LLVM compiles for.

    Attributes:
        name: the target's name, and the folder under DIR/tvm.
        architecture: what `uname -m` says on such a machine.
        cpu: LLVM's name of the processor.
        features: LLVM's names of what the library needs beyond the architecture's base.
        absent: features that the named processor has but this machine hides.
        base: features of the base that LLVM must be told.
    """

    name: str
    architecture: str
    cpu: str
    features: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    base: tuple[str, ...] = ()

    @property
    def triple(self) -> str:
        """LLVM's and the linker's name of the system."""
        return f"{self.architecture}-linux-gnu"

    def tvm_target(self) -> dict[str, Any]:
        """The argument of tvm.target.Target."""
        attributes = [f"-{name}" for name in self.absent]
        attributes += [f"+{name}" for name in (*self.base, *self.features)]
        if self.architecture == "x86_64":
            # Table look-ups: single loads take less time than a gather on most of these processors.
            attributes.append("+prefer-no-gather")
        return {"kind": "llvm", "mtriple": self.triple, "mcpu": self.cpu, "mattr": attributes}


_X86_64_V3 = ("avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe")
_AVX512 = ("avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl", "avx512vnni")

_PORTABLE = (
    Processor("x86_64", "x86_64", "x86-64-v3", _X86_64_V3),
    # The same by a name that never means this machine.
    Processor("x86_64-v3", "x86_64", "x86-64-v3", _X86_64_V3),
    Processor("x86_64-avx512vnni", "x86_64", "x86-64-v4", (*_X86_64_V3, *_AVX512)),
    Processor("aarch64", "aarch64", "generic", base=("neon",)),
    Processor("aarch64-dotprod", "aarch64", "generic", ("dotprod",), base=("v8.2a", "neon")),
    Processor("riscv64", "riscv64", "generic-rv64", base=("m", "a", "f", "d", "c")),
)

TARGETS = {processor.name: processor for processor in _PORTABLE}
"""Processors by name, beside HOST. The plain name of this machine's architecture means HOST."""


def folder_name(target: str = HOST) -> str:
    """The folder under DIR/tvm that a target's library stands in.

    Raises:
        ArchNetError: there is no such target.
    """
    if target == HOST:
        return platform.machine()
    if target not in TARGETS:
        raise ArchNetError(f"TVM target {target!r} does not exist", fix=nearest(target, [HOST, *TARGETS]))
    return target


def find_processor(target: str) -> Processor:
    """The processor of a target's name. Needs TVM, to ask LLVM what this machine is.

    Raises:
        ArchNetError: there is no such target.
    """
    name = folder_name(target)
    return _host() if name == platform.machine() else TARGETS[name]


def host_features() -> dict[str, bool]:
    """LLVM's features of this machine's processor, by name."""
    import tvm

    found = tvm.get_global_func("tvm.codegen.llvm.GetHostCPUFeatures")()
    return {str(name): bool(has) for name, has in found.items()}


def _host() -> Processor:
    import tvm

    features = host_features()
    return Processor(
        platform.machine(),
        platform.machine(),
        str(tvm.get_global_func("tvm.codegen.llvm.GetHostCPUName")()),
        tuple(sorted(name for name, has in features.items() if has)),
        # A virtual machine may hide what the processor of that name has.
        tuple(sorted(name for name, has in features.items() if not has)),
    )


def linker(architecture: str) -> Callable[[str, Sequence[str]], None]:
    """What links object files to a shared library of an architecture: f(library, objects).

    A C compiler of the system if there is one, else the one that the PyPI package ziglang brings.

    Raises:
        ArchNetError: there is none.
    """
    native = architecture == platform.machine()
    names = ("cc", "gcc", "clang") if native else (f"{architecture}-linux-gnu-gcc",)
    found = next(filter(None, map(shutil.which, names)), None)
    if found is not None:
        command = [found, "-shared", "-fPIC"]
    elif importlib.util.find_spec("ziglang") is not None:
        # The bare linker: the library needs nothing but what TVM's runtime has loaded already.
        command = [sys.executable, "-m", "ziglang", "ld.lld", "-shared"]
    else:
        raise ArchNetError(
            f"no linker makes a shared library for {architecture}: {' and '.join(names)} not found",
            fix="pip install ziglang",
        )

    def link(library: str, objects: Sequence[str]) -> None:
        run = subprocess.run([*command, "-o", library, *objects], capture_output=True, text=True, check=False)
        if run.returncode:
            lines = run.stderr.strip().splitlines() or ["no message"]
            raise ArchNetError(
                f"{' '.join(command)} cannot link {library}: {lines[-1]}",
                fix="repair that compiler, or pip install ziglang and take it off the PATH",
            )

    return link
