"""What runs an integer network, by name."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from archnet.backends.base import Backend
from archnet.errors import ArchNetError, nearest

__all__ = ["BACKENDS", "ENCODERS_ALONE", "SIMULATORS", "Backend", "open_backend"]

# A runtime is imported only when it is asked for: some are optional dependencies, and ONNX Runtime takes a
# second to import.
BACKENDS: dict[str, str] = {
    "reference": "reference.ReferenceBackend",
    "onnxruntime": "onnxruntime.OnnxRuntimeBackend",
    "tvm": "tvm.TvmBackend",
    "litert": "litert.LiteRtBackend",
    "tosa": "tosa.TosaBackend",
    "qualcomm-htp": "qualcomm.QualcommHtpBackend",
    "openvino": "static_onnx.OpenVinoBackend",
    "iree": "static_onnx.IreeBackend",
    "k230": "k230.K230Backend",
    "rk3588": "rockchip.Rk3588Backend",
    "rk3576": "rockchip.Rk3576Backend",
    "bm1684x": "sophgo.Bm1684xBackend",
    "bm1688": "sophgo.Bm1688Backend",
}
"""Name -> module of this package and its class, whose `open` takes the build folder and threads."""

SIMULATORS = ("k230", "rk3588", "rk3576", "bm1684x", "bm1688")
"""Backends that simulate a chip."""

ENCODERS_ALONE = ("qualcomm-htp", "rk3588", "rk3576")
"""Backends that get no decoder's step: the compilers behind them were not asked about it."""

_EXTRAS = {"tvm": "tvm", "litert": "ethos", "tosa": "ethos"}


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
        module, _, kind = BACKENDS[name].partition(".")
        opened: Backend = getattr(import_module(f"archnet.backends.{module}"), kind).open(
            build_dir, threads=threads
        )
        return opened
    except ImportError as error:
        if name not in _EXTRAS:
            raise
        raise ArchNetError(
            f"the backend {name!r} is not installed here ({error})",
            fix=f"pip install 'archnet[{_EXTRAS[name]}]'",
        ) from error
