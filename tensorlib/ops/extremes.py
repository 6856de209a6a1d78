"""Extremes over dimensions: `max min amax amin aminmax argmax argmin`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib import return_types
from tensorlib.autograd.tape import as_array
from tensorlib.errors import DimensionError
from tensorlib.ops import elementwise
from tensorlib.ops._common import (
    Array,
    Grads,
    called,
    check_dtype,
    dim_index,
    record,
    reducer_dims,
    wrap,
)
from tensorlib.ops.out import takes_distinct_out, takes_exact_out
from tensorlib.ops.reduction import InvalidReduction, widen

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor


def _extremum(
    input: Tensor, dim: Any, keepdim: bool, larger: bool, where: str
) -> tuple[Tensor, Tensor]:
    x = input.array
    axis = dim_index(dim, x.ndim, where)
    expect_elements(where, x, axis)
    check_dtype(where, x, "biuf", "a type with an order")
    if x.ndim == 0:
        return input_copy(input), wrap(np.zeros((), np.int64))
    reduce: Any = np.maximum if larger else np.minimum
    index = (x.argmax if larger else x.argmin)(axis, keepdims=True)

    def backward(grad: Array) -> Grads:
        out = np.zeros_like(x)
        np.put_along_axis(out, index, widen(grad, (axis,), keepdim), axis)
        return (out,)

    def smooth(grad: Array) -> Grads:
        places = np.arange(x.shape[axis]).reshape([-1] + [1] * (x.ndim - 1 - axis)) == index
        return (widen(grad, (axis,), keepdim) * places,)

    values = reduce.reduce(x, axis, keepdims=keepdim)
    places = index if keepdim else index.squeeze(axis)
    backward.__qualname__ = where
    return record(values, backward, input, smooth=smooth), wrap(places)


def input_copy(input: Tensor) -> Tensor:
    """The same elements in new memory, with gradient."""
    from tensorlib.ops.shape import clone

    return clone(input)


def expect_elements(where: str, x: Array, axis: int) -> None:
    """Refuse a dimension without elements."""
    if x.ndim and not x.shape[axis]:
        raise DimensionError(
            where, f"Expected reduction dim {axis} to have non-zero size, shape {x.shape}"
        )


def _all_extremum(input: Tensor, larger: bool, where: str) -> Tensor:
    x = input.array
    check_dtype(where, x, "biuf", "a type with an order")
    if x.size == 0:
        raise InvalidReduction(
            where,
            f"Expected reduction dim to be specified for an empty tensor, shape {x.shape}",
            "a dim",
        )
    return record(*shared_by_equals(x, x.max() if larger else x.min(), where), input)


def shared_by_equals(x: Array, chosen: Any, where: str) -> tuple[Array, Callable[..., Grads]]:
    """An element of `x` as output, and the gradient that all elements equal to it share."""
    output = as_array(chosen)

    def backward(grad: Array) -> Grads:
        equal = np.isnan(x) if (output != output).any() else x == output
        return (equal * (grad / equal.sum()),)

    backward.__qualname__ = where
    return output, backward


@takes_exact_out
def max(
    input: Tensor, dim: Any = None, keepdim: bool = False, *, other: Tensor | None = None
) -> Any:
    """The largest element; with `dim`, `(values, indices)` along it; with a Tensor, `maximum`."""
    if other is not None or hasattr(dim, "array"):
        return elementwise.maximum(input, dim if other is None else other)
    if dim is None:
        return _all_extremum(input, True, "max")
    return return_types.max(*_extremum(input, dim, keepdim, True, "max"))


@takes_exact_out
def min(
    input: Tensor, dim: Any = None, keepdim: bool = False, *, other: Tensor | None = None
) -> Any:
    """The smallest element; with `dim`, `(values, indices)` along it; with a Tensor, `minimum`."""
    if other is not None or hasattr(dim, "array"):
        return elementwise.minimum(input, dim if other is None else other)
    if dim is None:
        return _all_extremum(input, False, "min")
    return return_types.min(*_extremum(input, dim, keepdim, False, "min"))


@takes_exact_out
def amax(input: Tensor, dim: Any = (), keepdim: bool = False) -> Tensor:
    """The largest elements over `dim`; equal ones share the gradient."""
    return _amx(input, dim, keepdim, np.maximum, "amax")


@takes_exact_out
def amin(input: Tensor, dim: Any = (), keepdim: bool = False) -> Tensor:
    """The smallest elements over `dim`; equal ones share the gradient."""
    return _amx(input, dim, keepdim, np.minimum, "amin")


def _amx(input: Tensor, dim: Any, keepdim: bool, function: np.ufunc, where: str) -> Tensor:
    x = input.array
    axis = reducer_dims(dim, x.ndim, where)
    if axis is None and not x.size:
        raise InvalidReduction(
            where,
            f"Expected reduction dim to be specified for an empty tensor, shape {x.shape}",
            "a dim",
        )
    for one in axis or ():
        expect_elements(where, x, one)
    check_dtype(where, x, "biuf", "a type with an order")
    output = as_array(function.reduce(x, axis=axis, keepdims=keepdim))

    def backward(grad: Array) -> Grads:
        equal = x == widen(output, axis, keepdim)
        count = equal.sum(axis=axis, keepdims=True).astype(grad.dtype)
        return (equal * (widen(grad, axis, keepdim) / count),)

    backward.__qualname__ = where
    return record(output, backward, input)


@takes_distinct_out
@called("AminmaxBackward0")
def aminmax(input: Tensor, *, dim: int | None = None, keepdim: bool = False) -> Any:
    """`(min, max)` over one dimension or all."""
    x = input.array
    if dim is None and not x.size:
        raise InvalidReduction(
            "aminmax", f"no elements in shape {x.shape}, and the operation has no identity"
        )
    dims: Any = () if dim is None else dim_index(dim, x.ndim, "aminmax")
    check_dtype("aminmax", x, "biuf", "a type with an order")
    return return_types.aminmax(amin(input, dims, keepdim), amax(input, dims, keepdim))


@takes_exact_out
def argmax(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """Index of the first largest element, in the flattened tensor or along `dim`."""
    return _arg(input, dim, keepdim, np.argmax, "argmax")


@takes_exact_out
def argmin(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """Index of the first smallest element, in the flattened tensor or along `dim`."""
    return _arg(input, dim, keepdim, np.argmin, "argmin")


def _arg(
    input: Tensor, dim: Any, keepdim: bool, function: Callable[..., Any], where: str
) -> Tensor:
    x = input.array
    if dim is not None and not isinstance(dim, int):
        dim_index(dim, x.ndim, where)
    check_dtype(where, x, "iuf", "integers or floating point")
    axis = None if dim is None else dim_index(dim, x.ndim, where)
    if axis is None:
        if x.size == 0:
            raise DimensionError(
                where,
                f"Expected reduction dim to be specified for an empty tensor, shape {x.shape}",
            )
        found = as_array(function(x))
        return wrap(found.reshape((1,) * x.ndim) if keepdim else found)
    if x.ndim == 0:
        return wrap(np.zeros((), np.int64))
    expect_elements(where, x, axis)
    return wrap(function(x, axis, keepdims=keepdim))
