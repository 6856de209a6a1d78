"""Products of arrays for operations: by a kernel where they are large."""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorlib.device import Array
from tensorlib.kernels import matrix as kernels

LARGE = 1 << 18  # multiplications; below, NumPy's product costs less than to ask for a kernel


def times(a: Any, b: Any) -> Any:
    """`a @ b`, by a kernel where the product of two arrays is large."""
    if type(a) is np.ndarray is type(b) and a.size >= LARGE // (b.shape[-1] or 1):
        return kernels.matmul(a, b) if a.ndim > 1 and b.ndim > 1 else a @ b
    return a @ b


def column_sums(rows: Any) -> Any:
    """Sum of the rows of a matrix, by a kernel where it is large."""
    if type(rows) is np.ndarray and rows.size >= LARGE >> 3:
        return kernels.sum_rows(rows)
    return np.add.reduce(rows, 0)


def product(a: Array, b: Array) -> Array:
    """`a @ b`, half precision summed in single."""
    if a.dtype.char in "eE":
        return (a.astype(np.float32) @ b.astype(np.float32)).astype(a.dtype)
    result: Array = times(a, b)
    return result
