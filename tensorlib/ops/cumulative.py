"""Running sums, products and extremes along a dimension; differences."""

from __future__ import annotations

import builtins
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib import dtypes, return_types
from tensorlib.errors import ShapeError
from tensorlib.ops import elementwise
from tensorlib.ops._common import (
    Array,
    Grads,
    astype,
    called,
    check_dtype,
    conjugate,
    dim_index,
    record,
    wide,
    wrap,
)
from tensorlib.ops._formula import derived
from tensorlib.ops.extremes import input_copy
from tensorlib.ops.out import takes_exact_out, takes_out

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor


class InvalidSteps(ShapeError):
    """Sizes or steps along a dimension that do not fit (RuntimeError in PyTorch)."""


def _summable(input: Tensor, dim: int, dtype: Any, where: str) -> tuple[Tensor, int]:
    """`input` in the type of its running sum, and the axis."""
    if dtype is not None:
        input = elementwise.cast(input, dtype)
        check_dtype(where, input.array, "iufc", "numbers")
    axis = dim_index(dim, input.array.ndim, where)
    if dtype is None and input.array.dtype.kind in "iub":
        input = astype(input, np.dtype(np.int64))
    return input, axis


@takes_out
def cumsum(input: Tensor, dim: int, *, dtype: Any = None) -> Tensor:
    """Running sum along `dim`; integers and booleans give int64."""
    input, axis = _summable(input, dim, dtype, "cumsum")
    x = input.array

    def backward(grad: Array) -> Grads:
        if not grad.ndim:
            return (grad,)
        return (np.flip(np.cumsum(np.flip(grad, axis), axis), axis),)

    return record(_accumulated(np.add, x, axis), backward, input)


def _accumulated(function: Any, x: Array, axis: int) -> Any:
    if not x.ndim:
        return x.copy()
    return function.accumulate(wide(x), axis).astype(x.dtype, copy=False)


@takes_out
def cumprod(input: Tensor, dim: int, *, dtype: Any = None) -> Tensor:
    """Running product along `dim`; integers and booleans give int64."""
    input, axis = _summable(input, dim, dtype, "cumprod")
    x = input.array
    output = _accumulated(np.multiply, x, axis)

    def backward(grad: Array) -> Grads:
        if not x.ndim:
            return (grad,)
        a, b = conjugate(x), conjugate(output)
        if (x != 0).all():
            return (np.flip(np.cumsum(np.flip(grad * b, axis), axis), axis) / a,)
        out = np.zeros_like(x)
        before = (builtins.slice(None),) * axis
        for i in range(x.shape[axis]):  # d out[j] / d x[i] = product of x[:j+1] without x[i]
            others = a.copy()
            others[(*before, i)] = 1
            parts = grad * np.cumprod(others, axis)
            out[(*before, i)] = parts[(*before, builtins.slice(i, None))].sum(axis)
        return (out,)

    def smooth(grad: Any) -> Grads:
        from tensorlib.ops.shape import cat, narrow

        if not x.ndim:
            return (grad,)
        n = x.shape[axis]
        parts = []
        for i in range(n):
            one = wrap(np.ones_like(narrow(x, axis, i, 1).array))
            pieces = [narrow(x, axis, 0, i), one, narrow(x, axis, i + 1, n - i - 1)]
            others = elementwise.conj(cumprod(cat(pieces, axis), axis))
            part = narrow(grad, axis, i, n - i) * narrow(others, axis, i, n - i)
            parts.append(part.sum(axis, True))
        return (cat(parts, axis) if parts else grad,)

    return record(output, backward, input, smooth=smooth)


@takes_exact_out
@called("CummaxBackward0")
def cummax(input: Tensor, dim: int) -> Any:
    """Running maximum along `dim`, `(values, indices)`; of equal elements the last."""
    return return_types.cummax(*_running(input, dim, np.greater_equal, "cummax"))


@takes_exact_out
@called("CumminBackward0")
def cummin(input: Tensor, dim: int) -> Any:
    """Running minimum along `dim`, `(values, indices)`; of equal elements the last."""
    return return_types.cummin(*_running(input, dim, np.less_equal, "cummin"))


def _running(input: Tensor, dim: int, better: Any, where: str) -> tuple[Tensor, Tensor]:
    from tensorlib.ops.indexing import gather

    x = input.array
    if not x.size:
        return input_copy(input), wrap(np.zeros(x.shape, np.int64))
    axis = dim_index(dim, x.ndim, where)
    check_dtype(where, x, "biuf", "a type with an order")
    if not x.ndim:
        return input_copy(input), wrap(np.zeros((), np.int64))
    accumulate = np.maximum.accumulate if where == "cummax" else np.minimum.accumulate
    values = accumulate(x, axis=axis)
    shape = [1] * x.ndim
    shape[axis] = -1
    places = np.arange(x.shape[axis]).reshape(shape)
    hit = better(x, values) | (np.isnan(x) if x.dtype.kind in "fV" else False)
    indices = wrap(np.maximum.accumulate(np.where(hit, places, 0), axis=axis))
    return gather(input, axis, indices), indices


@takes_out
def logcumsumexp(input: Tensor, dim: int) -> Tensor:
    """`log(cumsum(exp(input)))` along `dim`, without overflow."""
    x = input.array
    axis = dim_index(dim, x.ndim, "logcumsumexp")
    check_dtype("logcumsumexp", x, "fc", "floating point or complex numbers")
    if not x.ndim:
        return input_copy(input)
    if x.dtype.kind == "c":
        output = _complex_logcumsumexp(np.moveaxis(x, axis, 0))
        output = np.moveaxis(output, 0, axis)
    else:
        output = np.logaddexp.accumulate(wide(x), axis=axis).astype(x.dtype, copy=False)
    return derived(output, _logcumsumexp_formula(axis), input, name="logcumsumexp")


def _complex_logcumsumexp(x: Array) -> Array:
    output = x.copy()
    for i in range(1, len(x)):
        a, b = output[i - 1], x[i]
        low, high = np.where(a.real < b.real, (a, b), (b, a))
        total = np.log1p(np.exp(low - high)) + high
        output[i] = np.where(np.isneginf(low.real), high, total)
    return output


def _logcumsumexp_formula(axis: int) -> Any:
    """PyTorch's: the gradient's logarithm runs backwards through the same operation, so that no
    power overflows.
    """
    from tensorlib.ops.indexing import where
    from tensorlib.ops.shape import flip

    def reversed_sum(t: Tensor) -> Tensor:
        return flip(logcumsumexp(flip(t, (axis,)), axis), (axis,))

    def formula(grad: Tensor, output: Tensor, x: Tensor) -> tuple[Tensor]:
        if grad.array.dtype.kind == "c":
            log = elementwise.log(elementwise.conj(grad))
            return (elementwise.conj(elementwise.exp(reversed_sum(log - output) + x)),)
        least = float(dtypes.float_info(grad.array.dtype).min)
        log = elementwise.log(elementwise.abs(grad))
        sides = (where(grad > 0, log, least), where(grad < 0, log, least))
        up, down = (elementwise.exp(reversed_sum(side - output) + x) for side in sides)
        return (up - down,)

    return formula


# -- differences -----------------------------------------------------------------------------------


@takes_out
def diff(
    input: Tensor,
    n: int = 1,
    dim: int = -1,
    prepend: Tensor | None = None,
    append: Tensor | None = None,
) -> Tensor:
    """The `n`-th differences along `dim`; of booleans, where they change."""
    from tensorlib.ops.shape import cat, narrow

    if not input.array.ndim:
        raise InvalidSteps("diff", "a 0-dim tensor", "at least one dimension")
    if n < 0:
        raise InvalidSteps("diff", f"order n={n}", "at least 0")
    axis = dim_index(dim, input.array.ndim, "diff")
    for name, extra in (("prepend", prepend), ("append", append)):
        if extra is not None and extra.array.ndim != input.array.ndim:
            raise InvalidSteps(
                "diff", f"{name} has {extra.array.ndim} dimensions", f"{input.array.ndim}"
            )
    if n == 0:
        return input_copy(input)
    if prepend is not None or append is not None:
        input = cat([t for t in (prepend, input, append) if t is not None], axis)
    step = elementwise.logical_xor if input.array.dtype.kind == "b" else elementwise.sub
    for _ in range(builtins.min(n, input.array.shape[axis])):
        rest = input.array.shape[axis] - 1
        input = step(narrow(input, axis, 1, rest), narrow(input, axis, 0, rest))
    return input


def gradient(
    input: Tensor, *, spacing: Any = 1, dim: Any = None, edge_order: int = 1
) -> tuple[Tensor, ...]:
    """Central differences along each of `dim` (all); `spacing` is a step, one per dimension, or the
    coordinates as 1-d tensors. `edge_order` 1 or 2 is the accuracy at both ends.
    """
    ndim = input.array.ndim
    if input.array.dtype == np.uint8:
        raise InvalidSteps("gradient", "uint8 given", "a type of differences of both signs")
    dims = range(ndim) if dim is None else ([dim] if isinstance(dim, int) else list(dim))
    axes = [dim_index(d, ndim, "gradient") for d in dims]
    if len(set(axes)) != len(axes):
        raise InvalidSteps("gradient", f"dim {dim} names a dimension twice")
    if edge_order not in (1, 2):
        raise InvalidSteps("gradient", f"edge_order={edge_order}", "1 or 2")
    spacing = 1 if spacing is None else spacing
    steps = list(spacing) if isinstance(spacing, list | tuple) else [spacing] * len(axes)
    if hasattr(spacing, "array") and len(axes) != 1:
        raise InvalidSteps("gradient", "one tensor as spacing", "one for each dimension")
    if len(steps) != len(axes):
        raise InvalidSteps(
            "gradient", f"{len(steps)} spacings", f"one for each of {len(axes)} dims"
        )
    for axis in axes:
        if input.array.shape[axis] <= edge_order:
            raise InvalidSteps(
                "gradient", f"size {input.array.shape[axis]} at {axis}", f"over {edge_order}"
            )
    return tuple(
        _slopes(input, axis, step, edge_order) for axis, step in zip(axes, steps, strict=True)
    )


def _slopes(input: Tensor, axis: int, step: Any, edge_order: int) -> Tensor:
    from tensorlib.ops.shape import cat, narrow, reshape

    size = input.array.shape[axis]

    def at(start: int, count: int = 1) -> Tensor:
        return narrow(input, axis, start % size, count)

    if not hasattr(step, "array"):
        inner = (at(2, size - 2) - at(0, size - 2)) / (2 * step) if size > 2 else None
        if edge_order == 1:
            first, last = (at(1) - at(0)) / step, (at(-1) - at(-2)) / step
        else:
            first = (at(0) * -1.5 + at(1) * 2 - at(2) * 0.5) / step
            last = (at(-3) * 0.5 - at(-2) * 2 + at(-1) * 1.5) / step
        return cat([p for p in (first, inner, last) if p is not None], axis)
    if step.array.shape != (size,):
        raise InvalidSteps("gradient", f"coordinates of shape {step.array.shape}", f"({size},)")
    gaps = reshape(diff(step), (-1,) + (1,) * (input.array.ndim - 1 - axis))

    def gap(start: int, count: int = 1) -> Tensor:
        return narrow(gaps, 0, start % (size - 1), count)

    a, b = gap(0, size - 2), gap(1, size - 2)
    inner = (
        at(0, size - 2) * (-b / (a * (a + b)))
        + at(1, size - 2) * ((b - a) / (a * b))
        + at(2, size - 2) * (a / (b * (a + b)))
    )
    if edge_order == 1:
        first, last = (at(1) - at(0)) / gap(0), (at(-1) - at(-2)) / gap(-1)
    else:
        a, b = gap(0), gap(1)
        first = (
            at(0) * (-(2 * a + b) / (a * (a + b)))
            + at(1) * ((a + b) / (a * b))
            + at(2) * (-a / (b * (a + b)))
        )
        a, b = gap(-2), gap(-1)
        last = (
            at(-3) * (b / (a * (a + b)))
            + at(-2) * (-(a + b) / (a * b))
            + at(-1) * ((a + 2 * b) / (b * (a + b)))
        )
    return cat([first, inner, last], axis)
