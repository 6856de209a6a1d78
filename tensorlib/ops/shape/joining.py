"""Joining: `cat stack hstack ... block_diag`, and grids and combinations of several tensors."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib.dtypes import result_numpy
from tensorlib.errors import ArgumentError, InvalidValueError, ShapeError
from tensorlib.ops._common import (
    Array,
    Grads,
    astype,
    dim_index,
    expect_tensor,
    record,
    wrap,
)
from tensorlib.ops.out import direct, takes_distinct_out, takes_out
from tensorlib.ops.shape.views import expand, reshape, unsqueeze, view
from tensorlib.ops.strides import empty_channels_last, is_channels_last

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor


class NothingToJoin(ShapeError, InvalidValueError):
    """An empty list (RuntimeError or ValueError in PyTorch, by operation)."""


def _listed(where: str, tensors: Any) -> list[Tensor]:
    """Several tensors, at least one."""
    if hasattr(tensors, "array") or not isinstance(tensors, list | tuple):
        raise ArgumentError(
            where,
            f"argument 'tensors' (position 1) must be tuple of Tensors, not "
            f"{type(tensors).__name__}",
        )
    if not tensors:
        raise NothingToJoin(where, "expected a non-empty list of Tensors")
    for x in tensors:
        expect_tensor(where, "tensors", x)
    return list(tensors)


@partial(takes_distinct_out, exact=False)
def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Tensors joined along `dim`; other sizes must be equal."""
    tensors = _listed("cat", tensors)
    kept: list[Tensor] = tensors
    dropped: list[Tensor] = []
    arrays = [x.array for x in tensors]
    common = arrays[0].dtype
    for a in arrays:
        if len(a.shape) < 2 or a.dtype != common:
            kept, dropped = _settled(tensors)
            arrays = [x.array for x in kept]
            break
    axis = dim_index(dim, arrays[0].ndim, "cat")
    try:
        output = _concatenated(arrays, axis)
    except ValueError:
        raise ShapeError(
            "cat",
            f"Sizes of tensors must match except in dimension {axis}; got "
            f"{[a.shape for a in arrays]}",
            hint="check dim, or the sizes of the inputs",
        ) from None
    edges = [0]
    for a in arrays:
        edges.append(edges[-1] + a.shape[axis])
    lead = (slice(None),) * axis
    count = len(dropped)

    def backward(grad: Array) -> Grads:
        parts = [grad[(*lead, slice(b, e))] for b, e in pairwise(edges)]
        return (*parts, *(np.zeros_like(grad, shape=(0,)) for _ in range(count)))

    return record(output, backward, *kept, *dropped)


def _settled(tensors: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """The tensors in their common type, and those of shape (0,) that any others leave out."""
    for place, x in enumerate(tensors):
        if x.array.ndim == 0:
            raise ShapeError(
                "cat",
                f"zero-dimensional tensor (at position {place}) cannot be concatenated",
                hint="use stack()",
            )
    kept = [x for x in tensors if x.array.shape != (0,)] or tensors[:1]
    dropped = [x for x in tensors if x.array.shape == (0,) and x is not kept[0]]
    common = _common_dtype(tensors)
    return [astype(x, common) for x in kept], dropped


def _common_dtype(tensors: Sequence[Tensor]) -> Any:
    """PyTorch's type of several tensors: those without dimensions count last."""
    kinds: dict[bool, Any] = {}
    for x in tensors:
        a = x.array
        held = kinds.get(a.ndim == 0)
        kinds[a.ndim == 0] = a.dtype if held is None else result_numpy(held, 1, a.dtype, 1)
    if len(kinds) == 1:
        return next(iter(kinds.values()))
    return result_numpy(kinds[False], 1, kinds[True], 0)


def _concatenated(arrays: list[Any], axis: int) -> Any:
    """Row-major, unless all are channels-last images."""
    for a in arrays:
        if not a.flags.c_contiguous:
            break
    else:
        return np.concatenate(arrays, axis)
    shape = list(arrays[0].shape)
    shape[axis] = sum(a.shape[axis] for a in arrays)
    if all(is_channels_last(a) for a in arrays):
        output = empty_channels_last(arrays[0], tuple(shape))
    else:
        output = np.empty_like(arrays[0], shape=tuple(shape), order="C")
    return np.concatenate(arrays, axis, out=output)


@takes_out
def concat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """`cat(tensors, dim)`."""
    return direct(cat)(tensors, dim)


@takes_out
def concatenate(tensors: Sequence[Tensor], dim: int = 0, *, axis: int | None = None) -> Tensor:
    """`cat(tensors, dim)`; `axis` is NumPy's name for `dim`."""
    return direct(cat)(tensors, dim if axis is None else axis)


@takes_out
def stack(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Tensors of equal shape joined along a new dimension `dim`."""
    tensors = _listed("stack", tensors)
    first = tensors[0].array.shape
    for i, x in enumerate(tensors):
        if x.array.shape != first:
            raise ShapeError(
                "stack",
                f"stack expects each tensor to be equal size, but got {list(first)} at entry 0 "
                f"and {list(x.array.shape)} at entry {i}",
            )
    axis = dim_index(dim, len(first) + 1, "stack")
    common = tensors[0].array.dtype
    if any(x.array.dtype != common for x in tensors):
        common = _common_dtype(tensors)
        tensors = [astype(x, common) for x in tensors]
    arrays = [x.array for x in tensors]
    if axis < len(first):  # joined as they lie, then cut: keeps a channels-last order
        joined = _concatenated(arrays, axis)
        output = joined.reshape((*first[:axis], len(arrays), *first[axis:]))
    else:
        output = _concatenated([a[..., None] for a in arrays], axis)
    lead: tuple[Any, ...] = (slice(None),) * axis
    count = len(arrays)

    def backward(grad: Array) -> Grads:
        return tuple(grad[(*lead, i, ...)] for i in range(count))

    return record(output, backward, *tensors)


@takes_out
def hstack(tensors: Sequence[Tensor]) -> Tensor:
    """Joined along dimension 1 (0 for one-dimensional tensors)."""
    grown = [atleast_1d(x) for x in _listed("hstack", tensors)]
    return direct(cat)(grown, 0 if grown[0].array.ndim == 1 else 1)


@takes_out
def vstack(tensors: Sequence[Tensor]) -> Tensor:
    """Joined along dimension 0, as rows."""
    return direct(cat)([atleast_2d(x) for x in _listed("vstack", tensors)], 0)


row_stack = vstack


@takes_out
def dstack(tensors: Sequence[Tensor]) -> Tensor:
    """Joined along dimension 2."""
    return direct(cat)([atleast_3d(x) for x in _listed("dstack", tensors)], 2)


@takes_out
def column_stack(tensors: Sequence[Tensor]) -> Tensor:
    """Joined as columns."""
    columns = [
        x if x.array.ndim > 1 else reshape(x, (x.array.size, 1))
        for x in _listed("column_stack", tensors)
    ]
    return direct(cat)(columns, 1)


def _each(function: Any, tensors: tuple[Any, ...]) -> Any:
    """The function of one tensor, or the tuple of it for several or a sequence."""
    if len(tensors) == 1 and hasattr(tensors[0], "array"):
        return function(tensors[0])
    if len(tensors) == 1 and isinstance(tensors[0], list | tuple):
        tensors = tuple(tensors[0])
    for x in tensors:
        expect_tensor(function.__name__.strip("_"), "tensors", x)
    return tuple(function(x) for x in tensors)


def atleast_1d(*tensors: Any) -> Any:
    """With at least one dimension."""
    return _each(_atleast_1d, tensors)


def _atleast_1d(input: Tensor) -> Tensor:
    return input if input.array.ndim else reshape(input, (1,))


def atleast_2d(*tensors: Any) -> Any:
    """With at least two dimensions."""
    return _each(_atleast_2d, tensors)


def _atleast_2d(input: Tensor) -> Tensor:
    ndim = input.array.ndim
    return input if ndim > 1 else unsqueeze(input, 0) if ndim else reshape(input, (1, 1))


def atleast_3d(*tensors: Any) -> Any:
    """With at least three dimensions."""
    return _each(_atleast_3d, tensors)


def _atleast_3d(input: Tensor) -> Tensor:
    ndim = input.array.ndim
    if ndim > 2:
        return input
    if ndim == 2:
        return unsqueeze(input, -1)
    return unsqueeze(unsqueeze(input, 0), -1) if ndim else reshape(input, (1, 1, 1))


def block_diag(*tensors: Tensor) -> Tensor:
    """A matrix with the given ones along its diagonal."""
    given: Any = tensors
    if len(given) == 1 and isinstance(given[0], list | tuple):
        given = given[0]
    for place, x in enumerate(given):
        expect_tensor("block_diag", "tensors", x)
        if x.array.ndim > 2:
            raise ShapeError(
                "block_diag",
                f"Input tensors must have 2 or fewer dimensions. Input {place} has "
                f"{x.array.ndim} dimensions",
            )
    if not given:
        return wrap(np.zeros((1, 0), np.float32))
    common = _common_dtype(given)
    parts = [_atleast_2d(astype(x, common)) for x in given]
    shapes = [p.array.shape for p in parts]
    output = np.zeros((sum(r for r, _ in shapes), sum(c for _, c in shapes)), common)
    corners, row, column = [], 0, 0
    for rows, columns in shapes:
        corners.append((slice(row, row + rows), slice(column, column + columns)))
        row, column = row + rows, column + columns
    for p, corner in zip(parts, corners, strict=True):
        output[corner] = p.array

    def backward(grad: Array) -> Grads:
        return tuple(grad[corner] for corner in corners)

    return record(output, backward, *parts)


def meshgrid(*tensors: Any, indexing: str | None = None) -> tuple[Tensor, ...]:
    """Coordinate grids from one-dimensional tensors; `indexing` "ij" (default) or "xy"."""
    given = tensors
    if len(given) == 1 and isinstance(given[0], list | tuple):
        given = tuple(given[0])
    if not given:
        raise ShapeError("meshgrid", "meshgrid expects a non-empty TensorList")
    for x in given:
        expect_tensor("meshgrid", "tensors", x)
        if x.array.ndim > 1:
            raise ShapeError(
                "meshgrid",
                f"Expected 0D or 1D tensor in the tensor list but got shape {x.array.shape}",
            )
        if x.array.dtype != given[0].array.dtype:
            raise ShapeError(
                "meshgrid",
                f"meshgrid expects all tensors to have the same dtype, got {given[0].dtype} and "
                f"{x.dtype}",
            )
    if indexing not in (None, "ij", "xy"):
        raise ShapeError("meshgrid", f"indexing={indexing!r}", "'ij' or 'xy'")
    flat = list(given)
    swap = indexing == "xy" and len(flat) > 1
    if swap:
        flat[0], flat[1] = flat[1], flat[0]
    shape = tuple(x.array.size for x in flat)
    grids = []
    for i, x in enumerate(flat):
        ones = (1,) * i, (1,) * (len(flat) - i - 1)
        grids.append(expand(view(x, (*ones[0], shape[i], *ones[1])), shape))
    if swap:
        grids[0], grids[1] = grids[1], grids[0]
    return tuple(grids)


def cartesian_prod(*tensors: Tensor) -> Tensor:
    """All combinations of elements of one-dimensional tensors, as rows."""
    given: Any = tensors
    if len(given) == 1 and isinstance(given[0], list | tuple):
        given = given[0]
    for x in given:
        expect_tensor("cartesian_prod", "tensors", x)
        if x.array.ndim != 1:
            raise ShapeError(
                "cartesian_prod", f"Expect a 1D vector, but got shape {list(x.array.shape)}"
            )
    if len(given) == 1:
        return given[0]  # type: ignore[no-any-return]  # a Tensor
    grids = [reshape(g, (-1,)) for g in meshgrid(*given, indexing="ij")]
    return direct(stack)(grids, 1)
