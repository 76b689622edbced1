"""What runs an integer network, by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from archnet.backends.base import Backend
from archnet.errors import ArchNetError, nearest

__all__ = ["BACKENDS", "Backend", "open_backend"]

# Each imports its runtime only when it is asked for: TVM is an optional dependency, and ONNX Runtime
# takes a second to import.


def _open_reference(build_dir: Path, threads: int | None) -> Backend:
    from archnet.backends.reference import ReferenceBackend

    return ReferenceBackend.open(build_dir)


def _open_onnxruntime(build_dir: Path, threads: int | None) -> Backend:
    from archnet.backends.onnxruntime import OnnxRuntimeBackend

    return OnnxRuntimeBackend.open(build_dir, threads=threads)


def _open_tvm(build_dir: Path, threads: int | None) -> Backend:
    from archnet.backends.tvm import TvmBackend

    return TvmBackend.open(build_dir, threads=threads)


def _open_litert(build_dir: Path, threads: int | None) -> Backend:
    from archnet.backends.litert import LiteRtBackend

    return LiteRtBackend.open(build_dir, threads=threads)


def _open_rockchip(build_dir: Path, threads: int | None, platform: str) -> Backend:
    from archnet.backends.rockchip import RockchipBackend

    return RockchipBackend.open(build_dir, platform)


BACKENDS: dict[str, Callable[[Path, int | None], Backend]] = {
    "reference": _open_reference,
    "onnxruntime": _open_onnxruntime,
    "tvm": _open_tvm,
    "litert": _open_litert,
    "rk3588": partial(_open_rockchip, platform="rk3588"),
    "rk3576": partial(_open_rockchip, platform="rk3576"),
}

_EXTRAS = {"tvm": "tvm", "litert": "ethos"}


def open_backend(name: str, build_dir: Path, *, threads: int | None = None) -> Backend:
    """Open the network of a build folder in a runtime.

    Args:
        name: one of BACKENDS.
        build_dir: the folder that a conversion wrote.
        threads: of one operator; the runtime's own choice when None. The reference ignores it.

    Raises:
        ArchNetError: unknown name, no such folder, a runtime that is not installed, or files that
            cannot be read.
    """
    if name not in BACKENDS:
        raise ArchNetError(f"there is no backend {name!r}", fix=nearest(name, BACKENDS))
    if not build_dir.is_dir():
        raise ArchNetError(
            f"{build_dir} is not a folder", fix="give the folder that archnet convert wrote (--out)"
        )
    try:
        return BACKENDS[name](build_dir, threads)
    except ImportError as error:
        if name not in _EXTRAS:
            raise
        raise ArchNetError(
            f"the backend {name!r} is not installed here ({error})",
            fix=f"pip install 'archnet[{_EXTRAS[name]}]'",
        ) from error
