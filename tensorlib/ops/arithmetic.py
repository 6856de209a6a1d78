"""Arithmetic element by element: `add sub mul div`, quotients with rounding, fused products."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib.errors import DTypeError, ShapeError
from tensorlib.kernels import arithmetic as kernels
from tensorlib.ops._common import (
    Array,
    Grads,
    Number,
    check_dtype,
    differ,
    expect_tensor,
    floating,
    floating_pair,
    is_array,
    pair,
    promoted,
    record,
    scalar_dtype,
    scalar_operand,
    times,
    wants,
    wide,
    wrap,
)
from tensorlib.ops._formula import underivable
from tensorlib.ops.out import direct, takes_exact_out, takes_out

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor


class InvalidDivision(ShapeError):
    """A division or power PyTorch refuses with RuntimeError."""


_NONE = np.empty(0)
_LARGE = kernels.LARGE
_FLOAT_INT = frozenset((int, float))
_PLAIN = frozenset((int, float, bool))  # not np.float64, whose type NumPy would promote to


def _numbers(where: str, input: Any, other: Any) -> tuple[Tensor, Any]:
    """The first operand as a tensor, the second as one too unless it is a number."""
    if is_array(other):
        other = wrap(other)
    if hasattr(input, "array"):
        return input, other
    if not isinstance(input, bool | int | float | complex):
        expect_tensor(where, "input", input)
    return wrap(np.asarray(input, scalar_dtype(input))), other


def with_number(
    where: str, input: Tensor, other: Any, function: Callable[[Any, Any], Any]
) -> tuple[Tensor, Any]:
    """`input` in the type of its operation with the number `other`, and `function(input, other)`.

    As in PyTorch, float16 computes in float32 with the number as it is, and a number too large for
    an integer type wraps around.
    """
    input = scalar_operand(input, other, where)
    x = input.array
    if x.dtype.char in "eE":
        return input, function(x.astype(np.float32), np.float32(other)).astype(x.dtype)
    return input, function(x, np.asarray(other).astype(x.dtype))


def _check_alpha(where: str, alpha: Any, *operands: Any) -> None:
    kinds = {
        t.array.dtype.kind if hasattr(t, "array") else np.asarray(t).dtype.kind for t in operands
    }
    if isinstance(alpha, bool):
        if kinds != {"b"}:
            raise DTypeError(where, f"alpha={alpha} is only supported for Boolean results")
    elif isinstance(alpha, float) and not kinds & {"f", "c", "V"}:
        raise DTypeError(where, f"alpha={alpha} with integer tensors", "an integer alpha")
    elif isinstance(alpha, complex) and "c" not in kinds:
        raise DTypeError(where, f"alpha={alpha} with tensors that are not complex", "a real alpha")


def _scaled(where: str, input: Any, other: Any, alpha: Any, sign: int) -> Tensor:
    """`input + sign * alpha * other`."""
    _check_alpha(where, alpha, input, other)
    input, other = _numbers(where, input, other)
    input, other = pair(input, other, where)
    a, b = input.array, other.array
    try:
        if a.dtype.char in "fd":
            output = a + b * (alpha * sign)
        else:
            factor = np.asarray(alpha * sign).astype(wide(b).dtype)
            output = (wide(a) + wide(b) * factor).astype(a.dtype, copy=False)
    except ValueError:
        raise differ(where, a, b) from None
    scale = sign * alpha.conjugate()

    def backward(grad: Array) -> Grads:
        return grad, times(grad, scale)

    backward.__qualname__ = where
    return record(output, backward, input, other)


@takes_out
def add(input: Tensor, other: Tensor | Number, *, alpha: Number = 1) -> Tensor:
    """`input + alpha * other`, broadcast, in the promoted type."""
    if alpha != 1 or alpha is True:
        return _scaled("add", input, other, alpha, 1)
    if hasattr(other, "array"):
        if TYPE_CHECKING:
            assert isinstance(other, Tensor)
        if not hasattr(input, "array"):
            return add(other, input)
        a, b = input.array, other.array
        if a.dtype != b.dtype:
            input, other = promoted(input, other)
            a, b = input.array, other.array
        try:
            output = a + b if a.size < _LARGE else kernels.add(a, b)
        except ValueError:
            raise differ("add", a, b) from None

        def backward(grad: Array) -> Grads:
            return grad, grad

        return record(output, backward, input, other)
    x = getattr(input, "array", None)
    if x is None or x.dtype.char not in "fd" or type(other) not in _PLAIN:
        input, other = _numbers("add", input, other)
        if hasattr(other, "array"):
            return add(input, other)
        input, output = with_number("add", input, other, np.add)
    else:
        output = x + other if x.size < _LARGE else kernels.add(x, other)

    def backward_scalar(grad: Array) -> Grads:
        return (grad,)

    return record(output, backward_scalar, input)


def radd(input: Tensor, other: Tensor | Number) -> Tensor:
    """`other + input`."""
    if not hasattr(input, "array"):
        expect_tensor("__radd__", "input", input)
    return direct(add)(input, other)


@takes_out
def sub(input: Tensor, other: Tensor | Number, *, alpha: Number = 1) -> Tensor:
    """`input - alpha * other`, broadcast, in the promoted type."""
    if alpha != 1 or alpha is True:
        _no_bool("sub", input, other)
        return _scaled("sub", input, other, alpha, -1)
    if hasattr(other, "array"):
        if TYPE_CHECKING:
            assert isinstance(other, Tensor)
        if not hasattr(input, "array"):
            return rsub(other, input)
        a, b = input.array, other.array
        if a.dtype != b.dtype or a.dtype.kind == "b":
            _no_bool("sub", input, other)
            input, other = promoted(input, other)
            a, b = input.array, other.array
        try:
            output = a - b if a.size < _LARGE else kernels.sub(a, b)
        except ValueError:
            raise differ("sub", a, b) from None

        def backward(grad: Array) -> Grads:
            return grad, -grad if grad.size < _LARGE else kernels.mul(grad, -1)

        return record(output, backward, input, other)
    x = getattr(input, "array", None)
    if x is None or x.dtype.char not in "fd" or type(other) not in _FLOAT_INT:
        input, other = _numbers("sub", input, other)
        if hasattr(other, "array"):
            return sub(input, other)
        _no_bool("sub", input, other)
        input, output = with_number("sub", input, other, np.subtract)
    else:
        output = x - other if x.size < _LARGE else kernels.sub(x, other)

    def backward_scalar(grad: Array) -> Grads:
        return (grad,)

    return record(output, backward_scalar, input)


def _no_bool(where: str, *operands: Any) -> None:
    for one in operands:
        if one.array.dtype.kind == "b" if hasattr(one, "array") else isinstance(one, bool):
            raise DTypeError(
                where,
                "subtraction with a bool tensor is not supported",
                hint="use ^ or logical_xor() instead; to invert a mask, ~ or logical_not()",
            )


def rsub(input: Tensor, other: Tensor | Number, *, alpha: Number = 1) -> Tensor:
    """`other - alpha * input`."""
    if not hasattr(input, "array"):
        expect_tensor("rsub", "input", input)
    if hasattr(other, "array"):
        if TYPE_CHECKING:
            assert isinstance(other, Tensor)
        return sub(other, input, alpha=alpha)
    x = input.array
    if alpha != 1 or x.dtype.char not in "fd" or type(other) not in _FLOAT_INT:
        _no_bool("rsub", input, other)
        if alpha != 1:
            _check_alpha("rsub", alpha, input, other)
            input = mul(input, alpha)
        if is_array(other):
            return sub(wrap(other), input)
        input, output = with_number("rsub", input, other, lambda a, b: b - a)
    else:
        output = other - x

    def backward(grad: Array) -> Grads:
        return (-grad,)

    return record(output, backward, input)


@takes_out
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
            output = a * b if a.size < _LARGE else kernels.mul(a, b)
        except ValueError:
            raise differ("mul", a, b) from None
        a = a if other._requires_grad or wants(other) else None
        b = b if input._requires_grad or wants(input) else None
        if output.dtype.kind == "c":

            def backward_complex(grad: Array) -> Grads:
                return (
                    None if b is None else grad * np.conj(b),
                    None if a is None else grad * np.conj(a),
                )

            return record(output, backward_complex, input, other)

        def backward(grad: Array) -> Grads:
            if grad.size < _LARGE:
                return None if b is None else grad * b, None if a is None else grad * a
            return (
                None if b is None else kernels.mul(grad, b),
                None if a is None else kernels.mul(grad, a),
            )

        return record(output, backward, input, other)
    x = getattr(input, "array", None)
    if x is None or x.dtype.char not in "fd" or type(other) not in _PLAIN:
        input, other = _numbers("mul", input, other)
        if hasattr(other, "array"):
            return mul(input, other)
        input, output = with_number("mul", input, other, np.multiply)
    else:
        output = x * other if x.size < _LARGE else kernels.mul(x, other)

    def backward_scalar(grad: Array) -> Grads:
        if grad.size >= _LARGE and grad.dtype.char == "f":
            return (kernels.mul(grad, other),)
        return (times(grad, other.conjugate() if isinstance(other, complex) else other),)

    return record(output, backward_scalar, input)


def rmul(input: Tensor, other: Tensor | Number) -> Tensor:
    """`other * input`."""
    if not hasattr(input, "array"):
        expect_tensor("__rmul__", "input", input)
    return direct(mul)(input, other)


@takes_out
def div(input: Tensor, other: Tensor | Number, *, rounding_mode: str | None = None) -> Tensor:
    """`input / other`; `rounding_mode` "trunc" or "floor" rounds the quotient and keeps integer
    types.
    """
    if rounding_mode is not None:
        return _rounded_div(input, other, rounding_mode, "div")
    if hasattr(other, "array"):
        if TYPE_CHECKING:
            assert isinstance(other, Tensor)
        if not hasattr(input, "array"):
            return div(*floating_pair(input, other, "div"))
        a, b = input.array, other.array
        if a.dtype != b.dtype or a.dtype.kind not in "fcV":
            input, other = promoted(input, other)
            input, other = floating(input), floating(other)
            a, b = input.array, other.array
        try:
            output = a / b
        except ValueError:
            raise differ("div", a, b) from None

        a = a if other._requires_grad or wants(other) else None

        def backward(grad: Array) -> Grads:
            if b.dtype.kind == "c":
                return grad / np.conj(b), None if a is None else -grad * np.conj((a / b) / b)
            return grad / b, None if a is None else -grad * ((a / b) / b)

        return record(output, backward, input, other)
    x = getattr(input, "array", None)
    if x is None or x.dtype.char not in "fd" or type(other) not in _PLAIN:
        input, other = _numbers("div", input, other)
        if hasattr(other, "array"):
            return div(input, other)
        input = floating(scalar_operand(input, other, "div"))
        input, output = with_number("div", input, other, np.true_divide)
    else:
        if other == 0:
            other = x.dtype.type(other)  # NumPy's zero gives inf where Python's raises
        output = x / other
    other = other.conjugate() if isinstance(other, complex) else other

    def backward_scalar(grad: Array) -> Grads:
        if grad.dtype.char in "eE":
            return ((grad.astype(np.float32) / other).astype(grad.dtype),)
        return (grad / other,)

    return record(output, backward_scalar, input)


@takes_out
def true_divide(input: Tensor, other: Tensor | Number) -> Tensor:
    """`input / other`."""
    return div(input, other)


def rdiv(input: Tensor, other: Tensor | Number) -> Tensor:
    """`other / input`."""
    from tensorlib.ops.powers import reciprocal

    return mul(direct(reciprocal)(input), other)


def _rounded_div(input: Any, other: Any, rounding_mode: str, where: str) -> Tensor:
    if rounding_mode not in ("trunc", "floor"):
        raise InvalidDivision(
            where, f"rounding_mode={rounding_mode!r}", "one of None (default), 'trunc', 'floor'"
        )
    input, other = pair(*_numbers(where, input, other), where)
    a, b = input.array, other.array
    check_dtype(where, a, "iuf", "integers or floating point")
    _check_divisor(where, b)
    try:
        output = _quotient(a, b, rounding_mode)
    except ValueError:
        raise differ(where, a, b) from None

    def backward(grad: Array) -> Grads:
        return np.zeros_like(grad), np.zeros_like(grad)

    backward.__qualname__ = "div"
    return record(output, backward, input, other)


def _quotient(a: Array, b: Array, rounding_mode: str) -> Any:
    if rounding_mode == "floor":
        output = np.floor_divide(a, b)
        if a.dtype.kind in "fV":
            output = np.where(b == 0, a / b, output)
    elif a.dtype.kind in "fV":
        output = np.trunc(a / b)
    else:
        output = np.floor_divide(a, b)
        output = output + ((output < 0) & (output * b != a)).astype(output.dtype)
    return output.astype(a.dtype, copy=False)


def _check_divisor(where: str, b: Array) -> None:
    if b.dtype.kind in "iu" and not b.all():
        raise InvalidDivision(where, "ZeroDivisionError: integer division by zero")


@takes_out
def floor_divide(input: Tensor, other: Tensor | Number) -> Tensor:
    """The quotient rounded down; its derivative is not implemented."""
    if type(other) is int and other and getattr(input, "array", _NONE).dtype.char == "l":
        return wrap(input.array // other)
    made = _rounded_div(input, other, "floor", "floor_divide")
    inputs: list[Any] = [t for t in (input, other) if hasattr(t, "array")]
    return underivable(made.array, *inputs, name="floor_divide")


@takes_out
def remainder(input: Tensor | Number, other: Tensor | Number) -> Tensor:
    """Python's `%`: the result has the sign of `other`."""
    if type(other) is int and other and getattr(input, "array", _NONE).dtype.char == "l":
        return wrap(input.array % other)  # type: ignore[union-attr]  # a Tensor
    x, y = pair(input, other, "remainder")
    if x is not input and not hasattr(input, "array"):
        made = _modulo(x, y, np.remainder, "floor", "remainder")
        return underivable(made.array, y, name="remainder")
    return _modulo(x, y, np.remainder, "floor", "remainder")


@takes_out
def fmod(input: Tensor, other: Tensor | Number) -> Tensor:
    """C's remainder: the result has the sign of `input`."""
    expect_tensor("fmod", "input", input)
    x, y = pair(input, other, "fmod")
    return _modulo(x, y, np.fmod, "trunc", "fmod")


def _modulo(x: Tensor, y: Tensor, function: Any, rounding: str, where: str) -> Tensor:
    a, b = x.array, y.array
    check_dtype(where, a, "iuf", "integers or floating point")
    _check_divisor(where, b)
    try:
        output = function(a, b)
    except ValueError:
        raise differ(where, a, b) from None

    def backward(grad: Array) -> Grads:
        return grad, -grad * _quotient(a, b, rounding)

    def smooth(grad: Any) -> Grads:
        return grad, neg(mul(grad, div(a, b, rounding_mode=rounding)))

    backward.__qualname__ = where
    return record(output, backward, x, y, smooth=smooth)


@takes_exact_out
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
    check_dtype("positive", input.array, "iufc", "numbers")
    return input
