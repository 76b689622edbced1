"""Which ATen nodes are known, and what each of them is read by."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import fx

from archnet.aten_attention import (
    attention,
    batched,
    bounded,
    capped,
    filled,
    matmul,
    permute,
    reshape,
    softmax,
)
from archnet.aten_batch_norm import batch_norm
from archnet.aten_image import IMAGE_HANDLERS, flattened, to_tokens
from archnet.aten_maps import features_last, padded_map
from archnet.aten_pooling import row_norm, summed
from archnet.aten_relative import gather
from archnet.aten_scaled import difference, scaled
from archnet.aten_shift import convolution, padded, side_by_side, slice_of
from archnet.aten_tokens import add, addmm, layer_norm, linear, rms_norm, select
from archnet.token_values import Known

if TYPE_CHECKING:
    from archnet.aten import Translator

HANDLERS: dict[str, Callable[[Translator, fx.Node], Known]] = {
    "linear": linear,
    "addmm": addmm,
    "conv1d": convolution,
    "layer_norm": layer_norm,
    "rms_norm": rms_norm,
    "_fused_rms_norm": rms_norm,
    "add": add,
    "mul": scaled,
    "div": scaled,
    **dict.fromkeys(
        ("view", "reshape", "view_as", "reshape_as", "_unsafe_view", "unflatten", "flatten", "expand"),
        flattened(reshape),
    ),
    "transpose": to_tokens(permute),
    "permute": features_last(to_tokens(permute)),
    **dict.fromkeys(("matmul", "mm"), matmul),
    **dict.fromkeys(("bmm", "baddbmm"), batched),
    **dict.fromkeys(("max", "maximum"), bounded),
    "tanh": capped,
    "gather": gather,
    "softmax": softmax,
    "_softmax": softmax,
    "scaled_dot_product_attention": attention,
    "select": select,
    "slice": slice_of,
    **dict.fromkeys(("masked_fill", "where"), filled),
    "sum": summed,
    "sub": difference,
    **IMAGE_HANDLERS,
    **dict.fromkeys(("batch_norm", "_native_batch_norm_legit_no_training"), batch_norm),
    "cat": side_by_side,
    **dict.fromkeys(("pad", "constant_pad_nd"), padded_map(padded)),
    **dict.fromkeys(("linalg_vector_norm", "norm", "clamp_min", "clamp", "expand_as"), row_norm),
}
