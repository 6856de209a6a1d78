"""Reductions, cumulative operations and sorting: `sum mean var max argmax cumsum sort topk`."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tensorlib import dtypes
from tensorlib.errors import ArgumentError, DimensionError, DTypeError, ShapeError
from tensorlib.ops import elementwise
from tensorlib.ops._common import (
    Array,
    Grads,
    astype,
    dim_index,
    floating,
    record,
    reducer_dims,
    wrap,
)

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor


def _named(name: str, *fields: str) -> Any:
    """A result type as PyTorch's `torch.return_types.<name>`: a tuple with names."""
    kind = NamedTuple(name, [(f, Any) for f in fields])  # type: ignore[misc]
    kind.__module__ = __name__
    return kind


# pickled by their module-level names, hence one by one
max_result = _named("max_result", "values", "indices")
min_result = _named("min_result", "values", "indices")
sort_result = _named("sort_result", "values", "indices")
topk_result = _named("topk_result", "values", "indices")
median_result = _named("median_result", "values", "indices")
mode_result = _named("mode_result", "values", "indices")
kthvalue_result = _named("kthvalue_result", "values", "indices")
cummax_result = _named("cummax_result", "values", "indices")
cummin_result = _named("cummin_result", "values", "indices")
aminmax_result = _named("aminmax_result", "min", "max")


def _widen(grad: Any, axis: Any, keepdim: bool) -> Any:
    """Put reduced dimensions back as size 1."""
    if keepdim or axis is None:
        return grad
    if hasattr(grad, "array"):
        from tensorlib.ops.shape import unsqueeze

        for place in sorted(axis if isinstance(axis, tuple) else (axis,)):
            grad = unsqueeze(grad, place)
        return grad
    return np.expand_dims(grad, axis)


def _to(input: Tensor, dtype: Any) -> Tensor:
    return input if dtype is None else elementwise.cast(input, dtype)


def sum(input: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """Sum over `dim` (one, several, or all); integers and booleans give int64."""
    x = (input := _to(input, dtype)).array
    axis = None if dim is None else reducer_dims(dim, x.ndim, "sum")
    shape = x.shape
    kind = None
    if dtype is None and x.dtype.kind in "iub":
        kind = np.int64
    elif dtype is not None:
        kind = x.dtype

    def backward(grad: Array) -> Grads:
        return (np.broadcast_to(_widen(grad, axis, keepdim), shape),)

    return record(_pairwise_sum(x, axis, keepdim, kind), backward, input)


def _pairwise_sum(x: Any, axis: Any, keepdim: bool, kind: Any) -> Any:
    """NumPy adds float32 rows naively when it reduces leading dimensions; a product with ones is
    faster and as exact.
    """
    if kind is None and x.dtype == np.float16:
        return x.sum(axis=axis, keepdims=keepdim, dtype=np.float32).astype(np.float16)
    return x.sum(axis=axis, keepdims=keepdim, dtype=kind)


def mean(input: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """Mean over `dim` (one, several, or all) of a floating-point tensor."""
    x = (input := _to(input, dtype)).array
    if x.dtype.kind not in "fc":
        raise DTypeError(
            "mean",
            f"could not infer output dtype, input dtype must be either a floating point or complex "
            f"dtype, got "
            f"{dtypes.of(x.dtype)}",
            hint="use x.float().mean() or dtype=",
        )
    axis = reducer_dims(dim, x.ndim, "mean")
    shape = x.shape
    count = _count(shape, axis)

    def backward(grad: Array) -> Grads:
        return (np.broadcast_to(_widen(grad, axis, keepdim) / count, shape),)

    total = _pairwise_sum(x, axis, keepdim, None)
    return record(total / count if count else total * np.nan, backward, input)


def _count(shape: tuple[int, ...], axis: Any) -> int:
    count = 1
    for i in range(len(shape)) if axis is None else axis:
        count *= shape[i]
    return count


def nansum(input: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """Sum with NaN taken as zero."""
    return sum(elementwise.nan_to_num(input, 0.0, np.inf, -np.inf), dim, keepdim, dtype=dtype)


def nanmean(input: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """Mean of the elements that are not NaN."""
    count = sum(wrap(~np.isnan(input.array)), dim, keepdim)
    return elementwise.div(nansum(input, dim, keepdim, dtype=dtype), count)


def prod(
    input: Tensor, dim: int | None = None, keepdim: bool = False, *, dtype: Any = None
) -> Tensor:
    """Product over one dimension or all; integers and booleans give int64."""
    x = (input := _to(input, dtype)).array
    if dtype is None and x.dtype.kind in "iub":
        x = (input := astype(input, np.dtype(np.int64))).array
    axis = None if dim is None or not x.ndim else dim_index(dim, x.ndim, "prod")

    def backward(grad: Array) -> Grads:
        rows = x.reshape(-1) if axis is None else np.moveaxis(x, axis, -1)
        ones = np.ones_like(rows[..., :1])
        before = np.cumprod(np.concatenate([ones, rows[..., :-1]], -1), -1)
        after = np.cumprod(np.concatenate([ones, rows[..., :0:-1]], -1), -1)[..., ::-1]
        others = before * after
        others = others.reshape(x.shape) if axis is None else np.moveaxis(others, -1, axis)
        return (_widen(grad, axis, keepdim) * others,)

    def smooth(grad: Any) -> Grads:
        from tensorlib.ops.shape import reshape, stack, unbind

        if not x.ndim:
            return (grad,)
        rows = unbind(reshape(x, (-1,)) if axis is None else x, axis or 0)
        if not rows:
            return (None,)
        before, after = [wrap(np.ones_like(rows[0].array))], [wrap(np.ones_like(rows[0].array))]
        for row, last in zip(rows[:-1], rows[:0:-1], strict=True):
            before.append(before[-1] * row)
            after.append(after[-1] * last)
        others = stack([b * a for b, a in zip(before, after[::-1], strict=True)], axis or 0)
        return (_widen(grad, axis, keepdim) * reshape(others, x.shape),)

    output = x.prod(axis=axis, keepdims=keepdim, dtype=x.dtype)
    return record(output, backward, input, smooth=smooth)


def var(
    input: Tensor,
    dim: Any = None,
    unbiased: Any = None,
    keepdim: bool = False,
    *,
    correction: Any = None,
) -> Tensor:
    """Variance over `dim`, divided by `N - correction` (1 unless `unbiased=False` or given)."""
    return _variance(input, dim, unbiased, keepdim, correction, "var")[0]


def std(
    input: Tensor,
    dim: Any = None,
    unbiased: Any = None,
    keepdim: bool = False,
    *,
    correction: Any = None,
) -> Tensor:
    """Standard deviation over `dim`, see `var`."""
    variance = _variance(input, dim, unbiased, keepdim, correction, "std")[0]
    return elementwise.sqrt(variance)


def var_mean(
    input: Tensor,
    dim: Any = None,
    unbiased: Any = None,
    keepdim: bool = False,
    *,
    correction: Any = None,
) -> tuple[Tensor, Tensor]:
    """Variance and mean over `dim`."""
    variance, axis, keep = _variance(input, dim, unbiased, keepdim, correction, "var_mean")
    return variance, mean(input, axis, keep)


def std_mean(
    input: Tensor,
    dim: Any = None,
    unbiased: Any = None,
    keepdim: bool = False,
    *,
    correction: Any = None,
) -> tuple[Tensor, Tensor]:
    """Standard deviation and mean over `dim`."""
    variance, axis, keep = _variance(input, dim, unbiased, keepdim, correction, "std_mean")
    return elementwise.sqrt(variance), mean(input, axis, keep)


def _variance(
    input: Tensor, dim: Any, unbiased: Any, keepdim: bool, correction: Any, where: str
) -> tuple[Tensor, Any, bool]:
    if isinstance(dim, bool):  # torch's first overload: var(input, unbiased)
        dim, unbiased = None, dim
    x = input.array
    if x.dtype.kind not in "fc":
        raise DTypeError(
            where,
            f"not implemented for {dtypes.of(x.dtype)}",
            "floating point",
            hint="use x.float()",
        )
    if correction is not None and unbiased is not None:
        raise ArgumentError(where, "both 'correction' and 'unbiased' are given", "one of them")
    if correction is None:
        correction = 1 if unbiased is None or unbiased else 0
    axis = reducer_dims(dim, x.ndim, where)
    count = _count(x.shape, axis)
    divisor = builtins.max(count - correction, 0)
    centre = x - x.mean(axis=axis, keepdims=True) if count else x

    def backward(grad: Array) -> Grads:
        centred = x - x.mean(axis=axis, keepdims=True)
        return (_widen(grad, axis, keepdim) * (centred * (2.0 / divisor if divisor else np.nan)),)

    total = (np.abs(centre) ** 2 if x.dtype.kind == "c" else centre * centre).sum(
        axis=axis, keepdims=keepdim
    )
    del centre
    output = total / total.dtype.type(divisor)
    return record(output, backward, input), axis, keepdim


def _extremum(
    input: Tensor, dim: Any, keepdim: bool, larger: bool, where: str
) -> tuple[Tensor, Tensor]:
    x = input.array
    if x.dtype.kind == "c":
        raise DTypeError(where, "complex numbers have no order", "a real type")
    axis = dim_index(dim, x.ndim, where)
    if x.ndim == 0:
        return elementwise.mul(input, 1) if x.dtype.kind != "b" else wrap(x.copy()), wrap(
            np.zeros((), np.int64)
        )
    if x.shape[axis] == 0:
        raise DimensionError(
            where, f"Expected reduction dim {dim} to have non-zero size, shape {x.shape}"
        )
    index = np.expand_dims(np.argmax(x, axis) if larger else np.argmin(x, axis), axis)

    def backward(grad: Array) -> Grads:
        out = np.zeros_like(x)
        np.put_along_axis(out, index, _widen(grad, (axis,), keepdim), axis)
        return (out,)

    def smooth(grad: Array) -> Grads:
        places = np.arange(x.shape[axis]).reshape([-1] + [1] * (x.ndim - 1 - axis)) == index
        return (_widen(grad, (axis,), keepdim) * places,)

    values = np.take_along_axis(x, index, axis)
    if not keepdim:
        values = values.squeeze(axis)
    places = index if keepdim else index.squeeze(axis)
    return record(values, backward, input, smooth=smooth), wrap(places)


def _all_extremum(input: Tensor, larger: bool, where: str) -> Tensor:
    x = input.array
    if x.size == 0:
        raise InvalidReduction(
            where,
            f"Expected reduction dim to be specified for an empty tensor, shape {x.shape}",
            "a dim",
        )
    output = x.max() if larger else x.min()

    def backward(grad: Array) -> Grads:
        equal = x == output
        return (equal * (grad / equal.sum().astype(grad.dtype)),)

    return record(output, backward, input)


class InvalidReduction(ShapeError, IndexError):
    """A reduction over nothing (RuntimeError or IndexError in PyTorch, by operation)."""


def max(input: Tensor, dim: Any = None, keepdim: bool = False) -> Any:
    """The largest element; with `dim`, `(values, indices)` along it; with a Tensor, `maximum`."""
    if hasattr(dim, "array"):
        return elementwise.maximum(input, dim)
    if dim is None:
        return _all_extremum(input, True, "max")
    return max_result(*_extremum(input, dim, keepdim, True, "max"))


def min(input: Tensor, dim: Any = None, keepdim: bool = False) -> Any:
    """The smallest element; with `dim`, `(values, indices)` along it; with a Tensor, `minimum`."""
    if hasattr(dim, "array"):
        return elementwise.minimum(input, dim)
    if dim is None:
        return _all_extremum(input, False, "min")
    return min_result(*_extremum(input, dim, keepdim, False, "min"))


def amax(input: Tensor, dim: Any = (), keepdim: bool = False) -> Tensor:
    """The largest elements over `dim`; equal ones share the gradient."""
    return _shared_extremum(input, dim, keepdim, np.max, "amax")


def amin(input: Tensor, dim: Any = (), keepdim: bool = False) -> Tensor:
    """The smallest elements over `dim`; equal ones share the gradient."""
    return _shared_extremum(input, dim, keepdim, np.min, "amin")


def _shared_extremum(
    input: Tensor, dim: Any, keepdim: bool, function: Callable[..., Any], where: str
) -> Tensor:
    x = input.array
    axis = reducer_dims(dim, x.ndim, where)
    if _count(x.shape, axis) == 0:
        raise InvalidReduction(
            where, f"Expected reduction dim to have non-zero size, shape {x.shape}, dim {dim}"
        )
    output = function(x, axis=axis, keepdims=keepdim)

    def backward(grad: Array) -> Grads:
        equal = x == _widen(output, axis, keepdim)
        share = equal.sum(axis=axis, keepdims=True).astype(grad.dtype)
        return (equal * (_widen(grad, axis, keepdim) / share),)

    return record(output, backward, input)


def aminmax(input: Tensor, *, dim: int | None = None, keepdim: bool = False) -> Any:
    """The smallest and the largest elements."""
    dims = () if dim is None else dim
    return aminmax_result(amin(input, dims, keepdim), amax(input, dims, keepdim))


def argmax(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """Index of the largest element, in the flattened tensor or along `dim`."""
    return _argument(input, dim, keepdim, np.argmax, "argmax")


def argmin(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """Index of the smallest element, in the flattened tensor or along `dim`."""
    return _argument(input, dim, keepdim, np.argmin, "argmin")


def _argument(
    input: Tensor, dim: int | None, keepdim: bool, function: Callable[..., Any], where: str
) -> Tensor:
    x = input.array
    if x.dtype.kind in "bc":
        raise DTypeError(where, f"not implemented for {dtypes.of(x.dtype)}", "a type with an order")
    if dim is None:
        if x.size == 0:
            raise DimensionError(
                where,
                f"Expected reduction dim to be specified for an empty tensor, shape {x.shape}",
            )
        found = function(x)
        return wrap(np.asarray(found).reshape((1,) * x.ndim) if keepdim else found)
    axis = dim_index(dim, x.ndim, where)
    if x.ndim == 0:
        return wrap(np.zeros((), np.int64))
    if x.shape[axis] == 0:
        raise DimensionError(
            where, f"Expected reduction dim {dim} to have non-zero size, shape {x.shape}"
        )
    return wrap(function(x, axis=axis, keepdims=keepdim))


def all(input: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    """Whether all elements are nonzero."""
    return _truth(input, dim, keepdim, np.all, "all")


def any(input: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    """Whether any element is nonzero."""
    return _truth(input, dim, keepdim, np.any, "any")


def _truth(
    input: Tensor, dim: Any, keepdim: bool, function: Callable[..., Any], where: str
) -> Tensor:
    axis = reducer_dims(dim, input.array.ndim, where)
    result = function(input.array, axis=axis, keepdims=keepdim)
    return wrap(result.astype(np.uint8) if input.array.dtype == np.uint8 else result)


def count_nonzero(input: Tensor, dim: Any = None) -> Tensor:
    """How many elements are nonzero."""
    axis = reducer_dims(dim, input.array.ndim, "count_nonzero")
    return wrap(np.asarray(np.count_nonzero(input.array, axis=axis), np.int64))


def logsumexp(input: Tensor, dim: Any, keepdim: bool = False) -> Tensor:
    """`log(sum(exp(input)))` over `dim`, without overflow."""
    x = (input := floating(input)).array
    axis = reducer_dims(dim, x.ndim, "logsumexp")
    top = np.max(x, axis=axis, keepdims=True, initial=-np.inf)
    top = np.where(np.isfinite(top), top, 0).astype(x.dtype)
    output = np.log(np.exp(x - top).sum(axis=axis, keepdims=True)) + top
    if not keepdim and x.ndim:
        output = output.squeeze(axis) if axis is not None else output.reshape(())

    def backward(grad: Array) -> Grads:
        return (_widen(grad, axis, keepdim) * np.exp(x - _widen(output, axis, keepdim)),)

    return record(output, backward, input)


def cumsum(input: Tensor, dim: int, *, dtype: Any = None) -> Tensor:
    """Running sum along `dim`; integers and booleans give int64."""
    x = (input := _to(input, dtype)).array
    axis = dim_index(dim, x.ndim, "cumsum")
    if dtype is None and x.dtype.kind in "iub":
        x = (input := astype(input, np.dtype(np.int64))).array

    def backward(grad: Array) -> Grads:
        if not grad.ndim:
            return (grad,)
        return (np.flip(np.cumsum(np.flip(grad, axis), axis), axis),)

    return record(np.cumsum(x, axis, dtype=x.dtype) if x.ndim else x.copy(), backward, input)


def cumprod(input: Tensor, dim: int, *, dtype: Any = None) -> Tensor:
    """Running product along `dim`; integers and booleans give int64."""
    x = (input := _to(input, dtype)).array
    axis = dim_index(dim, x.ndim, "cumprod")
    if dtype is None and x.dtype.kind in "iub":
        x = (input := astype(input, np.dtype(np.int64))).array
    output = np.cumprod(x, axis, dtype=x.dtype) if x.ndim else x.copy()

    def backward(grad: Array) -> Grads:
        if not x.ndim:
            return (grad,)
        if (x != 0).all():
            flow = np.flip(np.cumsum(np.flip(grad * output, axis), axis), axis)
            return (flow / x,)
        out = np.zeros_like(x)
        for i in range(x.shape[axis]):  # d out[j] / d x[i] = product of x[:j+1] without x[i]
            others = x.copy()
            others[(builtins.slice(None),) * axis + (i,)] = 1
            parts = grad * np.cumprod(others, axis)
            out[(builtins.slice(None),) * axis + (i,)] = parts[
                (builtins.slice(None),) * axis + (builtins.slice(i, None),)
            ].sum(axis)
        return (out,)

    return record(output, backward, input)


def cummax(input: Tensor, dim: int) -> Any:
    """Running maximum along `dim`, `(values, indices)`."""
    return cummax_result(*_running(input, dim, np.greater_equal, "cummax"))


def cummin(input: Tensor, dim: int) -> Any:
    """Running minimum along `dim`, `(values, indices)`."""
    return cummin_result(*_running(input, dim, np.less_equal, "cummin"))


def _running(input: Tensor, dim: int, better: Any, where: str) -> tuple[Tensor, Tensor]:
    from tensorlib.ops.indexing import gather

    x = input.array
    axis = dim_index(dim, x.ndim, where)
    if not x.ndim or not x.size:
        return elementwise.mul(input, 1), wrap(np.zeros(x.shape, np.int64))
    accumulate = np.maximum.accumulate if where == "cummax" else np.minimum.accumulate
    values = accumulate(x, axis=axis)
    shape = [1] * x.ndim
    shape[axis] = -1
    places = np.arange(x.shape[axis]).reshape(shape)
    hit = better(x, values) | (np.isnan(x) if x.dtype.kind == "f" else False)
    indices = wrap(np.maximum.accumulate(np.where(hit, places, 0), axis=axis))
    return gather(input, axis, indices), indices


def logcumsumexp(input: Tensor, dim: int) -> Tensor:
    """`log(cumsum(exp(input)))` along `dim`, without overflow."""
    x = (input := floating(input)).array
    axis = dim_index(dim, x.ndim, "logcumsumexp")
    output = np.logaddexp.accumulate(x, axis=axis, dtype=x.dtype) if x.ndim else x.copy()

    def backward(grad: Array) -> Grads:
        if not x.ndim:
            return (grad,)
        return (np.exp(x) * np.flip(np.cumsum(np.flip(grad * np.exp(-output), axis), axis), axis),)

    return record(output, backward, input)


# -- sorting ---------------------------------------------------------------------------------------


def sort(input: Tensor, dim: int = -1, descending: bool = False, stable: bool = False) -> Any:
    """`(values, indices)` in order along `dim`; always stable; NaN counts as largest."""
    from tensorlib.ops.indexing import gather

    indices = argsort(input, dim, descending)
    return sort_result(gather(input, dim, indices), indices)


def argsort(input: Tensor, dim: int = -1, descending: bool = False, stable: bool = False) -> Tensor:
    """The indices that put `input` in order along `dim`; always stable."""
    x = input.array
    if x.dtype.kind == "c":
        raise DTypeError("sort", "complex numbers have no order", "a real type")
    axis = dim_index(dim, x.ndim, "sort")
    if not x.ndim:
        return wrap(np.zeros((), np.int64))
    if descending:  # reversed twice, so that equal elements keep their order
        n = x.shape[axis]
        order = n - 1 - np.flip(np.argsort(np.flip(x, axis), axis, kind="stable"), axis)
    else:
        order = np.argsort(x, axis, kind="stable")
    return wrap(np.ascontiguousarray(order))


def msort(input: Tensor) -> Tensor:
    """Sorted along the first dimension."""
    result: Tensor = sort(input, 0).values
    return result


def topk(input: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Any:
    """The `k` largest (or smallest) elements along `dim`, `(values, indices)`, in order."""
    from tensorlib.ops.indexing import gather

    x = input.array
    axis = dim_index(dim, x.ndim, "topk")
    size = x.shape[axis] if x.ndim else 1
    if not 0 <= k <= size:
        raise InvalidReduction(
            "topk", f"selected index k out of range, k={k}", f"0 to {size} for shape {x.shape}"
        )
    order = argsort(input, dim, largest).array
    if x.ndim:
        order = np.ascontiguousarray(np.take(order, np.arange(k), axis))
    indices = wrap(order)
    return topk_result(gather(input, dim, indices), indices)


def kthvalue(input: Tensor, k: int, dim: int = -1, keepdim: bool = False) -> Any:
    """The `k`-th smallest element along `dim`, counted from 1, `(values, indices)`."""
    from tensorlib.ops.indexing import gather
    from tensorlib.ops.shape import squeeze

    x = input.array
    axis = dim_index(dim, x.ndim, "kthvalue")
    size = x.shape[axis] if x.ndim else 1
    if not 1 <= k <= size:
        raise InvalidReduction(
            "kthvalue", f"selected number k out of range for dimension {dim}, k={k}", f"1 to {size}"
        )
    order = argsort(input, dim).array
    indices = wrap(np.ascontiguousarray(np.take(order, [k - 1], axis)) if x.ndim else order)
    values = gather(input, dim, indices)
    if not keepdim and x.ndim:
        values, indices = squeeze(values, axis), squeeze(indices, axis)
    return kthvalue_result(values, indices)


def median(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Any:
    """The lower median; with `dim`, `(values, indices)` along it."""
    from tensorlib.ops.shape import reshape

    if dim is None:
        if not input.array.size:
            return wrap(np.asarray(np.nan, input.array.dtype))
        flat = reshape(input, (-1,))
        has_nan = input.array.dtype.kind == "f" and bool(np.isnan(input.array).any())
        place = input.array.size if has_nan else (input.array.size + 1) // 2
        return kthvalue(flat, place, 0).values
    size = input.array.shape[dim_index(dim, input.array.ndim, "median")] if input.array.ndim else 1
    return median_result(*kthvalue(input, (size + 1) // 2, dim, keepdim))


def quantile(
    input: Tensor,
    q: Any,
    dim: int | None = None,
    keepdim: bool = False,
    *,
    interpolation: str = "linear",
) -> Tensor:
    """The `q`-th quantiles (float or tensor in [0, 1])."""
    from tensorlib.ops.indexing import index_select
    from tensorlib.ops.shape import reshape, squeeze, transpose, unsqueeze

    if interpolation not in ("linear", "lower", "higher", "nearest", "midpoint"):
        raise ShapeError(
            "quantile",
            f"interpolation={interpolation!r}",
            "linear, lower, higher, nearest or midpoint",
        )
    points = np.asarray(q.array if hasattr(q, "array") else q, np.float64)
    if ((points < 0) | (points > 1)).any():
        raise ShapeError("quantile", f"q={points.tolist()}", "values in the range [0, 1]")
    x = reshape(input, (-1,)) if dim is None else input
    axis = 0 if dim is None else dim_index(dim, input.array.ndim, "quantile")
    ordered = transpose(sort(x, axis).values, axis, 0)
    position = points.reshape(-1) * (ordered.array.shape[0] - 1)
    if interpolation == "nearest":
        position = np.rint(position)
    elif interpolation in ("lower", "higher"):
        position = np.floor(position) if interpolation == "lower" else np.ceil(position)
    low, high = np.floor(position).astype(np.int64), np.ceil(position).astype(np.int64)
    weight = (position - low) if interpolation != "midpoint" else np.where(low == high, 0.0, 0.5)
    weight = weight.astype(input.array.dtype).reshape((-1,) + (1,) * (ordered.array.ndim - 1))
    below, above = index_select(ordered, 0, wrap(low)), index_select(ordered, 0, wrap(high))
    result = elementwise.lerp(below, above, wrap(weight))  # [Q, rest with dim moved to the front]
    result = unsqueeze(result, 1)
    result = transpose(result, 1, axis + 1) if dim is None else _put_back(result, axis)
    if dim is None and keepdim:
        result = reshape(result, (-1,) + (1,) * input.array.ndim)
    elif not keepdim:
        result = squeeze(result, 1 if dim is None else axis + 1)
    return squeeze(result, 0) if points.ndim == 0 else result


def _put_back(result: Tensor, axis: int) -> Tensor:
    """[Q, 1, ...rest] to [Q, ...rest with the 1 at `axis`]; the transposed dimension stood at
    `axis` of the rest.
    """
    from tensorlib.ops.shape import squeeze, transpose, unsqueeze

    if axis == 0:
        return result
    flat = squeeze(result, 1)  # [Q, d1.., d0 at axis.., ..]
    return transpose(unsqueeze(flat, 1), 1, axis + 1)


def mode(input: Tensor, dim: int = -1, keepdim: bool = False) -> Any:
    """The most frequent element along `dim` (the smallest of several) and the last index of it."""
    from tensorlib.ops.indexing import gather
    from tensorlib.ops.shape import squeeze

    x = input.array
    axis = dim_index(dim, x.ndim, "mode")
    if not x.ndim:
        return mode_result(elementwise.mul(input, 1), wrap(np.zeros((), np.int64)))
    rows = np.moveaxis(x, axis, -1)
    flat = rows.reshape(-1, rows.shape[-1])
    found = np.empty(len(flat), np.int64)
    for i, row in enumerate(flat):
        values, counts = np.unique(row, return_counts=True)
        found[i] = np.flatnonzero(row == values[counts.argmax()])[-1]
    indices = wrap(np.expand_dims(found.reshape(rows.shape[:-1]), axis))
    values_t = gather(input, axis, indices)
    if not keepdim:
        return mode_result(squeeze(values_t, axis), squeeze(indices, axis))
    return mode_result(values_t, indices)


def unique(
    input: Tensor,
    sorted: bool = True,
    return_inverse: bool = False,
    return_counts: bool = False,
    dim: int | None = None,
) -> Any:
    """The distinct elements in ascending order, optionally with inverse indices and counts."""
    x = input.array
    values, inverse, counts = np.unique(x, return_inverse=True, return_counts=True, axis=dim)
    inverse = inverse.reshape(x.shape if dim is None else (-1,))
    parts = [wrap(values)]
    if return_inverse:
        parts.append(wrap(inverse.astype(np.int64)))
    if return_counts:
        parts.append(wrap(counts.astype(np.int64)))
    return tuple(parts) if len(parts) > 1 else parts[0]


def unique_consecutive(
    input: Tensor, return_inverse: bool = False, return_counts: bool = False
) -> Any:
    """Elements of the flattened tensor without immediate repeats."""
    x = input.array.reshape(-1)
    first = np.concatenate([[True], x[1:] != x[:-1]]) if x.size else np.zeros(0, bool)
    parts = [wrap(x[first])]
    if return_inverse:
        parts.append(wrap((np.cumsum(first) - 1).reshape(input.array.shape)))
    if return_counts:
        parts.append(wrap(np.diff(np.append(np.flatnonzero(first), x.size))))
    return tuple(parts) if len(parts) > 1 else parts[0]


def bincount(input: Tensor, weights: Tensor | None = None, minlength: int = 0) -> Tensor:
    """How often each integer occurs."""
    x = input.array
    if x.dtype.kind not in "iu" or x.ndim != 1 or (x < 0).any():
        raise ShapeError(
            "bincount", f"shape {x.shape}, {dtypes.of(x.dtype)}", "1-d non-negative integers"
        )
    return wrap(np.bincount(x, None if weights is None else weights.array, minlength))


def histc(input: Tensor, bins: int = 100, min: float = 0, max: float = 0) -> Tensor:
    """Counts of elements in `bins` equal bins between `min` and `max` (the data's range if both are
    0).
    """
    x = input.array
    low, high = (float(x.min()), float(x.max())) if min == max == 0 and x.size else (min, max)
    if low == high:
        low, high = low - 1, high + 1
    return wrap(np.histogram(x, bins, (low, high))[0].astype(x.dtype))
