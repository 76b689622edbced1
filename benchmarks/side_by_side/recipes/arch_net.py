"""Ours: a finished build folder through one of its backends. Nothing is made here."""

from __future__ import annotations

from pathlib import Path

from side_by_side.recipe import Forward, Order, Recipe

BACKEND_FILES = {"onnxruntime": "**/onnx/*.onnx", "tvm": "**/tvm/*/*", "reference": "**/graph/*"}
"""Which files of a build folder each backend needs; an encoder-decoder has two networks."""


def recipe_of(name: str) -> Recipe:
    """The recipe of "archnet:BACKEND:DIR"."""
    _, backend, folder = name.split(":", 2)
    build = Path(folder)

    def make(order: Order) -> list[Path]:
        raise AssertionError(f"{build} is finished: there is nothing to make for {order.bits}")

    def opened(place: Path, threads: int) -> Forward:
        from archnet.backends import open_backend

        part = build / place.name  # "encoder" or "decoder"; the only network lies in the folder itself
        return open_backend(backend, part if part.is_dir() else build, threads=threads).run

    return Recipe(
        name=f"Arch-Net ({backend})",
        packages=("archnet",),
        widths=(),
        make=make,
        open=opened,
        settings=str(build),
        scope="every operator",
    )
