"""Reductions: `sum mean prod var logsumexp all any`."""

from __future__ import annotations

import builtins
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib import dtypes
from tensorlib.autograd.tape import as_array
from tensorlib.errors import ArgumentError, DTypeError, ShapeError
from tensorlib.ops import elementwise
from tensorlib.ops._common import (
    Array,
    Grads,
    astype,
    called,
    check_dtype,
    conjugate,
    dim_index,
    floating,
    record,
    reducer_dims,
    wide,
    wrap,
)
from tensorlib.ops.out import takes_exact_out, takes_out

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor


class InvalidReduction(ShapeError, IndexError):
    """A reduction over nothing (RuntimeError or IndexError in PyTorch, by operation)."""


def widen(grad: Any, axis: Any, keepdim: bool) -> Any:
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


def _to_sum(input: Tensor, dtype: Any) -> Tensor:
    """`input` in the type in which sums and products are made."""
    if dtype is None and input.array.dtype.kind in "iub":
        return astype(input, np.dtype(np.int64))
    return _to(input, dtype)


# -- sums and means --------------------------------------------------------------------------------


@takes_out
def sum(input: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """Sum over `dim` (one, several, or all); integers and booleans give int64."""
    x = (input := _to(input, dtype)).array
    axis = None if dim is None else reducer_dims(dim, x.ndim, "sum")
    shape = x.shape
    kind = np.int64 if dtype is None and x.dtype.kind in "iub" else None

    def backward(grad: Array) -> Grads:
        return (np.broadcast_to(widen(grad, axis, keepdim), shape),)

    return record(summed(x, axis, keepdim, kind), backward, input)


def summed(x: Any, axis: Any, keepdim: bool, kind: Any = None) -> Any:
    """A sum as PyTorch makes it: float16 adds up in float32."""
    if kind is None and x.dtype.char in "eE":
        return x.sum(axis=axis, keepdims=keepdim, dtype=np.float32).astype(x.dtype)
    return x.sum(axis=axis, keepdims=keepdim, dtype=kind or x.dtype)


@takes_out
def mean(input: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """Mean over `dim` (one, several, or all) of a floating-point tensor."""
    x = (input := _to_mean("mean", input, dtype)).array
    axis = reducer_dims(dim, x.ndim, "mean")
    shape = x.shape
    count = _count(shape, axis)

    def backward(grad: Array) -> Grads:
        return (np.broadcast_to(widen(grad, axis, keepdim) / count, shape),)

    total = wide(x).sum(axis=axis, keepdims=keepdim)
    output = (total / count if count else total * np.nan).astype(x.dtype, copy=False)
    return record(output, backward, input)


def _to_mean(where: str, input: Tensor, dtype: Any) -> Tensor:
    input = _to(input, dtype)
    if input.array.dtype.kind not in "fcV":
        raise DTypeError(
            where,
            "could not infer output dtype, input dtype must be either a floating point or complex "
            f"dtype, got {dtypes.of(input.array.dtype)}",
            hint=f"use x.float().{where}() or dtype=",
        )
    return input


def _count(shape: tuple[int, ...], axis: Any) -> int:
    count = 1
    for i in range(len(shape)) if axis is None else axis:
        count *= shape[i]
    return count


@takes_out
def nansum(input: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """Sum with NaN taken as zero."""
    x = input.array
    axis = reducer_dims(dim, x.ndim, "nansum")
    check_dtype("nansum", x, "biuf", "real numbers")
    if dtype is not None:
        check_dtype("nansum", np.empty(0, dtypes.numpy_dtype(dtype)), "biuf", "a real dtype")
    if x.dtype.kind not in "fV":
        return sum(input, dim, keepdim, dtype=dtype)
    if dtype is not None and dtypes.numpy_dtype(dtype) != x.dtype:
        return sum(elementwise.nan_to_num(input, 0.0, np.inf, -np.inf), dim, keepdim, dtype=dtype)

    def backward(grad: Array) -> Grads:
        return (widen(grad, axis, keepdim) * ~np.isnan(x),)

    return record(summed(np.where(np.isnan(x), 0, x), axis, keepdim), backward, input)


@takes_out
def nanmean(input: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """Mean of the elements that are not NaN."""
    _to_mean("nanmean", input, None)
    _to_mean("nanmean", input, dtype)
    count = sum(wrap(~np.isnan(input.array)), dim, keepdim)
    return elementwise.div(nansum(input, dim, keepdim, dtype=dtype), count)


@takes_out
def prod(
    input: Tensor, dim: int | None = None, keepdim: bool = False, *, dtype: Any = None
) -> Tensor:
    """Product over one dimension or all; integers and booleans give int64."""
    x = (input := _to_sum(input, dtype)).array
    axis = None if dim is None else dim_index(dim, x.ndim, "prod")
    axis = axis if x.ndim else None

    def backward(grad: Array) -> Grads:
        if axis is None and np.count_nonzero(x) < x.size - 1:  # two zeros
            return (np.zeros_like(x),)
        rows = x.reshape(-1) if axis is None else np.moveaxis(x, axis, -1)
        ones = np.ones_like(rows[..., :1])
        before = np.cumprod(np.concatenate([ones, rows[..., :-1]], -1), -1)
        after = np.cumprod(np.concatenate([ones, rows[..., :0:-1]], -1), -1)[..., ::-1]
        others = conjugate(before * after)
        others = others.reshape(x.shape) if axis is None else np.moveaxis(others, -1, axis)
        return (widen(grad, axis, keepdim) * others,)

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
        return (widen(grad, axis, keepdim) * elementwise.conj(reshape(others, x.shape)),)

    output = x.prod(axis=axis, keepdims=keepdim, dtype=x.dtype)
    return record(output, backward, input, smooth=smooth)


# -- variance --------------------------------------------------------------------------------------


@takes_out
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


@takes_out
def std(
    input: Tensor,
    dim: Any = None,
    unbiased: Any = None,
    keepdim: bool = False,
    *,
    correction: Any = None,
) -> Tensor:
    """Standard deviation over `dim`, see `var`; its gradient where it is zero is zero."""
    return _variance(input, dim, unbiased, keepdim, correction, "std")[0]


@called("VarMeanBackward0")
def var_mean(
    input: Tensor,
    dim: Any = None,
    unbiased: Any = None,
    keepdim: bool = False,
    *,
    correction: Any = None,
) -> tuple[Tensor, Tensor]:
    """Variance and mean over `dim`."""
    variance, axis = _variance(input, dim, unbiased, keepdim, correction, "var_mean")
    return variance, mean(input, axis, keepdim)


@called("StdMeanBackward0")
def std_mean(
    input: Tensor,
    dim: Any = None,
    unbiased: Any = None,
    keepdim: bool = False,
    *,
    correction: Any = None,
) -> tuple[Tensor, Tensor]:
    """Standard deviation and mean over `dim`."""
    deviation, axis = _variance(input, dim, unbiased, keepdim, correction, "std_mean")
    return deviation, mean(input, axis, keepdim)


def _variance(
    input: Tensor, dim: Any, unbiased: Any, keepdim: bool, correction: Any, where: str
) -> tuple[Tensor, Any]:
    if isinstance(dim, bool) and unbiased is None:  # torch's first overload: var(input, unbiased)
        dim, unbiased = None, dim
    x = input.array
    if correction is not None and unbiased is not None:
        raise ArgumentError(where, "both 'correction' and 'unbiased' are given", "one of them")
    if correction is None:
        correction = 1 if unbiased is None or unbiased else 0
    check_dtype(where, x, "fc", "floating point or complex numbers")
    axis = reducer_dims(dim, x.ndim, where)
    count = _count(x.shape, axis)
    freedom = count - correction
    if freedom <= 0:
        warnings.warn(
            f"{where}: degrees of freedom is <= 0, {count} elements and correction {correction}; "
            "a correction less than the number of elements.",
            UserWarning,
            stacklevel=3,
        )
    factor = 2.0 / freedom if freedom else np.inf

    y = wide(x)
    add: Any = np.add
    centre = y - add.reduce(y, axis, keepdims=True) / count if count else y
    square = (centre * np.conj(centre)).real if y.dtype.kind == "c" else centre * centre
    total = add.reduce(square, axis, keepdims=keepdim)
    output = total / total.dtype.type(builtins.max(freedom, 0))
    if not where.startswith("std"):
        output = output.astype(x.real.dtype, copy=False)

        def backward(grad: Array) -> Grads:
            centred = x - x.mean(axis=axis, keepdims=True)
            return (widen(grad, axis, keepdim) * (centred * factor),)

        backward.__qualname__ = where
        return record(output, backward, input), axis
    output = np.sqrt(output).astype(x.real.dtype, copy=False)

    def backward_std(grad: Array) -> Grads:
        share = np.where(output == 0, 0, grad / np.where(output == 0, 1, 2 * output))
        centred = x - x.mean(axis=axis, keepdims=True)
        return (widen(share, axis, keepdim) * (centred * factor),)

    backward_std.__qualname__ = where
    return record(output, backward_std, input), axis


# -- truth, counts ---------------------------------------------------------------------------------


@takes_exact_out
def all(input: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    """Whether all elements are nonzero; over no dimensions (`dim=()`), whether each is."""
    return _truth(input, dim, keepdim, np.logical_and, "all")


@takes_exact_out
def any(input: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    """Whether any element is nonzero; over no dimensions (`dim=()`), whether each is."""
    return _truth(input, dim, keepdim, np.logical_or, "any")


def _truth(input: Tensor, dim: Any, keepdim: bool, function: np.ufunc, where: str) -> Tensor:
    x = input.array
    axis: Any = () if isinstance(dim, list | tuple) and not dim else None
    if axis is None:
        axis = reducer_dims(dim, x.ndim, where)
    result = as_array(function.reduce(x, axis, keepdims=keepdim, dtype=bool))
    return wrap(result.astype(np.uint8) if x.dtype.char == "B" else result)


def count_nonzero(input: Tensor, dim: Any = None) -> Tensor:
    """How many elements are nonzero."""
    axis = reducer_dims(dim, input.array.ndim, "count_nonzero")
    return wrap(as_array(np.count_nonzero(input.array, axis=axis)))


# -- others ----------------------------------------------------------------------------------------


@takes_out
def logsumexp(input: Tensor, dim: Any, keepdim: bool = False) -> Tensor:
    """`log(sum(exp(input)))` over `dim`, without overflow."""
    if dim is None:
        raise ArgumentError("logsumexp", "argument 'dim' is None", "an int or several")
    x = (input := floating(input)).array
    if isinstance(dim, list | tuple) and not dim and x.ndim:
        raise InvalidReduction("logsumexp", "no dim given", "one or several")
    axis = reducer_dims(dim, x.ndim, "logsumexp")
    top = np.maximum.reduce(wide(x.real), axis, keepdims=True, initial=-np.inf)
    top = as_array(top).astype(x.real.dtype)
    top[~np.isfinite(top)] = 0
    output = np.log(summed(np.exp(x - top), axis, True)) + top
    if not keepdim and x.ndim:
        output = output.squeeze(axis)

    def backward(grad: Array) -> Grads:
        share = conjugate(np.exp(x - widen(output, axis, keepdim)))
        return (widen(grad, axis, keepdim) * share,)

    return record(output, backward, input)


def sum_to_size(input: Tensor, *size: Any) -> Tensor:
    """Sum over the dimensions that broadcasting `size` to this shape would add or stretch."""
    from tensorlib.ops._common import shape_of

    wanted, shape = shape_of("sum_to_size", size), input.array.shape
    extra = len(shape) - len(wanted)
    kept = shape[builtins.max(extra, 0) :]
    if extra < 0 or builtins.any(n not in (1, m) for n, m in zip(wanted, kept, strict=True)):
        raise ShapeError("sum_to_size", f"size {wanted} is not expandable to size {shape}")
    axes = tuple(range(extra)) + tuple(
        extra + i for i, n in enumerate(wanted) if n == 1 and kept[i] != 1
    )
    if not wanted:
        return sum(input)
    total = sum(input, axes, True) if axes else input
    if not extra:
        return total
    from tensorlib.ops.shape import reshape

    return reshape(total, wanted)
