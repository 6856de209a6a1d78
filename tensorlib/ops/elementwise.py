"""Arithmetic element by element: `add sub mul div pow`, comparisons, rounding, exponentials,
trigonometry.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib import dtypes
from tensorlib.errors import ArgumentError, DTypeError, InvalidValueError, ShapeError
from tensorlib.ops._common import (
    Array,
    Grads,
    Number,
    astype,
    differ,
    expect_tensor,
    floating,
    is_array,
    pair,
    promoted,
    record,
    scalar_operand,
    wrap,
)

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor


# -- arithmetic ------------------------------------------------------------------------------------


def add(input: Tensor, other: Tensor | Number, *, alpha: Number = 1) -> Tensor:
    """`input + alpha * other`, broadcast, in the promoted type."""
    if alpha != 1:
        _check_alpha("add", alpha, input, other)
        return add(input, mul(other, alpha) if hasattr(other, "array") else other * alpha)  # type: ignore[arg-type]
    if hasattr(other, "array"):
        if TYPE_CHECKING:
            assert isinstance(other, Tensor)
        a, b = input.array, other.array
        if a.dtype != b.dtype:
            input, other = promoted(input, other)
            a, b = input.array, other.array
        try:
            output = a | b if a.dtype.kind == "b" else a + b
        except ValueError:
            raise differ("add", a, b) from None

        def backward(grad: Array) -> Grads:
            return grad, grad

        return record(output, backward, input, other)
    x = input.array
    if x.dtype.kind != "f" or not isinstance(other, int | float):
        if is_array(other):
            return add(input, wrap(other))
        x = (input := scalar_operand(input, other, "add")).array
        if x.dtype.kind == "b":
            return logical_or(input, wrap(np.asarray(other)))

    def backward_scalar(grad: Array) -> Grads:
        return (grad,)

    return record(x + other, backward_scalar, input)


def _check_alpha(where: str, alpha: Any, input: Any, other: Any) -> None:
    if isinstance(alpha, float):
        kinds = [t.array.dtype.kind for t in (input, other) if hasattr(t, "array")]
        if all(k in "iub" for k in kinds):
            raise DTypeError(where, f"alpha={alpha} with integer tensors", "an integer alpha")


def sub(input: Tensor, other: Tensor | Number, *, alpha: Number = 1) -> Tensor:
    """`input - alpha * other`, broadcast, in the promoted type."""
    if alpha != 1:
        _check_alpha("sub", alpha, input, other)
        return sub(input, mul(other, alpha) if hasattr(other, "array") else other * alpha)  # type: ignore[arg-type]
    if hasattr(other, "array"):
        if TYPE_CHECKING:
            assert isinstance(other, Tensor)
        a, b = input.array, other.array
        if a.dtype != b.dtype:
            input, other = promoted(input, other)
            a, b = input.array, other.array
        if a.dtype.kind == "b":
            raise _no_bool("sub")
        try:
            output = a - b
        except ValueError:
            raise differ("sub", a, b) from None

        def backward(grad: Array) -> Grads:
            return grad, -grad

        return record(output, backward, input, other)
    x = input.array
    if x.dtype.kind != "f" or not isinstance(other, int | float):
        if is_array(other):
            return sub(input, wrap(other))
        x = (input := scalar_operand(input, other, "sub")).array
        if x.dtype.kind == "b":
            raise _no_bool("sub")

    def backward_scalar(grad: Array) -> Grads:
        return (grad,)

    return record(x - other, backward_scalar, input)


def _no_bool(where: str) -> DTypeError:
    return DTypeError(
        where,
        "subtraction with a bool tensor is not supported",
        hint="use ^ or logical_xor() instead",
    )


def rsub(input: Tensor, other: Tensor | Number, *, alpha: Number = 1) -> Tensor:
    """`other - alpha * input`."""
    if hasattr(other, "array"):
        if TYPE_CHECKING:
            assert isinstance(other, Tensor)
        return sub(other, input, alpha=alpha)
    if alpha != 1:
        input = mul(input, alpha)
    x = input.array
    if x.dtype.kind != "f" or not isinstance(other, int | float):
        if is_array(other):
            return sub(wrap(other), input)
        x = (input := scalar_operand(input, other, "rsub")).array
        if x.dtype.kind == "b":
            raise _no_bool("rsub")

    def backward(grad: Array) -> Grads:
        return (-grad,)

    return record(other - x, backward, input)


def mul(input: Tensor, other: Tensor | Number) -> Tensor:
    """`input * other`, broadcast, in the promoted type."""
    if hasattr(other, "array"):
        if TYPE_CHECKING:
            assert isinstance(other, Tensor)
        if not hasattr(input, "array"):
            return mul(other, input)
        a, b = input.array, other.array
        if a.dtype != b.dtype:
            input, other = promoted(input, other)
            a, b = input.array, other.array
        try:
            output = a * b
        except ValueError:
            raise differ("mul", a, b) from None
        if a.dtype.kind == "c":

            def backward_complex(grad: Array) -> Grads:
                return grad * np.conj(b), grad * np.conj(a)

            return record(output, backward_complex, input, other)

        def backward(grad: Array) -> Grads:
            return grad * b, grad * a

        return record(output, backward, input, other)
    x = input.array
    if x.dtype.kind != "f" or not isinstance(other, int | float):
        if is_array(other):
            return mul(input, wrap(other))
        x = (input := scalar_operand(input, other, "mul")).array
        if x.dtype.kind == "b":
            return logical_and(input, wrap(np.asarray(other)))

    def backward_scalar(grad: Array) -> Grads:
        return (grad * (other.conjugate() if isinstance(other, complex) else other),)

    return record(x * other, backward_scalar, input)


def div(input: Tensor, other: Tensor | Number, *, rounding_mode: str | None = None) -> Tensor:
    """`input / other`; `rounding_mode` "trunc" or "floor" rounds the quotient and keeps integer
    types.
    """
    if rounding_mode is not None:
        return _rounded_div(input, other, rounding_mode)
    if hasattr(other, "array"):
        if TYPE_CHECKING:
            assert isinstance(other, Tensor)
        if not hasattr(input, "array"):
            return rdiv(other, input)
        a, b = input.array, other.array
        if a.dtype != b.dtype or a.dtype.kind not in "fc":
            input, other = promoted(input, other)
            input, other = floating(input), floating(other)
            a, b = input.array, other.array
        try:
            output = a / b
        except ValueError:
            raise differ("div", a, b) from None

        def backward(grad: Array) -> Grads:
            partial = grad / np.conj(b) if b.dtype.kind == "c" else grad / b
            return partial, -partial * (np.conj(a / b) if b.dtype.kind == "c" else a / b)

        return record(output, backward, input, other)
    x = input.array
    if x.dtype.kind != "f" or not isinstance(other, int | float):
        if is_array(other):
            return div(input, wrap(other))
        x = (input := floating(scalar_operand(input, other, "div"))).array
    if other == 0:
        other = x.dtype.type(other)  # NumPy's zero gives inf where Python's raises

    def backward_scalar(grad: Array) -> Grads:
        return (grad / other,)

    return record(x / other, backward_scalar, input)


def rdiv(input: Tensor, other: Tensor | Number) -> Tensor:
    """`other / input`."""
    if hasattr(other, "array"):
        if TYPE_CHECKING:
            assert isinstance(other, Tensor)
        return div(other, input)
    return mul(reciprocal(input), other)


def _rounded_div(input: Tensor, other: Any, rounding_mode: str) -> Tensor:
    if rounding_mode not in ("trunc", "floor"):
        raise InvalidDivision(
            "div", f"rounding_mode={rounding_mode!r}", "one of None (default), 'trunc', 'floor'"
        )
    input, other = pair(input, other, "div")
    a, b = input.array, other.array
    if a.dtype.kind in "iub" and not b.all():
        raise InvalidDivision("div", "ZeroDivisionError: integer division by zero")
    if rounding_mode == "floor":
        output = np.floor_divide(a, b)
        if a.dtype.kind == "f":
            output = np.where(b == 0, a / b, output).astype(a.dtype, copy=False)
    elif a.dtype.kind == "f":
        output = np.trunc(a / b)
    else:
        output = np.floor_divide(a, b)
        output = output + ((output < 0) & (output * b != a)).astype(output.dtype)

    def backward(grad: Array) -> Grads:
        return np.zeros_like(grad), np.zeros_like(grad)

    return record(output, backward, input, other)


class InvalidDivision(ShapeError):
    """A division PyTorch refuses with RuntimeError."""


def floor_divide(input: Tensor, other: Tensor | Number) -> Tensor:
    """The quotient rounded down."""
    return _rounded_div(input, other, "floor")


def remainder(input: Tensor | Number, other: Tensor | Number) -> Tensor:
    """Python's `%`: the result has the sign of `other`."""
    x, y = pair(input, other, "remainder")
    a, b = x.array, y.array
    if a.dtype.kind in "iub" and not b.all():
        raise InvalidDivision("remainder", "ZeroDivisionError: integer division by zero")
    quotient = np.floor(a / b) if a.dtype.kind == "f" else None

    def backward(grad: Array) -> Grads:
        return grad, -grad * np.floor(a / b)

    del quotient
    return record(np.remainder(a, b), backward, x, y)


def fmod(input: Tensor, other: Tensor | Number) -> Tensor:
    """C's remainder: the result has the sign of `input`."""
    x, y = pair(input, other, "fmod")
    a, b = x.array, y.array
    if a.dtype.kind in "iub" and not b.all():
        raise InvalidDivision("fmod", "ZeroDivisionError: integer division by zero")

    def backward(grad: Array) -> Grads:
        return grad, -grad * np.trunc(a / b)

    return record(np.fmod(a, b), backward, x, y)


def pow(input: Tensor | Number, exponent: Tensor | Number) -> Tensor:
    """`input ** exponent`; one of them may be a number."""
    if hasattr(input, "array") and not hasattr(exponent, "array"):
        if TYPE_CHECKING:
            assert isinstance(input, Tensor)
        return _pow_scalar(input, exponent)
    x, y = pair(input, exponent, "pow")
    a, b = x.array, y.array
    if a.dtype.kind in "iub":
        if (b < 0).any():
            raise InvalidDivision(
                "pow", "Integers to negative integer powers are not allowed", hint="use float()"
            )
        return wrap(np.power(a, b))
    try:
        output = np.power(a, b)
    except ValueError:
        raise differ("pow", a, b) from None

    def backward(grad: Array) -> Grads:
        base = grad * np.where(b == 0, 0, b * np.power(a, np.where(b == 0, 1, b - 1)))
        logs = np.log(np.where((a == 0) & (b >= 0), 1, a))
        return base, grad * (output * logs)

    return record(output, backward, x, y)


def _pow_scalar(input: Tensor, exponent: Any) -> Tensor:
    x = input.array
    if x.dtype.kind != "f" or not isinstance(exponent, int | float):
        x = (input := scalar_operand(input, exponent, "pow")).array
        if x.dtype.kind in "iu" and exponent < 0:
            raise InvalidDivision(
                "pow", "Integers to negative integer powers are not allowed", hint="use float()"
            )
    if exponent == 2:
        output = x * x
    elif exponent == 0.5 and x.dtype.kind == "f":
        output = np.sqrt(x)
    elif x.dtype.kind == "f" and isinstance(exponent, int) and 0 < exponent <= 4:
        output = x * x * x if exponent == 3 else (np.square(x * x) if exponent == 4 else +x)
    else:
        output = np.power(x, exponent)

    def backward(grad: Array) -> Grads:
        if exponent == 0:
            return (grad * 0,)
        if exponent == 2:
            return (grad * (2 * x),)
        return (grad * (exponent * x ** (exponent - 1)),)

    return record(output, backward, input)


def rpow(input: Tensor, other: Number) -> Tensor:
    """`other ** input`."""
    return pow(other, input)


def neg(input: Tensor) -> Tensor:
    """`-input`."""
    if input.array.dtype.kind == "b":
        raise DTypeError(
            "neg", "negation of a bool tensor is not supported", hint="use ~ or logical_not()"
        )

    def backward(grad: Array) -> Grads:
        return (-grad,)

    return record(-input.array, backward, input)


def positive(input: Tensor) -> Tensor:
    """`input` itself."""
    if input.array.dtype.kind == "b":
        raise DTypeError("positive", "a bool tensor is not supported", "a number type")
    return input


def square(input: Tensor) -> Tensor:
    """`input ** 2`."""
    return _pow_scalar(input, 2)


def lerp(input: Tensor, end: Tensor, weight: Tensor | float) -> Tensor:
    """`input + weight * (end - input)`."""
    return add(input, mul(sub(end, input), weight))


def addcmul(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: Number = 1) -> Tensor:
    """`input + value * tensor1 * tensor2`."""
    product = mul(tensor1, tensor2)
    return add(input, product if value == 1 else mul(product, value))


def addcdiv(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: Number = 1) -> Tensor:
    """`input + value * tensor1 / tensor2`; floating-point tensors only."""
    if all(t.array.dtype.kind in "iub" for t in (tensor1, tensor2)):
        raise DTypeError("addcdiv", "integer division is not supported", "floating-point tensors")
    quotient = div(tensor1, tensor2)
    return add(input, quotient if value == 1 else mul(quotient, value))


# -- one argument ----------------------------------------------------------------------------------


def abs(input: Tensor) -> Tensor:
    """Absolute value; real for complex input."""
    x = input.array
    if x.dtype.kind == "b":
        raise DTypeError("abs", "a bool tensor is not supported", "a number type")
    output = np.abs(x)

    def backward(grad: Array) -> Grads:
        if x.dtype.kind == "c":
            size = np.abs(x)
            return (grad * (x / np.where(size == 0, 1, size)),)
        return (grad * np.sign(x),)

    return record(output, backward, input)


def sign(input: Tensor) -> Tensor:
    """-1, 0 or 1."""
    x = input.array

    def backward(grad: Array) -> Grads:
        return (np.zeros_like(grad),)

    return record(x.copy() if x.dtype.kind == "b" else np.sign(x), backward, input)


def sgn(input: Tensor) -> Tensor:
    """`sign` for real input, x / |x| for complex."""
    if input.array.dtype.kind != "c":
        return sign(input)
    return div(input, clamp(abs(input), min=np.finfo(input.array.dtype).tiny.item()))


def exp(input: Tensor) -> Tensor:
    """e to the power of `input`."""
    input = floating(input)
    output = np.exp(input.array)

    def backward(grad: Array) -> Grads:
        return (grad * (np.conj(output) if output.dtype.kind == "c" else output),)

    return record(output, backward, input)


def exp2(input: Tensor) -> Tensor:
    """2 to the power of `input`."""
    input = floating(input)
    output = np.exp2(input.array)

    def backward(grad: Array) -> Grads:
        return (grad * output * 0.6931471805599453,)

    return record(output, backward, input)


def expm1(input: Tensor) -> Tensor:
    """`exp(input) - 1`, exact near zero."""
    input = floating(input)
    output = np.expm1(input.array)

    def backward(grad: Array) -> Grads:
        return (grad * (output + 1),)

    return record(output, backward, input)


def log(input: Tensor) -> Tensor:
    """Natural logarithm."""
    x = (input := floating(input)).array

    def backward(grad: Array) -> Grads:
        return (grad / (np.conj(x) if x.dtype.kind == "c" else x),)

    return record(np.log(x), backward, input)


def log2(input: Tensor) -> Tensor:
    """Logarithm to base 2."""
    x = (input := floating(input)).array

    def backward(grad: Array) -> Grads:
        return (grad / (x * 0.6931471805599453),)

    return record(np.log2(x), backward, input)


def log10(input: Tensor) -> Tensor:
    """Logarithm to base 10."""
    x = (input := floating(input)).array

    def backward(grad: Array) -> Grads:
        return (grad / (x * 2.302585092994046),)

    return record(np.log10(x), backward, input)


def log1p(input: Tensor) -> Tensor:
    """`log(1 + input)`, exact near zero."""
    x = (input := floating(input)).array

    def backward(grad: Array) -> Grads:
        return (grad / (x + 1),)

    return record(np.log1p(x), backward, input)


def sqrt(input: Tensor) -> Tensor:
    """Square root."""
    input = floating(input)
    output = np.sqrt(input.array)

    def backward(grad: Array) -> Grads:
        return (grad / (2 * output),)

    return record(output, backward, input)


def rsqrt(input: Tensor) -> Tensor:
    """`1 / sqrt(input)`."""
    input = floating(input)
    output = np.reciprocal(np.sqrt(input.array))

    def backward(grad: Array) -> Grads:
        return (grad * (-0.5 * output * output * output),)

    return record(output, backward, input)


def reciprocal(input: Tensor) -> Tensor:
    """`1 / input`."""
    input = floating(input)
    output = np.reciprocal(input.array)

    def backward(grad: Array) -> Grads:
        return (-grad * output * output,)

    return record(output, backward, input)


def sin(input: Tensor) -> Tensor:
    """Sine of radians."""
    x = (input := floating(input)).array

    def backward(grad: Array) -> Grads:
        return (grad * np.cos(x),)

    return record(np.sin(x), backward, input)


def cos(input: Tensor) -> Tensor:
    """Cosine of radians."""
    x = (input := floating(input)).array

    def backward(grad: Array) -> Grads:
        return (-grad * np.sin(x),)

    return record(np.cos(x), backward, input)


def tan(input: Tensor) -> Tensor:
    """Tangent of radians."""
    input = floating(input)
    output = np.tan(input.array)

    def backward(grad: Array) -> Grads:
        return (grad * (1 + output * output),)

    return record(output, backward, input)


def asin(input: Tensor) -> Tensor:
    """Inverse sine."""
    x = (input := floating(input)).array

    def backward(grad: Array) -> Grads:
        return (grad / np.sqrt(1 - x * x),)

    return record(np.arcsin(x), backward, input)


def acos(input: Tensor) -> Tensor:
    """Inverse cosine."""
    x = (input := floating(input)).array

    def backward(grad: Array) -> Grads:
        return (-grad / np.sqrt(1 - x * x),)

    return record(np.arccos(x), backward, input)


def atan(input: Tensor) -> Tensor:
    """Inverse tangent."""
    x = (input := floating(input)).array

    def backward(grad: Array) -> Grads:
        return (grad / (1 + x * x),)

    return record(np.arctan(x), backward, input)


def sinh(input: Tensor) -> Tensor:
    """Hyperbolic sine."""
    x = (input := floating(input)).array

    def backward(grad: Array) -> Grads:
        return (grad * np.cosh(x),)

    return record(np.sinh(x), backward, input)


def cosh(input: Tensor) -> Tensor:
    """Hyperbolic cosine."""
    x = (input := floating(input)).array

    def backward(grad: Array) -> Grads:
        return (grad * np.sinh(x),)

    return record(np.cosh(x), backward, input)


def asinh(input: Tensor) -> Tensor:
    """Inverse hyperbolic sine."""
    x = (input := floating(input)).array

    def backward(grad: Array) -> Grads:
        return (grad / np.sqrt(x * x + 1),)

    return record(np.arcsinh(x), backward, input)


def acosh(input: Tensor) -> Tensor:
    """Inverse hyperbolic cosine."""
    x = (input := floating(input)).array

    def backward(grad: Array) -> Grads:
        return (grad / np.sqrt(x * x - 1),)

    return record(np.arccosh(x), backward, input)


def atanh(input: Tensor) -> Tensor:
    """Inverse hyperbolic tangent."""
    x = (input := floating(input)).array

    def backward(grad: Array) -> Grads:
        return (grad / (1 - x * x),)

    return record(np.arctanh(x), backward, input)


def atan2(input: Tensor, other: Tensor) -> Tensor:
    """Angle of the point (other, input)."""
    expect_tensor("atan2", "other", other)
    input, other = promoted(input, other)
    y, x = (input := floating(input)).array, (other := floating(other)).array

    def backward(grad: Array) -> Grads:
        scaled = grad / (x * x + y * y)
        return scaled * x, -scaled * y

    return record(np.arctan2(y, x), backward, input, other)


def hypot(input: Tensor, other: Tensor) -> Tensor:
    """`sqrt(input**2 + other**2)`."""
    expect_tensor("hypot", "other", other)
    input, other = promoted(input, other)
    a, b = input.array, other.array
    output = np.hypot(a, b)

    def backward(grad: Array) -> Grads:
        return grad * (a / output), grad * (b / output)

    return record(output, backward, input, other)


def floor(input: Tensor) -> Tensor:
    """The largest integer not above."""
    return _rounded(input, np.floor)


def ceil(input: Tensor) -> Tensor:
    """The smallest integer not below."""
    return _rounded(input, np.ceil)


def trunc(input: Tensor) -> Tensor:
    """The integer part."""
    return _rounded(input, np.trunc)


def round(input: Tensor, *, decimals: int = 0) -> Tensor:
    """The nearest integer (or multiple of 10**-decimals), halves to even."""
    if decimals:
        return _rounded(
            input, lambda x: (np.rint(x * 10.0**decimals) / 10.0**decimals).astype(x.dtype)
        )
    return _rounded(input, np.rint)


def frac(input: Tensor) -> Tensor:
    """The fraction after the integer part."""
    return sub(input, trunc(input))


def _rounded(input: Tensor, function: Any) -> Tensor:
    x = input.array
    if x.dtype.kind in "iu":
        return wrap(x.copy())
    if x.dtype.kind == "b":
        raise DTypeError("round", "a bool tensor is not supported", "a number type")

    def backward(grad: Array) -> Grads:
        return (np.zeros_like(grad),)

    return record(function(x), backward, input)


def clamp(
    input: Tensor, min: Tensor | Number | None = None, max: Tensor | Number | None = None
) -> Tensor:
    """Values limited to [min, max]; either may be left out, be a number or a tensor."""
    if min is None and max is None:
        raise InvalidDivision("clamp", "both 'min' and 'max' are None", "at least one of them")
    if hasattr(min, "array") or hasattr(max, "array"):
        result = input
        if min is not None:
            result = maximum(*pair(result, min, "clamp"))
        return result if max is None else minimum(*pair(result, max, "clamp"))
    for bound in (min, max):
        if bound is not None:
            input = scalar_operand(input, bound, "clamp")
    x = input.array
    output = x if min is None else np.maximum(x, x.dtype.type(min))
    output = output if max is None else np.minimum(output, x.dtype.type(max))

    def backward(grad: Array) -> Grads:
        inside = np.ones(x.shape, bool) if min is None else x >= min
        return (grad * (inside if max is None else inside & (x <= max)),)

    return record(output, backward, input)


def clamp_min(input: Tensor, min: Tensor | Number) -> Tensor:
    """`clamp(input, min=min)`."""
    return clamp(input, min=min)


def clamp_max(input: Tensor, max: Tensor | Number) -> Tensor:
    """`clamp(input, max=max)`."""
    return clamp(input, max=max)


def maximum(input: Tensor, other: Tensor) -> Tensor:
    """The larger of two elements; NaN wins; equal elements share the gradient."""
    return _extreme(input, other, np.maximum, "maximum")


def minimum(input: Tensor, other: Tensor) -> Tensor:
    """The smaller of two elements; NaN wins; equal elements share the gradient."""
    return _extreme(input, other, np.minimum, "minimum")


def fmax(input: Tensor, other: Tensor) -> Tensor:
    """The larger of two elements, ignoring NaN."""
    return _extreme(input, other, np.fmax, "fmax")


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
        half = np.where(a == b, 0.5, 0.0).astype(grad.dtype)
        if function in (np.fmax, np.fmin):
            first = (a >= b if larger else a <= b) | np.isnan(b)
            return grad * first, grad * ~first
        first = a > b if larger else a < b
        second = a < b if larger else a > b
        return grad * (first + half), grad * (second + half)

    return record(output, backward, input, other)


def nan_to_num(
    input: Tensor, nan: float = 0.0, posinf: float | None = None, neginf: float | None = None
) -> Tensor:
    """NaN and infinities replaced by numbers (infinities by the type's limits unless given)."""
    x = input.array
    if x.dtype.kind in "iub":
        return wrap(x.copy())

    def backward(grad: Array) -> Grads:
        return (grad * np.isfinite(x),)

    return record(np.nan_to_num(x, nan=nan or 0.0, posinf=posinf, neginf=neginf), backward, input)


# -- comparison and logic: no gradients ------------------------------------------------------------


def eq(input: Tensor, other: Tensor | Number) -> Tensor:
    """Whether elements are equal."""
    return _compare(input, other, np.equal, "eq")


def ne(input: Tensor, other: Tensor | Number) -> Tensor:
    """Whether elements differ."""
    return _compare(input, other, np.not_equal, "ne")


def lt(input: Tensor, other: Tensor | Number) -> Tensor:
    """Whether `input < other`."""
    return _compare(input, other, np.less, "lt")


def le(input: Tensor, other: Tensor | Number) -> Tensor:
    """Whether `input <= other`."""
    return _compare(input, other, np.less_equal, "le")


def gt(input: Tensor, other: Tensor | Number) -> Tensor:
    """Whether `input > other`."""
    return _compare(input, other, np.greater, "gt")


def ge(input: Tensor, other: Tensor | Number) -> Tensor:
    """Whether `input >= other`."""
    return _compare(input, other, np.greater_equal, "ge")


def _compare(input: Tensor, other: Any, function: Any, where: str) -> Tensor:
    x = input.array
    if x.dtype.kind == "c" and where not in ("eq", "ne"):
        raise DTypeError(where, "complex numbers have no order", "a real type")
    if hasattr(other, "array"):
        y = other.array
        if x.dtype != y.dtype:
            input, other = promoted(input, other)
            x, y = input.array, other.array
    elif isinstance(other, int | float | complex):
        if x.dtype.kind != "f" or isinstance(other, complex):
            x = scalar_operand(input, other, where).array
        y = other
    else:
        raise ArgumentError(
            where, f"argument 'other' must be Tensor or a number, not {type(other).__name__}"
        )
    try:
        return wrap(function(x, y))
    except ValueError:
        raise differ(where, x, y) from None


def logical_and(input: Tensor, other: Tensor) -> Tensor:
    """Both elements nonzero."""
    return _logical(input, other, np.logical_and, "logical_and")


def logical_or(input: Tensor, other: Tensor) -> Tensor:
    """At least one element nonzero."""
    return _logical(input, other, np.logical_or, "logical_or")


def logical_xor(input: Tensor, other: Tensor) -> Tensor:
    """Exactly one element nonzero."""
    return _logical(input, other, np.logical_xor, "logical_xor")


def _logical(input: Tensor, other: Tensor, function: Any, where: str) -> Tensor:
    expect_tensor(where, "other", other)
    try:
        return wrap(function(input.array, other.array))
    except ValueError:
        raise differ(where, input.array, other.array) from None


def logical_not(input: Tensor) -> Tensor:
    """Whether elements are zero."""
    return wrap(np.logical_not(input.array))


def bitwise_and(input: Tensor, other: Tensor | int) -> Tensor:
    """Bits set in both (logical and for bool)."""
    return _bitwise(input, other, np.bitwise_and, "bitwise_and")


def bitwise_or(input: Tensor, other: Tensor | int) -> Tensor:
    """Bits set in either (logical or for bool)."""
    return _bitwise(input, other, np.bitwise_or, "bitwise_or")


def bitwise_xor(input: Tensor, other: Tensor | int) -> Tensor:
    """Bits set in exactly one."""
    return _bitwise(input, other, np.bitwise_xor, "bitwise_xor")


def bitwise_left_shift(input: Tensor, other: Tensor | int) -> Tensor:
    """`input << other`."""
    return _bitwise(input, other, np.left_shift, "bitwise_left_shift")


def bitwise_right_shift(input: Tensor, other: Tensor | int) -> Tensor:
    """`input >> other`."""
    return _bitwise(input, other, np.right_shift, "bitwise_right_shift")


def _bitwise(input: Any, other: Any, function: Any, where: str) -> Tensor:
    x, y = pair(input, other, where)
    if x.array.dtype.kind not in "iub":
        raise DTypeError(
            where, f"not implemented for {dtypes.of(x.array.dtype)}", "integers or bool"
        )
    return wrap(function(x.array, y.array))


def bitwise_not(input: Tensor) -> Tensor:
    """All bits flipped (logical not for bool)."""
    if input.array.dtype.kind not in "iub":
        raise DTypeError(
            "bitwise_not", f"not implemented for {dtypes.of(input.array.dtype)}", "integers or bool"
        )
    return wrap(np.invert(input.array))


def isnan(input: Tensor) -> Tensor:
    """Whether elements are NaN."""
    return wrap(np.isnan(input.array))


def isinf(input: Tensor) -> Tensor:
    """Whether elements are infinite."""
    return wrap(np.isinf(input.array))


def isfinite(input: Tensor) -> Tensor:
    """Whether elements are neither infinite nor NaN."""
    return wrap(np.isfinite(input.array))


def isposinf(input: Tensor) -> Tensor:
    """Whether elements are plus infinity."""
    return wrap(np.isposinf(input.array))


def isneginf(input: Tensor) -> Tensor:
    """Whether elements are minus infinity."""
    return wrap(np.isneginf(input.array))


def signbit(input: Tensor) -> Tensor:
    """Whether the sign bit is set."""
    return wrap(np.signbit(input.array) if input.array.dtype.kind == "f" else input.array < 0)


def isclose(
    input: Tensor, other: Tensor, rtol: float = 1e-05, atol: float = 1e-08, equal_nan: bool = False
) -> Tensor:
    """`|input - other| <= atol + rtol * |other|`."""
    a, b = input.array, other.array
    if a.dtype != b.dtype:
        raise DTypeError(
            "isclose", f"{dtypes.of(a.dtype)} did not match {dtypes.of(b.dtype)}", "equal dtypes"
        )
    return wrap(np.isclose(a, b, rtol=rtol, atol=atol, equal_nan=equal_nan))


def allclose(
    input: Tensor, other: Tensor, rtol: float = 1e-05, atol: float = 1e-08, equal_nan: bool = False
) -> bool:
    """Whether all elements are close (see `isclose`)."""
    return bool(isclose(input, other, rtol, atol, equal_nan).array.all())


def equal(input: Tensor, other: Tensor) -> bool:
    """Whether both have the same shape and elements."""
    return input.array.shape == other.array.shape and bool((input.array == other.array).all())


def heaviside(input: Tensor, values: Tensor) -> Tensor:
    """0 below zero, 1 above, `values` at zero."""
    return wrap(np.heaviside(input.array, values.array))


# -- complex ---------------------------------------------------------------------------------------


def conj(input: Tensor) -> Tensor:
    """Complex conjugate."""
    if input.array.dtype.kind != "c":
        return input

    def backward(grad: Array) -> Grads:
        return (np.conj(grad),)

    return record(np.conj(input.array), backward, input)


def real(input: Tensor) -> Tensor:
    """Real part."""
    if input.array.dtype.kind != "c":
        return input

    def backward(grad: Array) -> Grads:
        return (grad + 0j,)

    return record(input.array.real.copy(), backward, input)


def imag(input: Tensor) -> Tensor:
    """Imaginary part."""
    if input.array.dtype.kind != "c":
        raise DTypeError(
            "imag", f"not implemented for {dtypes.of(input.array.dtype)}", "a complex tensor"
        )

    def backward(grad: Array) -> Grads:
        return (grad * 1j,)

    return record(input.array.imag.copy(), backward, input)


def angle(input: Tensor) -> Tensor:
    """Angle of complex numbers in radians."""
    if input.array.dtype.kind == "c":
        return atan2(imag(input), real(input))
    return wrap(np.angle(floating(input).array).astype(floating(input).array.dtype))


def cast(input: Tensor, dtype: Any) -> Tensor:
    """`input` as `dtype`; itself when it is that already."""
    if not isinstance(dtype, dtypes.dtype):
        dtype = dtypes.of(dtypes.numpy_dtype(dtype))
    return astype(input, dtype.numpy)


def nextafter(input: Tensor, other: Tensor) -> Tensor:
    """The next representable number towards `other`."""
    if input.array.dtype.kind != "f":
        raise InvalidValueError(
            "nextafter", f"{dtypes.of(input.array.dtype)} given", "floating point"
        )
    return wrap(np.nextafter(input.array, other.array))
