"""What of PyTorch's own layers torch.export cannot follow, and does not need to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor
from torch.nn.modules import transformer


@contextmanager
def masks_as_given() -> Iterator[None]:
    """nn.TransformerEncoder and nn.TransformerDecoder take masks as they are given.

    They compare a mask with a causal one to choose a faster kernel, by the values in it, which no export can
    follow; what is computed is the same (torch/nn/modules/transformer.py, `_detect_is_causal_mask`, 2.13).
    """
    name = "_detect_is_causal_mask"
    before = getattr(transformer, name, None)
    if before is None:
        yield
        return

    def as_said(mask: Tensor | None, is_causal: bool | None = None, size: int | None = None) -> bool:
        return bool(is_causal)

    setattr(transformer, name, as_said)
    try:
        yield
    finally:
        setattr(transformer, name, before)
