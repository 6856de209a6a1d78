"""Order: `sort topk kthvalue median mode unique`. NaN counts as the largest."""

from __future__ import annotations

import builtins
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib import return_types
from tensorlib.autograd.tape import needs_grad
from tensorlib.errors import ShapeError
from tensorlib.ops import _selection
from tensorlib.ops._common import Array, called, check_dtype, dim_index, record, wide, wrap
from tensorlib.ops._formula import underivable
from tensorlib.ops.extremes import expect_elements, input_copy, shared_by_equals
from tensorlib.ops.out import takes_distinct_out, takes_exact_out, takes_out

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor

# More elements than this take the stable order of equal ones; PyTorch promises none.
_MOST_EXACT = 8192
_INSERTION = 16  # rows this short PyTorch sorts by insertion, which is stable


class InvalidSelection(ShapeError):
    """A place that does not exist (RuntimeError in PyTorch)."""


@takes_exact_out
@called("SortBackward0")
def sort(input: Tensor, dim: int = -1, descending: bool = False, *, stable: bool = False) -> Any:
    """`(values, indices)` in order along `dim`; `stable` keeps the order of equal elements."""
    indices = argsort(input, dim, descending, stable=stable)
    return return_types.sort(_picked(input, dim, indices), indices)


def argsort(
    input: Tensor, dim: int = -1, descending: bool = False, *, stable: bool = False
) -> Tensor:
    """The indices that put `input` in order along `dim`; `stable` keeps the order of equal ones."""
    x = input.array
    axis = dim_index(dim, x.ndim, "sort")
    check_dtype("sort", x, "biuf", "a type with an order")
    if not x.ndim:
        return wrap(np.zeros((), np.int64))
    order = _order(x, axis, descending)
    if not stable and x.shape[axis] > _INSERTION and x.size <= _MOST_EXACT:
        order = _unstable(x, order, axis, descending)
    return wrap(np.ascontiguousarray(order))


def _picked(input: Tensor, axis: int, indices: Tensor) -> Tensor:
    """The elements at `indices` along `axis`."""
    x, i = input.array, indices.array
    if not needs_grad(input):
        if x.ndim == 2 and axis in (1, -1):
            return wrap(x[_column(len(i)), i])
        return wrap(np.take_along_axis(x, i, axis) if x.ndim else x.copy())
    from tensorlib.ops.indexing import gather

    return gather(input, axis, indices)


def _column(count: int) -> Any:
    return np.arange(count)[:, None]


def _rows(x: Array, axis: int) -> Any:
    """`x` with `axis` last."""
    return x if axis == x.ndim - 1 else np.moveaxis(x, axis, -1)


def _back(rows: Array, axis: int) -> Any:
    """The last dimension at `axis`, in memory of its own order."""
    return np.ascontiguousarray(rows if axis == rows.ndim - 1 else np.moveaxis(rows, -1, axis))


def _unstable(x: Array, order: Array, axis: int, descending: bool) -> Any:
    """The order with equal elements as PyTorch's default, unstable sort leaves them."""
    rows = _rows(x, axis)
    shape = rows.shape
    rows, order = (a.reshape(-1, shape[-1]) for a in (rows, _rows(order, axis)))

    def exact(ranks: list[int]) -> list[int]:
        return _selection.sort([-r for r in ranks] if descending else ranks)

    _settle(rows, order, _neighbours_equal(rows[_column(len(rows)), order]), exact)
    return _back(order.reshape(shape), axis)


def _neighbours_equal(ordered: Array) -> Any:
    """Which ordered rows hold two equal elements."""
    equal = ordered[:, 1:] == ordered[:, :-1]
    if ordered.dtype.kind in "fV":
        equal |= np.isnan(ordered[:, 1:]) & np.isnan(ordered[:, :-1])
    return equal.any(-1)


def _order(x: Array, axis: int, descending: bool) -> Any:
    x = wide(x)  # bfloat16 has no order of NaN in NumPy
    if not descending:
        return np.argsort(x, axis, kind="stable")
    n = x.shape[axis]  # reversed twice, so that equal elements keep their order
    back = (builtins.slice(None),) * (axis % x.ndim) + (builtins.slice(None, None, -1),)
    return n - 1 - np.argsort(x[back], axis, kind="stable")[back]


@takes_out
@called("SortBackward0")
def msort(input: Tensor) -> Tensor:
    """Sorted along the first dimension."""
    result: Tensor = sort(input, 0).values
    return result


def _ranks(row: Array) -> Any:
    """The rank of each element; equal ones, and all NaN, share one."""
    return np.unique(wide(row), return_inverse=True)[1].reshape(-1)


def _settle(rows: Array, order: Array, ambiguous: Array, exact: Callable[[list[int]], Any]) -> None:
    """Where equal elements decide, replace a row of `order` by what PyTorch's algorithm gives."""
    where = np.flatnonzero(ambiguous)
    if len(where) * rows.shape[-1] > _MOST_EXACT:
        return
    for i in where:
        order[i] = exact(_ranks(rows[i]).tolist())


@takes_exact_out
@called("TopkBackward0")
def topk(input: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Any:
    """The `k` largest (or smallest) elements along `dim`, `(values, indices)`, in order unless
    `sorted` is False.
    """
    x = input.array
    axis = dim_index(dim, x.ndim, "topk")
    check_dtype("topk", x, "iuf", "integers or floating point")
    size = x.shape[axis] if x.ndim else 1
    if not 0 <= k <= size:
        raise InvalidSelection(
            "topk", f"selected index k out of range, k={k}", f"0 to {size} for shape {x.shape}"
        )
    if not x.ndim:
        return return_types.topk(input_copy(input), wrap(np.zeros((), np.int64)))
    rows = _rows(x, axis)
    shape = (*rows.shape[:-1], k)
    rows = rows.reshape(math.prod(shape[:-1]), size)
    order = _first(rows, builtins.min(k + 1, size), largest)
    equal = _neighbours_equal(rows[_column(len(rows)), order])
    order = np.ascontiguousarray(order[:, :k])

    def exact(ranks: list[int]) -> list[int]:
        return _selection.top([-r for r in ranks] if largest else ranks, k, sorted)

    if k:
        ambiguous = equal if sorted else np.ones(len(rows), bool)
        _settle(rows, order, ambiguous, exact)
    indices = wrap(_back(order.reshape(shape), axis))
    return return_types.topk(_picked(input, axis, indices), indices)


def _first(rows: Array, count: int, descending: bool) -> Any:
    """The places of the first `count` in order, of long rows without sorting the rest."""
    size = rows.shape[-1]
    if size < 64 or count * 4 > size or rows.dtype.kind == "V":
        return _order(rows, -1, descending)[:, :count]
    if descending:
        chosen = np.argpartition(rows, size - count, -1)[:, size - count :]
    else:
        chosen = np.argpartition(rows, count - 1, -1)[:, :count]
    chosen = np.sort(chosen, -1)
    column = _column(len(rows))
    return chosen[column, _order(rows[column, chosen], -1, descending)]


@takes_distinct_out
@called("KthvalueBackward0")
def kthvalue(input: Tensor, k: int, dim: int = -1, keepdim: bool = False) -> Any:
    """The `k`-th smallest element along `dim`, counted from 1, `(values, indices)`."""
    x = input.array
    axis = dim_index(dim, x.ndim, "kthvalue")
    expect_elements("kthvalue", x, axis)
    check_dtype("kthvalue", x, "iuf", "integers or floating point")
    size = x.shape[axis] if x.ndim else 1
    if not 1 <= k <= size:
        raise InvalidSelection(
            "kthvalue", f"selected number k out of range for dimension {dim}, k={k}", f"1 to {size}"
        )

    def exact(ranks: list[int]) -> list[int]:
        return [_selection.quickselect(ranks, k - 1)]

    def places(rows: Array) -> Any:
        order = _order(rows, -1, False)
        found = order[:, k - 1 : k].copy()
        near = np.take_along_axis(rows, order[:, max(k - 2, 0) : k + 1], -1)
        _settle(rows, found, _neighbours_equal(near), exact)
        return found

    return return_types.kthvalue(*_selected(input, axis, keepdim, places))


def _selected(
    input: Tensor, axis: int, keepdim: bool, places: Callable[[Array], Any]
) -> tuple[Tensor, Tensor]:
    """One element of each row along `axis`, and its index; `places` finds them in [rows, n]."""
    from tensorlib.ops.shape import squeeze

    x = input.array
    if not x.ndim:
        return input_copy(input), wrap(np.zeros((), np.int64))
    rows = _rows(x, axis)
    shape = (*rows.shape[:-1], 1)
    found = np.zeros(shape, np.int64)
    if found.size:
        found = np.asarray(places(rows.reshape(-1, rows.shape[-1])), np.int64).reshape(shape)
    indices = wrap(_back(found, axis))
    values = _picked(input, axis, indices)
    if keepdim:
        return values, indices
    return squeeze(values, axis), squeeze(indices, axis)


def _overload(input: Tensor, dim: int | None = None, *_: object, **__: object) -> int:
    return 0 if dim is None else 1


@takes_exact_out
@called(lambda *args, **kwargs: f"MedianBackward{_overload(*args, **kwargs)}")
def median(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Any:
    """The lower median, NaN if there is one; with `dim`, `(values, indices)` along it."""
    if dim is None:
        return _median_of_all(input, False, "median")
    return return_types.median(*_median(input, dim, keepdim, False, "median"))


@takes_exact_out
@called(lambda *args, **kwargs: f"NanmedianBackward{_overload(*args, **kwargs)}")
def nanmedian(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Any:
    """The lower median of what is not NaN; with `dim`, `(values, indices)` along it."""
    if dim is None:
        return _median_of_all(input, True, "nanmedian")
    return return_types.nanmedian(*_median(input, dim, keepdim, True, "nanmedian"))


def _median_of_all(input: Tensor, ignore_nan: bool, where: str) -> Tensor:
    x = input.array
    check_dtype(where, x, "iuf", "integers or floating point")
    if not x.size:
        return wrap(np.asarray(np.nan).astype(x.dtype))
    row = x.reshape(1, -1)
    chosen = row[0, _median_places(row, ignore_nan)[0, 0]]
    return record(*shared_by_equals(x, chosen, where), input)


def _median(
    input: Tensor, dim: int, keepdim: bool, ignore_nan: bool, where: str
) -> tuple[Tensor, Tensor]:
    x = input.array
    axis = dim_index(dim, x.ndim, where)
    expect_elements(where, x, axis)
    check_dtype(where, x, "iuf", "integers or floating point")
    return _selected(input, axis, keepdim, lambda rows: _median_places(rows, ignore_nan))


def _median_places(rows: Array, ignore_nan: bool) -> Any:
    order = _order(rows, -1, False)
    if rows.dtype.kind not in "fV":
        return order[:, (rows.shape[-1] - 1) // 2, None]
    nans = np.isnan(rows)
    count = nans.sum(-1, keepdims=True)
    if ignore_nan:
        middle = np.maximum(rows.shape[-1] - count - 1, 0) // 2
        return np.take_along_axis(order, middle, -1)
    middle = order[:, (rows.shape[-1] - 1) // 2, None]
    return np.where(count > 0, nans.argmax(-1)[:, None], middle)


@takes_distinct_out
@called("ModeBackward0")
def mode(input: Tensor, dim: int = -1, keepdim: bool = False) -> Any:
    """The most frequent element along `dim` (the smallest of several) and an index of it."""
    x = input.array
    axis = dim_index(dim, x.ndim, "mode")
    expect_elements("mode", x, axis)
    check_dtype("mode", x, "biuf", "a type with an order")
    return return_types.mode(*_selected(input, axis, keepdim, _mode_places))


def _mode_places(rows: Array) -> list[int]:
    return [_mode_place(row) for row in rows]


def _mode_place(row: Array) -> int:
    """The last of the longest run of equal elements in the order in which PyTorch sorts them."""
    if row.dtype.kind in "fV" and np.isnan(row).any():
        return _mode_with_nan(row.tolist())
    _, inverse, counts = np.unique(wide(row), return_inverse=True, return_counts=True)
    chosen = int(counts.argmax())
    if _INSERTION < len(row) <= _MOST_EXACT and counts[chosen] > 1:
        ranks = inverse.reshape(-1).tolist()
        return [i for i in _selection.sort(ranks) if ranks[i] == chosen][-1]
    return int(np.flatnonzero(inverse.reshape(-1) == chosen)[-1])


def _mode_with_nan(row: list[float]) -> int:
    """Sorted by insertion with `<`, in which NaN stays where it is and equals nothing."""
    order: list[int] = []
    for i, value in enumerate(row):
        j = 0 if order and value < row[order[0]] else len(order)
        while j > 1 and value < row[order[j - 1]]:
            j -= 1
        order.insert(j, i)
    best = length = place = 0
    for at, i in enumerate(order):
        length += 1
        if at + 1 == len(order) or row[i] != row[order[at + 1]]:
            if length > best:
                best, place = length, i
            length = 0
    return place


# -- distinct elements -----------------------------------------------------------------------------


def unique(
    input: Tensor,
    sorted: bool = True,
    return_inverse: bool = False,
    return_counts: bool = False,
    dim: int | None = None,
) -> Any:
    """The distinct elements, or slices along `dim`, in ascending order, optionally with inverse
    indices and counts. `sorted=False` allows any order; this one is sorted all the same.
    """
    x = input.array
    check_dtype("unique", x, "biuf", "a type with an order")
    if dim is None:
        values, inverse, counts = np.unique(
            wide(x), return_inverse=True, return_counts=True, equal_nan=False
        )
        values, inverse = values.astype(x.dtype, copy=False), inverse.reshape(x.shape)
        return _parts(
            "unique",
            input,
            values,
            inverse if return_inverse else None,
            counts if return_counts else None,
        )
    axis = _distinct_axis("unique", x, dim)
    rows = np.moveaxis(x, axis, 0)
    flat = rows.reshape(len(rows), rows[:1].size)
    order = np.lexsort(wide(flat).T[::-1]) if flat.shape[1] else np.arange(len(flat))
    first = _fresh(flat[order])
    inverse = np.empty(len(rows), np.int64)
    inverse[order] = np.cumsum(first) - 1
    counts = np.diff(np.append(np.flatnonzero(first), len(rows)))
    values = np.moveaxis(rows[order][first], 0, axis)
    return _parts(
        "unique",
        input,
        values,
        inverse if return_inverse else None,
        counts if return_counts else None,
    )


def unique_consecutive(
    input: Tensor,
    return_inverse: bool = False,
    return_counts: bool = False,
    dim: int | None = None,
) -> Any:
    """Elements of the flattened tensor, or slices along `dim`, without immediate repeats."""
    x = input.array
    check_dtype("unique_consecutive", x, "biuf", "a type with an order")
    axis = 0 if dim is None else _distinct_axis("unique_consecutive", x, dim)
    rows = x.reshape(-1) if dim is None else np.moveaxis(x, axis, 0)
    first = _fresh(rows.reshape(len(rows), rows[:1].size))
    inverse = np.cumsum(first) - 1
    if dim is None:
        inverse = inverse.reshape(x.shape)
    counts = np.diff(np.append(np.flatnonzero(first), len(rows)))
    values = np.moveaxis(rows[first], 0, axis)
    return _parts(
        "unique_consecutive",
        input,
        values,
        inverse if return_inverse else None,
        counts if return_counts else None,
    )


def _distinct_axis(where: str, x: Array, dim: int) -> int:
    axis = dim_index(dim, x.ndim, where)
    if x.ndim and not x.shape[axis] and x.size == 0 and 0 in x.shape[:axis] + x.shape[axis + 1 :]:
        raise InvalidSelection(where, f"no elements in shape {x.shape}, dim={dim}", "some")
    if x.ndim and x.shape[axis] and not x.size:
        raise InvalidSelection(where, f"zero sized dimensions in {x.shape}", "none besides dim")
    return axis


def _fresh(rows: Array) -> Any:
    """Which rows differ from the one before."""
    if not len(rows):
        return np.zeros(0, bool)
    return np.concatenate([[True], (rows[1:] != rows[:-1]).any(-1)])


def _parts(
    where: str,
    input: Tensor,
    values: Any,
    inverse: Any | None,
    counts: Any | None,
) -> Any:
    """The distinct elements, and what else was asked for."""
    parts = [underivable(np.ascontiguousarray(values), input, name=where)]
    parts += [wrap(part.astype(np.int64)) for part in (inverse, counts) if part is not None]
    return tuple(parts) if len(parts) > 1 else parts[0]
