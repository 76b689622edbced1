"""Exact products of integer arrays at the speed of float ones."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# A float32 holds every integer up to 2**24, a float64 up to 2**53.
_FLOAT32_EXACT = 2**24
_FLOAT64_EXACT = 2**53


def integer_matmul(a: Array, b: Array) -> NDArray[np.int64]:
    """a @ b of integer arrays, exactly: (..., M, K) times (..., K, N) -> int64 (..., M, N).

    NumPy multiplies integers without BLAS, which is very slow. A product in floats is exact, whatever
    the order of the additions and whether or not they are fused, when every partial sum is an integer
    that the float type holds: |partial sum| <= max|a| * max over n of sum over k of |b[k, n]|, which
    is checked here.
    """
    bound = _magnitude(a) * int(np.abs(b.astype(np.int64)).sum(axis=-2).max(initial=0))
    dtype: type[np.generic] = np.int64
    if bound <= _FLOAT64_EXACT:
        dtype = np.float32 if bound <= _FLOAT32_EXACT else np.float64
    product: Array = np.matmul(a.astype(dtype), b.astype(dtype))
    return product.astype(np.int64)


def _magnitude(values: Array) -> int:
    return max(abs(int(values.min())), abs(int(values.max()))) if values.size else 0
