"""Comparisons, minima and maxima of two, limits, and what kind of number an element is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib import dtypes
from tensorlib.errors import ArgumentError, DTypeError, ShapeError
from tensorlib.ops._common import (
    Array,
    Grads,
    Number,
    astype,
    check_dtype,
    common_dtype,
    differ,
    expect_tensor,
    is_array,
    promoted,
    record,
    scalar_array,
    scalar_operand,
    wide,
    wrap,
)
from tensorlib.ops.out import takes_exact_out, takes_out

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor


_FLOATING = {float, int, type(None)}


class InvalidComparison(ShapeError):
    """Arguments of a comparison that PyTorch refuses with RuntimeError."""


@takes_out
def eq(input: Tensor, other: Tensor | Number) -> Tensor:
    """Whether elements are equal."""
    return _compare(input, other, np.equal, "eq")


@takes_out
def ne(input: Tensor, other: Tensor | Number) -> Tensor:
    """Whether elements differ."""
    return _compare(input, other, np.not_equal, "ne")


@takes_out
def lt(input: Tensor, other: Tensor | Number) -> Tensor:
    """Whether `input < other`."""
    return _compare(input, other, np.less, "lt")


@takes_out
def le(input: Tensor, other: Tensor | Number) -> Tensor:
    """Whether `input <= other`."""
    return _compare(input, other, np.less_equal, "le")


@takes_out
def gt(input: Tensor, other: Tensor | Number) -> Tensor:
    """Whether `input > other`."""
    return _compare(input, other, np.greater, "gt")


@takes_out
def ge(input: Tensor, other: Tensor | Number) -> Tensor:
    """Whether `input >= other`."""
    return _compare(input, other, np.greater_equal, "ge")


def _compare(input: Tensor, other: Any, function: Any, where: str) -> Tensor:
    x = input.array
    if is_array(other):
        other = wrap(other)
    if hasattr(other, "array"):
        y = other.array
        if x.dtype != y.dtype:
            input, other = promoted(input, other)
            x, y = input.array, other.array
    elif isinstance(other, int | float | complex):
        if x.dtype.char not in "fd" or isinstance(other, complex):
            x = scalar_operand(input, other, where).array
            other = scalar_array(other, x.dtype)
        y = other
    else:
        raise ArgumentError(
            where, f"argument 'other' must be Tensor or a number, not {type(other).__name__}"
        )
    if x.dtype.kind == "c" and where not in ("eq", "ne"):
        raise DTypeError(where, "complex numbers have no order", "a real type")
    try:
        return wrap(function(x, y))
    except ValueError:
        raise differ(where, x, y) from None


# -- the larger, the smaller, limits ---------------------------------------------------------------


@takes_out
def maximum(input: Tensor, other: Tensor) -> Tensor:
    """The larger of two elements; NaN wins; equal elements share the gradient."""
    return _extreme(input, other, np.maximum, "maximum")


@takes_out
def minimum(input: Tensor, other: Tensor) -> Tensor:
    """The smaller of two elements; NaN wins; equal elements share the gradient."""
    return _extreme(input, other, np.minimum, "minimum")


@takes_out
def fmax(input: Tensor, other: Tensor) -> Tensor:
    """The larger of two elements, ignoring NaN."""
    return _extreme(input, other, np.fmax, "fmax")


@takes_out
def fmin(input: Tensor, other: Tensor) -> Tensor:
    """The smaller of two elements, ignoring NaN."""
    return _extreme(input, other, np.fmin, "fmin")


def _extreme(input: Tensor, other: Tensor, function: Any, where: str) -> Tensor:
    expect_tensor(where, "other", other)
    input, other = promoted(input, other)
    a, b = input.array, other.array
    if a.dtype.kind == "c":
        raise DTypeError(where, "complex numbers have no order", "a real type")
    try:
        output = function(a, b)
    except ValueError:
        raise differ(where, a, b) from None
    larger = function in (np.maximum, np.fmax)

    def backward(grad: Array) -> Grads:
        if function in (np.fmax, np.fmin):
            first = (a >= b if larger else a <= b) | np.isnan(b)
            return np.where(first, grad, 0), np.where(first, 0, grad)
        half = np.where(a == b, grad / 2, grad)
        loses = a < b if larger else a > b
        wins = a > b if larger else a < b
        return np.where(loses, 0, half), np.where(wins, 0, half)

    backward.__qualname__ = where
    return record(output, backward, input, other)


@takes_out
def clamp(
    input: Tensor, min: Tensor | Number | None = None, max: Tensor | Number | None = None
) -> Tensor:
    """Values limited to [min, max], both numbers or both tensors; one may be left out."""
    expect_tensor("clamp", "input", input)
    if min is None and max is None:
        raise InvalidComparison("clamp", "both 'min' and 'max' are None", "at least one of them")
    tensors = [hasattr(bound, "array") for bound in (min, max) if bound is not None]
    if tensors[0] and tensors[-1]:
        return _clamp_tensors(input, min, max)
    x = input.array
    low: Any = min
    high: Any = max
    if x.dtype.char not in "fd" or not {type(low), type(high)} <= _FLOATING:
        for bound in (low, high):
            if bound is not None:
                expect_number("clamp", bound)
                input = scalar_operand(input, bound, "clamp")
        x = input.array
        check_dtype("clamp", x, "iuf", "real numbers")
        low, high = (None if b is None else _limit("clamp", b, x.dtype) for b in (low, high))
    output = x if low is None else np.maximum(x, low)
    output = output if high is None else np.minimum(output, high)

    def backward(grad: Array) -> Grads:
        if low is None:
            inside = x <= high
        elif high is None:
            inside = x >= low
        else:
            inside = (x >= low) & (x <= high)
        return (np.where(inside, grad, 0),)

    return record(output, backward, input)


def expect_number(where: str, value: Any) -> None:
    """Refuse what is no Python number."""
    if not isinstance(value, bool | int | float | complex | np.generic):
        raise ArgumentError(where, f"{type(value).__name__} given", "a number")


def _limit(where: str, value: Any, dtype: Any) -> Any:
    if dtype.kind not in "fV" and not np.can_cast(np.min_scalar_type(value), dtype, "unsafe"):
        raise InvalidComparison(where, f"{value} cannot be converted to {dtypes.of(dtype)}")
    if dtype.kind in "iu" and value > np.iinfo(dtype).max:
        raise InvalidComparison(where, f"{value} does not fit {dtypes.of(dtype)}")
    found = np.asarray(value).astype(dtype)
    return found[()] if dtype.kind == "V" else found.item()  # bfloat16 with a float is float32


def _clamp_tensors(input: Tensor, min: Any, max: Any) -> Tensor:
    bounds = [b for b in (min, max) if b is not None]
    common = common_dtype(input.array, *(b.array for b in bounds))
    x = (input := astype(input, common)).array
    check_dtype("clamp", x, "iuf" if len(bounds) == 2 else "biuf", "real numbers")
    bounds = [astype(b, common) for b in bounds]
    low = bounds[0].array if min is not None else None
    high = bounds[-1].array if max is not None else None
    try:
        output = x if low is None else np.maximum(x, low)
        output = output if high is None else np.minimum(output, high)
    except ValueError:
        raise differ("clamp", x, bounds[0].array) from None

    def backward(grad: Array) -> Grads:
        if high is None:
            return np.where(x >= low, grad, 0), np.where(x < low, grad, 0)
        if low is None:
            return np.where(x <= high, grad, 0), np.where(x > high, grad, 0)
        return (
            np.where((x >= low) & (x <= high), grad, 0),
            np.where((low < high) & (x < low), grad, 0),
            np.where((x > high) | (high < low), grad, 0),
        )

    backward.__qualname__ = "clamp"
    return record(output, backward, input, *bounds)


@takes_out
def clamp_min(input: Tensor, min: Tensor | Number) -> Tensor:
    """`clamp(input, min=min)`."""
    if min is None:
        raise ArgumentError("clamp_min", "argument 'min' is None", "a Tensor or a number")
    return clamp(input, min=min)


@takes_out
def clamp_max(input: Tensor, max: Tensor | Number) -> Tensor:
    """`clamp(input, max=max)`."""
    if max is None:
        raise ArgumentError("clamp_max", "argument 'max' is None", "a Tensor or a number")
    return clamp(input, max=max)


# -- kinds of numbers ------------------------------------------------------------------------------


def isnan(input: Tensor) -> Tensor:
    """Whether elements are NaN."""
    expect_tensor("isnan", "input", input)
    return wrap(np.isnan(input.array))


def isinf(input: Tensor) -> Tensor:
    """Whether elements are infinite."""
    expect_tensor("isinf", "input", input)
    return wrap(np.isinf(input.array))


def isfinite(input: Tensor) -> Tensor:
    """Whether elements are neither infinite nor NaN."""
    expect_tensor("isfinite", "input", input)
    return wrap(np.isfinite(input.array))


@takes_exact_out
def isposinf(input: Tensor) -> Tensor:
    """Whether elements are plus infinity."""
    check_dtype("isposinf", input.array, "biuf", "real numbers")
    return wrap(np.isposinf(input.array))


@takes_exact_out
def isneginf(input: Tensor) -> Tensor:
    """Whether elements are minus infinity."""
    check_dtype("isneginf", input.array, "biuf", "real numbers")
    return wrap(np.isneginf(input.array))


def isreal(input: Tensor) -> Tensor:
    """Whether elements have no imaginary part."""
    expect_tensor("isreal", "input", input)
    return wrap(np.isreal(input.array))


# -- whole tensors ---------------------------------------------------------------------------------


def isclose(
    input: Tensor, other: Tensor, rtol: float = 1e-05, atol: float = 1e-08, equal_nan: bool = False
) -> Tensor:
    """`|input - other| <= atol + rtol * |other|`."""
    expect_tensor("isclose", "input", input)
    expect_tensor("isclose", "other", other)
    a, b = input.array, other.array
    if a.dtype != b.dtype:
        raise DTypeError(
            "isclose", f"{dtypes.of(a.dtype)} did not match {dtypes.of(b.dtype)}", "equal dtypes"
        )
    for name, value in (("rtol", rtol), ("atol", atol)):
        if value < 0:
            raise InvalidComparison("isclose", f"{name}={value}", "at least zero")
    try:
        close = a == b
        if equal_nan and a.dtype.kind in "fcV":
            close = close | (np.isnan(a) & np.isnan(b))
        if rtol or atol:
            if a.dtype.kind in "iub":
                a, b = a.astype(dtypes.default_numpy()), b.astype(dtypes.default_numpy())
            gap = np.abs(a - b)
            close = close | (np.isfinite(gap) & (gap <= atol + np.abs(rtol * b)))
    except ValueError:
        raise differ("isclose", a, b) from None
    return wrap(close)


def allclose(
    input: Tensor, other: Tensor, rtol: float = 1e-05, atol: float = 1e-08, equal_nan: bool = False
) -> bool:
    """Whether all elements are close (see `isclose`)."""
    return bool(isclose(input, other, rtol, atol, equal_nan).array.all())


def equal(input: Tensor, other: Tensor) -> bool:
    """Whether both have the same shape and elements."""
    expect_tensor("equal", "input", input)
    expect_tensor("equal", "other", other)
    return input.array.shape == other.array.shape and bool((input.array == other.array).all())


def is_nonzero(input: Tensor) -> bool:
    """Whether the only element is not zero."""
    if input.array.size != 1:
        raise InvalidComparison(
            "is_nonzero",
            f"Boolean value of Tensor with {input.array.size} values is ambiguous",
            "one element",
        )
    return bool(input.array.item())


def is_same_size(input: Tensor, other: Tensor) -> bool:
    """Whether the shapes are equal."""
    return bool(input.array.shape == other.array.shape)


@takes_out
def isin(
    elements: Tensor | Number,
    test_elements: Tensor | Number,
    *,
    assume_unique: bool = False,
    invert: bool = False,
) -> Tensor:
    """Whether each of `elements` is one of `test_elements`; `assume_unique` only promises that
    neither repeats any.
    """
    found = [e.array if hasattr(e, "array") else np.asarray(e) for e in (elements, test_elements)]
    if not (hasattr(elements, "array") or hasattr(test_elements, "array")):
        expect_tensor("isin", "elements", elements)
    for one in found:
        check_dtype("isin", one, "iuf", "real numbers")
    common = common_dtype(*found)
    found = [wide(one.astype(common, copy=False)) for one in found]
    return wrap(np.isin(found[0], found[1], invert=invert))
