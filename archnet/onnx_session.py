"""How every ONNX Runtime session of an integer network is opened."""

from __future__ import annotations

import onnxruntime as ort

EXACT_PRODUCTS = "session.x64quantprecision"
"""On x86-64 without VNNI, ONNX Runtime (1.31) adds two products of uint8 and int8 in 16 bits, which saturate
where a weight is greater than 63 or less than -64. With this it makes such weights uint8 and adds in 32 bits;
on other processors, and for weights of fewer bits, it does nothing."""


def session_options(threads: int | None = None) -> ort.SessionOptions:
    """Options by which ONNX Runtime computes the integers that a file says, on every processor.

    Args:
        threads: of one operator; ONNX Runtime's choice when None.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry(EXACT_PRODUCTS, "1")
    if threads is not None:
        options.intra_op_num_threads = threads
    return options
