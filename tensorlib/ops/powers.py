"""Powers, roots, exponentials and logarithms element by element."""

from __future__ import annotations

import cmath
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib import dtypes, return_types
from tensorlib.errors import DTypeError
from tensorlib.ops._common import (
    Array,
    Grads,
    Number,
    astype,
    check_dtype,
    conjugate,
    differ,
    expect_tensor,
    floating,
    promoted,
    record,
    record_outputs,
    scalar_operand,
    times,
    wide,
    wrap,
)
from tensorlib.ops.arithmetic import InvalidDivision
from tensorlib.ops.out import direct, takes_exact_out, takes_out

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor

_LN2, _LN10 = math.log(2), math.log(10)

# -- powers ----------------------------------------------------------------------------------------


@takes_out
def pow(input: Tensor | Number, exponent: Tensor | Number) -> Tensor:
    """`input ** exponent`; one of them may be a number."""
    if not hasattr(exponent, "array"):
        expect_tensor("pow", "input", input)
        if TYPE_CHECKING:
            assert isinstance(input, Tensor)
        return _pow_scalar(input, exponent)
    if not hasattr(input, "array"):
        if TYPE_CHECKING:
            assert isinstance(exponent, Tensor)
        return rpow(exponent, input)
    if TYPE_CHECKING:
        assert isinstance(input, Tensor)
        assert isinstance(exponent, Tensor)
    x, y = promoted(input, exponent)
    a, b = x.array, y.array
    check_dtype("pow", a, "iufc", "numbers")
    try:
        output = _int_power(a, b) if a.dtype.kind in "iu" else np.power(a, b)
    except ValueError:
        raise differ("pow", a, b) from None

    def backward(grad: Array) -> Grads:
        base = grad * np.where(b == 0, 0, conjugate(b * np.power(a, np.where(b == 0, 1, b - 1))))
        logs = np.log(np.where(_zero_to_positive(a, b), 1, a))
        return base, grad * conjugate(output * logs)

    return record(output, backward, x, y)


def _zero_to_positive(a: Array, b: Array) -> Any:
    """Where 0 is raised to a power that is not negative: there the logarithm counts as 0."""
    if b.dtype.kind == "c":
        return (a == 0) & (b.imag == 0) & (b.real >= 0)
    return (a == 0) & (b >= 0)


def _int_power(a: Array, b: Array) -> Any:
    """Integer powers; a negative exponent gives 1 / a ** -b rounded to zero."""
    negative = b < 0
    if not negative.any():
        return np.power(a, b)
    output = np.power(a, np.where(negative, b & 1, b))
    return np.where(negative & (np.abs(a) != 1), 0, output).astype(a.dtype)


def _pow_scalar(input: Tensor, exponent: Any) -> Tensor:
    x = input.array
    if x.dtype.char not in "fd" or not isinstance(exponent, int | float):
        x = (input := scalar_operand(input, exponent, "pow")).array
        if x.dtype.kind in "iu":
            if exponent < 0:
                raise InvalidDivision(
                    "pow", "Integers to negative integer powers are not allowed", hint="use float()"
                )
            exponent = dtypes.fitting(exponent, x.dtype)
        output = _power(wide(x), exponent).astype(x.dtype, copy=False)
    else:
        output = _power(x, exponent)
    if exponent == 0:

        def backward_zero(grad: Array) -> Grads:
            return (np.zeros_like(grad),)

        backward_zero.__qualname__ = "pow"
        return record(output, backward_zero, input)

    def backward(grad: Array) -> Grads:
        if exponent == 2:
            return (grad * (2 * conjugate(x)),)
        return (grad * conjugate(times(_raised(x, exponent - 1), exponent)),)

    return record(output, backward, input)


def _raised(x: Any, exponent: Any) -> Any:
    """`x ** exponent` of an array, or of what stands for one in a second derivative."""
    if isinstance(x, np.ndarray):
        return _power(wide(x), exponent).astype(x.dtype, copy=False)
    return x**exponent


def _power(x: Array, exponent: Any) -> Any:
    """`x ** exponent` by multiplication where that is the same, as PyTorch does."""
    if exponent == 2:
        return np.square(x)
    if x.dtype.kind in "fcV":
        if exponent == 0.5:
            return np.sqrt(x)
        if exponent == 3:
            return x * x * x
        if exponent == 4 and isinstance(exponent, int):
            return np.square(np.square(x))
        if exponent == 1:
            return +x
        if exponent == -0.5:
            return 1 / np.sqrt(x)
        if exponent == -1:
            return 1 / x
    return np.power(x, np.asarray(exponent).astype(x.dtype))


def rpow(input: Tensor, other: Any) -> Tensor:
    """`other ** input`."""
    if hasattr(other, "array"):
        return direct(pow)(other, input)
    input = scalar_operand(input, other, "pow")
    x = input.array
    check_dtype("pow", x, "iufc", "numbers")
    base = np.asarray(other).astype(wide(x).dtype)
    if x.dtype.kind in "iu":
        output = _int_power(np.broadcast_to(base, x.shape), x)
    else:
        output = np.power(base, wide(x)).astype(x.dtype, copy=False)
    log = cmath.log(other).conjugate() if x.dtype.kind == "c" and other else _real_log(other)

    def backward(grad: Array) -> Grads:
        if other == 0:
            return (grad * np.where(x >= 0, 0, conjugate(output) * log),)
        return (grad * times(conjugate(output), log),)

    backward.__qualname__ = "pow"
    return record(output, backward, input)


def _real_log(value: Any) -> Any:
    if isinstance(value, complex):
        return -math.inf
    return math.log(value) if value > 0 else (-math.inf if value == 0 else math.nan)


@takes_out
def float_power(input: Tensor | Number, exponent: Tensor | Number) -> Tensor:
    """`input ** exponent` computed in float64 (complex128 if one of them is complex)."""
    kinds = [
        v.array.dtype.kind if hasattr(v, "array") else np.asarray(v).dtype.kind
        for v in (input, exponent)
    ]
    kind = np.dtype(np.complex128 if "c" in kinds else np.float64)
    given: list[Any] = [input, exponent]
    return pow(*(astype(v, kind) if hasattr(v, "array") else v for v in given))


def float_power_same(input: Tensor, exponent: Tensor | Number) -> Tensor:
    """`float_power` for its in-place form: `input` has the result's type."""
    result = float_power(input, exponent)
    if result.array.dtype != input.array.dtype:
        raise DTypeError(
            "float_power_",
            f"the base has dtype {dtypes.of(input.array.dtype)} but the operation's result "
            f"requires dtype {dtypes.of(result.array.dtype)}",
        )
    return result


float_power_same.__name__ = "float_power"  # by which the in-place twin is called


@takes_out
def square(input: Tensor) -> Tensor:
    """`input ** 2`."""
    return _pow_scalar(input, 2)


@takes_out
def ldexp(input: Tensor, other: Tensor) -> Tensor:
    """`input * 2 ** other`."""
    expect_tensor("ldexp", "input", input)
    expect_tensor("ldexp", "other", other)
    x, exponent = input, other.array
    given = x.array.dtype
    try:
        if given.kind in "fV" and exponent.dtype.kind in "iub":
            check_dtype("ldexp", exponent, "iu", "integers or floating point")
            output = np.ldexp(wide(x.array), exponent.astype(np.int32)).astype(given, copy=False)
        elif given.kind == "c" and exponent.dtype.kind in "iub":
            output = x.array * np.exp2(exponent.astype(x.array.real.dtype))
        else:
            x, scale = promoted(input, wrap(rpow(other, 2.0).array))
            output = x.array * scale.array
    except ValueError:
        raise differ("ldexp", input.array, exponent) from None

    def backward(grad: Array) -> Grads:
        power = np.exp2(exponent.astype(grad.dtype))
        return grad * conjugate(power), times(grad * conjugate(output), _LN2)

    return record(output, backward, x, other)


@takes_exact_out
def frexp(input: Tensor) -> Any:
    """`(mantissa, exponent)` with `input = mantissa * 2 ** exponent` and mantissa in [0.5, 1)."""
    check_dtype("frexp", input.array, "f", "floating point")
    mantissa, exponent = np.frexp(input.array)

    def backward(grad: Array, _: Any) -> Grads:
        return (grad / np.exp2(exponent.astype(grad.dtype)),)

    backward.__qualname__ = "frexp"
    return return_types.frexp(
        *record_outputs((mantissa, exponent.astype(np.int32)), backward, input)
    )


# -- roots -----------------------------------------------------------------------------------------


@takes_out
def sqrt(input: Tensor) -> Tensor:
    """Square root."""
    input = floating(input)
    output = np.sqrt(input.array)

    def backward(grad: Array) -> Grads:
        return (grad / (2 * conjugate(output)),)

    return record(output, backward, input)


@takes_out
def rsqrt(input: Tensor) -> Tensor:
    """`1 / sqrt(input)`."""
    input = floating(input)
    output = (1 / np.sqrt(wide(input.array))).astype(input.array.dtype, copy=False)

    def backward(grad: Array) -> Grads:
        return (grad * (-0.5) * conjugate(output * output * output),)

    return record(output, backward, input)


@takes_out
def reciprocal(input: Tensor) -> Tensor:
    """`1 / input`."""
    input = floating(input)
    output = 1 / input.array

    def backward(grad: Array) -> Grads:
        return (-grad * conjugate(output * output),)

    return record(output, backward, input)


# -- exponentials and logarithms -------------------------------------------------------------------


@takes_out
def exp(input: Tensor) -> Tensor:
    """e to the power of `input`."""
    input = floating(input)
    output = np.exp(input.array)

    def backward(grad: Array) -> Grads:
        return (grad * conjugate(output),)

    return record(output, backward, input)


@takes_out
def exp2(input: Tensor) -> Tensor:
    """2 to the power of `input`."""
    input = floating(input)
    output = np.exp2(input.array)

    def backward(grad: Array) -> Grads:
        return (times(grad * conjugate(output), _LN2),)

    return record(output, backward, input)


@takes_out
def expm1(input: Tensor) -> Tensor:
    """`exp(input) - 1`, exact near zero."""
    input = floating(input)
    output = np.expm1(input.array)

    def backward(grad: Array) -> Grads:
        return (grad * (conjugate(output) + 1),)

    return record(output, backward, input)


@takes_out
def log(input: Tensor) -> Tensor:
    """Natural logarithm."""
    x = (input := floating(input)).array

    def backward(grad: Array) -> Grads:
        return (grad / conjugate(x),)

    return record(np.log(x), backward, input)


@takes_out
def log2(input: Tensor) -> Tensor:
    """Logarithm to base 2."""
    x = (input := floating(input)).array

    def backward(grad: Array) -> Grads:
        return (grad / times(conjugate(x), _LN2),)

    return record(np.log2(x), backward, input)


@takes_out
def log10(input: Tensor) -> Tensor:
    """Logarithm to base 10."""
    x = (input := floating(input)).array

    def backward(grad: Array) -> Grads:
        return (grad / times(conjugate(x), _LN10),)

    return record(np.log10(x), backward, input)


@takes_out
def log1p(input: Tensor) -> Tensor:
    """`log(1 + input)`, exact near zero."""
    x = (input := floating(input)).array

    def backward(grad: Array) -> Grads:
        return (grad / conjugate(x + 1),)

    return record(np.log1p(x), backward, input)
