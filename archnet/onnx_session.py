"""How every ONNX Runtime session of an integer network is opened."""

from __future__ import annotations

import onnxruntime as ort
import torch

EXACT_PRODUCTS = "session.x64quantprecision"
"""On x86-64 without VNNI, ONNX Runtime (1.31) adds two products of uint8 and int8 in 16 bits, which saturate
where a weight is greater than 63 or less than -64. With this it makes such weights uint8 and adds in 32 bits.
With VNNI the integers are the same without it, and a network takes half the time."""


def adds_in_16_bits() -> bool:
    """Whether this processor multiplies bytes by AVX2's instruction, whose sums of two products saturate."""
    found = torch.cpu.get_capabilities()
    names = ("avx_vnni", "avx512_vnni", "amx_int8")
    return found.get("architecture") == "x86_64" and not any(found.get(name) for name in names)


def session_options(threads: int | None = None) -> ort.SessionOptions:
    """Options by which ONNX Runtime computes the integers that a file says, on every processor.

    Args:
        threads: of one operator; ONNX Runtime's choice when None.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if adds_in_16_bits():
        options.add_session_config_entry(EXACT_PRODUCTS, "1")
    if threads is not None:
        options.intra_op_num_threads = threads
    return options
