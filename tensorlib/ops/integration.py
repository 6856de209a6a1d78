"""Integrals of samples by the trapezoidal rule, and covariances of variables."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib.errors import ArgumentError, DTypeError, ShapeError
from tensorlib.ops import cumulative, elementwise, reduction, shape
from tensorlib.ops._common import dim_index, expect_tensor, wrap
from tensorlib.ops.linalg import matmul
from tensorlib.ops.out import direct

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor


# -- trapezoidal rule ------------------------------------------------------------------------------


def trapezoid(y: Tensor, x: Tensor | None = None, *, dx: Any = None, dim: int = -1) -> Tensor:
    """Integral of `y` along `dim` over the places `x`, or over steps of `dx` (1)."""
    where = "trapezoid"
    axis, step = _spaced(where, y, x, dx, dim)
    if not y.array.shape[axis]:
        return wrap(np.zeros([n for i, n in enumerate(y.array.shape) if i != axis], y.array.dtype))
    if x is not None:
        areas = elementwise.mul(_pairs(y, axis), step)
        return elementwise.div(reduction.sum(areas, axis), 2.0)
    ends = elementwise.add(shape.select(y, axis, 0), shape.select(y, axis, -1))
    total = elementwise.sub(reduction.sum(y, axis), elementwise.mul(ends, 0.5))
    return elementwise.mul(total, step)


def trapz(y: Tensor, x: Tensor | None = None, *, dx: float = 1, dim: int = -1) -> Tensor:
    """`trapezoid`."""
    return trapezoid(y, x, dim=dim) if x is not None else trapezoid(y, dx=dx, dim=dim)


def cumulative_trapezoid(
    y: Tensor, x: Tensor | None = None, *, dx: Any = None, dim: int = -1
) -> Tensor:
    """Integrals from the first sample to each later one, see `trapezoid`."""
    axis, step = _spaced("cumulative_trapezoid", y, x, dx, dim)
    pairs = _pairs(y, axis)
    if x is not None:
        return elementwise.div(direct(cumulative.cumsum)(elementwise.mul(pairs, step), axis), 2.0)
    return direct(cumulative.cumsum)(elementwise.mul(pairs, step / 2.0), axis)


def _pairs(y: Tensor, axis: int) -> Tensor:
    """Sums of neighbours."""
    count = max(y.array.shape[axis] - 1, 0)
    first = min(1, y.array.shape[axis])
    return elementwise.add(shape.narrow(y, axis, first, count), shape.narrow(y, axis, 0, count))


def _spaced(where: str, y: Any, x: Any, dx: Any, dim: int) -> tuple[int, Any]:
    """The dimension counted from the front, and the steps along it."""
    expect_tensor(where, "y", y)
    if y.array.dtype.kind == "b":
        raise DTypeError(where, "received a bool input for `y`, but bool is not supported")
    if not y.array.ndim:
        raise ShapeError(where, "y has no dimensions", "at least one")
    axis = dim_index(dim, y.array.ndim, where)
    if x is None:
        step = 1 if dx is None else dx
        if isinstance(step, complex):
            raise DTypeError(where, f"dx={dx}", "Currently, we only support dx as a real number")
        return axis, step
    if dx is not None:
        raise ArgumentError(where, "both x and dx are given", "one of them")
    expect_tensor(where, "x", x)
    if x.array.dtype.kind == "b":
        raise DTypeError(where, "received a bool input for `x`, but bool is not supported")
    sizes = list(x.array.shape)
    if len(sizes) == 1:
        if sizes[0] != y.array.shape[axis]:
            raise ShapeError(
                where,
                f"There must be one `x` value for each sample point: {sizes[0]} values for y of "
                f"shape {y.array.shape}, dim {axis}",
            )
        sizes = [1] * axis + sizes + [1] * (y.array.ndim - 1 - axis)
    elif len(sizes) < y.array.ndim:
        sizes = [1] * (y.array.ndim - len(sizes)) + sizes
    places = shape.reshape(x, sizes)
    count = max(sizes[axis] - 1, 0)
    first = min(1, sizes[axis])
    ahead = shape.narrow(places, axis, first, count)
    return axis, elementwise.sub(ahead, shape.narrow(places, axis, 0, count))


# -- covariance ------------------------------------------------------------------------------------


def cov(
    input: Tensor,
    *,
    correction: int = 1,
    fweights: Tensor | None = None,
    aweights: Tensor | None = None,
) -> Tensor:
    """Covariances of the rows [variables, observations]; `fweights` count how often an observation
    occurs, `aweights` say how much it matters.
    """
    where = "cov"
    x = input
    if x.array.ndim > 2:
        raise ShapeError(where, f"input has {x.array.ndim} dimensions", "two or fewer")
    if x.array.dtype.kind == "b":
        raise DTypeError(where, "bool dtype is not supported for input")
    x = shape.reshape(x, (1, -1)) if x.array.ndim < 2 else x
    count = x.array.shape[1]
    weight = None
    if fweights is not None:
        weight = _weights(where, "fweights", fweights, count, "iu")
    if aweights is not None:
        _weights(where, "aweights", aweights, count, "f")
        weight = aweights if weight is None else elementwise.mul(weight, aweights)
    total: Any = count if weight is None else reduction.sum(weight)
    if weight is not None and not total.array:
        raise ShapeError(where, "weights sum to zero, can't be normalized")
    weighed = x if weight is None else elementwise.mul(x, weight)
    mean = elementwise.div(reduction.sum(weighed, 1), total)
    if weight is not None and aweights is not None and correction:
        lost = elementwise.div(reduction.sum(elementwise.mul(weight, aweights)), total)
        factor: Any = elementwise.sub(total, elementwise.mul(lost, correction))
    else:
        factor = total - correction
    if (factor.array if hasattr(factor, "array") else factor) <= 0:
        warnings.warn("cov(): degrees of freedom is <= 0", UserWarning, stacklevel=2)
        factor = 0
    x = elementwise.sub(x, shape.unsqueeze(mean, 1))
    weighed = x if weight is None else elementwise.mul(x, weight)
    turned = elementwise.conj(shape.transpose(weighed, 0, 1))
    return shape.squeeze(elementwise.div(direct(matmul)(x, turned), factor))


def _weights(where: str, name: str, weights: Any, count: int, kinds: str) -> Tensor:
    expect_tensor(where, name, weights)
    w = weights.array
    if w.ndim > 1 or w.size != count:
        raise ShapeError(where, f"{name} has shape {w.shape}", f"one for each of {count}")
    if w.dtype.kind not in kinds:
        expected = "an integral dtype" if kinds == "iu" else "a floating point dtype"
        raise DTypeError(where, f"{name} has dtype {weights.dtype}", expected)
    if w.size and w.min() < 0:
        raise ShapeError(where, f"{name} has a negative element, {w.min()}", "none below 0")
    found: Tensor = weights
    return found


def corrcoef(input: Tensor) -> Tensor:
    """Correlation coefficients of the rows [variables, observations]."""
    if input.array.ndim > 2:
        raise ShapeError("corrcoef", f"input has {input.array.ndim} dimensions", "two or fewer")
    c = cov(input)
    if not c.array.ndim:
        return elementwise.div(c, c)
    spread = elementwise.sqrt(elementwise.real(shape.diagonal(c)))
    c = elementwise.div(c, shape.unsqueeze(spread, 1))
    c = elementwise.div(c, shape.unsqueeze(spread, 0))
    if c.array.dtype.kind != "c":
        return elementwise.clamp(c, -1, 1)
    parts = [elementwise.clamp(part(c), -1, 1) for part in (elementwise.real, elementwise.imag)]
    turned = elementwise.mul(parts[1], wrap(np.asarray(1j, c.array.dtype)))
    return elementwise.add(parts[0], turned)
