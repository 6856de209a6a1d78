"""Places in sorted boundaries, and indices of triangles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib import dtypes
from tensorlib.errors import DTypeError, ShapeError
from tensorlib.ops._common import expect_tensor, not_for, wrap
from tensorlib.ops.out import direct, takes_exact_out

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor


@takes_exact_out
def searchsorted(
    sorted_sequence: Tensor,
    input: Any,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Tensor | None = None,
) -> Tensor:
    """Where elements would be inserted to keep the last dimension sorted; `sorter` gives the order
    that sorts it.
    """
    where = "searchsorted"
    expect_tensor(where, "sorted_sequence", sorted_sequence)
    a = sorted_sequence.array
    scalar = not hasattr(input, "array")
    v = np.asarray(input) if scalar else input.array
    if a.dtype.kind in "bc":
        raise not_for(where, a, "numbers with an order")
    if side not in (None, "left", "right"):
        raise ShapeError(where, f"side can only be 'left' or 'right' but got {side}")
    if side == "left" and right:
        raise ShapeError(
            where, "side and right can't be set to opposites, got side of left while right was True"
        )
    if not scalar and v.dtype != a.dtype:
        raise DTypeError(
            where,
            f"boundary tensor and input value tensor should have same dtype, but got boundary "
            f"tensor dtype {sorted_sequence.dtype} and input value tensor dtype {input.dtype}",
        )
    if not a.ndim:
        raise ShapeError(
            where, "boundaries tensor should have positive dimension, but got 0 dimension"
        )
    if (scalar or not v.ndim) and a.ndim != 1:
        raise ShapeError(
            where,
            f"input value can be a scalar only when boundaries tensor dimension is 1, got {a.ndim}",
        )
    if a.ndim > 1 and a.shape[:-1] != v.shape[:-1]:
        raise ShapeError(
            where,
            f"boundaries tensor should be 1 dimension or the first N-1 dimensions of boundaries "
            f"tensor and input value tensor must match, but we got boundaries tensor "
            f"{list(a.shape)} and input value tensor {list(v.shape)}",
        )
    if out_int32 and a.shape[-1] >= 2**31 - 1:
        raise ShapeError(
            where, f"the size of boundaries' last dimension {a.shape[-1]} is too large"
        )
    if sorter is not None:
        order = sorter.array
        if order.shape != a.shape:
            raise ShapeError(
                where,
                f"boundary and sorter must have the same size, but got {a.shape}, {order.shape}",
            )
        if order.dtype != np.int64:
            raise DTypeError(where, f"sorter must be a tensor of long dtype but got {sorter.dtype}")
        if order.size and (order.min() < 0 or order.max() >= a.shape[-1]):
            raise ShapeError(where, "sorter index out of range")
        a = np.take_along_axis(a, order, -1)
    way: Any = "right" if right or side == "right" else "left"
    if a.ndim == 1:
        result = np.searchsorted(a, v, way)
    else:
        count = int(np.prod(a.shape[:-1]))
        rows, wanted = a.reshape(count, a.shape[-1]), v.reshape(count, v.shape[-1])
        found = [np.searchsorted(r, w, way) for r, w in zip(rows, wanted, strict=True)]
        result = np.stack(found).reshape(v.shape) if found else np.empty(v.shape)
    return wrap(np.asarray(result, np.int32 if out_int32 else np.int64))


@takes_exact_out
def bucketize(
    input: Any, boundaries: Tensor, *, out_int32: bool = False, right: bool = False
) -> Tensor:
    """The bucket of each element between sorted `boundaries`."""
    expect_tensor("bucketize", "boundaries", boundaries)
    if getattr(getattr(input, "array", None), "dtype", boundaries.array.dtype).kind in "bc":
        raise not_for("bucketize", boundaries.array, "numbers with an order")
    if boundaries.array.ndim != 1:
        raise ShapeError(
            "bucketize",
            f"boundaries tensor must be 1 dimension, but got dim({boundaries.array.ndim})",
        )
    return direct(searchsorted)(boundaries, input, out_int32=out_int32, right=right)


def _triangle_indices(
    where: str, function: Any, row: int, col: int, offset: int, dtype: Any
) -> Tensor:
    if row < 0 or col < 0:
        raise ShapeError(where, f"row {row} and col {col} must be non-negative")
    kind = np.dtype(np.int64) if dtype is None else dtypes.numpy_dtype(dtype)
    if kind not in (np.int64, np.int32):
        raise DTypeError(where, f'"{where}" not implemented for {dtype}', "int64 or int32")
    return wrap(np.stack(function(row, offset, col)).astype(kind))


def tril_indices(
    row: int,
    col: int,
    offset: int = 0,
    *,
    dtype: Any = None,
    device: Any = None,
    layout: Any = None,
) -> Tensor:
    """Row and column indices of the lower triangle, [2, N]."""
    return _triangle_indices("tril_indices", np.tril_indices, row, col, offset, dtype)


def triu_indices(
    row: int,
    col: int,
    offset: int = 0,
    *,
    dtype: Any = None,
    device: Any = None,
    layout: Any = None,
) -> Tensor:
    """Row and column indices of the upper triangle, [2, N]."""
    return _triangle_indices("triu_indices", np.triu_indices, row, col, offset, dtype)
