"""Rounding, signs and single values: `floor round abs sign copysign nan_to_num nextafter`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib import dtypes
from tensorlib.autograd.tape import needs_grad
from tensorlib.errors import AutogradError, DTypeError
from tensorlib.ops._common import (
    Array,
    Grads,
    Number,
    check_dtype,
    differ,
    expect_tensor,
    floating_pair,
    promoted,
    record,
    wide,
    wrap,
)
from tensorlib.ops._formula import underivable
from tensorlib.ops.out import takes_exact_out, takes_out

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor


@takes_exact_out
def floor(input: Tensor) -> Tensor:
    """The largest integer not above."""
    return _rounded(input, np.floor, "floor")


@takes_exact_out
def ceil(input: Tensor) -> Tensor:
    """The smallest integer not below."""
    return _rounded(input, np.ceil, "ceil")


@takes_exact_out
def trunc(input: Tensor) -> Tensor:
    """The integer part."""
    return _rounded(input, np.trunc, "trunc")


@takes_exact_out
def round(input: Tensor, *, decimals: int | None = None) -> Tensor:
    """The nearest integer, halves to even; of floating point, the nearest multiple of 10**-decimals
    (0).
    """
    if decimals is None:
        return _rounded(input, np.rint, "round")
    check_dtype("round", input.array, "f", "floating point")
    scale = 10.0 ** np.abs(decimals)

    def to_decimals(x: Array) -> Any:
        y = wide(x)
        y = np.rint(y * scale) / scale if decimals >= 0 else np.rint(y / scale) * scale
        return y.astype(x.dtype, copy=False)

    return _rounded(input, to_decimals, "round")


def _rounded(input: Tensor, function: Any, where: str) -> Tensor:
    x = input.array
    if x.dtype.kind in "iu":
        return wrap(x.copy())
    check_dtype(where, x, "f", "real numbers")

    def backward(grad: Array) -> Grads:
        return (np.zeros_like(grad),)

    backward.__qualname__ = where
    return record(function(x), backward, input)


@takes_exact_out
def frac(input: Tensor) -> Tensor:
    """The fraction after the integer part."""
    x = input.array
    check_dtype("frac", x, "f", "floating point")

    def backward(grad: Array) -> Grads:
        return (grad,)

    return record(x - np.trunc(x), backward, input)


@takes_out
def abs(input: Tensor) -> Tensor:
    """Absolute value; real for complex input."""
    x = input.array
    check_dtype("abs", x, "iufc", "numbers")

    def backward(grad: Array) -> Grads:
        if x.dtype.kind == "c":
            size = np.abs(x)
            return (grad * np.where(size == 0, 0, x / np.where(size == 0, 1, size)),)
        return (grad * np.where(x != x, 0, np.sign(x)),)  # NaN has the sign 0, as PyTorch's

    return record(np.abs(x), backward, input)


def abs_same(input: Tensor) -> Tensor:
    """`abs` for its in-place form, which complex numbers do not have."""
    if input.array.dtype.kind == "c":
        raise DTypeError("abs_", "not supported for complex tensors in place", "real ones")
    return abs(input)


abs_same.__name__ = "abs"  # by which the in-place twin is called


@takes_exact_out
def sign(input: Tensor) -> Tensor:
    """-1, 0 or 1."""
    x = input.array
    check_dtype("sign", x, "biuf", "real numbers; for complex ones there is sgn()")

    def backward(grad: Array) -> Grads:
        return (np.zeros_like(grad),)

    if x.dtype.kind in "fV":
        output = np.sign(x)
        nans = output != output
        if nans.any():
            output = np.where(nans, 0, output).astype(x.dtype, copy=False)
    else:
        output = x.copy() if x.dtype.kind == "b" else np.sign(x)
    return record(output, backward, input)


@takes_exact_out
def sgn(input: Tensor) -> Tensor:
    """`sign` for real input, x / |x| for complex."""
    x = input.array
    if x.dtype.kind != "c":
        return sign(input)
    size = np.abs(x)
    output = np.where(size == 0, 0, x / np.where(size == 0, 1, size)).astype(x.dtype, copy=False)

    def backward(grad: Array) -> Grads:
        length = np.abs(x)
        along = (grad * np.conj(output)).real  # the part that changes only the length
        return (
            np.where(length == 0, 0, (grad - along * output) / np.where(length == 0, 1, length)),
        )

    return record(output, backward, input)


@takes_exact_out
def signbit(input: Tensor) -> Tensor:
    """Whether the sign bit is set."""
    x = input.array
    check_dtype("signbit", x, "biuf", "real numbers")
    return wrap(np.signbit(x) if x.dtype.kind in "fV" else x < 0)


@takes_out
def copysign(input: Tensor, other: Tensor | Number) -> Tensor:
    """The magnitude of `input` with the sign of `other`."""
    expect_tensor("copysign", "input", input)
    x, y = floating_pair(input, other, "copysign")
    a, b = x.array, y.array
    check_dtype("copysign", a, "f", "real numbers")
    try:
        output = np.copysign(a, b)
    except ValueError:
        raise differ("copysign", a, b) from None

    def backward(grad: Array) -> Grads:
        return grad * np.where(a == 0, 0, output / a), np.zeros_like(grad)

    return record(output, backward, x, y)


@takes_out
def nextafter(input: Tensor, other: Tensor) -> Tensor:
    """The next representable number towards `other`."""
    expect_tensor("nextafter", "other", other)
    input, other = promoted(input, other)
    check_dtype("nextafter", input.array, "f", "floating point")
    try:
        output = np.nextafter(input.array, other.array)
    except ValueError:
        raise differ("nextafter", input.array, other.array) from None
    a, b = input.array, other.array

    def backward(grad: Array) -> Grads:
        return np.where(a == b, 0, grad), np.zeros_like(grad)

    return record(output, backward, input, other)


@takes_out
def heaviside(input: Tensor, values: Tensor) -> Tensor:
    """0 below zero, 1 above, `values` at zero."""
    expect_tensor("heaviside", "values", values)
    x, y = input.array, values.array
    if x.dtype.kind == "c" or x.dtype != y.dtype:
        raise DTypeError("heaviside", f"types {x.dtype} and {y.dtype}", "one real type")
    try:
        output = np.where(x == 0, y, (x > 0).astype(x.dtype))
    except ValueError:
        raise differ("heaviside", x, y) from None
    return underivable(output, input, values, name="heaviside")


@takes_exact_out
def nan_to_num(
    input: Tensor,
    nan: float | None = None,
    posinf: float | None = None,
    neginf: float | None = None,
) -> Tensor:
    """NaN and infinities replaced by numbers: 0 and the type's limits unless given."""
    x = input.array
    if x.dtype.kind in "iub":
        return wrap(x.copy())

    if x.dtype.kind == "c" and needs_grad(input):
        raise AutogradError(
            "nan_to_num", "does not support automatic differentiation for complex tensors"
        )

    def backward(grad: Array) -> Grads:
        return (grad * np.isfinite(x),)

    limit = dtypes.float_info(x.dtype)
    high = float(limit.max) if posinf is None else posinf
    low = float(limit.min) if neginf is None else neginf
    output = np.nan_to_num(wide(x), nan=nan or 0.0, posinf=high, neginf=low)
    return record(output.astype(x.dtype, copy=False), backward, input)
